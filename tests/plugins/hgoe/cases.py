"""Random small graphs for the tests, as lists for the reference and packed for the plugin."""

import numpy as np
import torch

from graftkit.methods.hgoe.graphs import PackedGraphs


def random_lists(count, seed, low=1, high=12, messy=True):
    """``(edges, n)`` with isolated nodes; messy adds self-loops, repeats and one-way edges."""
    rng = np.random.default_rng(seed)
    graphs = []
    for _ in range(count):
        n = int(rng.integers(low, high))
        edges = []
        for _ in range(int(rng.integers(0, 3 * n))):
            u, v = (int(w) for w in rng.integers(0, n, 2))
            if u == v and not messy:
                continue
            edges.append((u, v))
            if not messy or rng.random() < 0.7:
                edges.append((v, u))
        graphs.append((edges, n))
    return graphs


def pack(graphs, x=None):
    edges = [torch.tensor(e, dtype=torch.int64).reshape(-1, 2).T for e, _ in graphs]
    return PackedGraphs.from_lists(edges, [n for _, n in graphs], x)


def block_graphs(sizes, chances, count, seed):
    """Graphs of a stochastic block model, as lists."""
    rng = np.random.default_rng(seed)
    block = np.repeat(np.arange(len(sizes)), sizes)
    p = np.array(chances)[block][:, block]
    graphs = []
    for _ in range(count):
        upper = np.triu(rng.random(p.shape) < p, 1)
        u, v = np.nonzero(upper)
        pairs = [*zip(u.tolist(), v.tolist(), strict=True)]
        graphs.append((pairs + [(b, a) for a, b in pairs], len(block)))
    return graphs, p


def generator(seed=0):
    return torch.Generator().manual_seed(seed)
