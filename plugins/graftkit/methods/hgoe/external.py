"""External sets made to fit the ID graphs: features, both directions of edges, no ID graph among them.

>>> pair = PackedGraphs(torch.tensor([[0], [1]]), torch.tensor([2]))
>>> sets, dropped = guard_leak(pair, {"a": PackedGraphs(pair.edge_index, torch.tensor([3]))}, "drop")
>>> len(sets["a"]), dropped
(1, 0)
"""

import warnings
from collections.abc import Mapping

import torch
from torch import Tensor

from graftkit.methods.hgoe.graphs import PackedGraphs
from graftkit.methods.hgoe.pairs import content_digests, undirected

__all__ = ["both_ways", "fit_features", "guard_leak"]


def fit_features(name: str, part: PackedGraphs, x: Tensor | None) -> PackedGraphs:
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


def both_ways(
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


def guard_leak(
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
