"""Undirected edges of packed graphs, each once; and what follows: both directions, content digests.

>>> graphs = PackedGraphs(torch.tensor([[1, 0, 2, 2], [0, 1, 2, 1]]), torch.tensor([3]))
>>> [ends.tolist() for ends in undirected_pairs(graphs)]
[[0, 1], [1, 2]]
"""

import hashlib
from typing import Any

import numpy as np
import torch
from torch import Tensor

from graftkit.methods.hgoe.graphs import PackedGraphs

__all__ = ["content_digests", "each_once", "simple_pairs", "undirected", "undirected_pairs"]


def each_once(key: np.ndarray) -> np.ndarray:
    """Sort whole numbers in place and leave each once, where `numpy.unique` would hash them.

    Parameters
    ----------
    key : ndarray of shape (n,)
        Whole numbers; they are sorted.

    Returns
    -------
    ndarray of shape (k,)
        Ascending.
    """
    key.sort()
    # take() of positions is several times faster than a mask.
    return key.take(np.flatnonzero(np.append(True, key[1:] != key[:-1])[: len(key)]))


def simple_pairs(source: np.ndarray, target: np.ndarray, total: int) -> tuple[np.ndarray, np.ndarray]:
    """Each undirected edge once, without self-loops.

    Parameters
    ----------
    source, target : ndarray of shape (E,)
        Ends of the edges, in [0, total).
    total : int
        Number of nodes.

    Returns
    -------
    low, high : ndarray of shape (P,)
        int64, ``low < high``, sorted by ``(low, high)``.
    """
    bits = max(total - 1, 1).bit_length()
    # One number an edge; up to 65,536 nodes it has 32 bits, and half the bytes sort in half the time.
    kind = np.uint32 if bits <= 16 else np.int64
    source, target = source.astype(kind), target.astype(kind)
    key = (np.minimum(source, target) << kind(bits)) | np.maximum(source, target)
    key = each_once(key)
    low, high = (key >> kind(bits)).astype(np.int64), (key & kind((1 << bits) - 1)).astype(np.int64)
    loops = low == high
    if loops.any():  # rare, so that all edges are looked at once, here
        low, high = low[~loops], high[~loops]
    return low, high


def undirected_pairs(graphs: PackedGraphs) -> tuple[Tensor, Tensor]:
    """Each undirected edge once, without self-loops.

    Parameters
    ----------
    graphs : PackedGraphs
        The graphs.

    Returns
    -------
    low, high : Tensor of shape (P,)
        Global node numbers, ``low < high``, sorted by ``(low, high)``.
    """
    source, target = graphs.edge_index.numpy()
    low, high = simple_pairs(source, target, int(graphs.num_nodes.sum()))
    return torch.from_numpy(low), torch.from_numpy(high)


def undirected(graphs: PackedGraphs) -> tuple[PackedGraphs, int | None]:
    """The graphs with every edge in both directions.

    Parameters
    ----------
    graphs : PackedGraphs
        The graphs.

    Returns
    -------
    graphs : PackedGraphs
        The same object if every edge has its reverse; otherwise a copy with sorted edges, no repeats and no
        self-loops.
    first : int or None
        A graph that had a one-way edge.
    """
    source, target = graphs.edge_index.numpy()
    total = max(int(graphs.num_nodes.sum()), 1)
    up, down = np.flatnonzero(source < target), np.flatnonzero(source > target)
    there = each_once(source.take(up) * total + target.take(up))
    back = each_once(target.take(down) * total + source.take(down))
    if np.array_equal(there, back):
        return graphs, None
    one_way = np.setxor1d(there, back, assume_unique=True)
    low, high = undirected_pairs(graphs)
    key = torch.cat([low * total + high, high * total + low]).sort().values
    edges = torch.stack([key // total, key % total])
    return PackedGraphs(edges, graphs.num_nodes, graphs.x), int(graphs.batch[int(one_way[0]) // total])


def content_digests(graphs: PackedGraphs) -> list[bytes]:
    """A digest of each graph's content: node count, undirected edges and features, in node order.

    Two graphs with equal digests are equal; a renumbered copy has another digest.

    Parameters
    ----------
    graphs : PackedGraphs
        The graphs.

    Returns
    -------
    list of bytes
        One digest a graph.
    """
    low, high = undirected_pairs(graphs)
    ptr, batch = graphs.ptr, graphs.batch
    owner = batch[low]
    local = torch.stack([low - ptr[owner], high - ptr[owner]], 1).numpy()
    cuts = torch.searchsorted(owner, torch.arange(len(graphs) + 1)).tolist()
    nodes: Any = ptr.tolist()
    counts = graphs.num_nodes.tolist()
    # Adding zero makes -0.0 equal 0.0 in its bytes too.
    x = None if graphs.x is None else (graphs.x.to(torch.float64) + 0.0).contiguous().numpy()
    digests = []
    for g, count in enumerate(counts):
        state = hashlib.blake2b(str(count).encode(), digest_size=16)
        state.update(local[cuts[g] : cuts[g + 1]].tobytes())
        if x is not None:
            state.update(x[nodes[g] : nodes[g + 1]].tobytes())
        digests.append(state.digest())
    return digests
