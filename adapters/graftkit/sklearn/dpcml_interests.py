"""A fitted DPCML's interests: explanations, users' vectors, their picture, an index over the items."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from graftkit.core.validation import check_bool, check_choice, raise_invalid
from graftkit.methods.dpcml import Interest, explain_item
from graftkit.methods.dpcml.ids import check_ids
from graftkit.methods.dpcml.neighbors import build_index
from graftkit.methods.dpcml.vectors import pad_vectors
from graftkit.sklearn.dpcml_fitted import FittedMixin
from sklearn.utils.validation import check_is_fitted

if TYPE_CHECKING:
    from graftkit.sklearn.dpcml_display import DPCMLDisplay

__all__ = ["InterestsMixin"]


class InterestsMixin(FittedMixin):
    """Vectors of a fitted estimator and what they stand for."""

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
        for name, given in (("user_id", user_id), ("item_id", item_id)):
            if isinstance(given, list | tuple) or np.ndim(given):
                raise_invalid(name, given, "one id each")
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
        return build_index(kind, items)

    def plot(self, user_id: int, **options: Any) -> DPCMLDisplay:
        """Draw a user's vectors among the item vectors, in two dimensions.

        Parameters
        ----------
        user_id : int
            A trained user.
        **options : object
            Arguments of `DPCMLDisplay.from_estimator`.

        Returns
        -------
        DPCMLDisplay
            With ``figure_`` and ``ax_``.
        """
        from graftkit.sklearn.dpcml_display import DPCMLDisplay

        return DPCMLDisplay.from_estimator(self, user_id, **options)
