"""What a recommender has to beat: popularity, and the item neighbourhood.

>>> X = sp.csr_matrix(np.array([[1, 1, 0], [1, 0, 1], [1, 0, 0]]))
>>> popularity_scores(X)(np.array([0])).tolist()
[[3.0, 1.0, 1.0]]
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import scipy.sparse as sp

from graftkit.methods.dpcml.interactions import item_counts
from graftkit.methods.dpcml.ranks import ScoreFunction

__all__ = ["item_knn_scores", "popularity_scores"]


def popularity_scores(train: sp.csr_matrix) -> ScoreFunction:
    """Score items by how many users have them.

    Parameters
    ----------
    train : csr_matrix of shape (n_users, n_items)
        Interactions.

    Returns
    -------
    callable
        Takes user ids (b,), returns scores of shape (b, n_items).
    """
    counts = item_counts(train)
    return lambda users: np.tile(counts, (len(users), 1))


def item_knn_scores(train: sp.csr_matrix, n_neighbors: int = 100, *, shrink: float = 0.0) -> ScoreFunction:
    """Score items by their cosine similarity to the user's items.

    Parameters
    ----------
    train : csr_matrix of shape (n_users, n_items)
        Interactions.
    n_neighbors : int, default=100
        Similarities kept an item.
    shrink : float, default=0.0
        Added to the denominator; lowers similarities that rest on few users.

    Returns
    -------
    callable
        Takes user ids (b,), returns scores of shape (b, n_items).
    """
    together = (train.T @ train).tocsr().astype(np.float64)
    norm = np.sqrt(together.diagonal())
    together.setdiag(0)
    together.eliminate_zeros()
    rows = np.repeat(np.arange(together.shape[0]), np.diff(together.indptr))
    together.data = together.data / (norm[rows] * norm[together.indices] + shrink)
    order = np.lexsort((-together.data, rows))
    rank = np.empty(len(order), dtype=np.int64)
    rank[order] = np.arange(len(order)) - together.indptr[rows]
    together.data[rank >= n_neighbors] = 0.0
    together.eliminate_zeros()
    neighbors = together.T.tocsr()

    def score(users: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
        scores: npt.NDArray[np.float64] = (train[users] @ neighbors).toarray()
        return scores

    return score
