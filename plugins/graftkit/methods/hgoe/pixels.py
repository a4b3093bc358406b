"""Pixel graphs of scikit-learn's digits and sample photographs, for the example and experiment B.

A node is a pixel brighter than a threshold, joined to its up to eight neighbours that are nodes too; its
feature is the brightness over 16.

>>> image = np.zeros((8, 8)); image[0, :3] = 16
>>> graph = image_graphs(image[None], 4)
>>> graph.num_nodes.tolist(), graph.edge_index.shape[1]
([3], 4)
"""

from typing import Any

import numpy as np
import torch

from graftkit.core.validation import raise_invalid
from graftkit.methods.hgoe.graphs import PackedGraphs

__all__ = ["digit_images", "image_graphs", "patch_images"]


def image_graphs(images: np.ndarray, threshold: Any) -> PackedGraphs:
    """Graphs of bright pixels.

    Parameters
    ----------
    images : ndarray of shape (m, h, w)
        Brightness, 0 to 16.
    threshold : float or ndarray of shape (m,)
        Pixels above it are nodes.

    Returns
    -------
    PackedGraphs
        With features of width 1.

    Raises
    ------
    ValueError
        If `images` has other than three axes.
    """
    if images.ndim != 3:
        raise_invalid("images", images, "shape (m, h, w)")
    edges, counts, features = [], [], []
    for image, limit in zip(images, np.broadcast_to(threshold, len(images)), strict=True):
        bright = image > limit
        number = np.where(bright, np.cumsum(bright).reshape(bright.shape) - 1, -1)
        padded = np.pad(number, 1, constant_values=-1)
        rows, columns = np.nonzero(bright)
        pairs = []
        for dr in (-1, 0, 1):
            for dc in (-1, 0, 1):
                other = padded[rows + 1 + dr, columns + 1 + dc]
                if dr or dc:
                    pairs.append(np.stack([number[rows, columns], other])[:, other >= 0])
        edges.append(torch.from_numpy(np.concatenate(pairs, 1).astype(np.int64)))
        counts.append(int(bright.sum()))
        features.append(torch.from_numpy(image[bright].astype(np.float32))[:, None] / 16)
    return PackedGraphs.from_lists(edges, counts, features)


def digit_images() -> tuple[np.ndarray, np.ndarray]:
    """scikit-learn's digits.

    Returns
    -------
    images : ndarray of shape (1797, 8, 8)
        Brightness, 0 to 16.
    labels : ndarray of shape (1797,)
        Digits.
    """
    from sklearn.datasets import load_digits

    digits = load_digits()
    return digits.images, digits.target


def patch_images(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Patches of scikit-learn's two sample photographs, brought to 8 x 8, and a threshold for each.

    Parameters
    ----------
    count : int
        How many.
    seed : int
        Where they lie.

    Returns
    -------
    images : ndarray of shape (count, 8, 8)
        Brightness, 0 to 16.
    threshold : ndarray of shape (count,)
        The quantile 0.35 to 0.6 of each patch.
    """
    from sklearn.datasets import load_sample_images

    photographs = [image.mean(2) / 255 * 16 for image in load_sample_images().images]
    rng = np.random.default_rng(seed)
    patches = np.empty((count, 8, 8))
    for k in range(count):
        photograph = photographs[int(rng.integers(len(photographs)))]
        side = 8 * int(rng.integers(2, 9))
        row = int(rng.integers(photograph.shape[0] - side))
        column = int(rng.integers(photograph.shape[1] - side))
        patch = photograph[row : row + side, column : column + side]
        patches[k] = patch.reshape(8, side // 8, 8, side // 8).mean((1, 3))
    quantile = rng.uniform(0.35, 0.6, count)
    threshold = np.array([np.quantile(p, q) for p, q in zip(patches, quantile, strict=True)])
    return patches, threshold
