"""What one batch adds to the counts of `HierarchicalMetrics`, and which outputs can be counted.

>>> tree = LabelTree.from_paths([("animal", "cat"), ("animal", "dog"), ("vehicle", "car")])
>>> z = torch.tensor([[1.0, 3.0, 2.0]])  # dog first, truth is cat: one level up
>>> out = HierarchicalOutput(z, (z,), (z,), ())
>>> dict(count_batch(out, torch.tensor([0]), tree, tree.ancestors, (1,), "prob"))["histogram"].tolist()
[0, 1, 0]
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from graftkit.core.validation import raise_invalid
from graftkit.methods.bilt.baselines import crm_scores
from graftkit.methods.bilt.decoding import decode
from graftkit.methods.bilt.distances import distance_rows
from graftkit.methods.bilt.head import HierarchicalOutput
from graftkit.methods.bilt.tree import LabelTree

__all__ = ["check_scores", "count_batch", "on_device"]


def check_scores(output: HierarchicalOutput) -> None:
    """Refuse numbers that cannot be ranked, at any level.

    Parameters
    ----------
    output : HierarchicalOutput
        What a model returned.

    Raises
    ------
    TypeError
        If scores are no floating numbers.
    ValueError
        If one is NaN.
    """
    for scores in (output.scores, *output.level_logits, *output.level_scores):
        if not scores.is_floating_point():
            raise_invalid("output", scores, "floating scores", error=TypeError)
        if bool(scores.isnan().any()):
            raise_invalid("output", scores, "scores without NaN")


def on_device(output: HierarchicalOutput, device: torch.device) -> HierarchicalOutput:
    """The same output without gradient and corrections, elsewhere.

    Parameters
    ----------
    output : HierarchicalOutput
        What a model returned.
    device : torch.device
        Where to.

    Returns
    -------
    HierarchicalOutput
        Detached.
    """
    logits, scores = (tuple(level.detach().to(device) for level in levels)
                      for levels in (output.level_logits, output.level_scores))  # fmt: skip
    return HierarchicalOutput(output.scores.detach().to(device), logits, scores, ())


def count_batch(
    output: HierarchicalOutput, y: Tensor, tree: LabelTree, ancestors: Tensor, ks: Sequence[int], source: str
) -> list[tuple[str, Any]]:
    """Count one batch.

    Parameters
    ----------
    output : HierarchicalOutput
        On the device of `y`.
    y : Tensor of shape (B,)
        int64 finest labels.
    tree : LabelTree
        The tree.
    ancestors : Tensor of shape (H, C_H)
        Its ancestors, on the device of `y`.
    ks : sequence of int
        Rising numbers of predictions.
    source : {"risk", "prob", "crm"}
        What classes are ranked by.

    Returns
    -------
    list of (str, Tensor)
        Name of a count and what is to be added to it.
    """
    largest = ks[-1]
    places = [k - 1 for k in ks]
    ranking = _ranked(output, tree, source, largest)
    rows = distance_rows(ancestors, y).long()
    near = rows.gather(1, ranking)
    found = (ranking == y[:, None]).cumsum(1)
    most = max(1, tree.largest_distance)
    gains = (most - near).cumsum(1).double()
    ideal = (most - rows.sort(1).values[:, :largest]).cumsum(1).double()
    truth, rolled = ancestors[:, y], ancestors[:, ranking[:, 0]]
    headed = len(output.level_logits) == tree.num_levels
    own = decode(output, tree, level="all", source=source).T if headed else rolled
    right, right_rolled = own == truth, rolled == truth
    broken = (ancestors[:, own[-1]] != own).any(0)
    nodes = [
        torch.bincount(level[hit], minlength=size)
        for level, hit, size in zip(truth, right_rolled, tree.sizes, strict=True)
    ]
    return [
        ("histogram", torch.bincount(near[:, 0], minlength=tree.num_levels + 1)),
        ("hits", found[:, places].sum(0)),
        ("distances", near.cumsum(1)[:, places].sum(0)),
        ("level_hits", right.sum(1)),
        ("rollup_hits", right_rolled.sum(1)),
        ("paths", torch.stack([right.all(0).sum(), broken.sum()])),
        ("classes", torch.bincount(y, minlength=tree.num_classes)),
        ("node_hits", torch.cat(nodes)),
        ("shared", right_rolled.sum()[None]),
        ("precision", (gains / ideal)[:, places].sum(0)),
    ]


def _ranked(output: HierarchicalOutput, tree: LabelTree, source: str, k: int) -> Tensor:
    finest = output.level_logits[-1]
    scores = crm_scores(finest, tree) if source == "crm" else output.scores if source == "risk" else finest
    # Ties go to the lower number, on every device and for every k.
    return scores.sort(dim=1, descending=True, stable=True).indices[:, :k]
