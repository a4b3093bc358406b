"""Pictures with several digits, and textures: a small multi-label task with unknowns, from shipped data.

A canvas of 20 x 20 holds one to three of scikit-learn's digits in a 2 x 2 grid. Digits 0 to 7 are labels with
a long tail (weights 30^(-i/7)); digit 8 and gratings are outliers for training, digit 9 (near) and checkers,
blobs and noise (far) are unknown in the test. Training and test never share a glyph. Recipe: specification
6.1.

>>> task = digit_task(random_state=0, n_train=64, n_test=32)
>>> x, y = task.draw(0)
>>> x.shape, y.shape, list(task.ood)[:2]
(torch.Size([64, 1, 20, 20]), torch.Size([64, 8]), ['digit 9 (near)', 'checker (far)'])
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from graftkit.core.random import numpy_generator
from graftkit.core.validation import check_choice, check_integer, raise_invalid

__all__ = ["TEXTURES", "OODTask", "digit_task", "draw_labels", "make_textures", "place_tiles"]

FloatArray = npt.NDArray[np.float32]
TEXTURES = ("grating", "checker", "blobs", "noise")
SIDE = 20


class OODTask(NamedTuple):
    """A multi-label task with outliers for training and unknowns for the test.

    Parameters
    ----------
    name : str
        What it is made of.
    n_labels : int
        C.
    draw : callable
        ``draw(epoch) -> (x, y)``, training pictures of shape (n, ...) and targets of shape (n, C).
    draw_outliers : callable
        ``draw_outliers(epoch, kinds=None) -> u``, as many outliers, of the named kinds or of all.
    kinds : tuple of str
        Kinds of outliers for training.
    counts : Tensor of shape (C,)
        Expected positives among the training pictures of one epoch, for label tails.
    x, y : Tensor of shape (m, ...) and (m, C)
        Test pictures and targets.
    ood : dict of str to Tensor of shape (m, ...)
        Unknown pictures, by name; none of them is an outlier for training.
    """

    name: str
    n_labels: int
    draw: Callable[[int], tuple[Tensor, Tensor]]
    draw_outliers: Callable[..., Tensor]
    kinds: tuple[str, ...]
    counts: Tensor
    x: Tensor
    y: Tensor
    ood: dict[str, Tensor]


def digit_task(random_state: int = 0, *, n_train: int = 3000, n_test: int = 3000) -> OODTask:
    """The task of the module's description.

    Parameters
    ----------
    random_state : int, default=0
        Seeds the glyphs' split and every draw.
    n_train : int, default=3000
        Pictures, and outliers, an epoch; drawn anew every epoch.
    n_test : int, default=3000
        Known test pictures; half as many of each unknown kind.

    Returns
    -------
    OODTask
        Labels are the digits 0 to 7.

    Raises
    ------
    TypeError
        If a number is no integer.
    ValueError
        If one is out of range.
    """
    check_integer("random_state", random_state, low=0)
    check_integer("n_train", n_train, low=2)
    check_integer("n_test", n_test, low=2)
    train, test = _glyphs(random_state)
    weights = 30.0 ** (-np.arange(8) / 7)

    def canvases(pools: Sequence[FloatArray], n: int, rng: np.random.Generator, share: Any) -> Any:
        y = draw_labels(n, share, rng)
        x = place_tiles(y, pools, rng, cell=SIDE // 2, contrast=(0.6, 1.0))
        return torch.from_numpy(_noisy(x, rng)), torch.from_numpy(y)

    def held_out(pool: FloatArray, n: int, rng: np.random.Generator) -> Tensor:
        # One to three glyphs of one digit: as many as a known canvas has.
        images: Tensor = canvases([pool] * 4, n, rng, np.ones(4))[0]
        return images

    def draw(epoch: int) -> tuple[Tensor, Tensor]:
        known: tuple[Tensor, Tensor] = canvases(
            train[:8], n_train, np.random.default_rng([random_state, 1, epoch]), weights
        )
        return known

    def draw_outliers(epoch: int, kinds: Sequence[str] | None = None) -> Tensor:
        rng = np.random.default_rng([random_state, 2, epoch])
        chosen = _check_kinds(kinds, OUTLIERS)
        parts = []
        for kind, n in zip(chosen, _shares(n_train, len(chosen)), strict=True):
            if kind == "digit 8":
                parts.append(held_out(train[8], n, rng))
            elif kind == "inverted":
                parts.append(1 - canvases(train[:8], n, rng, weights)[0])
            elif kind == "faint noise":
                parts.append(0.3 * make_textures("noise", n, rng))
            else:
                parts.append(make_textures(kind, n, rng))
        return torch.cat(parts)

    rng = np.random.default_rng([random_state, 3])
    x, y = canvases(test[:8], n_test, rng, weights)
    ood = {"digit 9 (near)": held_out(test[9], n_test // 2, rng)}
    ood |= {f"{kind} (far)": make_textures(kind, n_test // 2, rng) for kind in ("checker", "blobs", "noise")}
    counts = (
        torch.from_numpy(draw_labels(20_000, weights, np.random.default_rng(0)).sum(0)) * n_train / 20_000
    )
    return OODTask("digit composites", 8, draw, draw_outliers, ("digit 8", "grating"), counts, x, y, ood)


# What `draw_outliers` of the digit task can make; the last three serve the selector's demonstration.
OUTLIERS = ("digit 8", "grating", "noise", "faint noise", "inverted")


def draw_labels(n: int, weights: Any, rng: np.random.Generator) -> FloatArray:
    """One to three labels a row (probability .5, .35, .15), without replacement, in proportion to weights.

    Parameters
    ----------
    n : int
        Rows.
    weights : array-like of shape (C,)
        Above 0.
    rng : numpy.random.Generator
        Private randomness.

    Returns
    -------
    ndarray of shape (n, C)
        Multi-hot; with fewer labels than drawn, all of them.
    """
    share = np.asarray(weights, dtype=np.float64)
    sizes = np.minimum(1 + (rng.random(n)[:, None] > [0.5, 0.85]).sum(1), len(share))
    # Gumbel keys: the largest are a draw without replacement.
    keys = np.log(share) + rng.gumbel(size=(n, len(share)))
    rank = (-keys).argsort(1).argsort(1)
    drawn: FloatArray = (rank < sizes[:, None]).astype(np.float32)
    return drawn


def place_tiles(
    targets: FloatArray,
    pools: Sequence[FloatArray],
    rng: np.random.Generator,
    *,
    cell: int,
    contrast: tuple[float, float] = (1.0, 1.0),
) -> FloatArray:
    """Put a random tile of each of a row's labels into a cell of its own, of a 2 x 2 grid.

    Parameters
    ----------
    targets : ndarray of shape (n, C)
        Multi-hot, at most four labels a row.
    pools : sequence of ndarray of shape (n_c, channels, h, w)
        The tiles of each label, h and w at most `cell`.
    rng : numpy.random.Generator
        Private randomness.
    cell : int
        Side of a cell; tiles lie anywhere within.
    contrast : tuple of float, default=(1.0, 1.0)
        Range of a factor for each tile.

    Returns
    -------
    ndarray of shape (n, channels, 2 cell, 2 cell)
        0 where there is no tile.
    """
    n, channels = len(targets), pools[0].shape[1]
    canvas = np.zeros((n, channels, 2 * cell, 2 * cell), dtype=np.float32)
    cells = rng.random((n, 4)).argsort(1)
    slot = np.cumsum(targets, axis=1).astype(int) - 1
    for label, pool in enumerate(pools):
        rows = np.flatnonzero(targets[:, label])
        if not len(rows):
            continue
        tiles = pool[rng.integers(len(pool), size=len(rows))] * rng.uniform(*contrast, (len(rows), 1, 1, 1))
        height, width = pool.shape[2:]
        where = cells[rows, slot[rows, label]]
        top = where // 2 * cell + rng.integers(cell - height + 1, size=len(rows))
        left = where % 2 * cell + rng.integers(cell - width + 1, size=len(rows))
        vertical = (top[:, None] + np.arange(height))[:, None, :, None]
        horizontal = (left[:, None] + np.arange(width))[:, None, None, :]
        depth = np.arange(channels)[None, :, None, None]
        canvas[rows[:, None, None, None], depth, vertical, horizontal] = tiles
    return canvas


def make_textures(kind: str, n: int, random_state: Any = None) -> Tensor:
    """Generated textures of 20 x 20, each scaled to [0, 1].

    Parameters
    ----------
    kind : {"grating", "checker", "blobs", "noise"}
        Sinusoids of random direction; squares of 2 to 5 pixels; low-passed noise; uniform pixels.
    n : int
        How many.
    random_state : None, int or Generator, default=None
        Seeds the draw.

    Returns
    -------
    Tensor of shape (n, 1, 20, 20)
        float32.

    Raises
    ------
    TypeError
        If `n` is no integer.
    ValueError
        If the kind is unknown or `n` is negative.
    """
    check_choice("kind", kind, TEXTURES)
    check_integer("n", n, low=0)
    rng = numpy_generator(random_state)
    if kind == "noise":
        return torch.from_numpy(rng.random((n, 1, SIDE, SIDE), dtype=np.float32))
    down, across = np.mgrid[:SIDE, :SIDE]
    one = (n, 1, 1)
    if kind == "grating":
        angle, phase = rng.uniform(0, np.pi, one), rng.uniform(0, 2 * np.pi, one)
        pattern = np.sin(
            2 * np.pi * rng.uniform(0.08, 0.3, one) * (across * np.cos(angle) + down * np.sin(angle)) + phase
        )
    elif kind == "checker":
        size, x, y = rng.integers(2, 6, one), rng.integers(0, 10, one), rng.integers(0, 10, one)
        pattern = ((across + x) // size + (down + y) // size) % 2 * 1.0
    else:
        frequency = np.hypot(np.fft.fftfreq(SIDE)[:, None], np.fft.fftfreq(SIDE))
        keep = np.exp(-(frequency**2) / (2 * rng.uniform(0.06, 0.14, one) ** 2))
        pattern = np.fft.ifft2(np.fft.fft2(rng.normal(size=(n, SIDE, SIDE))) * keep).real
    pattern = pattern + rng.normal(size=pattern.shape) * 0.1 * pattern.std((1, 2), keepdims=True)
    low, high = pattern.min((1, 2), keepdims=True), pattern.max((1, 2), keepdims=True)
    return torch.from_numpy(((pattern - low) / (high - low)).astype(np.float32)[:, None])


def _glyphs(seed: int) -> tuple[list[FloatArray], list[FloatArray]]:
    """Glyphs of each digit, 60 % for training and 40 % for the test."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    images = (digits.images / 16).astype(np.float32)[:, None]
    rng = np.random.default_rng([seed, 0])
    first = np.zeros(len(images), dtype=bool)
    first[rng.permutation(len(images))[: round(0.6 * len(images))]] = True
    return tuple([images[(digits.target == d) & side] for d in range(10)] for side in (first, ~first))  # type: ignore[return-value]


def _noisy(images: FloatArray, rng: np.random.Generator) -> FloatArray:
    noise = rng.normal(0, 0.15, images.shape).astype(np.float32)
    clipped: FloatArray = (images + noise).clip(0, 1)
    return clipped


def _check_kinds(kinds: Sequence[str] | None, known: Sequence[str]) -> Sequence[str]:
    chosen = known[:2] if kinds is None else list(kinds)
    for kind in chosen:
        check_choice("kinds", kind, known)
    if not chosen:
        raise_invalid("kinds", kinds, "at least one kind of outliers")
    return chosen


def _shares(total: int, parts: int) -> list[int]:
    return [total // parts + (part < total % parts) for part in range(parts)]
