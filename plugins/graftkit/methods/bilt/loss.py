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
from torch.nn.functional import cross_entropy

from graftkit.core.validation import check_bool, check_choice, check_number, raise_invalid
from graftkit.methods.bilt.cost import FactoredCost, cost_rows
from graftkit.methods.bilt.distances import distance_rows, lca_distance
from graftkit.methods.bilt.head import LARGEST_DENSE, HierarchicalOutput
from graftkit.methods.bilt.targets import check_targets, level_targets
from graftkit.methods.bilt.tree import LabelTree

__all__ = ["BiLTLoss", "LossComponents", "level_weights", "soft_rows"]

ROWS = 1024


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


def level_weights(num_levels: int, alpha: float, weights: str | Sequence[float] | None = None) -> list[float]:
    """Weights of the levels, coarse to fine.

    Parameters
    ----------
    num_levels : int
        H.
    alpha : float
        Decay towards coarse levels.
    weights : {None, "equal", "uniform", "finest"} or sequence of float, default=None
        None is ``exp(alpha * (h - H))``; "uniform" is the public code's name for weights proportional to h.

    Returns
    -------
    list of float
        H weights.

    Raises
    ------
    TypeError
        If a weight is no number.
    ValueError
        If a weight is negative or their number is not H.
    """
    levels = range(1, num_levels + 1)
    if weights is None:
        return torch.tensor([alpha * (h - num_levels) for h in levels], dtype=torch.float64).exp().tolist()
    if isinstance(weights, str):
        check_choice("level_weights", weights, ("equal", "uniform", "finest"))
        rules: dict[str, Callable[[int], float]] = {
            "equal": lambda _: 1.0,
            "uniform": float,
            "finest": lambda h: float(h == num_levels),
        }
        return [rules[weights](h) for h in levels]
    if not isinstance(weights, Sequence):
        raise_invalid("level_weights", weights, "a name or a sequence of numbers", error=TypeError)
    if len(weights) != num_levels:
        raise_invalid("level_weights", weights, f"{num_levels} numbers, one a level")
    return [check_number("level_weights", weight, low=0) for weight in weights]


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
        self.weights = _weights(tree.num_levels, self.alpha, level_weights)
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
        whole = target.ndim == 1 or target.is_floating_point()  # every level known
        classification, difference = [], []
        total = output.level_logits[-1].new_zeros((), dtype=torch.float32)
        with torch.autocast(output.scores.device.type, enabled=False):
            for h, (z, s) in enumerate(
                zip(output.level_logits, output.level_scores, strict=True), start=first
            ):
                y = targets[h]
                one = self._classification(_wide(z), y, h, whole)
                classification.append(one.detach())
                if output.level_cost:
                    two = self._difference(_wide(s), y, output.level_cost[h - first], whole)
                    difference.append(two.detach())
                    one = one + two
                total = total + self.weights[h] * one
        parts = torch.stack(classification)
        self.last_components = LossComponents(
            parts, torch.stack(difference) if difference else torch.zeros_like(parts)
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

    def _classification(self, z: Tensor, y: Tensor, h: int, whole: bool) -> Tensor:
        if not (self.smooth_logits and self.epsilon > 0):
            return _cross_entropy(z, y, whole)
        soft = self._target(y, z.dtype, z.shape[1], lambda rows: -self.gamma * self._distance(rows, h))
        return _cross_entropy(z, soft, True) if whole else _mean(cross_entropy(z, soft, reduction="none"), y)

    def _difference(self, s: Tensor, y: Tensor, cost: Tensor | FactoredCost, whole: bool) -> Tensor:
        if self.epsilon == 0:
            return _cross_entropy(s, y, whole)
        soft = self._target(y, s.dtype, s.shape[1], lambda rows: self.gamma * cost_rows(cost, rows))
        return _cross_entropy(s, soft, True) if whole else _mean(cross_entropy(s, soft, reduction="none"), y)

    def _target(
        self, y: Tensor, dtype: torch.dtype, size: int, logits_of: Callable[[Tensor], Tensor]
    ) -> Tensor:
        """(1 - epsilon) of the label and epsilon of the soft label, of shape (B, C), without gradient."""
        with torch.no_grad():
            if y.is_floating_point():
                soft = soft_rows(y, lambda rows: logits_of(rows).to(dtype), size)
                return (1 - self.epsilon) * y.to(dtype) + self.epsilon * soft
            rows = y.clamp_min(0)
            target = logits_of(rows).to(dtype).softmax(1).mul_(self.epsilon)
            share = torch.full_like(rows, 1 - self.epsilon, dtype=dtype)
            return target.scatter_add_(1, rows[:, None], share[:, None])

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


_weights = level_weights  # the constructor's argument has the same name


def _wide(values: Tensor) -> Tensor:
    return values.to(torch.promote_types(values.dtype, torch.float32))


def soft_rows(y: Tensor, logits_of: Callable[[Tensor], Tensor], size: int) -> Tensor:
    """Soft labels: rows of hard labels, mixtures of rows for shares.

    Parameters
    ----------
    y : Tensor of shape (B,) or (B, C)
        Labels, those below 0 taken as 0, or shares.
    logits_of : callable
        From class numbers of shape (N,) to logits of shape (N, C).
    size : int
        C.

    Returns
    -------
    Tensor of shape (B, C)
        Rows sum to 1.
    """
    if not y.is_floating_point():
        return logits_of(y.clamp_min(0)).softmax(1)
    parts = [
        y[:, rows].to(soft.dtype) @ soft
        for rows in torch.arange(size, device=y.device).split(ROWS)
        for soft in (logits_of(rows).softmax(1),)
    ]
    return torch.stack(parts).sum(0) if len(parts) > 1 else parts[0]


def _cross_entropy(z: Tensor, y: Tensor, whole: bool) -> Tensor:
    """Of labels or shares; labels that are not all known are averaged over those that are."""
    if whole:
        return cross_entropy(z, y.to(z.dtype) if y.is_floating_point() else y)
    return _mean(cross_entropy(z, y, reduction="none", ignore_index=-1), y)


def _mean(each: Tensor, y: Tensor) -> Tensor:
    """Mean over the samples whose label is known; zero, on the graph, where none is."""
    known = (y >= 0).to(each.dtype)
    return (each * known).sum() / known.sum().clamp_min(1)
