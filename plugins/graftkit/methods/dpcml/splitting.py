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
import scipy.sparse as sp

from graftkit.core.random import numpy_generator
from graftkit.core.validation import check_choice, check_integer, check_number, raise_invalid
from graftkit.methods.dpcml.interactions import read_interactions
from graftkit.methods.dpcml.partition import Split, parts, rank_within_rows, row_counts, with_values

__all__ = ["LeaveOneOut", "PerUserRatioSplit", "TemporalSplit"]


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
        matrix, values = with_values(X)
        keys = values if self.by == "last" else numpy_generator(self.random_state).random(matrix.nnz)
        rank = rank_within_rows(matrix, -keys)
        last = (rank == 0) & (row_counts(matrix) >= 2)
        return [parts(matrix, [~last, last])]


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
            If a count is no integer, or a share no number.
        """
        if not isinstance(self.ratios, Sequence | np.ndarray) or getattr(self.ratios, "shape", None) == ():
            raise_invalid("ratios", self.ratios, "two or three shares", error=TypeError)
        ratios = [check_number("ratios", ratio, low=0, high=1, closed="()") for ratio in self.ratios]
        if len(ratios) not in (2, 3) or abs(sum(ratios) - 1) > 1e-9:
            raise_invalid("ratios", self.ratios, "two or three shares whose sum is 1")
        check_integer("min_interactions", self.min_interactions, low=1)
        check_integer("n_repeats", self.n_repeats, low=1)
        matrix = read_interactions(X)
        rng = numpy_generator(self.random_state)
        counts = row_counts(matrix)
        enough = counts >= self.min_interactions
        splits = []
        for _ in range(self.n_repeats):
            rank = rank_within_rows(matrix, rng.random(matrix.nnz))
            bounds = [np.zeros_like(counts)]
            for ratio in ratios[:-1]:
                bounds.append(bounds[-1] + np.floor(ratio * counts + 1e-9).astype(np.int64))
            bounds.append(counts)
            masks = [enough & (rank >= low) & (rank < high) for low, high in pairwise(bounds)]
            splits.append(parts(matrix, masks))
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
        matrix, values = with_values(X)
        if self.timestamps is not None:
            try:
                times = sp.csr_matrix(self.timestamps)
            except (TypeError, ValueError) as error:
                raise ValueError(f"timestamps: expected a matrix of numbers ({error})") from error
            if times.shape != matrix.shape:
                raise_invalid("timestamps", times, f"the shape of X, {matrix.shape}")
            rows = np.repeat(np.arange(matrix.shape[0]), np.diff(matrix.indptr))
            values = np.asarray(times[rows, matrix.indices]).ravel().astype(np.float64)
            if not (values > 0).all():  # NaN neither
                raise ValueError(
                    "timestamps: expected a time above 0 for every interaction of X, got "
                    f"{int((~(values > 0)).sum())} without"
                )
        cut = np.quantile(values, 1 - self.test_size)
        return [parts(matrix, [values <= cut, values > cut])]
