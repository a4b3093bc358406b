"""Graphs drawn from mixed graphons, many at a time.

A mixture (i, j, lam, low, high) means: draw n uniformly from low..high, form
``M = lam W_i + (1 - lam) W_j`` at n nodes, draw every pair of nodes independently with probability M, and
drop the nodes without an edge. A draw without any edge is repeated, size and edges, at most `max_tries`
times; the public code (`jweihe/HGOE@2cf8c82`, utils/graphon_utils.py) repeats without limit and can hang.

Draws of equal n share one call to the generator.

>>> full = torch.ones(3, 3, dtype=torch.float64).fill_diagonal_(0)
>>> graphs = sample_mixtures([full], Mixtures.of_one(2, 3), torch.Generator().manual_seed(0))
>>> graphs.num_nodes.tolist(), graphs.edge_index.shape[1]
([3, 3], 12)
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
import torch
from torch import Tensor

from graftkit.core.validation import check_choice, check_integer, raise_invalid
from graftkit.methods.hgoe.graphs import PackedGraphs

__all__ = ["Mixtures", "sample_mixtures"]

CELLS = 4_000_000  # pairs of nodes drawn at a time
TABLE = 20_000_000  # entries of a table of all possible nodes; beyond it they are searched


@dataclass(frozen=True)
class Mixtures:
    """What to draw, one entry a graph.

    Parameters
    ----------
    first, second : Tensor of shape (m,)
        Numbers of the two graphons.
    lam : Tensor of shape (m,)
        Weight of the first, float64.
    low, high : Tensor of shape (m,)
        Bounds of the node count, inclusive.
    """

    first: Tensor
    second: Tensor
    lam: Tensor
    low: Tensor
    high: Tensor

    @classmethod
    def of_one(cls, count: int, size: int) -> "Mixtures":
        """`count` graphs of `size` nodes from graphon 0 alone.

        Parameters
        ----------
        count : int
            How many.
        size : int
            Nodes before isolated ones are dropped.

        Returns
        -------
        Mixtures
            The plan.
        """
        zero = torch.zeros(count, dtype=torch.int64)
        return cls(zero, zero, torch.ones(count, dtype=torch.float64), zero + size, zero + size)

    def __len__(self) -> int:
        return len(self.first)

    def select(self, index: Tensor) -> "Mixtures":
        """Take some entries.

        Parameters
        ----------
        index : Tensor of shape (k,)
            Entry numbers.

        Returns
        -------
        Mixtures
            k entries.
        """
        return Mixtures(*(getattr(self, field.name)[index] for field in fields(self)))


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
    _refuse_empty(matrices, mixtures, mode)
    open_entries = torch.arange(len(mixtures))
    keys: list[Tensor] = []
    sizes = torch.zeros(len(mixtures), dtype=torch.int64)
    span = int(mixtures.high.max()) if len(mixtures) else 1
    for _ in range(tries):
        if not len(open_entries):
            break
        plan = mixtures.select(open_entries)
        drawn = _uniform_integers(plan.low, plan.high, generator)
        owner, low, high = _draw_pairs(matrices, plan, drawn, generator, mode)
        # One sortable number an edge: graph, then both ends.
        keys.append((open_entries[owner] * span + low) * span + high)
        sizes[open_entries] = drawn
        filled = torch.bincount(owner, minlength=len(plan)) > 0
        open_entries = open_entries[~filled]
    if len(open_entries):
        entry = int(open_entries[0])
        raise ValueError(
            f"max_tries: graphons {int(mixtures.first[entry])} and {int(mixtures.second[entry])}, "
            f"lam={float(mixtures.lam[entry]):.3g}, gave no edge in {tries} draws of up to "
            f"{int(mixtures.high[entry])} nodes. Raise max_tries, or lower the threshold of the graphons"
        )
    key = torch.cat(keys) if keys else torch.empty(0, dtype=torch.int64)
    return _assemble(key, sizes, span, drop_isolated)


def _uniform_integers(low: Tensor, high: Tensor, generator: torch.Generator) -> Tensor:
    u = torch.rand(len(low), generator=generator, dtype=torch.float64)
    return torch.minimum(low + (u * (high - low + 1)).long(), high)


def _refuse_empty(matrices: Sequence[Tensor], mixtures: Mixtures, mode: str) -> None:
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
    del mode


def _draw_pairs(
    matrices: Sequence[Tensor], plan: Mixtures, sizes: Tensor, generator: torch.Generator, mode: str
) -> tuple[Tensor, Tensor, Tensor]:
    """Edges of one draw: entry of the plan, lower and higher node."""
    owners, lows, highs = [], [], []
    for n in sizes.unique().tolist():
        entries = (sizes == n).nonzero().flatten()
        low, high = torch.tril_indices(n, n, -1).flip(0)
        for part in entries.split(max(1, CELLS // len(low))):
            chances, kind = _chances(matrices, plan.select(part), n, low, high, mode)
            drawn = torch.rand(len(part), len(low), generator=generator, dtype=torch.float32)
            hit = drawn < (chances if len(chances) == 1 else chances[kind])
            row, pair = hit.nonzero().T
            owners.append(part[row])
            lows.append(low[pair])
            highs.append(high[pair])
    if not owners:
        empty = torch.empty(0, dtype=torch.int64)
        return empty, empty, empty
    return torch.cat(owners), torch.cat(lows), torch.cat(highs)


def _chances(
    matrices: Sequence[Tensor], plan: Mixtures, n: int, low: Tensor, high: Tensor, mode: str
) -> tuple[Tensor, Tensor]:
    """Edge probabilities of each distinct mixture, a column a pair of nodes; the mixture of each entry."""
    weights, weight = plan.lam.unique(return_inverse=True)
    count = len(matrices)
    distinct, kind = ((weight * count + plan.first) * count + plan.second).unique(return_inverse=True)
    first, second = distinct // count % count, distinct % count
    table = torch.zeros(len(matrices), len(low), dtype=torch.float64)
    for k in torch.cat([first, second]).unique().tolist():
        size = len(matrices[k])
        if mode == "interpolate":
            table[k] = matrices[k][(2 * low + 1) * size // (2 * n), (2 * high + 1) * size // (2 * n)]
        else:
            inside = high < size
            table[k, inside] = matrices[k][low[inside], high[inside]]
    lam = weights[distinct // (count * count)]
    return torch.lerp(table[second], table[first], lam[:, None]).float(), kind


def _assemble(key: Tensor, sizes: Tensor, span: int, drop_isolated: bool) -> PackedGraphs:
    """Mirror, sort and renumber edges; key is ``(graph * span + low) * span + high``."""
    node, high = torch.div(key, span, rounding_mode="floor"), key % span
    graph = torch.div(node, span, rounding_mode="floor")
    mirrored = (graph * span + high) * span + node - graph * span
    both = torch.from_numpy(np.sort(torch.cat([key, mirrored]).numpy()))
    source, target = torch.div(both, span, rounding_mode="floor"), both % span
    graph = torch.div(source, span, rounding_mode="floor")
    target = target + graph * span
    if not drop_isolated:
        start = torch.cat([sizes.new_zeros(1), sizes.cumsum(0)])[:-1]
        shift = (start - torch.arange(len(sizes)) * span)[graph]
        return PackedGraphs(torch.stack([source, target]) + shift, sizes)
    if len(sizes) * span <= TABLE:
        present = torch.zeros(len(sizes) * span, dtype=torch.bool)
        present[source] = True
        number = present.long().cumsum(0) - 1
        counts = present.reshape(-1, span).sum(1)
        return PackedGraphs(torch.stack([number[source], number[target]]), counts)
    used, source = torch.unique_consecutive(source, return_inverse=True)  # sorted, so equal ones adjoin
    counts = torch.bincount(torch.div(used, span, rounding_mode="floor"), minlength=len(sizes))
    return PackedGraphs(torch.stack([source, torch.searchsorted(used, target)]), counts)
