"""From ID graphs and external sets to outliers: the whole of HGOE before training.

External outliers are real graphs by balanced quotas; internal ones are drawn from mixtures of the graphons of
ID subgroups; cross ones, off by default, from mixtures with external graphons. Synthetic nodes take the
features of structurally similar real nodes. Only the graphs that are given are used.

Source: `jweihe/HGOE@2cf8c82`, run.py and mix_data_loader.py; what differs is said in each module.
Each source has streams of its own, so adding one does not change the graphs of another.

>>> ring = torch.tensor([[0, 1, 2, 3, 1, 2, 3, 0], [1, 2, 3, 0, 0, 1, 2, 3]])
>>> graphs = PackedGraphs.from_lists([ring] * 8, [4] * 8)
>>> config = HGOEConfig(pairing="with_replacement", num_subgroups=1)
>>> plan = plan_exposure(graphs, {}, config, seed=0)
>>> outliers, source = realise(plan)
>>> len(outliers), source.unique().tolist() == [INTERNAL]
(4, True)
"""

import warnings
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from graftkit.core.validation import raise_invalid
from graftkit.methods.hgoe import adjacency, graphons
from graftkit.methods.hgoe.alignment import cap_pool, nearest_features
from graftkit.methods.hgoe.encodings import structural_encoding
from graftkit.methods.hgoe.graphs import PackedGraphs, concatenate
from graftkit.methods.hgoe.mixup import (
    draw_lambdas,
    official_cross_count,
    official_internal_count,
    plan_cross,
    plan_internal,
)
from graftkit.methods.hgoe.pairs import content_digests, undirected
from graftkit.methods.hgoe.quotas import balanced_quotas, choose
from graftkit.methods.hgoe.sampling import Mixtures, sample_mixtures
from graftkit.methods.hgoe.settings import HGOEConfig
from graftkit.methods.hgoe.streams import stream
from graftkit.methods.hgoe.subgroups import divide

__all__ = [
    "CROSS",
    "EXTERNAL",
    "ID",
    "INTERNAL",
    "ExposurePlan",
    "draw",
    "draw_one",
    "plan_exposure",
    "realise",
]

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
    sets = {name: _fit_features(name, part, graphs.x) for name, part in external.items()}
    sets = _both_ways(graphs, sets, config.directed)
    sets, dropped = _guard_leak(graphs, sets, config.leak)

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


def realise(plan: ExposurePlan) -> tuple[PackedGraphs, Tensor]:
    """All outliers of a plan: external, then internal, then cross.

    Parameters
    ----------
    plan : ExposurePlan
        The plan.

    Returns
    -------
    graphs : PackedGraphs
        The outliers.
    source : Tensor of shape (G,)
        1 external, 2 internal, 3 cross.
    """
    parts, source = [plan.external], [torch.full((len(plan.external),), EXTERNAL)]
    for code, mixtures in plan.mixtures.items():
        parts.append(draw(plan, mixtures, stream(plan.seed, "edges", NAMES[code])))
        source.append(torch.full((len(mixtures),), code))
    kept = [part for part in parts if len(part)] or parts[:1]
    return concatenate(kept), torch.cat(source)


def draw_one(plan: ExposurePlan, source: int, index: int, epoch: int = 0) -> PackedGraphs:
    """One synthetic outlier, from a stream of its own.

    Parameters
    ----------
    plan : ExposurePlan
        The plan.
    source : int
        2 internal or 3 cross.
    index : int
        Entry of that source's mixtures.
    epoch : int, default=0
        Each epoch has other graphs.

    Returns
    -------
    PackedGraphs
        A single graph, the same in every process.
    """
    one = plan.mixtures[source].select(torch.tensor([index]))
    return draw(plan, one, stream(plan.seed, "edges", NAMES[source], epoch, index))


def draw(plan: ExposurePlan, mixtures: Mixtures, generator: torch.Generator) -> PackedGraphs:
    """Draw these mixtures and give their nodes features.

    Parameters
    ----------
    plan : ExposurePlan
        Graphons and the nodes that lend features.
    mixtures : Mixtures
        What to draw.
    generator : torch.Generator
        A private generator; it advances.

    Returns
    -------
    PackedGraphs
        One graph an entry.
    """
    config = plan.config
    drawn = sample_mixtures(
        plan.matrices, mixtures, generator, mode=config.resize, max_tries=config.max_tries
    )
    total = int(drawn.num_nodes.sum())
    if plan.constant is not None:
        x: Tensor | None = plan.constant.expand(total, -1).clone()
    elif plan.pool is not None:
        encoding, features = plan.pool
        asked = structural_encoding(drawn, config.rw_dim, config.degree_dim)
        x = nearest_features(asked, encoding, features, config.close_k)
    else:
        x = None
    return PackedGraphs(drawn.edge_index, drawn.num_nodes, x)


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


def _fit_features(name: str, part: PackedGraphs, x: Tensor | None) -> PackedGraphs:
    """An external set with features like the ID graphs', or an error that names what differs."""
    if (part.x is None) != (x is None):
        lacking, having = (f"external[{name!r}]", "the ID graphs") if part.x is None else (
            "the ID graphs", f"external[{name!r}]"
        )  # fmt: skip
        raise ValueError(
            f"x: {having} have node features, {lacking} have none. Give both the same: a constant "
            "(HGOEHarmonize(features='constant')) or structural encodings (features='structural')"
        )
    if part.x is None or x is None:
        return part
    if part.x.shape[1] != x.shape[1]:
        raise ValueError(
            f"x: external[{name!r}] has width {part.x.shape[1]}, the ID graphs have {x.shape[1]}. "
            "Use HGOEHarmonize with features='project' on the external set, or 'constant' or 'structural' on "
            "both"
        )
    if part.x.dtype == x.dtype:
        return part
    cast = part.x.to(x.dtype)
    if not x.is_floating_point() and not bool((cast == part.x).all()):
        raise ValueError(
            f"x: external[{name!r}] has {part.x.dtype} values that are no integers, the ID graphs {x.dtype}"
        )
    warnings.warn(f"x: external[{name!r}] is cast from {part.x.dtype} to {x.dtype}", stacklevel=4)
    return PackedGraphs(part.edge_index, part.num_nodes, cast)


def _both_ways(
    graphs: PackedGraphs, sets: Mapping[str, PackedGraphs], directed: str
) -> dict[str, PackedGraphs]:
    """External graphs with both directions of every edge, as synthetic ones have; one warning in all."""
    found = {"graphs": undirected(graphs)[1]}
    result = {}
    for name, part in sets.items():
        result[name], found[f"external[{name!r}]"] = undirected(part)
    strange = [(name, graph) for name, graph in found.items() if graph is not None]
    if strange:
        name, graph = strange[0]
        text = f"edge_index: {name}[{graph}] has a directed edge"
        if directed == "error":
            raise ValueError(f"{text}; make the graphs undirected (ToUndirected)")
        warnings.warn(
            f"{text}; outliers are undirected, so ID graphs that are directed should be made so too",
            stacklevel=4,
        )
    return result


def _guard_leak(
    graphs: PackedGraphs, sets: Mapping[str, PackedGraphs], leak: str
) -> tuple[dict[str, PackedGraphs], int]:
    """External graphs that equal an ID graph, node for node, would be taught as outliers."""
    if leak == "keep" or not sets:
        return dict(sets), 0
    known: dict[bytes, int] = {}
    for index, digest in enumerate(content_digests(graphs)):
        known.setdefault(digest, index)
    kept, dropped = {}, 0
    for name, part in sets.items():
        found = [(k, known[d]) for k, d in enumerate(content_digests(part)) if d in known]
        if found and leak == "error":
            raise ValueError(
                f"external[{name!r}]: graph {found[0][0]} equals ID graph {found[0][1]} ({len(found)} such "
                "graphs). Remove them, or set leak='drop'"
            )
        inside = torch.ones(len(part), dtype=torch.bool)
        inside[[k for k, _ in found]] = False
        kept[name] = part.select(inside.nonzero().flatten()) if found else part
        dropped += len(found)
        if not len(kept[name]):
            raise ValueError(f"external[{name!r}]: every graph equals an ID graph")
    return kept, dropped


def _none_like(graphs: PackedGraphs) -> PackedGraphs:
    return graphs.select(torch.empty(0, dtype=torch.int64))
