"""Which subgroup graphons are mixed, with what weight, at what size: the plan of internal and cross outliers.

Internal: two ID subgroups, ``n ~ U{min(N_i, N_j) // 2 .. max(N_i, N_j)}``. Cross: one ID subgroup and one
external set, ``n ~ U{2 .. max(N_id, N_ext)}``. The weight lam cycles through `num_lambdas` values drawn once
from `lam_range`.

Source: `jweihe/HGOE@2cf8c82`, run.py (branches `inter_rate` and `mixup_rate`); the paper's caption mentions
subgroup mixing only, cross mixing is unverified there. Differs on purpose: budgets are exact and pairs are
distinct by default. The published counts and pairing are kept behind ``"official"`` and
``"with_replacement"``; the published XOR in the count looks like a slip and is reproduced only there.

>>> official_internal_count(0.5, 100, num_lambdas=10, subgroups=3), official_internal_count(0.5, 100, 10, 2)
(60, 20)
"""

import math
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from graftkit.core.validation import check_choice, raise_invalid
from graftkit.methods.hgoe.streams import stream

__all__ = [
    "Mixtures",
    "draw_lambdas",
    "official_cross_count",
    "official_internal_count",
    "plan_cross",
    "plan_internal",
]


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


def draw_lambdas(num: int, lam_range: tuple[float, float], seed: int) -> Tensor:
    """Mixing weights, drawn once.

    Parameters
    ----------
    num : int
        How many.
    lam_range : (float, float)
        Bounds.
    seed : int
        The user's seed.

    Returns
    -------
    Tensor of shape (num,)
        float64, uniform between the bounds.
    """
    low, high = lam_range
    u = torch.rand(num, generator=stream(seed, "lambda"), dtype=torch.float64)
    return low + (high - low) * u


def plan_internal(sizes: list[int], count: int, lambdas: Tensor, *, pairing: str, seed: int) -> Mixtures:
    """Pairs of subgroups for `count` internal outliers.

    Parameters
    ----------
    sizes : list of int
        Resolutions of the subgroups' graphons.
    count : int
        Graphs.
    lambdas : Tensor of shape (L,)
        Weights, used in turn.
    pairing : {"distinct", "with_replacement"}
        Whether a subgroup may be mixed with itself.
    seed : int
        The user's seed.

    Returns
    -------
    Mixtures
        The plan.

    Raises
    ------
    ValueError
        If pairs must be distinct and there are fewer than two subgroups.
    """
    check_choice("pairing", pairing, ("distinct", "with_replacement"))
    k = len(sizes)
    if pairing == "distinct" and k < 2:
        raise_invalid(
            "num_subgroups",
            k,
            "at least 2 subgroups for pairing='distinct'",
            fix="Give more graphs or subgroups, or pairing='with_replacement'",
        )
    generator = stream(seed, "pairs")
    first = torch.randint(k, (count,), generator=generator)
    if pairing == "distinct":
        second = (first + 1 + torch.randint(k - 1, (count,), generator=generator)) % k
    else:
        second = torch.randint(k, (count,), generator=generator)
    resolution = torch.tensor(sizes)
    a, b = resolution[first], resolution[second]
    low = (torch.minimum(a, b) // 2).clamp(min=2)
    return Mixtures(first, second, _cycle(lambdas, count), low, torch.maximum(a, b))


def plan_cross(id_sizes: list[int], external_sizes: list[int], count: int, lambdas: Tensor) -> Mixtures:
    """Every subgroup with every external set, in turn, for `count` cross outliers.

    Parameters
    ----------
    id_sizes, external_sizes : list of int
        Resolutions; external graphons are numbered after the subgroups'.
    count : int
        Graphs.
    lambdas : Tensor of shape (L,)
        Weights of the subgroup's graphon.

    Returns
    -------
    Mixtures
        The plan.
    """
    k, e = len(id_sizes), len(external_sizes)
    turn = torch.arange(count)
    first, second = turn % k, k + turn // k % e
    resolution = torch.tensor([*id_sizes, *external_sizes])
    lam = lambdas[turn // (k * e) % len(lambdas)]
    low = torch.full((count,), 2)
    return Mixtures(first, second, lam, low, torch.maximum(resolution[first], resolution[second]))


def official_internal_count(rate: float, num_train: int, num_lambdas: int, subgroups: int) -> int:
    """Graphs that the public code makes between subgroups.

    Parameters
    ----------
    rate : float
        r_int.
    num_train : int
        ID training graphs.
    num_lambdas : int
        L.
    subgroups : int
        k >= 2; the code divides by ``k XOR 1``.

    Returns
    -------
    int
        ``L (k - 1) ceil(rate n / (L (k XOR 1)))``.
    """
    share = math.ceil(rate * num_train / (num_lambdas * (subgroups ^ 1)))
    return num_lambdas * (subgroups - 1) * share


def official_cross_count(
    rate: float, num_train: int, num_lambdas: int, external_sets: int, subgroups: int
) -> int:
    """Graphs that the public code makes between subgroups and external sets.

    Parameters
    ----------
    rate : float
        r_mix.
    num_train : int
        ID training graphs.
    num_lambdas : int
        L.
    external_sets, subgroups : int
        How many of each.

    Returns
    -------
    int
        At least one graph for every triple.
    """
    triples = num_lambdas * external_sets * subgroups
    return triples * math.ceil(rate * num_train / triples)


def _cycle(lambdas: Tensor, count: int) -> Tensor:
    return lambdas[torch.arange(count) % len(lambdas)]
