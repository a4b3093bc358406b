"""Structural encodings: random-walk return probabilities and a clipped one-hot degree.

``RWSE_k(v) = ((A D^-1)^k)_vv`` for k = 1..16, then ``onehot(min(degree, 15))``. Source:
`jweihe/HGOE@2cf8c82`, prepare_dataset_x_xs_mean. Differs on purpose: a node without edges gets zeros and
degree 0 where the public code divides by zero.

Graphs of similar size share batched dense powers; diagonals of the powers 9..16 come from products of the
first eight, ``diag(P^(a+b)) = sum_j (P^a)_vj (P^b)_jv``. Above 2000 nodes the powers are sparse.

>>> pair = PackedGraphs(torch.tensor([[0, 1], [1, 0]]), torch.tensor([3]))
>>> random_walk(pair, 2).tolist()
[[0.0, 1.0], [0.0, 1.0], [0.0, 0.0]]
"""

import torch
from torch import Tensor

from graftkit.core.validation import check_integer
from graftkit.methods.hgoe.graphs import PackedGraphs
from graftkit.methods.hgoe.pairs import undirected_pairs

__all__ = ["clipped_degree", "random_walk", "structural_encoding"]

CELLS = 4_000_000
DENSE_LIMIT = 2000


def structural_encoding(graphs: PackedGraphs, rw_dim: int = 16, degree_dim: int = 16) -> Tensor:
    """Both encodings side by side.

    Parameters
    ----------
    graphs : PackedGraphs
        The graphs; edges are taken as undirected.
    rw_dim, degree_dim : int, default=16
        Widths.

    Returns
    -------
    Tensor of shape (N, rw_dim + degree_dim)
        float32.
    """
    return torch.cat([random_walk(graphs, rw_dim), clipped_degree(graphs, degree_dim)], 1)


def clipped_degree(graphs: PackedGraphs, width: int = 16) -> Tensor:
    """One-hot of ``min(degree, width - 1)``.

    Parameters
    ----------
    graphs : PackedGraphs
        The graphs.
    width : int, default=16
        Bins.

    Returns
    -------
    Tensor of shape (N, width)
        float32.
    """
    bins = check_integer("degree_dim", width, low=1)
    degree = _degree(graphs).clamp(max=bins - 1)
    return torch.nn.functional.one_hot(degree, bins).float()


def random_walk(graphs: PackedGraphs, length: int = 16) -> Tensor:
    """Probabilities that a walk of k steps ends where it began, k = 1..length.

    Parameters
    ----------
    graphs : PackedGraphs
        The graphs.
    length : int, default=16
        Steps.

    Returns
    -------
    Tensor of shape (N, length)
        float32, rounded to six decimals so that equal surroundings have equal encodings.
    """
    steps = check_integer("rw_dim", length, low=1)
    result = torch.zeros(int(graphs.num_nodes.sum()), steps, dtype=torch.float64)
    low, high = undirected_pairs(graphs)
    ptr, batch = graphs.ptr, graphs.batch
    inverse = 1.0 / _degree(graphs).clamp(min=1).double()
    rounded = (graphs.num_nodes + 7) // 8 * 8  # a few sizes instead of many
    pair_size = rounded[batch[low]]
    for size in rounded.unique().tolist():
        if size == 0:
            continue
        chosen = pair_size == size
        u, v = low[chosen], high[chosen]
        members = (rounded == size).nonzero().flatten()
        if size > DENSE_LIMIT:
            for graph in members.tolist():
                inside = batch[u] == graph
                _fill_sparse(result, u[inside], v[inside], inverse, int(ptr[graph]), int(ptr[graph + 1]))
            continue
        slot = torch.full((len(graphs),), -1)
        for part in members.split(max(1, CELLS // (size * size))):
            slot[part] = torch.arange(len(part))
            keep = slot[batch[u]] >= 0
            a, b = u[keep], v[keep]
            where = slot[batch[a]]
            walk = torch.zeros(len(part), size, size, dtype=torch.float64)
            row, column = a - ptr[batch[a]], b - ptr[batch[b]]
            walk[where, row, column] = inverse[b]
            walk[where, column, row] = inverse[a]
            diagonals = _return_probabilities(walk, steps)
            local = torch.arange(size) < graphs.num_nodes[part][:, None]
            nodes = (ptr[part][:, None] + torch.arange(size))[local]
            result[nodes] = diagonals[local]
            slot[part] = -1
    return (result.float() * 1e6).round() / 1e6


def _return_probabilities(walk: Tensor, steps: int) -> Tensor:
    half = (steps + 1) // 2
    powers, diagonals = [walk], [walk.diagonal(dim1=1, dim2=2)]
    for _ in range(1, half):
        powers.append(powers[-1] @ walk)
        diagonals.append(powers[-1].diagonal(dim1=1, dim2=2))
    last = powers[-1].transpose(1, 2)
    diagonals += [(power * last).sum(2) for power in powers[: steps - half]]
    return torch.stack(diagonals, 2)


def _fill_sparse(result: Tensor, u: Tensor, v: Tensor, inverse: Tensor, start: int, stop: int) -> None:
    """One large graph: the walk stays sparse, a block of columns of its power is dense."""
    n = stop - start
    index = torch.stack([torch.cat([u, v]), torch.cat([v, u])]) - start
    walk = torch.sparse_coo_tensor(index, inverse[index[1] + start], (n, n), check_invariants=True).coalesce()
    for first in range(0, n, 256):
        columns = torch.arange(first, min(first + 256, n))
        block = torch.zeros(n, len(columns), dtype=torch.float64)
        block[columns, torch.arange(len(columns))] = 1
        for k in range(result.shape[1]):
            block = torch.sparse.mm(walk, block)
            result[start + columns, k] = block[columns, torch.arange(len(columns))]


def _degree(graphs: PackedGraphs) -> Tensor:
    low, high = undirected_pairs(graphs)
    return torch.bincount(torch.cat([low, high]), minlength=int(graphs.num_nodes.sum()))
