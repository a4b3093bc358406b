"""Targets at every level from what a loader gives: finest labels, labels a level, or mixed labels.

Coarse-only labels and mixed targets are extensions; the paper has finest labels alone.

>>> ancestors = torch.tensor([[0, 0, 1], [0, 1, 2]])
>>> [level.tolist() for level in level_targets(torch.tensor([2, 0]), ancestors, (2, 3))]
[[1, 0], [2, 0]]
"""

import torch
from torch import Tensor

from graftkit.core.validation import raise_invalid
from graftkit.methods.bilt.distances import node_mass
from graftkit.methods.bilt.growth import listed
from graftkit.methods.bilt.tree import LabelTree

__all__ = ["check_labels", "check_targets", "level_targets"]

UNKNOWN = -1


def level_targets(target: Tensor, ancestors: Tensor, sizes: tuple[int, ...]) -> list[Tensor]:
    """Spread targets over the levels.

    Parameters
    ----------
    target : Tensor of shape (B,), (B, H) or (B, C_H)
        int64 finest labels; int64 labels a level with -1 for unknown; or floating shares of the finest
        classes.
    ancestors : Tensor of shape (H, C_H)
        ``LabelTree.ancestors``.
    sizes : tuple of int
        Classes by level.

    Returns
    -------
    list of Tensor of shape (B,) or (B, C_h)
        Labels, or shares of each level's classes, coarse to fine.
    """
    if target.is_floating_point():
        coarse = [node_mass(target, row, n) for row, n in zip(ancestors[:-1], sizes[:-1], strict=True)]
        return [*coarse, target]
    if target.ndim == 2:
        return list(target.unbind(1))
    # index_select refuses negative numbers where nobody checks values; an index would take the last class.
    return list(ancestors.index_select(1, target).unbind(0))


def check_targets(target: Tensor, tree: LabelTree, ancestors: Tensor, *, values: bool) -> None:
    """Refuse targets that do not fit the tree.

    Parameters
    ----------
    target : Tensor of shape (B,), (B, H) or (B, C_H)
        As in `level_targets`.
    tree : LabelTree
        The tree.
    ancestors : Tensor of shape (H, C_H)
        Its ancestors on the device of `target`.
    values : bool
        False checks type and shape alone, which costs no synchronisation.

    Raises
    ------
    TypeError
        If this is no tensor of int64 or floating point.
    ValueError
        If shape or values are wrong; labels that contradict the tree are named.
    """
    if not isinstance(target, Tensor):
        raise_invalid("target", target, "a tensor", error=TypeError)
    soft = target.is_floating_point()
    if not soft and target.dtype != torch.int64:
        raise_invalid("target", target, "int64 labels or floating shares", error=TypeError)
    if soft and (target.ndim != 2 or target.shape[1] != tree.num_classes):
        raise_invalid("target", target, f"shares of shape (B, {tree.num_classes}), or int64 labels",
                      fix="Finest labels as floats are refused: use target.long()")  # fmt: skip
    if not soft and (target.ndim not in (1, 2) or (target.ndim == 2 and target.shape[1] != tree.num_levels)):
        raise_invalid("target", target, f"shape (B,), or (B, {tree.num_levels}) with a label a level")
    if not values:
        return
    if soft:
        sums = target.sum(1)
        if not bool(torch.isfinite(target).all()) or bool((target < 0).any()) or bool(
            ((sums - 1).abs() > 1e-3).any()
        ):  # fmt: skip
            raise_invalid("target", target, "finite shares from 0 that sum to 1 a row")
    elif target.ndim == 1:
        low, high = torch.aminmax(target) if len(target) else (target.new_zeros(()), target.new_zeros(()))
        if int(low) < 0 or int(high) >= tree.num_classes:
            wrong = int(low) if int(low) < 0 else int(high)
            raise_invalid("target", wrong, f"labels 0 to {tree.num_classes - 1}",
                          fix="Unknown levels are -1 in targets of shape (B, H)")  # fmt: skip
    else:
        _check_levels(target, tree, ancestors)


def _check_levels(target: Tensor, tree: LabelTree, ancestors: Tensor) -> None:
    for h, size in enumerate(tree.sizes):
        outside = target[:, h][(target[:, h] < UNKNOWN) | (target[:, h] >= size)]
        if outside.numel():
            raise_invalid("target", int(outside[0]), f"-1 to {size - 1} at level {h + 1}")
    for h in range(1, tree.num_levels):
        for k in range(h):
            parent = torch.zeros(tree.sizes[h], dtype=torch.int64, device=target.device)
            parent[ancestors[h]] = ancestors[k]
            known = (target[:, h] >= 0) & (target[:, k] >= 0)
            wrong = target[known][parent[target[known, h]] != target[known, k]]
            if len(wrong):
                named = [
                    f"{tree.names(h + 1)[int(row[h])]} under {tree.names(k + 1)[int(row[k])]}"
                    for row in wrong
                ]
                raise ValueError(f"target: expected labels on one path of the tree, got {listed(named)}")


def check_labels(labels: Tensor, tree: LabelTree) -> None:
    """Check the labels of a whole data set before training on it.

    The loss takes batches in which a level is unknown throughout; a data set like that cannot train it.

    Parameters
    ----------
    labels : Tensor of shape (N,) or (N, H)
        int64, as the loss takes them.
    tree : LabelTree
        The tree.

    Raises
    ------
    TypeError
        If the labels are no int64 tensor or `tree` is no LabelTree.
    ValueError
        If a label is wrong, a level has no label at all or a finest class no sample; names are listed.
    """
    if not isinstance(labels, Tensor) or labels.dtype != torch.int64:
        raise_invalid("labels", labels, "an int64 tensor", error=TypeError)
    if not isinstance(tree, LabelTree):
        raise_invalid("tree", tree, "a LabelTree", error=TypeError)
    ancestors = tree.ancestors
    labels = labels.detach().cpu()
    check_targets(labels, tree, ancestors, values=True)
    if not len(labels):
        raise_invalid("labels", labels, "at least one")
    levels = level_targets(labels, ancestors, tree.sizes)
    empty = [h + 1 for h, level in enumerate(levels) if not bool((level >= 0).any())]
    if empty:
        shown = "; ".join(f"level {h} ({listed(tree.names(h))})" for h in empty)
        raise ValueError(f"labels: expected labels at every level, got none at {shown}")
    counts = torch.bincount(levels[-1][levels[-1] >= 0], minlength=tree.num_classes)
    absent = [tree.names()[k] for k in torch.nonzero(counts == 0).flatten().tolist()]
    if absent:
        raise ValueError(f"labels: expected every class at least once, got none of {listed(absent)}")
