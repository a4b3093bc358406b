"""What a fitted DPCML recommends, to trained and to new users."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import scipy.sparse as sp

from graftkit.core.validation import check_bool, check_integer, check_jobs
from graftkit.methods.dpcml import Ranker
from graftkit.methods.dpcml.ids import check_ids
from graftkit.methods.dpcml.interactions import matching_interactions, merge_interactions
from graftkit.methods.dpcml.lists import allowed_items
from graftkit.sklearn.dpcml_fitted import FittedMixin
from sklearn.utils.validation import check_is_fitted

__all__ = ["RecommenderMixin"]

IntArray = npt.NDArray[np.int64]


class RecommenderMixin(FittedMixin):
    """Lists of a fitted estimator."""

    def recommend(
        self,
        user_ids: Any,
        n: int = 10,
        *,
        filter_seen: bool = True,
        items: Any = None,
        exclude_items: Any = None,
        exclude: Any = None,
        batch_size: int | None = None,
        return_scores: bool = True,
        return_vector: bool = False,
    ) -> Any:
        """Best items of trained users.

        Parameters
        ----------
        user_ids : int or array-like of int, shape (m,)
            Rows of the training matrix.
        n : int, default=10
            Items each.
        filter_seen : bool, default=True
            Leave out what the user had in training.
        items : array-like of int, shape (k,), or None, default=None
            Only these items.
        exclude_items : array-like of int, shape (k,), or None, default=None
            Never these items.
        exclude : sparse matrix of shape (m, n_items) or None, default=None
            Further items to leave out, one row for each of `user_ids`.
        batch_size : int or None, default=None
            Users scored at once; None keeps a block at about 6 MB.
        return_scores : bool, default=True
            Return scores beside ids.
        return_vector : bool, default=False
            Return which of the user's vectors each item matched: the interest.

        Returns
        -------
        ids : ndarray of int, shape (m, n)
            Best first; of shape (n,) for a single id. -1 where fewer than n items are left.
        scores : ndarray of shape (m, n)
            Negative squared distances; ``-inf`` where fewer are left.
        vectors : ndarray of int, shape (m, n)
            Only with `return_vector`; -1 where fewer are left.

        Raises
        ------
        IndexError
            If an id is out of range.
        TypeError
            If ids are not integers.
        ValueError
            If `n` is below 1, or the seen items are to be filtered and were not stored.
        """
        check_is_fitted(self, "user_vectors_")
        check_integer("n", n, low=1)
        check_bool("filter_seen", filter_seen)
        users = check_ids("user_ids", user_ids, self.n_users_, self._shape())
        seen = self._seen("filter_seen=True")[users] if filter_seen else None
        return self._recommend(
            self._ranker,
            users,
            n,
            seen,
            items,
            exclude_items,
            exclude,
            batch_size,
            return_scores,
            return_vector,
            np.ndim(user_ids) == 0,
        )

    def recommend_for(
        self,
        X: Any,
        n: int = 10,
        *,
        filter_seen: bool = True,
        items: Any = None,
        exclude_items: Any = None,
        batch_size: int | None = None,
        return_scores: bool = True,
        return_vector: bool = False,
    ) -> Any:
        """Best items of new users, by fold-in and without training.

        Parameters
        ----------
        X : array-like or sparse matrix of shape (m, n_items)
            The users' full histories.
        n : int, default=10
            Items each.
        filter_seen : bool, default=True
            Leave out what stands in `X`.
        items : array-like of int, shape (k,), or None, default=None
            Only these items.
        exclude_items : array-like of int, shape (k,), or None, default=None
            Never these items.
        batch_size : int or None, default=None
            Users scored at once.
        return_scores : bool, default=True
            Return scores beside ids.
        return_vector : bool, default=False
            Return which of the user's vectors each item matched.

        Returns
        -------
        ids : ndarray of int, shape (m, n)
            Best first; -1 where fewer than n items are left.
        scores : ndarray of shape (m, n)
            Negative squared distances; ``-inf`` where fewer are left.
        vectors : ndarray of int, shape (m, n)
            Only with `return_vector`.

        Raises
        ------
        ValueError
            If `X` has another number of columns than the training matrix, or `n` is below 1.
        TypeError
            If a flag is no boolean.
        """
        check_is_fitted(self, "user_vectors_")
        check_integer("n", n, low=1)
        check_bool("filter_seen", filter_seen)
        matrix = self._read(self, X, reset=False)
        return self._recommend(
            self._folded_ranker(matrix),
            np.arange(matrix.shape[0]),
            n,
            matrix if filter_seen else None,
            items,
            exclude_items,
            None,
            batch_size,
            return_scores,
            return_vector,
            False,
        )

    def _recommend(
        self,
        ranker: Ranker,
        users: IntArray,
        n: int,
        seen: sp.csr_matrix | None,
        items: Any,
        exclude_items: Any,
        exclude: Any,
        batch_size: int | None,
        return_scores: bool,
        return_vector: bool,
        single: bool,
    ) -> Any:
        for name, flag in (("return_scores", return_scores), ("return_vector", return_vector)):
            check_bool(name, flag)
        if batch_size is not None:
            check_integer("batch_size", batch_size, low=1)
        if exclude is not None:
            further = matching_interactions(exclude, (len(users), self.n_features_in_), "exclude")
            seen = further if seen is None else merge_interactions(seen, further)
        only = None if items is None else self._item_ids("items", items)
        never = None if exclude_items is None else self._item_ids("exclude_items", exclude_items)
        allowed = allowed_items(self.n_features_in_, only, never)
        check_jobs(self.n_jobs)  # it may have been set after the fit
        ids, scores = ranker.top(users, n, seen, items=allowed, batch_size=batch_size, n_jobs=self.n_jobs)
        found: list[Any] = [ids]
        if return_scores:
            found.append(scores)
        if return_vector:
            _, vectors = ranker.pairs(np.repeat(users, n), np.maximum(ids, 0).ravel())
            found.append(np.where(ids < 0, -1, vectors.reshape(ids.shape)))
        if single:
            found = [part[0] for part in found]
        return found[0] if len(found) == 1 else tuple(found)
