r"""The loss over all levels: classification of the logits and, with AIGDL, of the risk scores.

.. math::
    L = \sum_h \lambda_h \Big( -\log \mathrm{softmax}(z^h)_{y^h}
        - \sum_j \tilde y^h_j \log \mathrm{softmax}(s^h)_j \Big), \qquad \lambda_h = e^{\alpha (h - H)}

    \tilde y^h = (1 - \epsilon)\, \mathrm{onehot}(y^h) + \epsilon\,
        \mathrm{softmax}(\gamma \tilde D^h_{y^h, \cdot})

averaged over the batch. Source: Lu et al., AAAI 2025, eq. 1 and the AIGDL section (the paper leaves out the
minus signs; specification section 1.5). Soft labels are detached, so W learns through the scores alone.
The AIGDL term has a floor above zero (:math:`\log \sum_j e^{-D_{yj}}` for a perfect prediction at
:math:`\beta = 0`): its value is no test of convergence.

Extensions, not in the paper: mixed targets, labels that are known at some levels only. Unverified: how the
paper combined label smoothing with BiLT without AIGDL; ``smooth_logits`` is the natural reading.

>>> from graftkit.methods.bilt.head import HierarchicalHead
>>> tree = LabelTree.from_paths([("animal", "cat"), ("animal", "dog"), ("vehicle", "car")])
>>> out = HierarchicalHead(8, tree, neck=None)(torch.zeros(4, 8))
>>> loss = BiLTLoss(tree)(out, torch.tensor([0, 1, 2, 2]))
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from graftkit.core.validation import check_bool, check_choice, check_number, raise_invalid
from graftkit.methods.bilt.cost import FactoredCost, cost_rows
from graftkit.methods.bilt.distances import distance_rows, lca_distance
from graftkit.methods.bilt.head import LARGEST_DENSE, HierarchicalOutput
from graftkit.methods.bilt.level_losses import level_weights as weights_of_levels  # an argument has its name
from graftkit.methods.bilt.level_losses import mean_cross_entropy, soft_rows, wide
from graftkit.methods.bilt.targets import check_targets, level_targets
from graftkit.methods.bilt.tree import LabelTree

__all__ = ["BiLTLoss", "LossComponents"]


class LossComponents(NamedTuple):
    """Parts of the last loss, detached; reading a value is what synchronises.

    Attributes
    ----------
    classification : Tensor of shape (L,)
        Cross-entropy of the logits by level, coarse to fine, unweighted.
    difference : Tensor of shape (L,)
        The AIGDL term by level, unweighted; zeros without AIGDL.
    """

    classification: Tensor
    difference: Tensor


class BiLTLoss(nn.Module):
    """BiLT's loss with AIGDL, over a `HierarchicalOutput`.

    Parameters
    ----------
    tree : LabelTree
        That of the head.
    alpha : float, default=1.0
        Decay of the weights towards coarse levels, 0 or more; 0 weighs all alike.
    epsilon : float, default=0.5
        Share of the soft label, 0 to 1; 0 gives hard targets.
    gamma : float, default=1.0
        Sharpness of the soft label, 0 or more; 0 is classic label smoothing.
    level_weights : {None, "equal", "uniform", "finest"} or sequence of float, default=None
        In place of `alpha`.
    smooth_logits : bool, default=False
        Soft labels ``softmax(-gamma * D)`` for the logits too: label smoothing without AIGDL.
    validate : {"auto", "always", "never"}, default="auto"
        Values of targets are checked on a CPU, always, or never; type and shape always.

    Attributes
    ----------
    last_components : LossComponents or None
        Parts of the last call.

    Raises
    ------
    TypeError
        If an argument has the wrong type.
    ValueError
        If it is out of range.
    """

    ancestors: Tensor

    def __init__(
        self,
        tree: LabelTree,
        alpha: float = 1.0,
        epsilon: float = 0.5,
        gamma: float = 1.0,
        level_weights: str | Sequence[float] | None = None,
        *,
        smooth_logits: bool = False,
        validate: str = "auto",
    ) -> None:
        super().__init__()
        if not isinstance(tree, LabelTree):
            raise_invalid("tree", tree, "a LabelTree", error=TypeError)
        self.tree = tree
        self.alpha = check_number("alpha", alpha, low=0)
        self.epsilon = check_number("epsilon", epsilon, low=0, high=1)
        self.gamma = check_number("gamma", gamma, low=0)
        self.weights = weights_of_levels(tree.num_levels, self.alpha, level_weights)
        self.smooth_logits = check_bool("smooth_logits", smooth_logits)
        self.validate: str = check_choice("validate", validate, ("auto", "always", "never"))
        self.register_buffer("ancestors", tree.ancestors, persistent=False)
        for h, size in enumerate(tree.sizes) if self.smooth_logits else ():
            lineage = tree.lineage(h + 1)
            self.register_buffer(f"lineage_{h}", lineage, persistent=False)
            if size <= LARGEST_DENSE:
                self.register_buffer(f"distance_{h}", lca_distance(lineage), persistent=False)
        self.last_components: LossComponents | None = None

    def forward(self, output: HierarchicalOutput, target: Tensor) -> Tensor:
        """Compute the loss.

        Parameters
        ----------
        output : HierarchicalOutput
            What the head or the wrapped model returned.
        target : Tensor of shape (B,), (B, H) or (B, C_H)
            int64 finest labels; int64 labels a level, -1 where unknown; or floating shares, as mixup makes.

        Returns
        -------
        Tensor
            A scalar. A level without a known label adds zero.

        Raises
        ------
        TypeError
            If `output` or `target` has the wrong type.
        ValueError
            If sizes or labels do not fit the tree.
        """
        if not hasattr(output, "level_logits"):
            raise_invalid("output", output, "a HierarchicalOutput", error=TypeError)
        self._check(output, target)
        targets = level_targets(target, self.ancestors, self.tree.sizes)
        first = self.tree.num_levels - len(output.level_logits)
        values, goals = [], []
        with torch.autocast(output.scores.device.type, enabled=False):
            for h, z in enumerate(map(wide, output.level_logits), start=first):
                values.append(z)
                goals.append(self._goal_of_logits(targets[h], z, h))
            for h, cost in enumerate(output.level_cost, start=first):
                values.append(wide(output.level_scores[h - first]))
                goals.append(self._goal_of_scores(targets[h], values[-1], cost))
            copies = 2 if output.level_cost else 1
            weights = self.weights[first:] * copies
            whole = target.ndim == 1 or target.is_floating_point()  # every level known
            labels = [None] * len(values) if whole else targets[first:] * copies
            means = [mean_cross_entropy(*term) for term in zip(values, goals, labels, strict=True)]
            total = torch.stack([w * mean for w, mean in zip(weights, means, strict=True)]).sum()
            parts = torch.stack(means).detach()
        levels = len(output.level_logits)
        self.last_components = LossComponents(
            parts[:levels], parts[levels:] if output.level_cost else torch.zeros_like(parts)
        )
        return total

    def _check(self, output: HierarchicalOutput, target: Tensor) -> None:
        sizes = tuple(z.shape[1] for z in output.level_logits)
        if sizes not in (self.tree.sizes, self.tree.sizes[-1:]):
            raise_invalid("output", sizes, f"logits of {self.tree.sizes} classes, coarse to fine")
        here = (
            isinstance(target, Tensor) and target.device.type == "cpu" and not torch.compiler.is_compiling()
        )
        check_targets(target, self.tree, self.ancestors,
                      values=self.validate == "always" or (self.validate == "auto" and here))  # fmt: skip
        if not len(target):
            raise_invalid("target", target, "at least one sample")
        if len(target) != len(output.scores):
            raise_invalid("target", target, f"{len(output.scores)} rows, as the output has")

    def _goal_of_logits(self, y: Tensor, z: Tensor, h: int) -> Tensor:
        if not (self.smooth_logits and self.epsilon > 0):
            return y.to(z.dtype) if y.is_floating_point() else y
        return self._target(y, z, lambda rows: -self._distance(rows, h))

    def _goal_of_scores(self, y: Tensor, s: Tensor, cost: Tensor | FactoredCost) -> Tensor:
        if self.epsilon == 0:
            return y.to(s.dtype) if y.is_floating_point() else y
        return self._target(y, s, lambda rows: cost_rows(cost, rows))

    @torch.no_grad()
    def _target(self, y: Tensor, values: Tensor, logits_of: Callable[[Tensor], Tensor]) -> Tensor:
        """(1 - epsilon) of the label and epsilon of the soft label, of shape (B, C), without gradient."""

        def sharp(rows: Tensor) -> Tensor:
            logits = logits_of(rows).to(values.dtype)  # its own memory, so that it may be changed
            return logits if self.gamma == 1 else logits.mul_(self.gamma)

        if y.is_floating_point():
            soft = soft_rows(y, sharp, values.shape[1])
            return (1 - self.epsilon) * y.to(values.dtype) + self.epsilon * soft
        rows = y.clamp_min(0)
        target = sharp(rows).softmax(1).mul_(self.epsilon)
        share = target.new_full((len(rows), 1), 1 - self.epsilon)
        return target.scatter_add_(1, rows[:, None], share)

    def _distance(self, rows: Tensor, h: int) -> Tensor:
        matrix = getattr(self, f"distance_{h}", None)
        return distance_rows(getattr(self, f"lineage_{h}"), rows) if matrix is None else matrix[rows]

    def extra_repr(self) -> str:
        """Arguments for ``repr``.

        Returns
        -------
        str
            In the order of the signature.
        """
        weights = [round(w, 4) for w in self.weights]
        return (f"tree={self.tree}, alpha={self.alpha:g}, epsilon={self.epsilon:g}, gamma={self.gamma:g}, "
                f"weights={weights}, smooth_logits={self.smooth_logits}")  # fmt: skip
