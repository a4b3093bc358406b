"""Graphs drawn from mixed graphons, many at a time.

A mixture (i, j, lam, low, high) means: draw n uniformly from low..high, form
``M = lam W_i + (1 - lam) W_j`` at n nodes, draw every pair of nodes independently with probability M, and
drop the nodes without an edge. A draw without any edge is repeated, size and edges, at most `max_tries`
times; the public code (`jweihe/HGOE@2cf8c82`, utils/graphon_utils.py) repeats without limit and can hang.

Draws of equal n share one call to the generator. A pair of nodes gets one random byte, compared with the
first eight binary digits of M; only where they are equal, once in 256, a further number is drawn and compared
with the rest. The probability is M exactly, at an eighth of the random bits.

>>> full = torch.ones(3, 3, dtype=torch.float64).fill_diagonal_(0)
>>> graphs = sample_mixtures([full], Mixtures.of_one(2, 3), torch.Generator().manual_seed(0))
>>> graphs.num_nodes.tolist(), graphs.edge_index.shape[1]
([3, 3], 12)
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from graftkit.core.validation import check_choice, check_integer, raise_invalid
from graftkit.methods.hgoe.graphs import PackedGraphs
from graftkit.methods.hgoe.mixup import Mixtures

__all__ = ["sample_mixtures"]

CELLS = 1_000_000  # pairs of nodes drawn at a time: their bytes stay in the processor's cache
TABLE = 20_000_000  # entries of a table of all possible nodes; beyond it they are searched
WORD = 8  # bytes that the generator gives at once


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
        filled = torch.zeros(len(mixtures), dtype=torch.bool)
        filled[torch.from_numpy(keys[-1] >> 2 * bits)] = True
        open_entries = open_entries[~filled[open_entries]]
    if len(open_entries):
        entry = int(open_entries[0])
        raise ValueError(
            f"max_tries: graphons {int(mixtures.first[entry])} and {int(mixtures.second[entry])}, "
            f"lam={float(mixtures.lam[entry]):.3g}, gave no edge in {tries} draws of up to "
            f"{int(mixtures.high[entry])} nodes. Raise max_tries, or lower the threshold of the graphons"
        )
    return _assemble(np.concatenate(keys) if keys else np.empty(0, np.int64), sizes, bits, drop_isolated)


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
    """Edges of one draw of these entries, ``(entry << 2 bits) | (low << bits) | high``, in no order."""
    found, undecided, odds = [], [np.empty(0, np.int64)], [np.empty(0)]
    for n in sizes[entries].unique().tolist():
        members = entries[sizes[entries] == n]
        low, high = np.triu_indices(n, 1)
        chances, kind = _chances(matrices, mixtures.select(members), n, low, high, mode)
        width = -(-len(low) // WORD) * WORD
        chances = np.pad(256 * chances, ((0, 0), (0, width - len(low))))
        digits = np.minimum(chances, 255).astype(np.uint8)
        owner, pair_name = members.numpy() << 2 * bits, np.zeros(width, np.int64)
        pair_name[: len(low)] = (low << bits) | high
        step = max(1, CELLS // width)
        for start in range(0, len(members), step):
            rows = kind[start : start + step]
            words = torch.empty(len(rows), width // WORD, dtype=torch.int64)
            # Without bounds the host would leave the sign bit at zero.
            drawn = words.random_(-(2**63), None, generator=generator).numpy().view(np.uint8)
            hit = np.flatnonzero(drawn <= (digits if len(digits) == 1 else digits[rows]))
            row = hit // width
            pair = hit - row * width
            key = owner.take(row + start) | pair_name.take(pair)
            cell = pair if len(digits) == 1 else pair + width * rows.take(row)
            equal = drawn.reshape(-1).take(hit) == digits.reshape(-1).take(cell)
            found.append(key.take(np.flatnonzero(~equal)))
            rest = np.flatnonzero(equal)
            undecided.append(key.take(rest))
            odds.append((chances.reshape(-1) - digits.reshape(-1)).take(cell.take(rest)))
    chance, key = np.concatenate(odds), np.concatenate(undecided)
    u = torch.rand(len(chance), generator=generator, dtype=torch.float64).numpy()
    return np.concatenate([*found, key[u < chance]])


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
    """Mirror, sort and renumber edges; key is ``(graph << 2 bits) | (low << bits) | high``."""
    mask = (1 << bits) - 1
    if len(sizes) << 2 * bits < 2**32:
        key = key.astype(np.uint32)  # half the bytes to sort
    ends = key & ((1 << 2 * bits) - 1)
    mirrored = (key - ends) | ((ends & mask) << bits) | (ends >> bits)
    both = np.concatenate([key, mirrored])
    both.sort()
    source = (both >> bits).astype(np.int64)
    target = (source & ~mask) | (both & mask)
    edge_index = np.empty((2, len(both)), dtype=np.int64)
    if not drop_isolated:
        first = (sizes.cumsum(0) - sizes).numpy()
        shift = (first - (np.arange(len(sizes)) << bits))[source >> bits]
        np.add(source, shift, out=edge_index[0])
        np.add(target, shift, out=edge_index[1])
        return PackedGraphs.trusted(torch.from_numpy(edge_index), sizes)
    if len(sizes) << bits <= TABLE:
        present = np.zeros(len(sizes) << bits, dtype=bool)
        present[source] = True
        number = np.cumsum(present) - 1
        np.take(number, source, out=edge_index[0], mode="clip")  # the default mode is buffered
        np.take(number, target, out=edge_index[1], mode="clip")
        counts = present.reshape(len(sizes), 1 << bits).sum(1)
    else:
        used = np.unique(source)
        edge_index[0], edge_index[1] = np.searchsorted(used, source), np.searchsorted(used, target)
        counts = np.bincount(used >> bits, minlength=len(sizes))
    return PackedGraphs.trusted(torch.from_numpy(edge_index), torch.from_numpy(counts))
