"""Interactions as one binary CSR matrix, users x items, whatever form they came in.

Any value above 0 is a positive, 0 is unobserved, duplicates merge and indices are sorted, so that a
transposed (CSC) or unsorted matrix cannot be filtered wrongly.

>>> read_interactions(np.array([[0, 3], [1, 0]])).indices.tolist()
[1, 0]
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import scipy.sparse as sp

from graftkit.core.validation import check_integer, raise_invalid

__all__ = [
    "check_positives",
    "from_pairs",
    "item_counts",
    "matching_interactions",
    "merge_interactions",
    "read_interactions",
]

IntArray = npt.NDArray[np.int64]


def read_interactions(X: Any, name: str = "X") -> sp.csr_matrix:
    """Binary CSR form of a matrix of interactions.

    Parameters
    ----------
    X : array-like or sparse matrix of shape (n_users, n_items)
        Values above 0 are positives.
    name : str, default="X"
        The argument's name in messages.

    Returns
    -------
    csr_matrix of shape (n_users, n_items)
        Ones of float32, sorted, without explicit zeros or duplicates; a copy.

    Raises
    ------
    ValueError
        If `X` is not 2-D, has no row or no column, or holds negative, NaN or infinite entries.
    TypeError
        If its entries are not numbers.
    """
    given = X if sp.issparse(X) else np.asarray(X)
    if given.ndim != 2:
        raise_invalid(name, X, "a 2D matrix, users x items")
    if given.dtype.kind not in "biuf":
        raise_invalid(name, X, "numbers", error=TypeError)
    for size, what in zip(given.shape, ("sample(s) (users)", "feature(s) (items)"), strict=True):
        if size == 0:
            raise ValueError(
                f"{name}: expected a matrix users x items, found 0 {what} in shape {given.shape}"
            )
    matrix = sp.csr_matrix(given, copy=True)
    matrix.sum_duplicates()
    values = np.asarray(matrix.data)
    if values.dtype.kind == "f" and not np.isfinite(values).all():
        what = "NaN" if np.isnan(values).any() else "infinity"
        raise ValueError(f"{name}: expected finite entries, got {what}")
    if values.dtype.kind in "if" and len(values) and values.min() < 0:
        raise ValueError(
            f"Negative values in data: {name}: expected entries >= 0 (above 0 is a positive), got the "
            f"negative entry {values.min():g}"
        )
    matrix.data = (values > 0).astype(np.float32)
    matrix.eliminate_zeros()
    matrix.sort_indices()
    return matrix


def from_pairs(
    users: Any, items: Any, n_users: int | None = None, n_items: int | None = None
) -> sp.csr_matrix:
    """Interactions from two arrays of ids.

    Parameters
    ----------
    users, items : array-like of int, shape (nnz,)
        Who had what; repeats merge.
    n_users, n_items : int or None, default=None
        Shape; the largest id plus one where None.

    Returns
    -------
    csr_matrix of shape (n_users, n_items)
        As from `read_interactions`.

    Raises
    ------
    ValueError
        If the arrays differ in length or are empty, or an id is negative or outside the shape.
    TypeError
        If ids or sizes are not integers.
    """
    columns = []
    for name, values, size in (("users", users, n_users), ("items", items, n_items)):
        ids = np.asarray(values)
        if ids.ndim != 1:
            raise_invalid(name, values, "a 1-D array of ids")
        if ids.dtype.kind not in "iu" and ids.size:
            raise_invalid(name, values, "integer ids", error=TypeError)
        if size is not None:
            check_integer(f"n_{name}", size, low=1)
        if ids.size and ids.min() < 0:
            raise ValueError(f"{name}: expected ids >= 0, got {int(ids.min())}")
        if ids.size and size is not None and ids.max() >= size:
            asked = ", ".join("any" if n is None else str(n) for n in (n_users, n_items))
            raise ValueError(
                f"{name}: expected ids below n_{name} = {size}, got {int(ids.max())}; the matrix is users x "
                f"items = ({asked}). If the two arrays or sizes are swapped, swap them back"
            )
        columns.append(ids.astype(np.int64))
    if len(columns[0]) != len(columns[1]):
        raise ValueError(
            f"users and items: expected one item for each user, got {len(columns[0])} and {len(columns[1])}"
        )
    if not len(columns[0]):
        raise ValueError("users and items: expected at least one interaction, got no positive")
    shape = (n_users or int(columns[0].max()) + 1, n_items or int(columns[1].max()) + 1)
    ones = np.ones(len(columns[0]), dtype=np.float32)
    return read_interactions(sp.coo_matrix((ones, (columns[0], columns[1])), shape=shape))


def matching_interactions(X: Any, shape: tuple[int, int], name: str) -> sp.csr_matrix:
    """Read a matrix that must have the shape of another; a transposed one is named as such.

    Parameters
    ----------
    X : array-like or sparse matrix of shape (n_users, n_items)
        Interactions.
    shape : tuple of (int, int)
        The shape to match.
    name : str
        The argument's name in messages.

    Returns
    -------
    csr_matrix of shape (n_users, n_items)
        As from `read_interactions`.

    Raises
    ------
    ValueError
        If the shapes differ, or as `read_interactions` says.
    """
    matrix = read_interactions(X, name)
    if matrix.shape != tuple(shape):
        fix = (
            "It looks transposed: rows are users, columns are items"
            if matrix.shape == tuple(shape)[::-1]
            else "Rows are users, columns are items"
        )
        raise_invalid(name, matrix, f"a matrix users x items of shape {tuple(shape)}", fix=fix)
    return matrix


def merge_interactions(a: sp.csr_matrix, b: sp.csr_matrix) -> sp.csr_matrix:
    """Interactions that stand in either matrix; the smaller one is grown.

    Parameters
    ----------
    a, b : csr_matrix of shape (n_users, n_items)
        As from `read_interactions`.

    Returns
    -------
    csr_matrix of shape (n_users, n_items)
        The union.
    """
    shape = (max(a.shape[0], b.shape[0]), max(a.shape[1], b.shape[1]))
    a, b = a.copy(), b.copy()
    a.resize(shape)
    b.resize(shape)
    return read_interactions(a + b)


def item_counts(matrix: sp.csr_matrix) -> npt.NDArray[np.float64]:
    """Users an item.

    Parameters
    ----------
    matrix : csr_matrix of shape (n_users, n_items)
        As from `read_interactions`.

    Returns
    -------
    ndarray of shape (n_items,)
        Counts.
    """
    return np.bincount(matrix.indices, minlength=matrix.shape[1]).astype(np.float64)


def check_positives(name: str, matrix: sp.csr_matrix) -> None:
    """Refuse a matrix from which nothing can be learnt.

    Parameters
    ----------
    name : str
        The argument's name.
    matrix : csr_matrix of shape (n_users, n_items)
        As from `read_interactions`.

    Raises
    ------
    ValueError
        If nobody has anything.
    """
    if not matrix.nnz:
        raise ValueError(
            f"{name}: expected a positive (a value above 0), got no positive in shape {matrix.shape}"
        )
