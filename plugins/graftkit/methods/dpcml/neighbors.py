"""Recommending through a nearest-neighbour index over the item vectors.

The score is the smallest distance over several queries, so that any index of squared distances serves.

>>> items, users, ptr = np.eye(3), np.array([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]]), np.array([0, 2])
>>> def search(queries, k):
...     distances = ((queries[:, None] - items) ** 2).sum(axis=2)
...     order = np.argsort(distances, axis=1)[:, :k]
...     return np.take_along_axis(distances, order, axis=1), order
>>> merge_neighbors(search, users, ptr, user=0, n=1, seen=np.array([0]))[0].tolist()
[1]
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Any

import numpy as np
import numpy.typing as npt
import scipy.sparse as sp

from graftkit.core.validation import check_integer, raise_invalid
from graftkit.methods.dpcml.ranking import Ranker

__all__ = ["build_index", "merge_neighbors", "similar_items"]

IntArray = npt.NDArray[np.int64]
FloatArray = npt.NDArray[np.float64]
PACKAGES = {"faiss": "faiss-cpu", "hnswlib": "hnswlib"}


def build_index(kind: str, items: npt.NDArray[np.float32]) -> Any:
    """Put item vectors into the index of another library.

    Parameters
    ----------
    kind : {"faiss", "hnswlib"}
        Which.
    items : ndarray of float32, shape (n_items, d)
        Item vectors, contiguous.

    Returns
    -------
    object
        An exact ``faiss.IndexFlatL2`` or an approximate ``hnswlib.Index``.

    Raises
    ------
    ImportError
        If the library is not installed.
    """
    try:
        library = import_module(kind)
    except ImportError as error:
        package = PACKAGES[kind]
        raise ImportError(f"to_ann({kind!r}) needs {package}: pip install {package}", name=kind) from error
    if kind == "faiss":
        index = library.IndexFlatL2(items.shape[1])
        index.add(items)
        return index
    index = library.Index(space="l2", dim=items.shape[1])
    index.init_index(max_elements=len(items))
    index.add_items(items, np.arange(len(items)))
    return index


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

    Raises
    ------
    TypeError
        If an argument is of a wrong type.
    ValueError
        If `user` or `n` is out of range.
    """
    for name, given, axes in (
        ("user_vectors", user_vectors, 2),
        ("user_ptr", user_ptr, 1),
        ("seen", seen, 1),
    ):
        if not isinstance(given, np.ndarray) or given.ndim != axes:
            raise_invalid(name, given, f"an ndarray with {axes} axes", error=TypeError)
    if user_ptr.dtype.kind not in "iu":
        raise_invalid("user_ptr", user_ptr, "integers", error=TypeError)
    if not callable(search):
        raise_invalid("search", search, "a callable of queries and k", error=TypeError)
    check_integer("user", user, low=0, high=len(user_ptr) - 2)
    check_integer("n", n, low=1)
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


def similar_items(
    item_vectors: npt.NDArray[np.floating[Any]], items: IntArray, n: int, *, device: str = "cpu"
) -> tuple[IntArray, npt.NDArray[np.floating[Any]]]:
    """Nearest other items of some items, by exact search.

    Parameters
    ----------
    item_vectors : ndarray of shape (n_items, d)
        Vectors of all items.
    items : ndarray of int, shape (m,)
        Which.
    n : int
        Neighbours each.
    device : str, default="cpu"
        torch device.

    Returns
    -------
    ids : ndarray of int, shape (m, n)
        Nearest first; -1 where fewer are left.
    scores : ndarray of shape (m, n)
        Negative squared distances; ``-inf`` where fewer are left.
    """
    ptr = np.arange(len(items) + 1)
    ranker = Ranker(item_vectors[items], ptr, item_vectors, device)
    itself = sp.csr_matrix((np.ones(len(items)), items, ptr), shape=(len(items), len(item_vectors)))
    return ranker.top(np.arange(len(items)), n, itself)
