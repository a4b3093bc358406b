"""Mean adjacency of unaligned graphs, their nodes sorted by degree: what a graphon is estimated from.

Nodes of a graph are sorted by degree, descending; the graph's adjacency is cut or zero-padded to N x N; the
mean over the set is A.

Source: G-Mixup's estimator as used in HGOE's public code (`jweihe/HGOE@2cf8c82`, utils/graphon_utils.py);
the paper's equations were not read. Differs on purpose: true node counts, ties broken by the sum of the
neighbours' degrees and then by index, no division by degree sums. Degree sorting identifies blocks only by
their expected degree; balanced communities come out flat.

The mean is computed from edge keys, in O(sum of E log E + n log n), a few hundred graphs at a time so that
they stay in the processor's cache; it equals the dense definition.

>>> square = PackedGraphs(torch.tensor([[0, 1, 2, 3], [1, 2, 3, 0]]), torch.tensor([4]))
>>> aligned_mean(square, 4).sum(1).tolist()
[2.0, 2.0, 2.0, 2.0]
"""

import warnings
from bisect import bisect_left

import numpy as np
import torch
from torch import Tensor

from graftkit.core.validation import check_choice, check_integer, raise_invalid
from graftkit.methods.hgoe.graphs import PackedGraphs
from graftkit.methods.hgoe.pairs import simple_pairs

__all__ = ["MAX_RESOLUTION", "aligned_mean", "resolution_of"]

MAX_RESOLUTION = 4000
SLOW_RESOLUTION = 1000
CHUNK = 8000  # nodes at a time
KEY_BITS = 62


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
    chunk : int, default=8000
        Nodes at a time; a graph is never cut.

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
    source, target = graphs.edge_index.numpy()
    counts, ptr = graphs.num_nodes.numpy(), graphs.ptr.numpy()
    cells = np.zeros((size + 1) ** 2, dtype=np.int64)
    start, first_edge = 0, 0
    while start < len(counts):
        stop = max(start + 1, int(np.searchsorted(ptr, ptr[start] + chunk, side="right")) - 1)
        # Edges lie in the order of graphs, so those of later graphs are exactly those of later nodes.
        last_edge = bisect_left(source, ptr[stop], first_edge)
        here = slice(first_edge, last_edge)
        cells += _rank_counts(source[here] - ptr[start], target[here] - ptr[start], counts[start:stop], size)
        start, first_edge = stop, last_edge
    upper = cells.reshape(size + 1, size + 1)[:size, :size].astype(np.float64)
    total = torch.from_numpy(upper + upper.T)
    if normalize == "all":
        return total / len(graphs)
    histogram = torch.bincount(graphs.num_nodes.clamp(max=size), minlength=size + 1)
    present = len(graphs) - histogram.cumsum(0)[:size]  # graphs with more than r nodes, by r
    rank = torch.arange(size)
    return total / present[torch.maximum(rank[:, None], rank)].clamp(min=1)


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
    if isinstance(resolution, str) and resolution == "median":
        return _check_resolution(max(2, int(np.median(num_nodes.numpy()))))
    if isinstance(resolution, str):
        raise_invalid("resolution", resolution, "an integer >= 2 or 'median'")
    return _check_resolution(resolution)


def _rank_counts(source: np.ndarray, target: np.ndarray, counts: np.ndarray, size: int) -> np.ndarray:
    """How often an edge joins ranks (a, b), in one order or the other, flattened; rank N: all later."""
    total = int(counts.sum())
    low, high = simple_pairs(source, target, total)
    degree = np.bincount(low, minlength=total) + np.bincount(high, minlength=total)
    around = np.bincount(low, degree.take(high), total) + np.bincount(high, degree.take(low), total)
    first = np.repeat(counts.cumsum() - counts, counts)
    local = np.arange(total) - first
    rank = np.empty(total, dtype=np.int64)
    rank[_degree_order(counts, degree, around.astype(np.int64), local, first)] = np.minimum(local, size)
    wide = size + 1
    return np.bincount(rank.take(low) * wide + rank.take(high), minlength=wide * wide)


def _degree_order(
    counts: np.ndarray, degree: np.ndarray, around: np.ndarray, local: np.ndarray, first: np.ndarray
) -> np.ndarray:
    """Nodes by graph, then degree and neighbours' degrees descending, then index."""
    batch = np.repeat(np.arange(len(counts)), counts)
    if not len(batch):
        return batch
    top, most = degree.max(), around.max()
    bits = [int(value).bit_length() for value in (top, most, local.max())]
    if len(counts).bit_length() + sum(bits) <= KEY_BITS:
        # One sort of unique keys that carry the index is several times faster than a stable argsort.
        key = (((batch << bits[0] | top - degree) << bits[1] | most - around) << bits[2]) | local
        key.sort()
        return np.asarray((key & ((1 << bits[2]) - 1)) + first)
    order: np.ndarray = np.lexsort((local, -around, -degree, batch))
    return order


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
