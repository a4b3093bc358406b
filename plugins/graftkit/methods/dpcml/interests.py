"""Which of a user's vectors a recommendation rests on, and what that vector stands for.

>>> vectors, items = np.array([[1.0, 0.0], [0.0, 1.0]]), np.array([[0.9, 0.0], [0.0, 0.8], [0.1, 0.9]])
>>> explain_item(vectors, items, 2, np.array([0, 1])).items.tolist()
[1]
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["Interest", "explain_item", "merge_neighbors"]

IntArray = npt.NDArray[np.int64]
FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Interest:
    """Why an item scores as it does for a user.

    Parameters
    ----------
    vector : int
        Position of the user's vector nearest to the item.
    distance : float
        Squared distance between the two.
    items : ndarray of int, shape (k,)
        The user's items for which that vector is the nearest too, nearest first. Empty where the vector
        stands for none of them.
    distances : ndarray of shape (k,)
        Their squared distances to the vector.
    """

    vector: int
    distance: float
    items: IntArray
    distances: FloatArray


def explain_item(
    vectors: npt.NDArray[np.floating[Any]],
    item_vectors: npt.NDArray[np.floating[Any]],
    item: int,
    liked: IntArray,
) -> Interest:
    """Explain one item for one user.

    Parameters
    ----------
    vectors : ndarray of shape (C_u, d)
        The user's vectors.
    item_vectors : ndarray of shape (n_items, d)
        Vectors of all items.
    item : int
        The item to explain.
    liked : ndarray of int, shape (m,)
        The user's items.

    Returns
    -------
    Interest
        The vector, and the liked items it stands for.
    """
    p = vectors.astype(np.float64)
    to_item = ((p - item_vectors[item].astype(np.float64)) ** 2).sum(axis=1)
    winner = int(to_item.argmin())
    to_liked = ((p[:, None] - item_vectors[liked].astype(np.float64)) ** 2).sum(axis=2)
    mine = np.flatnonzero(to_liked.argmin(axis=0) == winner)
    order = mine[np.argsort(to_liked[winner, mine], kind="stable")]
    return Interest(winner, float(to_item[winner]), liked[order], to_liked[winner, order])


def merge_neighbors(
    search: Callable[[npt.NDArray[np.floating[Any]], int], tuple[Any, Any]],
    user_vectors: npt.NDArray[np.floating[Any]],
    user_ptr: IntArray,
    user: int,
    n: int,
    seen: IntArray,
) -> tuple[IntArray, FloatArray]:
    """Recommend from a nearest-neighbour index over the item vectors.

    Ask for n + n_seen neighbours of each of the user's vectors, keep each item's smallest distance, drop
    what was seen, cut at n. An item among the best M by its nearest vector is beaten on that vector by fewer
    than M items, so the union holds the best M: with an exact index the result is exact.

    Parameters
    ----------
    search : callable
        ``search(queries, k)`` returns squared distances and ids, each of shape (C_u, k), as faiss does; id
        -1 marks what is missing.
    user_vectors : ndarray of shape (n_rows, d)
        From ``to_ann("arrays")``.
    user_ptr : ndarray of int, shape (n_users + 1,)
        From ``to_ann("arrays")``.
    user : int
        The user.
    n : int
        Items wanted.
    seen : ndarray of int, shape (m,)
        Items to leave out.

    Returns
    -------
    ids : ndarray of int, shape (k,)
        Best first, k <= n.
    distances : ndarray of shape (k,)
        Squared distances.
    """
    queries = user_vectors[user_ptr[user] : user_ptr[user + 1]]
    distances, ids = (np.asarray(part).ravel() for part in search(queries, n + len(seen)))
    known = ids >= 0
    distances, ids = distances[known].astype(np.float64), ids[known].astype(np.int64)
    order = np.lexsort((ids, distances))
    ids, distances = ids[order], distances[order]
    _, first = np.unique(ids, return_index=True)
    keep = np.sort(first)
    keep = keep[~np.isin(ids[keep], seen)][:n]
    return ids[keep], distances[keep]
