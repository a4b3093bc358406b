r"""From scores to predictions: at any level, by the level's own head or consistently over the tree.

``decode="head"`` takes each level's own best class, so that levels may contradict each other. "rollup" takes
the ancestor of the best finest class. "path" takes the leaf a maximising
:math:`\sum_h \log \mathrm{softmax}(v^h)_{a_h}`, with v the scores of the source, and its ancestors. The last
two are always consistent. ``source="risk"`` ranks by AIGDL's scores, as published; "prob" by probabilities;
"crm" by conditional risk minimisation on the probabilities, which any classifier allows.

"path", "crm" and thresholds are extensions, not in the paper.

>>> tree = LabelTree.from_paths([("animal", "cat"), ("animal", "dog"), ("vehicle", "car")])
>>> z = torch.tensor([[1.0, 0.9, 1.2]])
>>> out = HierarchicalOutput(z, (torch.tensor([[1.0, 0.0]]), z), (torch.tensor([[1.0, 0.0]]), z), ())
>>> [int(decode(out, tree, source="prob", decode=how)) for how in ("head", "rollup", "path")]
[2, 2, 0]
"""

import torch
from torch import Tensor

from graftkit.core.validation import check_choice, check_number, raise_invalid
from graftkit.methods.bilt.baselines import crm_scores
from graftkit.methods.bilt.distances import node_mass
from graftkit.methods.bilt.head import HierarchicalOutput
from graftkit.methods.bilt.tree import LabelTree

__all__ = ["decode", "level_probabilities"]

DECODES = ("head", "rollup", "path")
SOURCES = ("risk", "prob", "crm")


def level_probabilities(output: HierarchicalOutput, tree: LabelTree, level: int = -1) -> Tensor:
    """Probabilities of a level: sums of the finest ones, which agree over levels.

    Parameters
    ----------
    output : HierarchicalOutput
        What the head returned.
    tree : LabelTree
        The tree.
    level : int, default=-1
        1 to H or -H to -1.

    Returns
    -------
    Tensor of shape (B, C_h)
        Rows sum to 1; at least float32.
    """
    z = output.level_logits[-1]
    p = z.to(torch.promote_types(z.dtype, torch.float32)).softmax(1)
    h = tree.level(level)
    return p if h == tree.num_levels else node_mass(p, tree.ancestors[h - 1].to(p.device), tree.sizes[h - 1])


def decode(
    output: HierarchicalOutput,
    tree: LabelTree,
    *,
    level: int | str = -1,
    source: str = "risk",
    decode: str = "head",
    threshold: float | None = None,
) -> Tensor:
    """Predict classes.

    Parameters
    ----------
    output : HierarchicalOutput
        What the head returned.
    tree : LabelTree
        The tree.
    level : int or "all", default=-1
        1 to H, -H to -1, or every level.
    source : {"risk", "prob", "crm"}, default="risk"
        What to rank by.
    decode : {"head", "rollup", "path"}, default="head"
        How levels are combined.
    threshold : float or None, default=None
        Probability below which a prediction becomes -1. With "rollup" or "path" and ``level="all"`` a sample
        then stops at its deepest confident ancestor.

    Returns
    -------
    Tensor of shape (B,) or (B, H)
        int64 class numbers, coarse to fine with "all".

    Raises
    ------
    TypeError
        If `threshold` is no number or `output` no HierarchicalOutput.
    ValueError
        If an option is unknown, `threshold` is outside 0 to 1, or the model has no head at that level.
    """
    if not hasattr(output, "level_logits"):
        raise_invalid("output", output, "a HierarchicalOutput", error=TypeError)
    check_choice("source", source, SOURCES)
    check_choice("decode", decode, DECODES)
    if threshold is not None:
        check_number("threshold", threshold, low=0, high=1)
    if isinstance(level, str):
        check_choice("level", level, ("all",))
    chosen = range(1, tree.num_levels + 1) if isinstance(level, str) else [tree.level(level)]
    if decode == "head":
        predictions = [_scores(output, tree, h, source).argmax(1) for h in chosen]
    else:
        leaf = (
            _leaf(output, tree, source) if decode == "path" else _scores(output, tree, -1, source).argmax(1)
        )
        predictions = list(tree.ancestors.to(leaf.device)[[h - 1 for h in chosen]][:, leaf].unbind(0))
    if threshold is not None:
        for k, h in enumerate(chosen):
            if decode == "head" and len(output.level_logits) > 1:
                z = output.level_logits[h - 1]
                p = z.to(torch.promote_types(z.dtype, torch.float32)).softmax(1)
            else:
                p = level_probabilities(output, tree, h)
            sure = p.gather(1, predictions[k][:, None])[:, 0] >= threshold
            predictions[k] = torch.where(sure, predictions[k], -1)
    return torch.stack(predictions, 1) if isinstance(level, str) else predictions[0]


def _scores(output: HierarchicalOutput, tree: LabelTree, level: int, source: str) -> Tensor:
    h = tree.level(level)
    place = h - 1 - (tree.num_levels - len(output.level_logits))
    if place < 0:
        raise_invalid("level", h, f"{tree.num_levels}, the one level that has a head",
                      fix="decode='rollup' predicts the others")  # fmt: skip
    if source == "crm":
        return crm_scores(output.level_logits[place], tree, h)
    return (output.level_scores if source == "risk" else output.level_logits)[place]


def _leaf(output: HierarchicalOutput, tree: LabelTree, source: str) -> Tensor:
    """The leaf with the largest sum of log-softmaxed scores over its path."""
    total = None
    ancestors = tree.ancestors.to(output.scores.device)
    for h in range(tree.num_levels - len(output.level_logits) + 1, tree.num_levels + 1):
        scores = _scores(output, tree, h, source)
        logs = scores.to(torch.promote_types(scores.dtype, torch.float32)).log_softmax(1)
        part = logs[:, ancestors[h - 1]]
        total = part if total is None else total + part
    assert total is not None
    return total.argmax(1)
