"""Which of a user's vectors a recommendation rests on, and what that vector stands for.

>>> vectors, items = np.array([[1.0, 0.0], [0.0, 1.0]]), np.array([[0.9, 0.0], [0.0, 0.8], [0.1, 0.9]])
>>> explain_item(vectors, items, 2, np.array([0, 1])).items.tolist()
[1]
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["Interest", "explain_item", "nearest_vectors"]

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


def nearest_vectors(
    vectors: npt.NDArray[np.floating[Any]], points: npt.NDArray[np.floating[Any]]
) -> tuple[IntArray, FloatArray]:
    """The nearest of a user's vectors to each of some items.

    Parameters
    ----------
    vectors : ndarray of shape (C_u, d)
        The user's vectors.
    points : ndarray of shape (m, d)
        Item vectors.

    Returns
    -------
    winners : ndarray of int, shape (m,)
        Position of the nearest vector, the first on ties.
    distances : ndarray of shape (m,)
        Squared distances, from exact differences.
    """
    found = ((vectors[:, None].astype(np.float64) - points.astype(np.float64)) ** 2).sum(axis=2)
    return found.argmin(axis=0), found.min(axis=0)


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
    (winner,), (distance,) = nearest_vectors(vectors, item_vectors[[item]])
    interests, to_liked = nearest_vectors(vectors, item_vectors[liked])
    mine = np.flatnonzero(interests == winner)
    order = mine[np.argsort(to_liked[mine], kind="stable")]
    return Interest(int(winner), float(distance), liked[order], to_liked[order])
