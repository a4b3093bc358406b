"""Splits of interactions: entries are held out, not rows.

>>> train, test = LeaveOneOut(random_state=0).split(np.array([[1, 1, 1], [1, 0, 0]]))[0]
>>> int(train.nnz), int(test.nnz)
(3, 1)
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
import scipy.sparse as sp

from graftkit.core.random import numpy_generator
from graftkit.core.validation import check_choice, check_integer, check_number, raise_invalid
from graftkit.methods.dpcml.interactions import read_interactions

__all__ = ["LeaveOneOut", "PerUserRatioSplit", "TemporalSplit", "hold_out_share"]

Split = tuple[sp.csr_matrix, ...]


class LeaveOneOut:
    """Hold out one interaction of every user that has two or more.

    Parameters
    ----------
    by : {"random", "last"}, default="random"
        Which one; ``"last"`` takes the largest value of the user's row, such as a time stamp.
    random_state : None, int, Generator or RandomState, default=None
        Source of the choice.
    """

    def __init__(self, *, by: str = "random", random_state: Any = None) -> None:
        self.by = by
        self.random_state = random_state

    def split(self, X: Any) -> list[Split]:
        """Split once.

        Parameters
        ----------
        X : array-like or sparse matrix of shape (n_users, n_items)
            Interactions.

        Returns
        -------
        list of one tuple
            Training and test matrices, both csr_matrix of shape (n_users, n_items).

        Raises
        ------
        ValueError
            If `by` is unknown or `X` is no matrix of interactions.
        """
        check_choice("by", self.by, ("random", "last"))
        matrix, values = _with_values(X)
        keys = values if self.by == "last" else numpy_generator(self.random_state).random(matrix.nnz)
        rank = _rank_within_rows(matrix, -keys)
        last = (rank == 0) & (_row_counts(matrix) >= 2)
        return [_parts(matrix, [~last, last])]


class PerUserRatioSplit:
    """Split each user's interactions at random in given shares.

    Training and validation counts are rounded down, and the test set gets the remainder, as in the public
    code.

    Parameters
    ----------
    ratios : sequence of float, default=(0.6, 0.2, 0.2)
        Shares of training, (validation) and test; two or three, with sum 1.
    min_interactions : int, default=5
        Users with fewer give nothing to any part.
    n_repeats : int, default=1
        How many independent splits.
    random_state : None, int, Generator or RandomState, default=None
        Source of the choice.
    """

    def __init__(
        self,
        ratios: Sequence[float] = (0.6, 0.2, 0.2),
        *,
        min_interactions: int = 5,
        n_repeats: int = 1,
        random_state: Any = None,
    ) -> None:
        self.ratios = ratios
        self.min_interactions = min_interactions
        self.n_repeats = n_repeats
        self.random_state = random_state

    def split(self, X: Any) -> list[Split]:
        """Split as often as was asked for.

        Parameters
        ----------
        X : array-like or sparse matrix of shape (n_users, n_items)
            Interactions.

        Returns
        -------
        list of tuple
            Training, (validation) and test matrices, each csr_matrix of shape (n_users, n_items).

        Raises
        ------
        ValueError
            If the ratios are not two or three positive numbers with sum 1, or `X` is no matrix of
            interactions.
        TypeError
            If a count is no integer.
        """
        ratios = [check_number("ratios", ratio, low=0, high=1, closed="()") for ratio in self.ratios]
        if len(ratios) not in (2, 3) or abs(sum(ratios) - 1) > 1e-9:
            raise_invalid("ratios", self.ratios, "two or three shares whose sum is 1")
        check_integer("min_interactions", self.min_interactions, low=1)
        check_integer("n_repeats", self.n_repeats, low=1)
        matrix = read_interactions(X)
        rng = numpy_generator(self.random_state)
        counts = _row_counts(matrix)
        enough = counts >= self.min_interactions
        splits = []
        for _ in range(self.n_repeats):
            rank = _rank_within_rows(matrix, rng.random(matrix.nnz))
            bounds = [np.zeros_like(counts)]
            for ratio in ratios[:-1]:
                bounds.append(bounds[-1] + np.floor(ratio * counts + 1e-9).astype(np.int64))
            bounds.append(counts)
            parts = [enough & (rank >= low) & (rank < high) for low, high in pairwise(bounds)]
            splits.append(_parts(matrix, parts))
        return splits


class TemporalSplit:
    """Hold out what happened last, over all users.

    Parameters
    ----------
    timestamps : array-like or sparse matrix of shape (n_users, n_items), or None, default=None
        When each interaction happened, above 0; None takes the values of `X`.
    test_size : float, default=0.2
        Share of the interactions that is held out.
    """

    def __init__(self, timestamps: Any = None, *, test_size: float = 0.2) -> None:
        self.timestamps = timestamps
        self.test_size = test_size

    def split(self, X: Any) -> list[Split]:
        """Split once.

        Parameters
        ----------
        X : array-like or sparse matrix of shape (n_users, n_items)
            Interactions.

        Returns
        -------
        list of one tuple
            Training and test matrices, both csr_matrix of shape (n_users, n_items). No test entry is older
            than a training entry.

        Raises
        ------
        ValueError
            If the shapes differ, an interaction lacks its time stamp, or the share is out of (0, 1).
        TypeError
            If the share is no number.
        """
        check_number("test_size", self.test_size, low=0, high=1, closed="()")
        matrix, values = _with_values(X)
        if self.timestamps is not None:
            times = sp.csr_matrix(self.timestamps)
            if times.shape != matrix.shape:
                raise_invalid("timestamps", times, f"the shape of X, {matrix.shape}")
            rows = np.repeat(np.arange(matrix.shape[0]), np.diff(matrix.indptr))
            values = np.asarray(times[rows, matrix.indices]).ravel().astype(np.float64)
            if (values <= 0).any():
                raise ValueError(
                    "timestamps: expected a time above 0 for every interaction of X, got "
                    f"{int((values <= 0).sum())} without"
                )
        cut = np.quantile(values, 1 - self.test_size)
        return [_parts(matrix, [values <= cut, values > cut])]


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
    rank = _rank_within_rows(matrix, rng.random(matrix.nnz))
    held = rank < np.repeat(n_held, counts)
    return _parts(matrix, [~held, held])


def _with_values(X: Any) -> tuple[sp.csr_matrix, npt.NDArray[np.float64]]:
    """Binary interactions and the values that stood there."""
    matrix = read_interactions(X)
    values = sp.csr_matrix(X, dtype=np.float64, copy=True)
    values.sum_duplicates()
    values.eliminate_zeros()
    values.sort_indices()
    return matrix, values.data


def _row_counts(matrix: sp.csr_matrix) -> npt.NDArray[np.int64]:
    """For each entry, the number of entries in its row."""
    counts = np.diff(matrix.indptr).astype(np.int64)
    return np.repeat(counts, counts)


def _rank_within_rows(matrix: sp.csr_matrix, keys: npt.NDArray[np.float64]) -> npt.NDArray[np.int64]:
    """Rank of each entry's key among those of its row."""
    rows = np.repeat(np.arange(matrix.shape[0]), np.diff(matrix.indptr))
    order = np.lexsort((keys, rows))
    rank = np.empty(len(keys), dtype=np.int64)
    rank[order] = np.arange(len(keys)) - matrix.indptr[rows]
    return rank


def _parts(matrix: sp.csr_matrix, masks: list[npt.NDArray[np.bool_]]) -> Split:
    parts = []
    for mask in masks:
        part = matrix.copy()
        part.data = mask.astype(np.float32)
        part.eliminate_zeros()
        parts.append(part)
    return tuple(parts)
