"""The published synthesis, graph by graph, written from its formulas: what the benchmark measures against.

No code of G-Mixup or HGOE is used. One dense adjacency a graph, sorted by degree, padded; a mean; a singular
value decomposition; one dense Bernoulli draw a graph. With ``ties`` the order is ours (neighbours' degrees,
then index), so that results can be compared exactly; without it, it is the cheaper plain sort.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch_geometric.data import Data
from torch_geometric.utils import dense_to_sparse, to_dense_adj

from graftkit.methods.hgoe.graphs import PackedGraphs

Adjacencies = list[tuple[np.ndarray, int]]


def as_lists(graphs: PackedGraphs) -> Adjacencies:
    """Edges of each graph with local numbers, as a loop over graphs would have them."""
    ptr, cuts = graphs.ptr.tolist(), graphs.edge_ptr.tolist()
    edges = graphs.edge_index.numpy()
    return [(edges[:, cuts[g] : cuts[g + 1]] - ptr[g], int(graphs.num_nodes[g])) for g in range(len(graphs))]


def mean_by_loop(graphs: Adjacencies, size: int, ties: bool = False) -> np.ndarray:
    """Mean of degree-sorted, padded adjacencies, one graph after the other."""
    total = np.zeros((size, size))
    for edges, n in graphs:
        a = np.zeros((n, n))
        a[edges[0], edges[1]] = 1
        np.fill_diagonal(a, 0)
        a = np.maximum(a, a.T)
        degree = a.sum(0)
        order = np.lexsort((-(a @ degree), -degree)) if ties else np.argsort(-degree, kind="stable")
        kept = order[:size]
        total[: len(kept), : len(kept)] += a[kept][:, kept]
    return total / len(graphs)


def mean_by_data(graphs: Sequence[Data], size: int) -> np.ndarray:
    """The same over PyG's graphs, a dense adjacency each by `to_dense_adj`, as G-Mixup's procedure goes."""
    total = np.zeros((size, size))
    for data in graphs:
        a = to_dense_adj(data.edge_index, max_num_nodes=data.num_nodes)[0].numpy().clip(max=1)
        np.fill_diagonal(a, 0)
        order = np.argsort(-a.sum(0), kind="stable")[:size]
        total[: len(order), : len(order)] += a[order][:, order]
    return total / len(graphs)


def mean_by_dense_batches(graphs: PackedGraphs, size: int, chunk: int = 1000) -> Tensor:
    """The same by PyG's `to_dense_adj` on batches, plain sort."""
    total = torch.zeros(size, size, dtype=torch.float64)
    for start in range(0, len(graphs), chunk):
        part = graphs.select(torch.arange(start, min(start + chunk, len(graphs))))
        dense = to_dense_adj(part.edge_index, part.batch, batch_size=len(part)).clamp(max=1)
        degree = dense.sum(2)
        # Padding sorts behind nodes without edges, both are rows of zeros.
        order = degree.argsort(dim=1, descending=True, stable=True)[:, :size]
        rows = dense.gather(1, order[:, :, None].expand(-1, -1, dense.shape[2]))
        block = rows.gather(2, order[:, None, :].expand(-1, rows.shape[1], -1))
        width = block.shape[1]
        total[:width, :width] += block.sum(0, dtype=torch.float64)
    return total / len(graphs)


def usvt(mean: np.ndarray, tau: float) -> np.ndarray:
    """Singular value thresholding as published."""
    u, s, vt = np.linalg.svd(mean)
    s[s < tau * np.sqrt(len(mean))] = 0
    return np.clip((u * s) @ vt, 0, 1)


def sample_by_loop(w: np.ndarray, count: int, seed: int) -> Adjacencies:
    """One Bernoulli matrix a graph; isolated nodes dropped, empty graphs redrawn."""
    rng = np.random.default_rng(seed)
    drawn = (_drawn(w, rng) for _ in range(count))
    return [(np.argwhere(a).T, len(a)) for a in drawn]


def data_by_loop(w: np.ndarray, count: int, seed: int) -> list[Data]:
    """As :func:`sample_by_loop`, each graph made a `Data` as G-Mixup's procedure goes."""
    rng = np.random.default_rng(seed)
    return [
        Data(edge_index=dense_to_sparse(torch.from_numpy(a.astype(np.float32)))[0], num_nodes=len(a))
        for a in (_drawn(w, rng) for _ in range(count))
    ]


def _drawn(w: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    while True:
        upper = np.triu(rng.random(w.shape) < w, 1)
        a = upper | upper.T
        a = a[a.sum(1) > 0][:, a.sum(1) > 0]
        if len(a):
            return a


def walks_by_loop(graphs: Adjacencies, length: int) -> list[np.ndarray]:
    """Random-walk return probabilities, one graph after the other."""
    result = []
    for edges, n in graphs:
        a = np.zeros((n, n))
        a[edges[0], edges[1]] = 1
        walk = a / np.maximum(a.sum(0), 1)
        power, diagonals = np.eye(n), []
        for _ in range(length):
            power = power @ walk
            diagonals.append(np.diag(power))
        result.append(np.stack(diagonals, 1))
    return result
