"""Generated scenes for tests and examples: discs, squares and stripes on a textured ground, anywhere.

Positions are uniform, so that position alone says nothing about the class (street scenes have a strong
layout).

>>> images, labels = shape_scenes(2, random_state=0)
>>> images.shape, labels.shape, sorted(set(labels.flatten().tolist()))
((2, 3, 48, 64), (2, 48, 64), [0, 1, 2, 3])
"""

from typing import Any

import numpy as np
import numpy.typing as npt

from graftkit.core.random import numpy_generator
from graftkit.core.validation import check_integer, raise_invalid

__all__ = ["SHAPE_CLASSES", "pixel_baselines", "principal_images", "shape_scenes"]

SHAPE_CLASSES = ("ground", "disc", "square", "stripes")


def shape_scenes(
    n_images: int, size: tuple[int, int] = (48, 64), random_state: Any = None
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]:
    """Draw scenes with one or two of each shape; a shape's colour is random and says nothing about its class.

    Parameters
    ----------
    n_images : int
        How many.
    size : (int, int), default=(48, 64)
        Height and width, 16 or more.
    random_state : int, Generator or None, default=None
        Seeds the draw.

    Returns
    -------
    images : ndarray of shape (n_images, 3, H, W)
        In [0, 1], float32.
    labels : ndarray of shape (n_images, H, W)
        0 ground, 1 disc, 2 square, 3 stripes.

    Raises
    ------
    TypeError
        If `n_images` or a side is no integer.
    ValueError
        If one is too small.
    """
    count = check_integer("n_images", n_images, low=1)
    height, width = (check_integer("size", side, low=16) for side in size)
    rng = numpy_generator(random_state)
    rows, columns = np.mgrid[:height, :width]
    images = np.empty((count, 3, height, width), np.float32)
    labels = np.zeros((count, height, width), np.int64)
    for i in range(count):
        ground = rng.uniform(0.2, 0.5, 3)[:, None, None] + 0.08 * rng.normal(size=(3, height, width))
        for kind in rng.permutation(np.repeat([1, 2, 3], rng.integers(1, 3, 3))):
            radius = rng.integers(5, 9)
            y, x = rng.uniform(0, height), rng.uniform(0, width)
            inside = np.maximum(abs(rows - y), abs(columns - x)) < radius
            if kind == 1:
                inside = np.hypot(rows - y, columns - x) < radius
            colour = rng.uniform(0.3, 1.0, 3)[:, None]
            if kind == 3:  # the whole square is labelled, its bars alternate
                bars = inside & ((columns - int(x)) // 2 % 2 == 0)
                ground[:, inside] = 0.3 * colour
                ground[:, bars] = colour
            else:
                ground[:, inside] = colour
            labels[i][inside] = kind
        images[i] = ground.clip(0, 1)
    return images, labels


def principal_images(maps: Any) -> npt.NDArray[np.float64]:
    """The first three principal components of feature maps as colours.

    Parameters
    ----------
    maps : array-like of shape (n, C, h, w)
        Maps of several images, reduced together.

    Returns
    -------
    ndarray of shape (n, h, w, 3)
        Each component stretched to [0, 1] between its 2nd and 98th percentile.

    Raises
    ------
    ValueError
        If `maps` is not 4-D with three channels or more.
    """
    table = np.asarray(maps, np.float64)
    if table.ndim != 4 or table.shape[1] < 3:
        raise_invalid("maps", maps, "shape (n, C, h, w) with C >= 3")
    n, channels, height, width = table.shape
    flat = table.transpose(0, 2, 3, 1).reshape(-1, channels)
    flat = flat - flat.mean(0)
    _, vectors = np.linalg.eigh(flat.T @ flat)
    parts = flat @ vectors[:, :-4:-1]
    low, high = np.percentile(parts, [2, 98], axis=0)
    scaled = (parts - low) / np.where(high > low, high - low, 1)
    colours: npt.NDArray[np.float64] = scaled.clip(0, 1).reshape(n, height, width, 3)
    return colours


def pixel_baselines(images: Any) -> dict[str, list[npt.NDArray[np.float64]]]:
    """What a probe knows without any network: neighbourhoods of colours, and position.

    Layout alone goes a long way on street scenes, so a table of activations needs these rows.

    Parameters
    ----------
    images : array-like of shape (n, 3, H, W)
        Pictures.

    Returns
    -------
    dict of str to list of ndarray of shape (C, H, W)
        ``"RGB 5x5"`` (75 channels), ``"position"`` (5) and both together.
    """
    pictures = np.asarray(images, np.float64)
    n, _, height, width = pictures.shape
    y, x = np.meshgrid(np.linspace(-1, 1, height), np.linspace(-1, 1, width), indexing="ij")
    position = np.broadcast_to(np.stack([y, x, y * y, x * x, x * y]), (n, 5, height, width))
    padded = np.pad(pictures, ((0, 0), (0, 0), (2, 2), (2, 2)), mode="edge")
    around = np.concatenate(
        [padded[:, :, i : i + height, j : j + width] for i in range(5) for j in range(5)], axis=1
    )
    both = np.concatenate([position, around], axis=1)
    return {"RGB 5x5": list(around), "position": list(position), "position + RGB 5x5": list(both)}
