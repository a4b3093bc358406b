"""Negative candidates: drawn with replacement from what a user has not touched.

Vectorised rejection: all candidates at once, then only those redrawn that are positives, found in a packed
bitmap (up to 64 MB) or by binary search in the sorted keys ``user * n_items + item`` of what a smaller bitmap
of their remainders lets through; both give the same draws. Users who own more than half of the items (of
their popularity, for ``popular``) draw from their listed complement instead. The public code loops over
Python sets and never ends for a user who owns every item.

>>> owned = sp.csr_matrix(np.array([[1, 0, 1, 0]]))
>>> draws = NegativeSampler(owned).draw(np.zeros(5, dtype=np.int64), 3, np.random.default_rng(0))
>>> sorted(set(draws.ravel().tolist()))
[1, 3]
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import scipy.sparse as sp

from graftkit.methods.dpcml.interactions import item_counts

__all__ = ["NegativeSampler"]

IntArray = npt.NDArray[np.int64]
BITMAP_BYTES = 64 * 2**20
BITS_A_KEY = 16


class NegativeSampler:
    """Draws items that a user has no interaction with.

    Parameters
    ----------
    owned : csr_matrix of shape (n_users, n_items)
        Binary interactions, sorted.
    popular : bool, default=False
        Draw in proportion to the items' counts instead of uniformly.
    bitmap : bool or None, default=None
        Use the bitmap, the sorted keys, or the bitmap where it takes at most 64 MB.
    """

    def __init__(self, owned: sp.csr_matrix, *, popular: bool = False, bitmap: bool | None = None) -> None:
        self.n_users, self.n_items = owned.shape
        self._owned = owned
        counts = np.diff(owned.indptr).astype(np.int64)
        users = np.repeat(np.arange(self.n_users, dtype=np.int64), counts)
        keys = users * self.n_items + owned.indices
        self.saturated: npt.NDArray[np.bool_] = counts >= self.n_items
        if bitmap is None:
            bitmap = self.n_users * self.n_items <= 8 * BITMAP_BYTES
        # Beside the sorted keys, a bit for each key's remainder: few draws are left to be searched for.
        self._keys: IntArray | None = None if bitmap else keys
        n_bits = self.n_users * self.n_items if bitmap else 1 << (BITS_A_KEY * len(keys)).bit_length()
        self._mask = -1 if bitmap else n_bits - 1
        self._bits: npt.NDArray[np.uint8] = np.zeros((n_bits + 7) // 8, dtype=np.uint8)
        marks = keys & self._mask
        np.bitwise_or.at(self._bits, marks >> 3, (1 << (marks & 7)).astype(np.uint8))
        self._cumulated: npt.NDArray[np.float64] | None = None
        if popular:
            popularity = item_counts(owned)
            self._cumulated = np.cumsum(popularity)
            mass = np.add.reduceat(np.append(popularity[owned.indices], 0.0), owned.indptr[:-1]) * (
                counts > 0
            )
            crowded = mass > 0.5 * self._cumulated[-1]
        else:
            crowded = 2 * counts > self.n_items
        self._crowded: npt.NDArray[np.bool_] = crowded & ~self.saturated

    def owns(self, users: IntArray, items: IntArray) -> npt.NDArray[np.bool_]:
        """Whether each user has an interaction with each item.

        Parameters
        ----------
        users, items : ndarray of int, shape (m,)
            Pairs.

        Returns
        -------
        ndarray of bool, shape (m,)
            True for positives.
        """
        keys = users * self.n_items + items
        marks = keys if self._keys is None else keys & self._mask
        found: npt.NDArray[np.bool_] = (self._bits[marks >> 3] >> (marks & 7).astype(np.uint8)) & 1 > 0
        if self._keys is not None:
            marked = np.flatnonzero(found)
            place = np.searchsorted(self._keys[:-1], keys[marked])
            found[marked] = self._keys[place] == keys[marked]
        return found

    def draw(self, users: IntArray, n: int, rng: np.random.Generator) -> IntArray:
        """Draw candidates for each entry of `users`.

        Parameters
        ----------
        users : ndarray of int, shape (m,)
            Users, none of them saturated.
        n : int
            Candidates each.
        rng : numpy.random.Generator
            Where draws come from.

        Returns
        -------
        ndarray of int, shape (m, n)
            Items, never a positive of the user.

        Raises
        ------
        ValueError
            If a user owns every item.
        """
        if self.saturated[users].any():
            raise ValueError("users: expected users who lack an item, got one who owns every item")
        drawn = self._any_items(len(users) * n, rng)
        repeated = np.repeat(users, n)
        crowded = self._crowded[users]
        if crowded.any():
            apart = np.repeat(crowded, n)
            pending = np.flatnonzero(~apart)
        else:
            pending = np.arange(len(drawn))
            apart = None
        checked_users = repeated if apart is None else repeated[pending]
        bad = pending[self.owns(checked_users, drawn[pending] if apart is not None else drawn)]
        while len(bad):
            drawn[bad] = self._any_items(len(bad), rng)
            bad = bad[self.owns(repeated[bad], drawn[bad])]
        if apart is not None:
            self._draw_listed(drawn, repeated, np.flatnonzero(apart), rng)
        return drawn.reshape(len(users), n)

    def _any_items(self, size: int, rng: np.random.Generator) -> IntArray:
        if self._cumulated is None or not self._cumulated[-1]:
            return rng.integers(self.n_items, size=size, dtype=np.int64)
        place = rng.random(size) * self._cumulated[-1]
        found: IntArray = np.searchsorted(self._cumulated, place, side="right").astype(np.int64)
        return found

    def _draw_listed(
        self, drawn: IntArray, repeated: IntArray, places: IntArray, rng: np.random.Generator
    ) -> None:
        """Fill the places of crowded users from their complements."""
        order = places[np.argsort(repeated[places], kind="stable")]
        who, start = np.unique(repeated[order], return_index=True)
        for user, spots in zip(who, np.split(order, start[1:]), strict=True):
            row = self._owned.indices[self._owned.indptr[user] : self._owned.indptr[user + 1]]
            rest = np.setdiff1d(np.arange(self.n_items), row, assume_unique=True)
            if self._cumulated is None:
                drawn[spots] = rest[rng.integers(len(rest), size=len(spots))]
                continue
            weight = np.diff(self._cumulated, prepend=0.0)[rest]
            # What is left may never have been touched by anyone: then uniformly.
            total = np.cumsum(weight if weight.sum() > 0 else np.ones(len(rest)))
            drawn[spots] = rest[np.searchsorted(total, rng.random(len(spots)) * total[-1], side="right")]
