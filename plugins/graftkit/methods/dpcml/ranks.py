"""Where the held-out items of each user end up among all that he has not seen.

>>> scores = np.array([[0.3, 0.9, 0.1, 0.2]])  # larger is better, item 1 was seen
>>> seen, held = (sp.csr_matrix(np.array([row])) for row in ([0, 1, 0, 0], [0, 0, 1, 1]))
>>> rank_held_out(lambda users: scores, seen, held).positions[0].tolist()
[1, 2]
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import scipy.sparse as sp

from graftkit.core.validation import raise_invalid

__all__ = ["UserRanks", "rank_held_out"]

IntArray = npt.NDArray[np.int64]
ScoreFunction = Callable[[IntArray], npt.NDArray[np.floating[Any]]]

LIST_BYTES = 8 * 2**20


@dataclass(frozen=True)
class UserRanks:
    """Where each user's held-out items ended up.

    Parameters
    ----------
    users : ndarray of int, shape (m,)
        Users with a held-out item.
    positions : tuple of ndarray of int, each of shape (n_u,)
        0-based and ascending.
    items : tuple of ndarray of int, each of shape (n_u,)
        The items at these positions.
    n_ranked : ndarray of int, shape (m,)
        Items that were ranked for each user.
    tops : ndarray of int, shape (m, N), or None
        First items of each list, where they were asked for; -1 where a list is shorter.
    """

    users: IntArray
    positions: tuple[IntArray, ...]
    items: tuple[IntArray, ...]
    n_ranked: IntArray
    tops: IntArray | None = None

    def restricted(self, keep: Callable[[int, IntArray], npt.NDArray[np.bool_]]) -> UserRanks:
        """Ranks of part of the held-out items; the others leave the lists.

        Parameters
        ----------
        keep : callable
            Called with a user and its held-out items, returns which stay.

        Returns
        -------
        UserRanks
            Of the users that keep an item. Items that do not stay are neither hits nor misses.
        """
        users, positions, items, n_ranked = [], [], [], []
        for user, place, held, total in zip(
            self.users, self.positions, self.items, self.n_ranked, strict=True
        ):
            stays = keep(int(user), held)
            if stays.any():
                gone_before = np.cumsum(~stays)
                users.append(user)
                positions.append((place - gone_before)[stays])
                items.append(held[stays])
                n_ranked.append(total - int((~stays).sum()))
        return UserRanks(
            np.asarray(users, dtype=np.int64),
            tuple(positions),
            tuple(items),
            np.asarray(n_ranked, dtype=np.int64),
        )


def rank_held_out(
    score: ScoreFunction,
    seen: sp.csr_matrix,
    held: sp.csr_matrix,
    *,
    n_top: int = 0,
    users: IntArray | None = None,
    batch_size: int | None = None,
) -> UserRanks:
    """Positions of held-out items among all unseen ones.

    Parameters
    ----------
    score : callable
        Takes user ids (b,), returns scores of shape (b, n_items); larger is better.
    seen : csr_matrix of shape (n_users, n_items)
        Items that are not ranked.
    held : csr_matrix of shape (n_users, n_items)
        Held-out items; those that were seen are dropped.
    n_top : int, default=0
        Length of the lists to keep.
    users : ndarray of int, shape (m,), or None, default=None
        Only these users.
    batch_size : int or None, default=None
        Users scored at once; None keeps their scores at about 8 MB.

    Returns
    -------
    UserRanks
        Ties are ranked by item id. An item of score ``-inf`` is ranked last.

    Raises
    ------
    ValueError
        If scores have another shape or are NaN.
    """
    held = (held - held.multiply(seen)).tocsr()
    held.eliminate_zeros()
    held.sort_indices()
    counts = np.diff(held.indptr)
    chosen = np.flatnonzero(counts) if users is None else users[counts[users] > 0]
    chosen = chosen.astype(np.int64)
    n_items = held.shape[1]
    if batch_size is None:
        batch_size = max(1, LIST_BYTES // (8 * n_items))
    positions, items, tops = [], [], []
    for start in range(0, len(chosen), batch_size):
        block = chosen[start : start + batch_size]
        scores = _checked(score(block), (len(block), n_items))
        mask = seen[block]
        scores[np.repeat(np.arange(len(block)), np.diff(mask.indptr)), mask.indices] = -np.inf
        ascending = np.sort(scores, axis=1)
        for row, user in enumerate(block):
            own = held.indices[held.indptr[user] : held.indptr[user + 1]]
            value = scores[row, own]
            upto = np.searchsorted(ascending[row], value, side="right")
            position = n_items - upto
            if (upto - np.searchsorted(ascending[row], value, side="left") > 1).any():
                # Equal scores: those with a smaller id come first.
                position = position + [
                    int((scores[row, :item] == v).sum()) for item, v in zip(own, value, strict=True)
                ]
            order = np.argsort(position, kind="stable")
            positions.append(position[order].astype(np.int64))
            items.append(own[order].astype(np.int64))
        if n_top:
            best = np.argsort(-scores, axis=1, kind="stable")[:, :n_top]
            unseen = np.take_along_axis(scores, best, axis=1) > -np.inf
            tops.append(np.where(unseen, best, -1))
    n_ranked = n_items - np.diff(seen.indptr)[chosen]
    lists = np.concatenate(tops) if tops else None
    return UserRanks(chosen, tuple(positions), tuple(items), n_ranked.astype(np.int64), lists)


def _checked(scores: Any, shape: tuple[int, int]) -> npt.NDArray[np.floating[Any]]:
    """A copy of what any recommender returned, as finite floats: -inf is kept for what was seen."""
    given = np.asarray(scores)
    if given.shape != shape:
        raise_invalid("model", given, f"scores of shape {shape}, one row a user and one column an item")
    single = given.dtype == np.float32
    found: npt.NDArray[np.floating[Any]] = given.astype(np.float32 if single else np.float64)
    if np.isnan(found).any():
        raise_invalid("model", given, "scores that are numbers", fix="Some are NaN")
    np.maximum(found, np.finfo(found.dtype).min, out=found)
    return found
