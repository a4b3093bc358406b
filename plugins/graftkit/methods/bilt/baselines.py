r"""The rivals that a user compares with: soft labels, HXE, and conditional risk minimisation at inference.

.. math::
    \mathrm{HXE} = -\sum_{l=0}^{H-1} e^{-a l} \log p\big(y^{(l)} \mid y^{(l+1)}\big)
    \qquad \text{soft label} = \mathrm{softmax}\big(-b\, D_{y \cdot} / \max D\big)
    \qquad \text{CRM: } \arg\min_k \sum_j D_{kj} p_j

with :math:`y^{(l)}` the ancestor l levels above the finest class. Sources: Bertinetto et al., Making Better
Mistakes, CVPR 2020 (HXE and soft labels; the form of HXE is that of the paper's formula, unverified against
its code); Karthik et al., No Cost Likelihood Manipulation at Test Time, ICLR 2021 (CRM). Flat cross-entropy
and parallel heads are arguments of the head, see `VARIANTS`.

>>> tree = LabelTree.from_paths([("animal", "cat"), ("animal", "dog"), ("vehicle", "car")])
>>> crm_scores(torch.log(torch.tensor([[0.3, 0.3, 0.4]])), tree).argmax(1)  # car is likeliest, cat safer
tensor([0])
"""

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from graftkit.core.validation import check_number, raise_invalid
from graftkit.methods.bilt.distances import distance_rows, expected_distance, lca_distance
from graftkit.methods.bilt.head import LARGEST_DENSE
from graftkit.methods.bilt.level_losses import soft_rows, wide
from graftkit.methods.bilt.targets import check_targets
from graftkit.methods.bilt.tree import LabelTree

__all__ = ["HXELoss", "SoftLabelLoss", "crm_scores"]


def crm_scores(logits: Tensor, tree: LabelTree, level: int = -1) -> Tensor:
    """Negated expected distance of each class: conditional risk minimisation for any classifier.

    Parameters
    ----------
    logits : Tensor of shape (B, C_h)
        Of one level.
    tree : LabelTree
        The tree.
    level : int, default=-1
        The level of the logits.

    Returns
    -------
    Tensor of shape (B, C_h)
        Rank by the largest; at least float32.

    Raises
    ------
    TypeError
        If `logits` is no tensor of real numbers or `tree` no LabelTree.
    ValueError
        If the width is not that of the level.
    """
    if not isinstance(tree, LabelTree):
        raise_invalid("tree", tree, "a LabelTree", error=TypeError)
    if not isinstance(logits, Tensor) or not logits.is_floating_point():
        raise_invalid("logits", logits, "a floating tensor", error=TypeError)
    lineage = tree.lineage(level).to(logits.device)
    if logits.ndim != 2 or logits.shape[1] != lineage.shape[1]:
        raise_invalid("logits", logits, f"shape (B, {lineage.shape[1]})")
    with torch.autocast(logits.device.type, enabled=False):
        p = wide(logits).softmax(1)
        if lineage.shape[1] > LARGEST_DENSE:
            return -expected_distance(p, lineage, tree.sizes[: len(lineage)])
        return -(p @ lca_distance(lineage).to(p).T)


class _FinestLoss(nn.Module):
    """Losses on the finest logits alone, over a tensor or a `HierarchicalOutput`."""

    lineage: Tensor

    def __init__(self, tree: LabelTree) -> None:
        super().__init__()
        if not isinstance(tree, LabelTree):
            raise_invalid("tree", tree, "a LabelTree", error=TypeError)
        self.tree = tree
        self.register_buffer("lineage", tree.ancestors, persistent=False)

    def _prepare(self, output: Any, target: Tensor) -> Tensor:
        logits: Tensor = output.level_logits[-1] if hasattr(output, "level_logits") else output
        if not isinstance(logits, Tensor) or not logits.is_floating_point():
            raise_invalid("output", logits, "floating logits or a HierarchicalOutput", error=TypeError)
        if logits.ndim != 2 or logits.shape[1] != self.tree.num_classes:
            raise_invalid("output", logits, f"logits of shape (B, {self.tree.num_classes})")
        here = (
            isinstance(target, Tensor) and target.device.type == "cpu" and not torch.compiler.is_compiling()
        )
        check_targets(target, self.tree, self.lineage, values=here)
        if not len(target):
            raise_invalid("target", target, "at least one sample")
        if len(target) != len(logits):
            raise_invalid("target", target, f"{len(logits)} rows, as the output has")
        if not target.is_floating_point() and target.ndim == 2:
            target = target[:, -1]
            if here and bool((target < 0).any()):
                raise_invalid("target", -1, "known labels at the finest level")
        return wide(logits)


class SoftLabelLoss(_FinestLoss):
    """Cross-entropy with labels that fall off with the distance.

    Parameters
    ----------
    tree : LabelTree
        The tree.
    hardness : float, default=10.0
        The paper's b; larger is nearer to hard labels.

    Raises
    ------
    TypeError
        If an argument has the wrong type.
    ValueError
        If `hardness` is not above 0.
    """

    distance: Tensor | None

    def __init__(self, tree: LabelTree, hardness: float = 10.0) -> None:
        super().__init__(tree)
        self.hardness = check_number("hardness", hardness, low=0, closed="()")
        self.scale = -self.hardness / max(1, tree.largest_distance)
        matrix = lca_distance(self.lineage) if tree.num_classes <= LARGEST_DENSE else None
        self.register_buffer("distance", matrix, persistent=False)

    def forward(self, output: Any, target: Tensor) -> Tensor:
        """Compute the loss.

        Parameters
        ----------
        output : Tensor of shape (B, C_H) or HierarchicalOutput
            Finest logits.
        target : Tensor of shape (B,), (B, H) or (B, C_H)
            As `BiLTLoss` takes it.

        Returns
        -------
        Tensor
            A scalar.
        """
        z = self._prepare(output, target)
        y = target[:, -1] if target.ndim == 2 and not target.is_floating_point() else target

        def rows(classes: Tensor) -> Tensor:
            matrix = self.distance
            row = distance_rows(self.lineage, classes) if matrix is None else matrix.index_select(0, classes)
            return self.scale * row.to(z.dtype)

        with torch.autocast(z.device.type, enabled=False):
            return cross_entropy(z, soft_rows(y, rows, z.shape[1]))


class HXELoss(_FinestLoss):
    """Hierarchical cross-entropy: a weighted sum of the conditional losses on the way down.

    Parameters
    ----------
    tree : LabelTree
        The tree.
    alpha : float, default=0.1
        Decay of the weights from the finest level upwards, 0 or more; 0 is plain cross-entropy.

    Raises
    ------
    TypeError
        If an argument has the wrong type.
    ValueError
        If `alpha` is negative.
    """

    def __init__(self, tree: LabelTree, alpha: float = 0.1) -> None:
        super().__init__(tree)
        self.alpha = check_number("alpha", alpha, low=0)

    def forward(self, output: Any, target: Tensor) -> Tensor:
        """Compute the loss.

        Parameters
        ----------
        output : Tensor of shape (B, C_H) or HierarchicalOutput
            Finest logits.
        target : Tensor of shape (B,) or (B, H)
            int64 labels.

        Returns
        -------
        Tensor
            A scalar.

        Raises
        ------
        TypeError
            If the targets are shares.
        """
        z = self._prepare(output, target)
        if target.is_floating_point():
            raise_invalid("target", target, "int64 labels", error=TypeError)
        y = target[:, -1] if target.ndim == 2 else target
        logs = z.log_softmax(1)
        below = logs.gather(1, y[:, None])[:, 0]
        total = torch.zeros_like(below)
        levels = self.lineage.flip(0)  # finest first
        for height in range(len(levels)):
            if height + 1 < len(levels):
                row = levels[height + 1]
                outside = row[None, :] != row[y][:, None]
                above = logs.masked_fill(outside, -torch.inf).logsumexp(1)
            else:
                above = torch.zeros_like(below)  # the root has probability 1
            total = total + math.exp(-self.alpha * height) * (above - below)
            below = above
        return total.mean()
