"""Step-function graphons of a set of graphs: aligned mean adjacency and singular value thresholding.

Nodes of a graph are sorted by degree, descending; the graph's adjacency is cut or zero-padded to N x N; the
mean over the set is A. USVT keeps the singular values >= tau sqrt(N), and W is the result clipped to [0, 1].

Source: G-Mixup's estimator as used in HGOE's public code (`jweihe/HGOE@2cf8c82`, utils/graphon_utils.py);
the paper's equations were not read. Differs on purpose: true node counts, ties broken by the sum of the
neighbours' degrees and then by index, W symmetric with a zero diagonal, no division by degree sums.
Degree sorting identifies blocks only by their expected degree; balanced communities come out flat.

The mean is computed from edge keys in chunks, in O(sum of E + n log n); it equals the dense definition.

>>> square = PackedGraphs(torch.tensor([[0, 1, 2, 3], [1, 2, 3, 0]]), torch.tensor([4]))
>>> usvt(aligned_mean(square, 4), 0.0).sum(1).tolist()
[2.0, 2.0, 2.0, 2.0]
"""

import math
import warnings
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from graftkit.core.validation import check_choice, check_integer, check_number, raise_invalid
from graftkit.methods.hgoe.graphs import PackedGraphs, undirected_pairs

__all__ = ["MAX_RESOLUTION", "aligned_mean", "estimate", "mix", "resize", "resolution_of", "usvt"]

MAX_RESOLUTION = 4000
SLOW_RESOLUTION = 1000
CHUNK = 20_000  # graphs at a time: bounds the memory beside the accumulator
KEY_LIMIT = 2**62

Estimator = str | Callable[[Tensor, float], Tensor]


def aligned_mean(
    graphs: PackedGraphs, resolution: int, *, normalize: str = "all", chunk: int = CHUNK
) -> Tensor:
    """Mean adjacency of degree-sorted graphs.

    Parameters
    ----------
    graphs : PackedGraphs
        At least one graph.
    resolution : int
        N, the rows of the result.
    normalize : {"all", "present"}, default="all"
        Divide by the number of graphs, as published, or at each entry by the number of graphs that are
        large enough to have it.
    chunk : int, default=20000
        Graphs at a time.

    Returns
    -------
    Tensor of shape (N, N)
        float64, symmetric, zero diagonal.

    Raises
    ------
    ValueError
        If there is no graph, or `resolution` or `normalize` is out of range.
    """
    size = _check_resolution(resolution)
    check_choice("normalize", normalize, ("all", "present"))
    if len(graphs) == 0:
        raise_invalid("graphs", 0, "at least one graph")
    counts = np.zeros(size * size, dtype=np.int64)
    if len(graphs) <= chunk:
        counts += _rank_counts(graphs, size)
    else:
        ptr, edge_ptr = graphs.ptr.tolist(), graphs.edge_ptr.tolist()
        for start in range(0, len(graphs), chunk):
            stop = min(start + chunk, len(graphs))
            edges = graphs.edge_index[:, edge_ptr[start] : edge_ptr[stop]] - ptr[start]
            counts += _rank_counts(PackedGraphs(edges, graphs.num_nodes[start:stop]), size)
    upper = counts.reshape(size, size).astype(np.float64)
    total = torch.from_numpy(upper + upper.T)
    if normalize == "all":
        return total / len(graphs)
    histogram = torch.bincount(graphs.num_nodes.clamp(max=size), minlength=size + 1)
    present = len(graphs) - histogram.cumsum(0)[:size]  # graphs with more than r nodes, by r
    rank = torch.arange(size)
    return total / present[torch.maximum(rank[:, None], rank)].clamp(min=1)


def usvt(mean: Tensor, threshold: float) -> Tensor:
    """Universal singular value thresholding of a symmetric matrix.

    The singular values of a symmetric matrix are the absolute eigenvalues, so one `eigh` does it.

    Parameters
    ----------
    mean : Tensor of shape (N, N)
        Symmetric.
    threshold : float
        tau >= 0; singular values below ``tau * sqrt(N)`` are set to zero.

    Returns
    -------
    Tensor of shape (N, N)
        Symmetric, in [0, 1], zero diagonal.

    Raises
    ------
    TypeError
        If `threshold` is no number.
    ValueError
        If it is negative.
    """
    tau = check_number("threshold", threshold, low=0)
    matrix = mean.to(torch.float64)
    if tau > 0:  # without a threshold the sum of all parts is the matrix itself
        values, vectors = torch.linalg.eigh(matrix)
        kept = values * (values.abs() >= tau * math.sqrt(len(mean)))
        matrix = (vectors * kept) @ vectors.T
    return _tidy(matrix)


def sort_smooth(mean: Tensor, threshold: float = 0.0) -> Tensor:
    """Average over blocks of about ``log N`` sorted nodes, the histogram estimator.

    Parameters
    ----------
    mean : Tensor of shape (N, N)
        Symmetric.
    threshold : float, default=0.0
        Not used; estimators share one signature.

    Returns
    -------
    Tensor of shape (N, N)
        Symmetric, in [0, 1], zero diagonal.
    """
    del threshold
    size = len(mean)
    width = max(1, round(math.log(max(size, 2))))
    block = torch.arange(size) // width
    member = torch.nn.functional.one_hot(block).to(torch.float64)
    pairs = member.sum(0)[:, None] * member.sum(0) - torch.diag(member.sum(0))  # no self-pairs
    heights = member.T @ mean.to(torch.float64) @ member / pairs.clamp(min=1)
    return _tidy(heights[block][:, block])


def estimate(mean: Tensor, threshold: float, estimator: Estimator = "usvt") -> Tensor:
    """Turn a mean adjacency into a graphon by the estimator named.

    Parameters
    ----------
    mean : Tensor of shape (N, N)
        From :func:`aligned_mean`.
    threshold : float
        tau of USVT.
    estimator : {"usvt", "mean", "sort_smooth"} or callable, default="usvt"
        A callable gets ``(mean, threshold)`` and returns a matrix of the same shape.

    Returns
    -------
    Tensor of shape (N, N)
        Symmetric, in [0, 1], zero diagonal.

    Raises
    ------
    ValueError
        If the name is unknown, or a callable returns another shape or values that are not finite.

    Warns
    -----
    UserWarning
        If the threshold removed everything.
    """
    if callable(estimator):
        raw = estimator(mean, threshold)
        if not isinstance(raw, Tensor) or raw.shape != mean.shape or not bool(torch.isfinite(raw).all()):
            raise_invalid("estimator", raw, f"a finite tensor of shape {tuple(mean.shape)} to be returned")
        result = _tidy(raw.to(torch.float64))
    else:
        check_choice("estimator", estimator, ("usvt", "mean", "sort_smooth"))
        named: dict[str, Callable[[Tensor, float], Tensor]]
        named = {"usvt": usvt, "mean": _plain, "sort_smooth": sort_smooth}
        result = named[estimator](mean, threshold)
    if not bool(result.any()):
        reason = (
            "the graphs have no edges"
            if not bool(mean.any())
            else f"threshold={threshold:g} removed every singular value; sparse graphs need a smaller one"
        )
        warnings.warn(f"the graphon is zero: {reason}", stacklevel=3)
    return result


def resolution_of(num_nodes: Tensor, resolution: int | str = "median") -> int:
    """The resolution N of a set of graphs.

    Parameters
    ----------
    num_nodes : Tensor of shape (G,)
        Node counts, at least one.
    resolution : int or "median", default="median"
        A number, or ``int(median)`` of the counts (the mean of the middle two if G is even), at least 2.

    Returns
    -------
    int
        N.

    Raises
    ------
    TypeError
        If `resolution` is neither.
    ValueError
        If it is below 2 or above 4000.
    """
    if resolution == "median":
        return _check_resolution(max(2, int(np.median(num_nodes.numpy()))))
    if isinstance(resolution, str):
        raise_invalid("resolution", resolution, "an integer >= 2 or 'median'")
    return _check_resolution(resolution)


def resize(matrix: Tensor, size: int, mode: str = "crop_pad") -> Tensor:
    """Bring a graphon to another number of nodes.

    Parameters
    ----------
    matrix : Tensor of shape (N, N)
        A graphon.
    size : int
        n >= 1.
    mode : {"crop_pad", "interpolate"}, default="crop_pad"
        Keep the top left block, or pad with zeros, as published; or read the step function at
        ``(u + 1/2) / n``.

    Returns
    -------
    Tensor of shape (n, n)
        Symmetric, zero diagonal.

    Raises
    ------
    ValueError
        If `mode` is unknown or `size` below 1.
    """
    n = check_integer("size", size, low=1)
    check_choice("mode", mode, ("crop_pad", "interpolate"))
    old = len(matrix)
    if mode == "interpolate":
        step = (2 * torch.arange(n) + 1) * old // (2 * n)
        result = matrix[step][:, step].clone()
        return result.fill_diagonal_(0)
    result = matrix.new_zeros(n, n)
    kept = min(n, old)
    result[:kept, :kept] = matrix[:kept, :kept]
    return result


def mix(first: Tensor, second: Tensor, lam: float, size: int, mode: str = "crop_pad") -> Tensor:
    """Graphon mixup: ``lam * W_i + (1 - lam) * W_j`` at n nodes.

    Parameters
    ----------
    first, second : Tensor of shape (N_i, N_i) and (N_j, N_j)
        Graphons.
    lam : float
        Weight of `first`, in [0, 1].
    size : int
        n.
    mode : {"crop_pad", "interpolate"}, default="crop_pad"
        How both are brought to n nodes.

    Returns
    -------
    Tensor of shape (n, n)
        The mixture.
    """
    weight = check_number("lam", lam, low=0, high=1)
    # lerp is exact at both ends, and an average of two equal numbers is that number.
    return torch.lerp(resize(second, size, mode), resize(first, size, mode), weight)


def _rank_counts(graphs: PackedGraphs, size: int) -> np.ndarray:
    """How often an edge joins ranks (a, b), in one order or the other, flattened to ``a * size + b``."""
    low, high = (ends.numpy() for ends in undirected_pairs(graphs))
    total = int(graphs.num_nodes.sum())
    ptr, batch = graphs.ptr.numpy(), graphs.batch.numpy()
    degree = np.bincount(low, minlength=total) + np.bincount(high, minlength=total)
    around = np.bincount(low, degree[high], total) + np.bincount(high, degree[low], total)
    order = _degree_order(batch, degree, around.astype(np.int64), np.arange(total) - ptr[batch], ptr)
    rank = np.empty(total, dtype=np.int64)
    rank[order] = np.minimum(
        np.arange(total) - ptr[batch], size
    )  # all later ranks share a cell, then dropped
    wide = size + 1
    cells = np.bincount(rank[low] * wide + rank[high], minlength=wide * wide)
    return cells.reshape(wide, wide)[:size, :size].ravel()


def _degree_order(
    batch: np.ndarray, degree: np.ndarray, around: np.ndarray, local: np.ndarray, ptr: np.ndarray
) -> np.ndarray:
    """Nodes by graph, then degree and neighbours' degrees descending, then index."""
    if not len(batch):
        return batch
    top, most, widest = int(degree.max()), int(around.max()), int(local.max()) + 1
    if (len(ptr) + 1) * (top + 1) * (most + 1) * widest < KEY_LIMIT:
        # One sort of unique keys that carry the index is several times faster than a stable argsort.
        key = ((batch * (top + 1) + top - degree) * (most + 1) + most - around) * widest + local
        key.sort()
        return np.asarray(key % widest + ptr[batch])
    order: np.ndarray = np.lexsort((local, -around, -degree, batch))
    return order


def _plain(mean: Tensor, threshold: float) -> Tensor:
    del threshold
    return _tidy(mean.to(torch.float64))


def _tidy(matrix: Tensor) -> Tensor:
    return ((matrix + matrix.T) / 2).clamp(0, 1).fill_diagonal_(0)


def _check_resolution(resolution: int) -> int:
    size = check_integer("resolution", resolution, low=2)
    if size > MAX_RESOLUTION:
        gib = 6 * 8 * size * size / 2**30  # the matrix, its eigenvectors and their work space
        raise_invalid(
            "resolution",
            resolution,
            f"at most {MAX_RESOLUTION}",
            fix=f"Its decomposition would need about {gib:.1f} GiB; set resolution to a smaller number",
        )
    if size > SLOW_RESOLUTION:
        warnings.warn(
            f"resolution={size}: the decomposition grows with its cube and may take minutes", stacklevel=4
        )
    return size
