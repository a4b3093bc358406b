r"""A weighted sum of mean cross-entropies over many levels, with its gradient in closed form.

.. math::
    L = \sum_t \frac{\lambda_t}{B} \sum_b \Big( -\sum_j y^t_{bj} \log \mathrm{softmax}(v^t_b)_j \Big), \qquad
    \partial v^t_b = \frac{\lambda_t}{B} \big( \mathrm{softmax}(v^t_b) - y^t_b \big)

for targets whose rows sum to 1. One function for all levels: at most levels of a deep tree the arithmetic is
smaller than what autograd takes to keep account of it.

>>> loss, parts = weighted_cross_entropies([torch.zeros(2, 4)], [torch.tensor([1, 3])], [2.0])
>>> round(float(loss), 3), [round(float(part), 3) for part in parts]
(2.773, [1.386])
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import nll_loss

__all__ = ["weighted_cross_entropies"]


def _mean(log: Tensor, target: Tensor) -> Tensor:
    if target.ndim == 1:
        return nll_loss(log, target)
    return torch.dot(log.reshape(-1), target.reshape(-1)) / -len(log)


class _Weighted(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, targets: Sequence[Tensor], weights: Sequence[float], *values: Tensor
    ) -> tuple[Tensor, Tensor]:
        logs = [value.log_softmax(1) for value in values]
        parts = torch.stack([_mean(log, target) for log, target in zip(logs, targets, strict=True)])
        total = torch.zeros_like(parts[0])
        for part, weight in zip(parts.unbind(), weights, strict=True):
            total.add_(part, alpha=weight)
        ctx.save_for_backward(*values, *logs, *targets)
        ctx.weights = weights
        ctx.mark_non_differentiable(parts)
        return total, parts

    @staticmethod
    def backward(ctx: Any, gradient: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        n, saved = len(ctx.weights), ctx.saved_tensors  # read once: recomputed activations are gone after it
        values, logs, targets = saved[:n], saved[n : 2 * n], saved[2 * n :]
        given = []
        for value, log, target, weight in zip(values, logs, targets, ctx.weights, strict=True):
            if torch.is_grad_enabled():  # somebody wants gradients of the gradients
                label = torch.zeros_like(log).scatter_(1, target[:, None], 1) if target.ndim == 1 else target
                given.append((value.softmax(1) - label) * (gradient * (weight / len(log))))
                continue
            result = log.exp()
            if target.ndim == 1:
                result.scatter_add_(1, target[:, None], result.new_full((len(log), 1), -1.0))
            else:
                result.sub_(target)
            given.append(result.mul_(gradient * (weight / len(log))))
        return None, None, *given


def weighted_cross_entropies(
    values: Sequence[Tensor], targets: Sequence[Tensor], weights: Sequence[float]
) -> tuple[Tensor, Tensor]:
    """Weighted sum of mean cross-entropies.

    Parameters
    ----------
    values : sequence of Tensor of shape (B, C_t)
        Logits or scores.
    targets : sequence of Tensor of shape (B,) or (B, C_t)
        Labels, or shares without gradient whose rows sum to 1.
    weights : sequence of float
        One a tensor.

    Returns
    -------
    tuple of (Tensor, Tensor of shape (T,))
        The sum, and the unweighted means without gradient.
    """
    total, parts = _Weighted.apply(targets, weights, *values)
    return total, parts
