"""Neighbour tables and cross-view relation transfer.

An observed row's neighbours are the k nearest rows observed in the same view, itself excluded. A row
that misses a view borrows them from the other one: the k nearest rows there among those observed in
both views. "Who is near me" is learnt where the row is seen and reused where it is not.

Source: RCPMOD (ACM MM 2024), public code; the transfer is after CRTC (Wang et al., IEEE TCSVT 2023).
Differs from the public code, which cuts its candidate list at 39 rows (and crashes when too few
survive) and drops the first neighbour as "itself" even among duplicates.

>>> import numpy as np
>>> line = np.arange(5.0)[:, None]
>>> nearest_rows(line, np.arange(5), line, np.arange(5), 1).ravel()
array([1, 0, 1, 2, 3])
"""

import numpy as np
import numpy.typing as npt
from sklearn.neighbors import NearestNeighbors

from graftkit.core.extras import require

__all__ = ["nearest_rows", "neighbor_table", "rank_neighbor"]

IntArray = npt.NDArray[np.int64]
FloatArray = npt.NDArray[np.floating]

EXACT_LIMIT = 50_000


def nearest_rows(
    queries: FloatArray,
    query_rows: IntArray,
    candidates: FloatArray,
    candidate_rows: IntArray,
    k: int,
    *,
    backend: str = "sklearn",
) -> IntArray:
    """Indices of the k nearest candidates of each query, nearest first, never the query itself.

    Parameters
    ----------
    queries : ndarray of shape (n_queries, d)
        Query points.
    query_rows : ndarray of shape (n_queries,)
        Row index of each query; a candidate of the same index is skipped.
    candidates : ndarray of shape (n_candidates, d)
        Points to search.
    candidate_rows : ndarray of shape (n_candidates,)
        Row index of each candidate, ascending; what the result is made of.
    k : int
        Neighbours to return; clipped to what exists.
    backend : {"sklearn", "faiss", "auto"}, default="sklearn"
        Exact search by scikit-learn; approximate inverted-file search by faiss; ``"auto"`` takes faiss
        above 50 000 candidates where it is installed.

    Returns
    -------
    ndarray of shape (n_queries, min(k, n_admissible))
        Row indices.

    Raises
    ------
    ImportError
        If ``backend="faiss"`` and faiss is not installed.
    """
    inside = np.isin(query_rows, candidate_rows, assume_unique=False)
    available = len(candidates) - int(inside.any())
    k = min(k, available)
    if k <= 0 or not len(queries):
        return np.empty((len(queries), max(k, 0)), dtype=np.int64)
    wanted = min(k + 1, len(candidates)) if inside.any() else k
    found = candidate_rows[_search(queries, candidates, wanted, backend)]
    if wanted == k:
        return np.asarray(found)
    # Drop the row itself by index; where duplicates crowd it out of the list, drop the farthest.
    itself = found == query_rows[:, None]
    itself[~itself.any(axis=1), -1] = True
    return np.asarray(found[~itself].reshape(len(found), k))


def neighbor_table(
    a: FloatArray,
    b: FloatArray,
    observed_a: npt.NDArray[np.bool_],
    observed_b: npt.NDArray[np.bool_],
    k: int,
    *,
    backend: str = "sklearn",
) -> IntArray:
    """Neighbours in view `a` of every row, transferred through view `b` where `a` is missing.

    Parameters
    ----------
    a, b : ndarray of shape (n, d_a) and (n, d_b)
        Any representation of the two views; rows of a missing view are never read.
    observed_a, observed_b : ndarray of bool, shape (n,)
        Which rows each view has; every row has at least one.
    k : int
        Neighbours per row; clipped to what every row can have.
    backend : {"sklearn", "faiss", "auto"}, default="sklearn"
        See :func:`nearest_rows`.

    Returns
    -------
    ndarray of shape (n, q), q <= k
        Row indices, nearest first, all of them observed in `a`.
    """
    n = len(observed_a)
    have, both = np.flatnonzero(observed_a), np.flatnonzero(observed_a & observed_b)
    own = nearest_rows(a[have], have, a[have], have, k, backend=backend)
    lost = np.flatnonzero(~observed_a)
    borrowed = nearest_rows(b[lost], lost, b[both], both, k, backend=backend)
    q = min(own.shape[1], borrowed.shape[1]) if len(lost) else own.shape[1]
    table = np.empty((n, q), dtype=np.int64)
    table[have] = own[:, :q]
    table[lost] = borrowed[:, :q]
    return table


def rank_neighbor(
    z: FloatArray,
    observed: npt.NDArray[np.bool_],
    rank: int,
    *,
    rng: np.random.Generator | None = None,
    limit: int = EXACT_LIMIT,
) -> IntArray:
    """The row that stands at a given rank of distance from each observed row.

    Parameters
    ----------
    z : ndarray of shape (n, d)
        Latents of one view.
    observed : ndarray of bool, shape (n,)
        Rows that the view has.
    rank : int
        1-based rank; clipped to the farthest row available.
    rng : numpy.random.Generator or None, default=None
        Draws the subset when there are more than `limit` rows.
    limit : int, default=50000
        Above it, the rank is looked up in a random subset of `limit` rows, at the proportionate rank.

    Returns
    -------
    ndarray of shape (n,)
        Row indices; -1 where the row is missing or has no other row to point at.
    """
    table = np.full(len(observed), -1, dtype=np.int64)
    have = np.flatnonzero(observed)
    pool = have
    if len(have) > limit and rng is not None:
        pool = np.sort(rng.choice(have, size=limit, replace=False))
        rank = max(1, round(rank * limit / len(have)))
    found = nearest_rows(z[have], have, z[pool], pool, rank)
    if found.shape[1]:
        table[have] = found[:, -1]
    return table


def _search(queries: FloatArray, candidates: FloatArray, k: int, backend: str) -> IntArray:
    # Distances come from inner products, which lose all digits far from the origin.
    center = candidates.mean(axis=0, dtype=np.float64)
    queries = (queries - center).astype(queries.dtype)
    candidates = (candidates - center).astype(candidates.dtype)
    if backend == "auto":
        backend = "faiss" if len(candidates) > EXACT_LIMIT and _has_faiss() else "sklearn"
    if backend == "faiss":
        return _search_faiss(queries, candidates, k)
    index = NearestNeighbors(n_neighbors=k, algorithm="brute").fit(candidates)
    return np.asarray(index.kneighbors(queries, return_distance=False), dtype=np.int64)


def _has_faiss() -> bool:
    from importlib.util import find_spec

    return find_spec("faiss") is not None


def _search_faiss(queries: FloatArray, candidates: FloatArray, k: int) -> IntArray:
    faiss = require("faiss", extra="bench", distribution="faiss-cpu")
    data = np.ascontiguousarray(candidates, dtype=np.float32)
    # faiss complains of fewer than 39 points a cell.
    n_cells = max(1, min(int(np.sqrt(len(data))), len(data) // 39))
    quantizer = faiss.IndexFlatL2(data.shape[1])
    index = faiss.IndexIVFFlat(quantizer, data.shape[1], n_cells)
    index.nprobe = min(n_cells, 16)
    index.train(data)
    index.add(data)
    found = index.search(np.ascontiguousarray(queries, dtype=np.float32), k)[1]
    if (found < 0).any():
        return np.asarray(
            NearestNeighbors(n_neighbors=k, algorithm="brute")
            .fit(data)
            .kneighbors(queries, return_distance=False)
        )
    return np.asarray(found, dtype=np.int64)
