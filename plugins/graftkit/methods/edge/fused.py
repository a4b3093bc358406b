r"""EDGE's three terms as one node of the graph: the fast path, equal to the plain one.

All gradients are multiples of the sigmoid, so one number a row and one sigmoid give them:

.. math::
    \frac{\partial L}{\partial x_{rc}} = w_r\, \sigma(x_{rc}) - \frac{Y_{rc}}{nC}, \qquad
    w_i = \frac{1}{nC} - \frac{\beta d_i}{n_o k}, \quad w_j = \frac{\alpha}{n_o C} + \frac{\beta c_j}{n_o k}

with the counts c and d of `gap` (d is 0 outside the tail, Y is 0 for outliers). Source: specification 1.2,
"analytic gradients". Binary cross-entropy only; the plain path serves everything else.

>>> import torch
>>> logits, targets = torch.zeros(3, 2), torch.ones(2, 2)
>>> total, parts = fused_terms(logits, targets, 1, 0.0, torch.tensor(0.1), 1.0, "auto")
>>> total  # ln 2 for the known rows and ln 2 for the outlier
tensor(1.3863)
"""

from typing import Any

import torch
from torch import Tensor

from graftkit.methods.edge.gap import pair_counts

__all__ = ["fused_terms"]


def fused_terms(
    logits: Tensor, targets: Tensor, size: int, margin: float, beta: Tensor, alpha: float, method: str
) -> tuple[Tensor, Tensor]:
    """The total, and its three terms with the share of pairs inside the hinge.

    Parameters
    ----------
    logits : Tensor of shape (n + n_o, C)
        Known rows first, then outliers, at least one of each; float32 or wider.
    targets : Tensor of shape (n, C)
        Targets of the known rows, in the logits' dtype.
    size : int
        Rows in the tail.
    margin : float
        The gap asked for.
    beta : Tensor of shape ()
        Weight of the gap term, in the logits' dtype.
    alpha : float
        Weight of the confidence term.
    method : {"auto", "pairwise", "sorted"}
        How pairs are counted.

    Returns
    -------
    total : Tensor of shape ()
        The loss.
    parts : Tensor of shape (4,)
        Classification, confidence and gap term, active fraction, without a gradient. Apart from each other
        only when somebody reads them: that is one more call.
    """
    total, parts = _Fused.apply(logits, targets, size, margin, beta, alpha, method)
    return total, parts


class _Fused(torch.autograd.Function):
    # Two outputs and few operations: at 128 x 80 the time goes into calls, not into numbers.
    @staticmethod
    def forward(
        ctx: Any,
        logits: Tensor,
        targets: Tensor,
        size: int,
        margin: float,
        beta: Tensor,
        alpha: float,
        method: str,
    ) -> tuple[Tensor, Tensor]:
        n, labels = targets.shape
        n_oe = len(logits) - n
        # Softplus without overflow and with all digits, summed over the labels.
        energy = logits.abs().neg_().exp_().log1p_().add_(logits.clamp(min=0)).sum(1)
        known, oe_energy = energy[:n], energy[n:]
        id_term = (known.sum() - torch.dot(targets.reshape(-1), logits[:n].reshape(-1))) / (n * labels)
        conf = oe_energy.sum() / (n_oe * labels)
        tail, rows = known.topk(size, largest=False, sorted=False)
        gap, inside, outside, active = pair_counts(oe_energy, tail, margin, method)
        share = beta / (n_oe * size)
        weights = torch.cat(
            [torch.full_like(known, 1 / (n * labels)), (inside * share).add_(alpha / (n_oe * labels))]
        )
        weights.index_add_(0, rows, outside * -share)
        ctx.save_for_backward(logits, targets, weights)
        ctx.set_materialize_grads(False)
        parts = torch.stack([id_term, conf, gap, active])
        ctx.mark_non_differentiable(parts)
        return torch.addcmul(id_term.add_(conf, alpha=alpha), beta, gap), parts

    @staticmethod
    def backward(ctx: Any, grad: Tensor | None, _: None) -> tuple[Tensor | None, ...]:
        nothing = (None,) * 6
        if grad is None:
            return None, *nothing
        logits, targets, weights = ctx.saved_tensors
        n, labels = targets.shape
        if torch.is_grad_enabled():  # a second derivative was asked for: nothing in place
            spread = torch.cat([targets, torch.zeros_like(logits[n:])]) / (n * labels)
            return grad * (logits.sigmoid() * weights[:, None] - spread), *nothing
        result = logits.sigmoid().mul_((weights * grad)[:, None])
        result[:n].addcmul_(targets, grad, value=-1 / (n * labels))
        return result, *nothing
