"""Pixels with features: bilinear sampling of maps at labelled positions, without upsampling whole maps.

Source: the label-scarce protocol of arXiv 2410.03558 (appendix C.3) upsamples every map to 256 x 256 and
classifies pixels; sampling the chosen positions gives the same vectors at a fraction of the memory.

>>> sample_bilinear(np.arange(4.0).reshape(1, 2, 2), np.array([0]), np.array([0]), (2, 2))
array([[0.]])
"""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from graftkit.core.validation import raise_invalid

__all__ = ["labelled_pixels", "pixel_table", "sample_bilinear"]

Array = npt.NDArray[Any]


def sample_bilinear(feature_map: Array, rows: Array, columns: Array, size: tuple[int, int]) -> Array:
    """Values of a map at pixels of a larger or smaller image.

    Equal to bilinear resizing without aligned corners, then indexing.

    Parameters
    ----------
    feature_map : ndarray of shape (C, h, w)
        The map.
    rows, columns : ndarray of int, of shape (n,)
        Pixels of the image.
    size : (int, int)
        The image's height and width.

    Returns
    -------
    ndarray of shape (n, C)
        The vectors.
    """
    height, width = feature_map.shape[-2:]
    top, bottom, down = _neighbors(rows, size[0], height)
    left, right, across = _neighbors(columns, size[1], width)
    upper = feature_map[:, top, left] * (1 - across) + feature_map[:, top, right] * across
    lower = feature_map[:, bottom, left] * (1 - across) + feature_map[:, bottom, right] * across
    return np.ascontiguousarray((upper * (1 - down) + lower * down).T)


def labelled_pixels(
    labels: Array, count: int | None, rng: np.random.Generator, ignore_index: int | None = 255
) -> tuple[Array, Array]:
    """Draw positions that have a label.

    Parameters
    ----------
    labels : ndarray of int, of shape (H, W)
        The label map.
    count : int or None
        How many; ``None`` or more than there are takes all.
    rng : numpy.random.Generator
        The source of the draw.
    ignore_index : int or None, default=255
        Positions that are never drawn.

    Returns
    -------
    rows, columns : ndarray of int, of shape (n,)
        The positions, possibly none.
    """
    keep = np.ones(labels.shape, bool) if ignore_index is None else labels != ignore_index
    positions = np.flatnonzero(keep)
    if count is not None and len(positions) > count:
        positions = np.sort(rng.choice(positions, count, replace=False))
    rows, columns = np.divmod(positions, labels.shape[1])
    return rows, columns


def pixel_table(
    maps: Sequence[Array],
    labels: Sequence[Array],
    *,
    per_image: int | None,
    rng: np.random.Generator,
    ignore_index: int | None = 255,
) -> tuple[Array, Array]:
    """A table of labelled pixels from several images.

    Parameters
    ----------
    maps : sequence of ndarray of shape (C, h, w)
        One a picture.
    labels : sequence of ndarray of shape (H, W)
        One a picture.
    per_image : int or None
        Pixels drawn from each picture; ``None`` takes all.
    rng : numpy.random.Generator
        The source of the draw.
    ignore_index : int or None, default=255
        Pixels without a label.

    Returns
    -------
    features : ndarray of shape (n, C)
        The vectors.
    classes : ndarray of shape (n,)
        Their labels.

    Raises
    ------
    ValueError
        If no pixel has a label.
    """
    tables = []
    for feature_map, label_map in zip(maps, labels, strict=True):
        rows, columns = labelled_pixels(label_map, per_image, rng, ignore_index)
        size = (label_map.shape[0], label_map.shape[1])
        tables.append((sample_bilinear(feature_map, rows, columns, size), label_map[rows, columns]))
    features = np.concatenate([table for table, _ in tables])
    if not len(features):
        raise_invalid(
            "labels", f"only {ignore_index}", "at least one labelled pixel", fix="There is no labelled pixel"
        )
    return features, np.concatenate([classes for _, classes in tables])


def pixel_chunks(
    feature_map: Array, size: tuple[int, int], chunk: int = 16384
) -> Iterator[tuple[slice, Array]]:
    """Every pixel of an image in pieces of at most `chunk`, for prediction in bounded memory."""
    total = size[0] * size[1]
    for start in range(0, total, chunk):
        index = slice(start, min(start + chunk, total))
        rows, columns = np.divmod(np.arange(index.start, index.stop), size[1])
        yield index, sample_bilinear(feature_map, rows, columns, size)


def _neighbors(positions: Array, size: int, cells: int) -> tuple[Array, Array, Array]:
    """Cells on both sides of pixel centres and the weight of the second."""
    centre = ((positions + 0.5) * (cells / size) - 0.5).clip(0, cells - 1)
    first = np.floor(centre).astype(np.int64)
    second = np.minimum(first + 1, cells - 1)
    return first, second, centre - first
