"""Outliers of a plan: all at once, or one at a time from a stream of its own.

Nodes of synthetic graphs take the features of structurally similar real nodes.

>>> from graftkit.methods.hgoe import HGOEConfig, plan_exposure
>>> ring = torch.tensor([[0, 1, 2, 3, 1, 2, 3, 0], [1, 2, 3, 0, 0, 1, 2, 3]])
>>> config = HGOEConfig(pairing="with_replacement", num_subgroups=1)
>>> plan = plan_exposure(PackedGraphs.from_lists([ring] * 8, [4] * 8), {}, config, seed=0)
>>> outliers, source = realise(plan)
>>> len(outliers), source.unique().tolist()
(4, [2])
"""

import torch
from torch import Tensor

from graftkit.methods.hgoe.alignment import nearest_features
from graftkit.methods.hgoe.encodings import structural_encoding
from graftkit.methods.hgoe.exposure import EXTERNAL, NAMES, ExposurePlan
from graftkit.methods.hgoe.graphs import PackedGraphs, concatenate
from graftkit.methods.hgoe.mixup import Mixtures
from graftkit.methods.hgoe.sampling import sample_mixtures
from graftkit.methods.hgoe.streams import stream

__all__ = ["draw", "draw_one", "realise"]


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
