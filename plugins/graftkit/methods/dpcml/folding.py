"""Vectors of unseen users from their liked items, with the item vectors frozen.

A user's liked items are grouped by a deterministic k-means (start: the item nearest to their mean, then
farthest first; at most ten rounds; ties by position) into as many groups as the user may have vectors; the
centres, brought to the users' norm, are the vectors. Without a liked item it is the popularity-weighted mean
of all items. Derived in the specification (3.5), not from the papers. It needs the user's full history.

>>> fold_in(np.array([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0]]), np.array([0, 1, 2]), 2).tolist()
[[1.0, 0.0], [0.0, 1.0]]
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import scipy.sparse as sp

from graftkit.methods.dpcml.vectors import IntArray, pointers

__all__ = ["constrained", "fold_in", "fold_in_rows"]

FloatArray = npt.NDArray[np.float64]
LLOYD_STEPS = 10


def fold_in(
    item_vectors: npt.NDArray[np.floating[Any]],
    liked: npt.NDArray[np.int64],
    n_vectors: int,
    *,
    rule: str | None = "sphere",
    radius: float = 1.0,
    weights: npt.NDArray[np.floating[Any]] | None = None,
) -> FloatArray:
    """Vectors of one user.

    Parameters
    ----------
    item_vectors : ndarray of shape (n_items, d)
        Frozen item vectors.
    liked : ndarray of int, shape (m,)
        The user's items.
    n_vectors : int
        At most so many vectors.
    rule : {"sphere", "ball"} or None, default="sphere"
        Norm constraint of users.
    radius : float, default=1.0
        Its radius.
    weights : ndarray of shape (n_items,) or None, default=None
        Popularity, for a user without items; equal where None.

    Returns
    -------
    ndarray of shape (k, d)
        k = min(n_vectors, m), or 1 for a user without items.
    """
    if not len(liked):
        share = np.ones(len(item_vectors)) if weights is None or not np.any(weights) else np.asarray(weights)
        mean = (share.astype(np.float64) @ item_vectors.astype(np.float64)) / share.sum()
        return constrained(mean[None], rule, radius)
    points = item_vectors[liked].astype(np.float64)
    centres = _centres(points, min(n_vectors, len(points)))
    return constrained(centres, rule, radius)


def fold_in_rows(
    matrix: sp.csr_matrix,
    item_vectors: npt.NDArray[np.floating[Any]],
    n_vectors: IntArray,
    *,
    rule: str | None = "sphere",
    radius: float = 1.0,
    weights: npt.NDArray[np.floating[Any]] | None = None,
) -> tuple[FloatArray, IntArray]:
    """Vectors of several users, as one ragged table.

    Parameters
    ----------
    matrix : csr_matrix of shape (m, n_items)
        The users' items.
    item_vectors : ndarray of shape (n_items, d)
        Frozen item vectors.
    n_vectors : ndarray of int, shape (m,)
        At most so many vectors each.
    rule : {"sphere", "ball"} or None, default="sphere"
        Norm constraint of users.
    radius : float, default=1.0
        Its radius.
    weights : ndarray of shape (n_items,) or None, default=None
        Popularity, for users without items.

    Returns
    -------
    vectors : ndarray of shape (n_rows, d)
        All users' vectors, user after user.
    ptr : ndarray of int, shape (m + 1,)
        User u owns rows ``ptr[u]`` to ``ptr[u + 1]``.
    """
    found = [
        fold_in(
            item_vectors,
            matrix.indices[start:end].astype(np.int64),
            int(count),
            rule=rule,
            radius=radius,
            weights=weights,
        )
        for start, end, count in zip(matrix.indptr[:-1], matrix.indptr[1:], n_vectors, strict=True)
    ]
    return np.concatenate(found), pointers(np.array([len(vectors) for vectors in found], dtype=np.int64))


def _centres(points: FloatArray, k: int) -> FloatArray:
    mean: FloatArray = points.mean(axis=0)
    if k == 1:
        return np.atleast_2d(mean)
    chosen = [int(_squared(points, mean[None])[:, 0].argmin())]
    nearest = _squared(points, points[chosen])[:, 0]
    while len(chosen) < k:
        chosen.append(int(nearest.argmax()))
        nearest = np.minimum(nearest, _squared(points, points[chosen[-1:]])[:, 0])
    centres = points[chosen]
    groups = None
    for _ in range(LLOYD_STEPS):
        new = _squared(points, centres).argmin(axis=1)
        if groups is not None and (new == groups).all():
            break
        groups = new
        centres = np.stack(
            [points[groups == c].mean(axis=0) if (groups == c).any() else centres[c] for c in range(k)]
        )
    return centres


def _squared(points: FloatArray, centres: FloatArray) -> FloatArray:
    found: FloatArray = (points**2).sum(axis=1)[:, None] + (centres**2).sum(axis=1) - 2 * points @ centres.T
    return found


def constrained(rows: FloatArray, rule: str | None, radius: float) -> FloatArray:
    """Vectors that obey a norm constraint, as `graftkit.methods.dpcml.constraints` says it for tensors.

    Parameters
    ----------
    rows : ndarray of shape (m, d)
        Vectors.
    rule : {"sphere", "ball"} or None
        Norm exactly `radius`, norm at most `radius`, or anything.
    radius : float
        The norm.

    Returns
    -------
    ndarray of shape (m, d)
        Zero vectors stay zero.
    """
    norm = np.linalg.norm(rows, axis=1, keepdims=True)
    if rule is None:
        return rows
    moved = (norm > 0) if rule == "sphere" else (norm > radius)
    out: FloatArray = np.where(moved, radius * rows / np.where(norm > 0, norm, 1.0), rows)
    return out
