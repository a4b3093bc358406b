"""From ID graphs and external sets to a plan of outliers: the whole of HGOE before drawing and training.

External outliers are real graphs by balanced quotas; internal ones are drawn from mixtures of the graphons of
ID subgroups; cross ones, off by default, from mixtures with external graphons. Synthetic nodes take the
features of structurally similar real nodes. Only the graphs that are given are used.

Source: `jweihe/HGOE@2cf8c82`, run.py and mix_data_loader.py; what differs is said in each module.
Each source has streams of its own, so adding one does not change the graphs of another.

>>> ring = torch.tensor([[0, 1, 2, 3, 1, 2, 3, 0], [1, 2, 3, 0, 0, 1, 2, 3]])
>>> graphs = PackedGraphs.from_lists([ring] * 8, [4] * 8)
>>> config = HGOEConfig(pairing="with_replacement", num_subgroups=1)
>>> plan = plan_exposure(graphs, {}, config, seed=0)
>>> plan.summary["resolutions"], len(plan.mixtures[INTERNAL])
([4], 4)
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from graftkit.core.validation import raise_invalid
from graftkit.methods.hgoe import adjacency, graphons
from graftkit.methods.hgoe.alignment import cap_pool
from graftkit.methods.hgoe.encodings import structural_encoding
from graftkit.methods.hgoe.external import both_ways, fit_features, guard_leak
from graftkit.methods.hgoe.graphs import PackedGraphs, concatenate
from graftkit.methods.hgoe.mixup import (
    Mixtures,
    draw_lambdas,
    official_cross_count,
    official_internal_count,
    plan_cross,
    plan_internal,
)
from graftkit.methods.hgoe.quotas import balanced_quotas, choose
from graftkit.methods.hgoe.settings import HGOEConfig
from graftkit.methods.hgoe.streams import stream
from graftkit.methods.hgoe.subgroups import divide

__all__ = ["CROSS", "EXTERNAL", "ID", "INTERNAL", "NAMES", "ExposurePlan", "plan_exposure"]

ID, EXTERNAL, INTERNAL, CROSS = 0, 1, 2, 3
NAMES = {INTERNAL: "internal", CROSS: "cross"}


@dataclass(frozen=True)
class ExposurePlan:
    """Everything that drawing outliers needs, and nothing of the ID graphs beside what they gave.

    Parameters
    ----------
    config : HGOEConfig
        The settings.
    seed : int
        The user's seed.
    external : PackedGraphs
        The external graphs taken.
    matrices : list of Tensor of shape (N_i, N_i)
        Graphons: the ID subgroups', then the external sets'.
    mixtures : dict of int to Mixtures
        Plan of each synthetic source.
    pool : tuple of Tensor of shape (p, s) and Tensor of shape (p, d), or None
        Encodings and features of the nodes that lend features.
    constant : Tensor of shape (1, d) or None
        The one feature, where all nodes of the pool have the same.
    labels : Tensor of shape (G,)
        Subgroup of each ID graph; empty without synthetic sources.
    summary : dict
        Counts and sizes for people.
    """

    config: HGOEConfig
    seed: int
    external: PackedGraphs
    matrices: list[Tensor]
    mixtures: dict[int, Mixtures]
    pool: tuple[Tensor, Tensor] | None
    constant: Tensor | None
    labels: Tensor
    summary: dict[str, Any] = field(default_factory=dict)


def plan_exposure(
    graphs: PackedGraphs,
    external: Mapping[str, PackedGraphs],
    config: HGOEConfig,
    *,
    seed: int,
    forbid: Collection[str] = (),
) -> ExposurePlan:
    """Take external graphs, divide the ID graphs, estimate graphons and plan the mixtures.

    Parameters
    ----------
    graphs : PackedGraphs
        ID training graphs.
    external : mapping of str to PackedGraphs
        Sets of other graphs, features as wide as the ID graphs'.
    config : HGOEConfig
        The settings.
    seed : int
        All randomness follows from it.
    forbid : collection of str, default=()
        Names that `external` must not have, such as the ID and the test set.

    Returns
    -------
    ExposurePlan
        The plan.

    Raises
    ------
    ValueError
        If a set is empty, forbidden or does not fit, contains an ID graph, or no source is enabled.
    """
    n = len(graphs)
    if n == 0:
        raise_invalid("graphs", 0, "at least one ID graph")
    for name in external:
        if name in forbid:
            raise_invalid("external", name, f"names outside forbid={sorted(forbid)}")
        if len(external[name]) == 0:
            raise ValueError(f"external[{name!r}]: expected at least one graph, got none")
    with_external = bool(external) and config.rate_external > 0
    if config.rate_cross > 0 and not external:
        raise_invalid("external", {}, "at least one set for rate_cross > 0")
    if not with_external and config.rate_internal == 0 and config.rate_cross == 0:
        raise ValueError(
            "no outlier source is enabled: give external sets, or set rate_internal or rate_cross above 0"
        )
    sets = {name: fit_features(name, part, graphs.x) for name, part in external.items()}
    sets = both_ways(graphs, sets, config.directed)
    sets, dropped = guard_leak(graphs, sets, config.leak)

    budget = int(config.rate_external * n) if with_external else 0
    quotas = balanced_quotas([len(part) for part in sets.values()], budget)
    taken = [
        part.select(choose(len(part), quota, selection=config.selection, seed=seed, name=name))
        for (name, part), quota in zip(sets.items(), quotas, strict=True)
    ]
    taken_all = concatenate(taken) if taken else _none_like(graphs)
    summary: dict[str, Any] = {
        "id": n,
        "external": len(taken_all),
        "external_sets": dict(zip(sets, quotas, strict=True)),
        "leaks_dropped": dropped,
    }
    matrices, mixtures, labels = _plan_synthetic(graphs, sets, config, seed, summary)
    pool, constant = _feature_pool(graphs, taken_all, config, seed) if mixtures else (None, None)
    return ExposurePlan(config, seed, taken_all, matrices, mixtures, pool, constant, labels, summary)


def _plan_synthetic(
    graphs: PackedGraphs,
    sets: Mapping[str, PackedGraphs],
    config: HGOEConfig,
    seed: int,
    summary: dict[str, Any],
) -> tuple[list[Tensor], dict[int, Mixtures], Tensor]:
    matrices: list[Tensor] = []
    mixtures: dict[int, Mixtures] = {}
    if config.rate_internal == 0 and config.rate_cross == 0:
        return matrices, mixtures, torch.empty(0, dtype=torch.int64)
    n = len(graphs)
    labels = divide(graphs, config, seed)
    matrices += [
        _graphon(graphs.select((labels == c).nonzero().flatten()), config, config.threshold)
        for c in range(int(labels.max()) + 1)
    ]
    k = len(matrices)
    lambdas = draw_lambdas(config.num_lambdas, config.lam_range, seed)
    sizes = [len(matrix) for matrix in matrices]
    summary |= {
        "subgroups": torch.bincount(labels).tolist(),
        "resolutions": sizes,
        "densities": [_density(matrix) for matrix in matrices],
        "lambdas": lambdas.tolist(),
    }
    official = config.budget == "official"
    if config.rate_internal > 0:
        count = round(config.rate_internal * n)
        if official:
            count = official_internal_count(config.rate_internal, n, config.num_lambdas, k) if k > 1 else 0
        mixtures[INTERNAL] = plan_internal(sizes, count, lambdas, pairing=config.pairing, seed=seed)
    if config.rate_cross > 0:
        used = min(int(config.rate_cross * n), n) or 1
        for name, part in sets.items():
            quota = min(used, len(part))
            rows = choose(len(part), quota, selection=config.selection, seed=seed, name=f"{name} graphon")
            matrices.append(_graphon(part.select(rows), config, config.external_threshold))
        count = round(config.rate_cross * n)
        if official:
            count = official_cross_count(config.rate_cross, n, config.num_lambdas, len(sets), k)
        mixtures[CROSS] = plan_cross(sizes, [len(matrix) for matrix in matrices[k:]], count, lambdas)
    summary |= {NAMES[code]: len(entries) for code, entries in mixtures.items()}
    return matrices, {code: entries for code, entries in mixtures.items() if len(entries)}, labels


def _graphon(graphs: PackedGraphs, config: HGOEConfig, threshold: float) -> Tensor:
    size = adjacency.resolution_of(graphs.num_nodes, config.resolution)
    mean = adjacency.aligned_mean(graphs, size, normalize=config.normalize)
    return graphons.estimate(mean, threshold, config.estimator)


def _density(matrix: Tensor) -> float:
    n = len(matrix)
    return float(matrix.sum()) / (n * (n - 1))


def _feature_pool(
    graphs: PackedGraphs, external: PackedGraphs, config: HGOEConfig, seed: int
) -> tuple[tuple[Tensor, Tensor] | None, Tensor | None]:
    """The nodes that lend features; encodings are computed only if features differ at all."""
    if graphs.x is None:
        return None, None
    sources = {"id": [graphs], "external": [external], "both": [graphs, external]}[config.feature_source]
    sources = [part for part in sources if len(part)]
    if not sources:
        raise_invalid("feature_source", config.feature_source, "a source with graphs; external has none")
    lenders = concatenate(sources)
    if lenders.x is None or len(lenders.x) == 0:
        raise_invalid("feature_source", config.feature_source, "graphs with nodes and features")
    if bool((lenders.x == lenders.x[0]).all()):
        return None, lenders.x[:1].clone()
    if config.close_k > 1 and not lenders.x.is_floating_point():
        raise_invalid(
            "close_k", config.close_k, "1 for integer features", fix="An average of categories is no category"
        )
    encoding = structural_encoding(lenders, config.rw_dim, config.degree_dim)
    rows = cap_pool(len(encoding), config.pool_size, stream(seed, "pool"))
    return (encoding[rows], lenders.x[rows]), None


def _none_like(graphs: PackedGraphs) -> PackedGraphs:
    return graphs.select(torch.empty(0, dtype=torch.int64))
