"""Random transforms of images: one draw a batch inside the generator's loop, one draw an image at query time.

The transform at query time makes most of the variety among the queries (what leaving it out costs is measured
by the ablation of ``tests/benchmarks/bench_qedg.py``), so choose one that suits the domain. All act on
values in [0, 1], keep the shape, and take their own generator. Followed are the authors' settings, with
these differences: geometry is one resampling with zero padding instead of a chain; the canvas never grows;
hue turns in YIQ space; the projective part of their photographic chain is left out.

>>> x = torch.rand(3, 1, 8, 8)
>>> transform_batch("turns", x, torch.Generator().manual_seed(0), each=True).shape
torch.Size([3, 1, 8, 8])
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import affine_grid, grid_sample

from graftkit.core.validation import raise_invalid

__all__ = ["LOOP_TRANSFORMS", "QUERY_TRANSFORMS", "Transform", "flip", "transform_batch"]

Transform = Callable[[Tensor, torch.Generator], Tensor]

QUERY_TRANSFORMS = ("none", "turns", "digits", "photo")
LOOP_TRANSFORMS = (*QUERY_TRANSFORMS[:3], "photo_loop")


def transform_batch(name: str | Transform, x: Tensor, random: torch.Generator, *, each: bool) -> Tensor:
    """Apply a named transform, or a callable.

    Parameters
    ----------
    name : str or callable
        "none"; "turns" (flips, quarter turns, shifts by whole pixels: no resampling); "digits" (the authors'
        MNIST setting: flips, rotation by 90 to 180 degrees, shifts); "photo" and "photo_loop" (theirs for
        SVHN and CIFAR-10, at query time and in the loop); or ``f(images, generator) -> images``.
    x : Tensor of shape (B, c, H, W)
        Values in [0, 1]; vectors of shape (B, d) only with "none" or a callable.
    random : torch.Generator
        On the CPU.
    each : bool
        A draw for each image instead of one for the batch.

    Returns
    -------
    Tensor of shape (B, c, H, W)
        Differentiable in `x`.

    Raises
    ------
    ValueError
        If a callable gives something else than finite images of the same shape.
    """
    if callable(name):
        moved = name(x, random)
        if not isinstance(moved, Tensor) or moved.shape != x.shape:
            raise_invalid("transform", moved, f"a callable that keeps shape {tuple(x.shape)}")
        if not bool(torch.isfinite(moved.detach()).all()):
            raise_invalid("transform", "NaN or infinity", "a callable that gives finite values")
        return moved.to(x).contiguous()  # a substitute may take a view of its rows
    if name == "none" or not len(x):
        return x
    draws = len(x) if each else 1
    if name == "turns":
        return _turns(x, random, draws)
    if name == "digits":
        angle = 90 + 90 * _uniform(random, draws)
        return _geometry(x, random, draws, flips=0.5, angle=angle, shift=_shift(x))
    return _photo(x, random, draws, loop=name == "photo_loop")


def flip(x: Tensor, axis: str) -> Tensor:
    """Mirror every image.

    Parameters
    ----------
    x : Tensor of shape (B, c, H, W)
        Images.
    axis : {"hflip", "vflip"}
        Left and right, or top and bottom.

    Returns
    -------
    Tensor of shape (B, c, H, W)
        The mirrored images.
    """
    return x.flip(3 if axis == "hflip" else 2)


def _shift(x: Tensor) -> int:
    """Up to 4 pixels, as published for 28 and 32; 2 for 8."""
    return min(4, max(1, min(x.shape[2:]) // 4))


def _uniform(random: torch.Generator, *shape: int) -> Tensor:
    """Draws in [0, 1), the same whatever torch's default dtype is."""
    return torch.rand(shape, generator=random, dtype=torch.float32)


def _coin(random: torch.Generator, draws: int, share: float) -> Tensor:
    return _uniform(random, draws) < share


def _column(values: Tensor, x: Tensor) -> Tensor:
    return values.to(x.device).reshape(-1, *[1] * (x.ndim - 1))


def _turns(x: Tensor, random: torch.Generator, draws: int) -> Tensor:
    """Flips, turns and shifts by gathering pixels: nothing is interpolated."""
    for axis in (3, 2):
        x = torch.where(_column(_coin(random, draws, 0.5), x), x.flip(axis), x)
    quarter = x.shape[2] == x.shape[3]
    turns = torch.randint(4, (draws,), generator=random) if quarter else torch.zeros(draws)
    x = torch.where(_column(turns % 2 == 1, x), x.rot90(1, (2, 3)) if quarter else x, x)
    x = torch.where(_column(turns >= 2, x), x.rot90(2, (2, 3)), x)
    reach = _shift(x)
    down, right = (torch.randint(-reach, reach + 1, (draws,), generator=random) for _ in range(2))
    return _shifted(_shifted(x, down, 2), right, 3)


def _shifted(x: Tensor, by: Tensor, axis: int) -> Tensor:
    """Every image moved by its own number of pixels along one axis, zeros coming in."""
    size = x.shape[axis]
    source = torch.arange(size) - by[:, None]
    inside = (source >= 0) & (source < size)
    shape = (-1, 1, size, 1) if axis == 2 else (-1, 1, 1, size)
    index = source.clamp(0, size - 1).reshape(shape).to(x.device).expand(x.shape)
    return x.gather(axis, index) * inside.reshape(shape).to(x.device)


def _geometry(
    x: Tensor, random: torch.Generator, draws: int, *, flips: float, angle: Tensor, shift: int
) -> Tensor:
    """Flips, rotation and whole-pixel shift in one resampling; corners that leave the canvas are lost."""
    theta = angle * (math.pi / 180)
    height, width = x.shape[2:]
    mirror = [1 - 2 * _coin(random, draws, flips).to(x.dtype) for _ in range(2)]
    moves = torch.randint(-shift, shift + 1, (2, draws), generator=random)
    cosine, sine = theta.cos(), theta.sin()
    # affine_grid counts each side as 2, so the rotation of a non-square image is corrected by the sides.
    rows = [
        torch.stack([cosine * mirror[0], -sine * mirror[1] * height / width, moves[0] * 2 / width], 1),
        torch.stack([sine * mirror[0] * width / height, cosine * mirror[1], moves[1] * 2 / height], 1),
    ]
    matrix = torch.stack(rows, 1).to(x).expand(len(x), 2, 3)
    grid = affine_grid(matrix, list(x.shape), align_corners=False)
    return grid_sample(x, grid, align_corners=False, padding_mode="zeros")


def _photo(x: Tensor, random: torch.Generator, draws: int, *, loop: bool) -> Tensor:
    def uniform(low: float, high: float) -> Tensor:
        return _column(low + (high - low) * _uniform(random, draws), x)

    def chosen(share: float) -> Tensor:
        return _column(_coin(random, draws, share), x)

    strength, hue, flips = (0.5, 0.3, 0.3) if loop else (0.2, 0.2, 0.5)
    x = (x * uniform(1 - strength, 1 + strength)).clamp(0, 1)
    if x.shape[1] == 3:
        x = _turn_hue(x, uniform(-hue, hue)).clamp(0, 1)
    none, up_to = torch.zeros(draws), 45 * (2 * _uniform(random, draws) - 1)
    x = _geometry(x, random, draws, flips=flips, angle=none if loop else up_to, shift=_shift(x))
    if loop:
        return x
    if x.shape[1] > 1:
        order = _uniform(random, draws, x.shape[1]).argsort(1)
        shuffled = x.gather(1, order[:, :, None, None].to(x.device).expand(x.shape))
        x = torch.where(chosen(0.5), shuffled, x)
    noise = torch.randn((draws, *x.shape[1:]), generator=random, dtype=torch.float32).to(x) * 0.05
    x = torch.where(chosen(0.2), (x + noise).clamp(0, 1), x)
    x = torch.where(chosen(0.3) & (x >= 0.5), 1 - x, x)  # solarise
    x = torch.where(chosen(0.2) & _boxes(x, random, draws), torch.zeros_like(x), x)
    return torch.where(chosen(0.2), 1 - x, x)  # invert


def _boxes(x: Tensor, random: torch.Generator, draws: int) -> Tensor:
    """A box of up to half a side an image, to be erased."""
    inside = []
    for size in x.shape[2:]:
        length = 1 + (_uniform(random, draws, 1) * size / 2).long()
        start = (_uniform(random, draws, 1) * (size - length + 1)).long()
        place = torch.arange(size)
        inside.append((place >= start) & (place < start + length))
    return (inside[0][:, None, :, None] & inside[1][:, None, None, :]).to(x.device)


def _turn_hue(x: Tensor, turn: Tensor) -> Tensor:
    """Turn the hue by a share of the circle, brightness kept: a rotation in the plane of I and Q."""
    forward = x.new_tensor([[0.299, 0.587, 0.114], [0.596, -0.274, -0.322], [0.211, -0.523, 0.312]])
    y, i, q = torch.einsum("kc,bchw->bkhw", forward, x).split(1, 1)
    cosine, sine = (2 * math.pi * turn).cos(), (2 * math.pi * turn).sin()
    turned = torch.cat([y.expand_as(i), i * cosine - q * sine, i * sine + q * cosine], 1)
    return torch.einsum("ck,bkhw->bchw", torch.linalg.inv(forward), turned)
