"""What a fitted DPCML answers: recommendations, scores, explanations, vectors, an index."""

from __future__ import annotations

from importlib import import_module
from typing import Any

import numpy as np
import numpy.typing as npt
import scipy.sparse as sp

from graftkit.core.validation import check_bool, check_choice, check_integer, raise_invalid
from graftkit.methods.dpcml import Interest, Ranker, explain_item
from graftkit.methods.dpcml.folding import fold_in
from graftkit.methods.dpcml.interactions import (
    check_ids,
    matching_interactions,
    merge_interactions,
    read_interactions,
)
from graftkit.methods.dpcml.vectors import assign_vectors, pad_vectors, pointers
from sklearn.utils.validation import check_is_fitted, validate_data

__all__ = ["RecommenderMixin"]

IntArray = npt.NDArray[np.int64]
FloatArray = npt.NDArray[np.floating[Any]]


class RecommenderMixin:
    """Queries of a fitted estimator; fitting lies in `graftkit.sklearn.dpcml`."""

    n_users_: int
    n_features_in_: int
    user_vectors_: FloatArray
    user_ptr_: IntArray
    item_vectors_: FloatArray
    interactions_: sp.csr_matrix | None
    item_counts_: FloatArray
    assignment: Any
    n_vectors: int
    user_norm: str | None
    max_norm: float
    device: str
    _ranker: Ranker
    _most: int

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
        folded = self._fold_in(matrix)
        ptr = pointers(np.array([len(vectors) for vectors in folded], dtype=np.int64))
        table = np.concatenate(folded).astype(self.item_vectors_.dtype)
        ranker = Ranker(table, ptr, self.item_vectors_, self.device)
        return self._recommend(
            ranker,
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
        allowed = None if items is None else np.unique(self._item_ids("items", items))
        if exclude_items is not None:
            everything = np.arange(self.n_features_in_) if allowed is None else allowed
            allowed = np.setdiff1d(everything, self._item_ids("exclude_items", exclude_items))
        ids, scores = ranker.top(users, n, seen, items=allowed, batch_size=batch_size)
        found: list[Any] = [ids]
        if return_scores:
            found.append(scores)
        if return_vector:
            _, vectors = ranker.pairs(np.repeat(users, n), np.maximum(ids, 0).ravel())
            found.append(np.where(ids < 0, -1, vectors.reshape(ids.shape)))
        if single:
            found = [part[0] for part in found]
        return found[0] if len(found) == 1 else tuple(found)

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
        ptr = np.arange(len(items) + 1)
        ranker = Ranker(self.item_vectors_[items], ptr, self.item_vectors_, self.device)
        itself = sp.csr_matrix((np.ones(len(items)), items, ptr), shape=(len(items), self.n_features_in_))
        ids, scores = ranker.top(np.arange(len(items)), n, itself)
        return (ids[0], scores[0]) if np.ndim(item_ids) == 0 else (ids, scores)

    def explain(self, user_id: int, item_id: int) -> Interest:
        """Which of the user's vectors an item matches, and which of the user's items that vector stands for.

        Parameters
        ----------
        user_id : int
            A trained user.
        item_id : int
            Any item.

        Returns
        -------
        Interest
            ``vector``, ``distance``, ``items`` (the user's items nearest to that vector, nearest first) and
            ``distances``.

        Raises
        ------
        IndexError
            If an id is out of range.
        TypeError
            If an id is no integer.
        ValueError
            If the interactions were not stored, or an id is an array.
        """
        check_is_fitted(self, "user_vectors_")
        if np.ndim(user_id) or np.ndim(item_id):
            raise_invalid("user_id, item_id", (user_id, item_id), "one id each")
        user = int(check_ids("user_id", user_id, self.n_users_, self._shape())[0])
        item = int(self._item_ids("item_id", item_id)[0])
        liked = self._seen("explain")[user].indices.astype(np.int64)
        vectors = self.user_vectors_[self.user_ptr_[user] : self.user_ptr_[user + 1]]
        return explain_item(vectors, self.item_vectors_, item, liked)

    def get_user_vectors(self, user_ids: Any, *, padded: bool = False) -> Any:
        """Trained vectors of some users.

        Parameters
        ----------
        user_ids : int or array-like of int, shape (m,)
            Users.
        padded : bool, default=False
            One array with the last vector of a user repeated, and its mask, instead of a list.

        Returns
        -------
        vectors : list of ndarray, each of shape (C_u, d), or ndarray of shape (m, C_max, d)
            The vectors.
        mask : ndarray of bool, shape (m, C_max)
            Only with `padded`; False for repetitions.

        Raises
        ------
        IndexError
            If an id is out of range.
        TypeError
            If ids are not integers or `padded` is no boolean.
        """
        check_is_fitted(self, "user_vectors_")
        check_bool("padded", padded)
        users = check_ids("user_ids", user_ids, self.n_users_, self._shape())
        if padded:
            return pad_vectors(self.user_vectors_, self.user_ptr_, users)
        return [self.user_vectors_[self.user_ptr_[u] : self.user_ptr_[u + 1]].copy() for u in users]

    def to_ann(self, kind: str = "arrays") -> Any:
        """Item vectors for a nearest-neighbour index, and the queries.

        Ask the index for n + n_seen neighbours of each of a user's vectors and merge them with
        `graftkit.sklearn.merge_neighbors`: with an exact index that is exact.

        Parameters
        ----------
        kind : {"arrays", "faiss", "hnswlib"}, default="arrays"
            What to build.

        Returns
        -------
        tuple of ndarray, or an index
            ``(item_vectors, user_vectors, user_ptr)`` of shapes (n_items, d), (n_rows, d) and (n_users +
            1,), float32 and contiguous; or an exact ``faiss.IndexFlatL2``, or an approximate
            ``hnswlib.Index``.

        Raises
        ------
        ValueError
            If `kind` is unknown.
        ImportError
            If the library is not installed.
        """
        check_is_fitted(self, "user_vectors_")
        check_choice("kind", kind, ("arrays", "faiss", "hnswlib"))
        items = np.ascontiguousarray(self.item_vectors_, dtype=np.float32)
        if kind == "arrays":
            return items, np.ascontiguousarray(self.user_vectors_, dtype=np.float32), self.user_ptr_.copy()
        try:
            library = import_module(kind)
        except ImportError as error:
            package = {"faiss": "faiss-cpu", "hnswlib": "hnswlib"}[kind]
            raise ImportError(
                f"to_ann({kind!r}) needs {package}: pip install {package}", name=kind
            ) from error
        if kind == "faiss":
            index = library.IndexFlatL2(items.shape[1])
            index.add(items)
            return index
        index = library.Index(space="l2", dim=items.shape[1])
        index.init_index(max_elements=len(items))
        index.add_items(items, np.arange(len(items)))
        return index

    def _shape(self) -> tuple[int, int]:
        return self.n_users_, self.n_features_in_

    def _seen(self, what: str) -> sp.csr_matrix:
        if self.interactions_ is None:
            raise ValueError(
                f"{what} needs the training interactions, but store_interactions=False did not keep them"
            )
        return self.interactions_

    def _item_ids(self, name: str, ids: Any) -> IntArray:
        return check_ids(name, ids, self.n_features_in_, self._shape())

    def _read(self, form: Any, X: Any, *, reset: bool) -> sp.csr_matrix:
        """Check a matrix in scikit-learn's way, then read it as interactions."""
        given = tuple(getattr(X, "shape", ()))
        if not reset and len(given) == 2 and given != self._shape() and given == self._shape()[::-1]:
            raise ValueError(
                f"X has {given[1]} features, but DPCML is expecting {self.n_features_in_} features as input: "
                f"{given} is the shape of the training matrix, users x items = {self._shape()}, transposed"
            )
        checked = validate_data(form, X, reset=reset, accept_sparse=["csr", "csc", "coo"], dtype="numeric")
        return read_interactions(checked)

    def _counts_for(self, counts: IntArray) -> IntArray:
        """Numbers of vectors of users who were not in training; a given array says nothing about them."""
        rule = self.assignment if isinstance(self.assignment, str) or callable(self.assignment) else "bpa"
        return assign_vectors(counts, rule, self.n_vectors)

    def _fold_in(self, matrix: sp.csr_matrix) -> list[npt.NDArray[np.float64]]:
        counts = np.minimum(self._counts_for(np.diff(matrix.indptr).astype(np.int64)), self._most)
        return [
            fold_in(
                self.item_vectors_,
                matrix.indices[matrix.indptr[row] : matrix.indptr[row + 1]].astype(np.int64),
                int(count),
                rule=self.user_norm,
                radius=self.max_norm,
                weights=self.item_counts_,
            )
            for row, count in enumerate(counts)
        ]
