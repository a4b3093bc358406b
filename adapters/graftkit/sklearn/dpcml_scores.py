"""Scores of a fitted DPCML: pairs, whole rows, and items among themselves."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from graftkit.core.validation import check_integer
from graftkit.methods.dpcml.ids import check_ids
from graftkit.methods.dpcml.neighbors import similar_items
from graftkit.sklearn.dpcml_fitted import FittedMixin
from sklearn.utils.validation import check_is_fitted

__all__ = ["ScoresMixin"]

IntArray = npt.NDArray[np.int64]
FloatArray = npt.NDArray[np.floating[Any]]


class ScoresMixin(FittedMixin):
    """Scores of a fitted estimator."""

    def score_pairs(self, user_ids: Any, item_ids: Any) -> FloatArray:
        """Scores of user-item pairs: negative squared distances, larger is better.

        Parameters
        ----------
        user_ids, item_ids : array-like of int, shape (m,)
            Pairs.

        Returns
        -------
        ndarray of shape (m,)
            At most 0.

        Raises
        ------
        IndexError
            If an id is out of range.
        TypeError
            If ids are not integers.
        ValueError
            If the arrays differ in length.

        Notes
        -----
        There is no ``predict`` of pairs: scikit-learn's tools would call it with rows of a matrix.
        """
        check_is_fitted(self, "user_vectors_")
        users = check_ids("user_ids", user_ids, self.n_users_, self._shape())
        items = self._item_ids("item_ids", item_ids)
        if len(users) != len(items):
            raise ValueError(
                f"user_ids and item_ids: expected one item for each user, got {len(users)} and {len(items)}"
            )
        scores, _ = self._ranker.pairs(users, items)
        return scores

    def score_users(self, user_ids: Any) -> FloatArray:
        """Scores of some trained users for all items.

        Parameters
        ----------
        user_ids : int or array-like of int, shape (m,)
            Users.

        Returns
        -------
        ndarray of shape (m, n_items)
            Negative squared distances.

        Raises
        ------
        IndexError
            If an id is out of range.
        TypeError
            If ids are not integers.
        """
        check_is_fitted(self, "user_vectors_")
        return self._ranker.score(check_ids("user_ids", user_ids, self.n_users_, self._shape()))

    def similar_items(self, item_ids: Any, n: int = 10) -> tuple[IntArray, FloatArray]:
        """Nearest items of items.

        Parameters
        ----------
        item_ids : int or array-like of int, shape (m,)
            Items.
        n : int, default=10
            Neighbours each; the item itself is left out.

        Returns
        -------
        ids : ndarray of int, shape (m, n)
            Nearest first; of shape (n,) for a single id; -1 where fewer are left.
        scores : ndarray of shape (m, n)
            Negative squared distances.

        Raises
        ------
        IndexError
            If an id is out of range.
        TypeError
            If ids are not integers.
        ValueError
            If `n` is below 1.
        """
        check_is_fitted(self, "user_vectors_")
        check_integer("n", n, low=1)
        items = self._item_ids("item_ids", item_ids)
        ids, scores = similar_items(self.item_vectors_, items, n, device=str(self._ranker.device))
        return (ids[0], scores[0]) if np.ndim(item_ids) == 0 else (ids, scores)
