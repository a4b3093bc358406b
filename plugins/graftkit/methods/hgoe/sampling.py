"""Graphs drawn from mixed graphons, many at a time.

A mixture (i, j, lam, low, high) means: draw n uniformly from low..high, form
``M = lam W_i + (1 - lam) W_j`` at n nodes, draw every pair of nodes independently with probability M, and
drop the nodes without an edge. A draw without any edge is repeated, size and edges, at most `max_tries`
times; the public code (`jweihe/HGOE@2cf8c82`, utils/graphon_utils.py) repeats without limit and can hang.

Draws of equal n and equal M are taken together, and only pairs that become edges cost anything
(:mod:`~graftkit.methods.hgoe.bernoulli`); each pair of each graph is still a draw of its own.

>>> full = torch.ones(3, 3, dtype=torch.float64).fill_diagonal_(0)
>>> graphs = sample_mixtures([full], Mixtures.of_one(2, 3), torch.Generator().manual_seed(0))
>>> graphs.num_nodes.tolist(), graphs.edge_index.shape[1]
([3, 3], 12)
"""

import itertools
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from graftkit.core.validation import check_choice, check_integer, raise_invalid
from graftkit.methods.hgoe.bernoulli import successes
from graftkit.methods.hgoe.graphs import PackedGraphs
from graftkit.methods.hgoe.mixup import Mixtures
from graftkit.methods.hgoe.pairs import each_once

__all__ = ["sample_mixtures"]

SLICE = 8_192  # edges put in order at a time: what is needed for them stays in the processor's cache
TABLE = 1_000_000  # entries of a table of all possible nodes of a slice; beyond it they are searched


def sample_mixtures(
    matrices: Sequence[Tensor],
    mixtures: Mixtures,
    generator: torch.Generator,
    *,
    mode: str = "crop_pad",
    max_tries: int = 100,
    drop_isolated: bool = True,
) -> PackedGraphs:
    """Draw one graph for each entry of `mixtures`.

    Parameters
    ----------
    matrices : sequence of Tensor of shape (N_i, N_i)
        Graphons.
    mixtures : Mixtures
        The plan.
    generator : torch.Generator
        A private generator; it advances.
    mode : {"crop_pad", "interpolate"}, default="crop_pad"
        How graphons are brought to n nodes.
    max_tries : int, default=100
        Draws of a graph before giving up.
    drop_isolated : bool, default=True
        Drop nodes without an edge; False keeps all n.

    Returns
    -------
    PackedGraphs
        In the order of the plan; both directions of each edge, sorted, without features.

    Raises
    ------
    TypeError
        If `max_tries` is no integer.
    ValueError
        If a size is below 2, a mixture has no edge at any size that it allows, or a graph is still without
        an edge after `max_tries` draws; the graphons are named.
    """
    check_choice("mode", mode, ("crop_pad", "interpolate"))
    tries = check_integer("max_tries", max_tries, low=1)
    if len(mixtures) and int(mixtures.low.min()) < 2:
        raise_invalid("low", int(mixtures.low.min()), "at least 2 nodes a graph")
    _refuse_empty(matrices, mixtures)
    open_entries = torch.arange(len(mixtures))
    keys: list[np.ndarray] = []
    sizes = torch.zeros(len(mixtures), dtype=torch.int64)
    # One sortable number an edge: graph, then both ends, each end in so many bits.
    bits = (int(mixtures.high.max()) - 1).bit_length() if len(mixtures) else 1
    for _ in range(tries):
        if not len(open_entries):
            break
        plan = mixtures.select(open_entries)
        sizes[open_entries] = _uniform_integers(plan.low, plan.high, generator)
        keys.append(_draw_edges(matrices, mixtures, open_entries, sizes, generator, mode, bits))
        first = np.searchsorted(keys[-1], (open_entries.numpy() << 2 * bits).astype(keys[-1].dtype))
        open_entries = open_entries[torch.from_numpy(np.diff(first, append=len(keys[-1])) == 0)]
    if len(open_entries):
        entry = int(open_entries[0])
        raise ValueError(
            f"max_tries: graphons {int(mixtures.first[entry])} and {int(mixtures.second[entry])}, "
            f"lam={float(mixtures.lam[entry]):.3g}, gave no edge in {tries} draws of up to "
            f"{int(mixtures.high[entry])} nodes. Raise max_tries, or lower the threshold of the graphons"
        )
    key = np.concatenate(keys) if keys else np.empty(0, np.int64)
    if len(keys) > 1:
        key.sort(kind="stable")  # which joins what is sorted already
    return _assemble(key, sizes, bits, drop_isolated)


def _uniform_integers(low: Tensor, high: Tensor, generator: torch.Generator) -> Tensor:
    u = torch.rand(len(low), generator=generator, dtype=torch.float64)
    return torch.minimum(low + (u * (high - low + 1)).long(), high)


def _refuse_empty(matrices: Sequence[Tensor], mixtures: Mixtures) -> None:
    """A mixture that cannot have an edge would only fail after all its tries."""
    zero = torch.tensor([not bool(matrix.any()) for matrix in matrices])
    if not bool(zero.any()) or not len(mixtures):
        return
    dead = (zero[mixtures.first] | (mixtures.lam == 0)) & (zero[mixtures.second] | (mixtures.lam == 1))
    if bool(dead.any()):
        entry = int(dead.nonzero()[0, 0])
        raise ValueError(
            f"graphons {int(mixtures.first[entry])} and {int(mixtures.second[entry])} are zero: no edge can "
            "be drawn from them. Lower the threshold with which they were estimated"
        )


def _draw_edges(
    matrices: Sequence[Tensor],
    mixtures: Mixtures,
    entries: Tensor,
    sizes: Tensor,
    generator: torch.Generator,
    mode: str,
    bits: int,
) -> np.ndarray:
    """Edges of one draw of these entries, ``(entry << 2 bits) | (low << bits) | high``, sorted."""
    # Fewer bytes to sort.
    kind = np.uint32 if len(mixtures) << 2 * bits < 2**32 else np.int64
    found = [np.empty(0, kind)]
    for n in sizes[entries].unique().tolist():
        members = entries[sizes[entries] == n]
        low, high = np.triu_indices(n, 1)
        chances, mixture = _chances(matrices, mixtures.select(members), n, low, high, mode)
        graphs = np.bincount(mixture, minlength=len(chances))
        before = np.cumsum(graphs) - graphs
        owner = (members.numpy()[np.argsort(mixture, kind="stable")] << 2 * bits).astype(kind)
        pair = ((low << bits) | high).astype(kind)
        for rows, counts, turn in successes(chances.reshape(-1), np.repeat(graphs, len(low)), generator):
            if len(graphs) > 1:  # numbered within their mixture
                turn += np.repeat(before[rows // len(low)], counts)
            found.append(owner.take(turn) | np.repeat(pair[rows % len(low)], counts))
    return each_once(np.concatenate(found))


def _chances(
    matrices: Sequence[Tensor], plan: Mixtures, n: int, low: np.ndarray, high: np.ndarray, mode: str
) -> tuple[np.ndarray, np.ndarray]:
    """Edge probabilities of each distinct mixture, a column a pair of nodes; the mixture of each entry."""
    weights, weight = plan.lam.unique(return_inverse=True)
    count = len(matrices)
    distinct, kind = ((weight * count + plan.first) * count + plan.second).unique(return_inverse=True)
    first, second = distinct // count % count, distinct % count
    table = torch.zeros(count, len(low), dtype=torch.float64)
    for k in torch.cat([first, second]).unique().tolist():
        size = len(matrices[k])
        if mode == "interpolate":
            table[k] = matrices[k][(2 * low + 1) * size // (2 * n), (2 * high + 1) * size // (2 * n)]
        else:
            inside = high < size
            table[k, inside] = matrices[k][low[inside], high[inside]]
    lam = weights[distinct // (count * count)]
    return torch.lerp(table[second], table[first], lam[:, None]).numpy(), kind.numpy()


def _assemble(key: np.ndarray, sizes: Tensor, bits: int, drop_isolated: bool) -> PackedGraphs:
    """Mirror and renumber edges; key is ``(graph << 2 bits) | (low << bits) | high``, sorted, each once."""
    one = key.dtype.type(1)
    node, ends = (one << key.dtype.type(bits)) - one, (one << key.dtype.type(2 * bits)) - one
    edge_index = np.empty((2, 2 * len(key)), dtype=np.int64)
    counts = sizes.numpy().copy()
    shift = np.cumsum(counts) - counts - (np.arange(len(counts)) << bits)
    total = 0
    for start, stop in _slices(key, 2 * bits):
        part = key[start:stop]
        pair = part & ends
        both = np.concatenate([part, (part - pair) | ((pair & node) << bits) | (pair >> bits)])
        both.sort()
        # A node is its graph and its place there, so nodes come in order and all edges of one together.
        source = both >> bits
        used = source.take(np.flatnonzero(np.append(True, source[1:] != source[:-1]))).astype(np.int64)
        graph = used >> bits
        if drop_isolated:
            number = np.arange(total, total + len(used))
            total += len(used)
            counts[graph[0] : graph[-1] + 1] = np.bincount(graph - graph[0])
        else:
            number = used + shift[graph]
        for row, asked in enumerate((source, (source & ~node) | (both & node))):
            _look_up(used, number, asked, edge_index[row, 2 * start : 2 * stop])
    return PackedGraphs.trusted(torch.from_numpy(edge_index), torch.from_numpy(counts))


def _look_up(used: np.ndarray, number: np.ndarray, asked: np.ndarray, out: np.ndarray) -> None:
    """Write the number of each asked one of `used`, which is sorted."""
    first, width = used[0], int(used[-1] - used[0]) + 1
    if width <= TABLE:
        table = np.empty(width, dtype=np.int64)
        table[used - first] = number
        number, at = table, asked.astype(np.int64) - first
    else:
        at = np.searchsorted(used, asked)
    np.take(number, at, out=out, mode="clip")  # the default mode is buffered


def _slices(key: np.ndarray, bits: int) -> list[tuple[int, int]]:
    """Ranges of about `SLICE` edges that begin with a graph's first edge."""
    owner = key[::SLICE] >> bits << bits
    cuts = np.unique(np.searchsorted(key, owner)).tolist()
    return list(itertools.pairwise([*cuts, len(key)]))
