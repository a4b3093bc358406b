"""Entries of a matrix of interactions, row by row: their ranks, and matrices that hold part of them.

>>> X = sp.csr_matrix(np.ones((1, 10), dtype=np.float32))
>>> [part.nnz for part in hold_out_share(X, 0.2, np.random.default_rng(0))]
[8, 2]
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import scipy.sparse as sp

from graftkit.methods.dpcml.interactions import read_interactions

__all__ = ["hold_out_share", "parts", "rank_within_rows", "row_counts", "with_values"]

Split = tuple[sp.csr_matrix, ...]


def hold_out_share(
    matrix: sp.csr_matrix, share: float, rng: np.random.Generator, *, most_users: int = 2000
) -> Split:
    """Hold out a share of the interactions of some users, for early stopping.

    Parameters
    ----------
    matrix : csr_matrix of shape (n_users, n_items)
        Interactions.
    share : float
        Of each chosen user's interactions; at least one is held out and one stays.
    rng : numpy.random.Generator
        Source of the choice.
    most_users : int, default=2000
        Largest number of users to hold out from.

    Returns
    -------
    tuple of two csr_matrix of shape (n_users, n_items)
        What stays and what is held out.

    Raises
    ------
    ValueError
        If no user has two interactions.
    """
    counts = np.diff(matrix.indptr)
    able = np.flatnonzero(counts >= 2)
    if not len(able):
        raise ValueError(
            "validation: expected a user with two interactions or more to hold one out, got none"
        )
    chosen = np.zeros(len(counts), dtype=np.bool_)
    chosen[rng.choice(able, size=min(most_users, len(able)), replace=False)] = True
    n_held = np.where(chosen, np.clip(np.floor(share * counts), 1, counts - 1), 0)
    rank = rank_within_rows(matrix, rng.random(matrix.nnz))
    held = rank < np.repeat(n_held, counts)
    return parts(matrix, [~held, held])


def with_values(X: Any) -> tuple[sp.csr_matrix, npt.NDArray[np.float64]]:
    """Binary interactions and the values that stood there.

    Parameters
    ----------
    X : array-like or sparse matrix of shape (n_users, n_items)
        Interactions.

    Returns
    -------
    matrix : csr_matrix of shape (n_users, n_items)
        As from `read_interactions`.
    values : ndarray of shape (nnz,)
        The values, in the matrix's order.
    """
    matrix = read_interactions(X)
    values = sp.csr_matrix(X, dtype=np.float64, copy=True)
    values.sum_duplicates()
    values.eliminate_zeros()
    values.sort_indices()
    return matrix, values.data


def row_counts(matrix: sp.csr_matrix) -> npt.NDArray[np.int64]:
    """For each entry, the number of entries in its row.

    Parameters
    ----------
    matrix : csr_matrix of shape (n_users, n_items)
        Interactions.

    Returns
    -------
    ndarray of int, shape (nnz,)
        In the matrix's order.
    """
    counts = np.diff(matrix.indptr).astype(np.int64)
    return np.repeat(counts, counts)


def rank_within_rows(matrix: sp.csr_matrix, keys: npt.NDArray[np.float64]) -> npt.NDArray[np.int64]:
    """Rank of each entry's key among those of its row.

    Parameters
    ----------
    matrix : csr_matrix of shape (n_users, n_items)
        Interactions.
    keys : ndarray of shape (nnz,)
        Smallest first; equal keys in the matrix's order.

    Returns
    -------
    ndarray of int, shape (nnz,)
        0 for the first of each row.
    """
    rows = np.repeat(np.arange(matrix.shape[0]), np.diff(matrix.indptr))
    order = np.lexsort((keys, rows))
    rank = np.empty(len(keys), dtype=np.int64)
    rank[order] = np.arange(len(keys)) - matrix.indptr[rows]
    return rank


def parts(matrix: sp.csr_matrix, masks: list[npt.NDArray[np.bool_]]) -> Split:
    """Matrices of part of the entries each.

    Parameters
    ----------
    matrix : csr_matrix of shape (n_users, n_items)
        Interactions.
    masks : list of ndarray of bool, each of shape (nnz,)
        Which entries a part holds.

    Returns
    -------
    tuple of csr_matrix, each of shape (n_users, n_items)
        One a mask.
    """
    found = []
    for mask in masks:
        part = matrix.copy()
        part.data = mask.astype(np.float32)
        part.eliminate_zeros()
        found.append(part)
    return tuple(found)
