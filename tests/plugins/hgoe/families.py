"""Generated families of graphs, for the tests and for the benchmark's experiment A.

Every family draws from the NumPy generator that it is given, and from nothing else.

>>> graph = FAMILIES["tree"](np.random.default_rng(0), 9)
>>> tuple(graph.shape)
(2, 16)
"""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from graftkit.core.random import numpy_generator
from graftkit.methods.hgoe.graphs import PackedGraphs

__all__ = ["FAMILIES", "generate_family"]

Generator = np.random.Generator
Family = Callable[[Generator, int], Tensor]


def generate_family(name: str, count: int, *, seed: int, sizes: tuple[int, int] = (16, 35)) -> PackedGraphs:
    """Graphs of one family, sizes uniform.

    Parameters
    ----------
    name : str
        A key of `FAMILIES`.
    count : int
        How many.
    seed : int
        The seed; each family draws its own numbers from it.
    sizes : (int, int), default=(16, 35)
        Bounds of the node count, inclusive.

    Returns
    -------
    PackedGraphs
        Without features.
    """
    rng = numpy_generator(np.random.default_rng([seed, sorted(FAMILIES).index(name)]))
    counts = rng.integers(sizes[0], sizes[1] + 1, count).tolist()
    return PackedGraphs.from_lists([FAMILIES[name](rng, n) for n in counts], counts)


def _both(pairs: np.ndarray | Sequence[tuple[int, int]]) -> Tensor:
    """Undirected, sorted, each edge once a direction."""
    table = np.asarray(pairs, dtype=np.int64).reshape(-1, 2)
    table = table[table[:, 0] != table[:, 1]]
    table = np.unique(np.concatenate([table, table[:, ::-1]]), axis=0)
    return torch.from_numpy(table.T.copy())


def _bernoulli(rng: Generator, chances: np.ndarray) -> Tensor:
    return _both(np.argwhere(np.triu(rng.random(chances.shape) < chances, 1)))


def _blocks(rng: Generator, n: int, chances: np.ndarray | Sequence[Sequence[float]]) -> Tensor:
    block = np.arange(n) * len(chances) // n
    return _bernoulli(rng, np.asarray(chances)[block][:, block])


def _two_blocks(rng: Generator, n: int) -> Tensor:
    return _blocks(rng, n, [[0.35, 0.03], [0.03, 0.35]])


def _core(rng: Generator, n: int) -> Tensor:
    return _blocks(rng, n, [[0.8, 0.25, 0.25], [0.25, 0.05, 0.05], [0.25, 0.05, 0.05]])


def _four_blocks(rng: Generator, n: int) -> Tensor:
    return _blocks(rng, n, np.full((4, 4), 0.03) + np.eye(4) * 0.6)


def _random(rng: Generator, n: int) -> Tensor:
    return _bernoulli(rng, np.full((n, n), 0.19))  # the density of the two blocks


def _small_world(rng: Generator, n: int) -> Tensor:
    """Watts-Strogatz: a ring of four neighbours, each edge rewired with probability 0.1."""
    pairs = []
    for v in range(n):
        for step in (1, 2):
            to = (v + step) % n
            pairs.append((v, int(rng.integers(n)) if rng.random() < 0.1 else to))
    return _both(pairs)


def _attach(rng: Generator, n: int, closing: float) -> Tensor:
    """Two edges a new node, to nodes by degree; with probability `closing` the second closes a triangle."""
    pairs = [(0, 1), (1, 2), (0, 2)]
    ends = [0, 1, 1, 2, 0, 2]
    for v in range(3, n):
        first = int(ends[rng.integers(len(ends))])
        around = [b if a == first else a for a, b in pairs if first in (a, b)]
        if rng.random() < closing:
            second = int(around[rng.integers(len(around))])
        else:
            second = int(ends[rng.integers(len(ends))])
        for to in {first, second}:
            pairs.append((v, to))
            ends += [v, to]
    return _both(pairs)


def _clustered(rng: Generator, n: int) -> Tensor:
    return _attach(rng, n, 0.9)


def _preferential(rng: Generator, n: int) -> Tensor:
    return _attach(rng, n, 0.0)


def _tree(rng: Generator, n: int) -> Tensor:
    return _both([(v, int(rng.integers(v))) for v in range(1, n)])


def _grid(rng: Generator, n: int) -> Tensor:
    width = int(rng.integers(3, 6))
    right = [(v, v + 1) for v in range(n - 1) if v % width != width - 1]
    return _both(right + [(v, v + width) for v in range(n - width)])


def _hub(rng: Generator, n: int) -> Tensor:
    extra = [(int(a), int(b)) for a, b in rng.integers(1, n, (n // 4, 2))]
    return _both([(0, v) for v in range(1, n)] + extra)


def _regular(rng: Generator, n: int) -> Tensor:
    """Four neighbours each: two random Hamiltonian cycles, which may share an edge."""
    first, second = rng.permutation(n), rng.permutation(n)
    return _both(np.concatenate([np.stack([cycle, np.roll(cycle, 1)], 1) for cycle in (first, second)]))


def _geometric(rng: Generator, n: int) -> Tensor:
    place = rng.random((n, 2))
    distance = np.linalg.norm(place[:, None] - place, axis=2)
    return _both(np.argwhere(np.triu(distance < 0.3, 1)))


FAMILIES: Mapping[str, Family] = {
    "two blocks": _two_blocks,
    "core": _core,
    "small world": _small_world,
    "random": _random,
    "clustered": _clustered,
    "four blocks": _four_blocks,
    "tree": _tree,
    "grid": _grid,
    "hub": _hub,
    "preferential": _preferential,
    "regular": _regular,
    "geometric": _geometric,
}
