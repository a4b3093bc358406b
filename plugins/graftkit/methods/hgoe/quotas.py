"""Which external graphs are used: balanced quotas over data sets.

Sets are walked from the smallest to the largest; each gets ``remaining // sets left``, or all it has, and
what it leaves flows on. Source: `jweihe/HGOE@2cf8c82`, mix_data_loader.py. Differs on purpose: a seeded
random subset of each set instead of its first graphs, because file order is often class order.

>>> balanced_quotas([5, 100, 1000], 30)
[5, 12, 13]
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from graftkit.core.validation import check_choice, check_integer
from graftkit.methods.hgoe.streams import stream

__all__ = ["balanced_quotas", "choose"]


def balanced_quotas(sizes: Sequence[int], budget: int) -> list[int]:
    """Graphs to take from each set.

    Parameters
    ----------
    sizes : sequence of int
        Graphs in each set.
    budget : int
        Graphs in all, >= 0.

    Returns
    -------
    list of int
        Quotas in the order of `sizes`; they sum to the budget, or to everything there is.
    """
    remaining = check_integer("budget", budget, low=0)
    quotas = [0] * len(sizes)
    for done, k in enumerate(sorted(range(len(sizes)), key=sizes.__getitem__)):
        quotas[k] = min(sizes[k], remaining // (len(sizes) - done))
        remaining -= quotas[k]
    return quotas


def choose(size: int, quota: int, *, selection: str, seed: int, name: str) -> Tensor:
    """Graphs of one set, in file order.

    Parameters
    ----------
    size : int
        Graphs in the set.
    quota : int
        How many to take.
    selection : {"random", "first"}
        A seeded random subset, or the first ones as published.
    seed : int
        The user's seed.
    name : str
        The set's name; each set has its own stream.

    Returns
    -------
    Tensor of shape (quota,)
        Indices, ascending.
    """
    check_choice("selection", selection, ("random", "first"))
    if selection == "first":
        return torch.arange(quota)
    return torch.randperm(size, generator=stream(seed, "external", name))[:quota].sort().values
