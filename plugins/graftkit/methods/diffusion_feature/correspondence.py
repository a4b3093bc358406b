"""Nearest points between two feature maps by cosine similarity.

The published evaluation resizes both maps to 512 x 512 first (3.7 GB an image at 3520 channels). Bilinear
resizing and the dot product commute, so here the similarity rows of the few key points are resized instead;
the cosine's norm is then the coarse map's, which differs slightly. ``exact=True`` resizes first, as
published.

Source: arXiv 2410.03558, section 5 and appendix C; the fast form is ours.

>>> a = torch.eye(4).reshape(1, 4, 2, 2)
>>> nearest_points(a, a, [[0, 0], [1, 1]], size=(2, 2)).tolist()
[[0, 0], [1, 1]]
"""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from graftkit.core.validation import raise_invalid
from graftkit.methods.diffusion_feature.aggregation import resize_map

__all__ = ["nearest_points"]


def nearest_points(
    source: Tensor, target: Tensor, points: Any, *, size: tuple[int, int], exact: bool = False
) -> Tensor:
    """For each point of one image, the most similar position in another.

    Parameters
    ----------
    source, target : Tensor of shape (1, C, h, w) and (1, C, h', w')
        Feature maps of the two images.
    points : array-like of int, of shape (n, 2)
        Rows and columns in an image of `size`.
    size : (int, int)
        Height and width of both images, in pixels.
    exact : bool, default=False
        Resize the maps before comparing, as published, at the cost of their full size.

    Returns
    -------
    Tensor of shape (n, 2)
        Rows and columns in the target image.

    Raises
    ------
    ValueError
        If shapes do not fit or a point lies outside.
    """
    if source.ndim != 4 or target.ndim != 4 or len(source) != 1 or len(target) != 1:
        raise_invalid("source", source, "one map of shape (1, C, h, w) on each side")
    if source.shape[1] != target.shape[1]:
        raise_invalid("target", target, f"{source.shape[1]} channels")
    where = torch.as_tensor(points, device=source.device)
    if where.ndim != 2 or where.shape[1] != 2 or where.is_floating_point():
        raise_invalid("points", points, "integers of shape (n, 2)")
    bound = torch.tensor(size, device=where.device)
    if len(where) and ((where < 0) | (where >= bound)).any():
        raise_invalid("points", points, f"rows and columns inside {tuple(size)}")
    # Key points are few: their vectors come from the resized source map at no other position.
    grid = (2 * where.flip(1).to(source) + 1) / bound.flip(0).to(source) - 1
    vectors = functional.grid_sample(
        source, grid[None, None], mode="bilinear", padding_mode="border", align_corners=False
    )[0, :, 0].T
    vectors = functional.normalize(vectors, dim=1)
    candidates = functional.normalize(resize_map(target, size) if exact else target, dim=1)
    rows = torch.einsum("nc,chw->nhw", vectors, candidates[0])[None]
    best = resize_map(rows, size)[0].flatten(1).argmax(dim=1)
    return torch.stack([best // size[1], best % size[1]], dim=1)
