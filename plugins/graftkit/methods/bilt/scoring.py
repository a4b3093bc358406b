r"""Risk scores and the matrix behind them, with their gradients in closed form.

.. math::
    \Delta = \mathrm{rownorm}_2\big(W \odot (1 - I)\big), \qquad \tilde D = \beta \Delta - D, \qquad
    S = P \tilde D^\top

With :math:`G` the gradient of S, :math:`W_0` the matrix W without its diagonal and :math:`n_k` the norm of
its row k, the chain rule gives (our derivation)

.. math::
    R_k = \frac{\beta}{n_k} (G^\top P)_k, \qquad
    \partial W_k = R_k - \frac{\langle R_k, W_{0,k} \rangle}{n_k^2} W_{0,k}, \qquad \partial P = G \tilde D

with zeros on the diagonals of R and of the result. `risk_scores` makes the matrix in one new C x C tensor,
and the gradient of W in another; `corrected_closeness` with gradients is the formula as it stands, for
autograd.

>>> corrected_cost(torch.ones(2, 2), torch.tensor([[0.0, 1.0], [1.0, 0.0]]), beta=0.5)
tensor([[ 0.0000, -0.5000],
        [-0.5000,  0.0000]])
"""

import math
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import threshold

__all__ = ["being_recorded", "corrected_closeness", "corrected_cost", "difference", "risk_scores"]

TINY = 1e-30


def difference(weight: Tensor) -> Tensor:
    """Zero the diagonal and give every row the norm 1; a row of zeros stays.

    Parameters
    ----------
    weight : Tensor of shape (C, C)
        Any numbers. A positive factor on a row changes nothing, a negative one flips it.

    Returns
    -------
    Tensor of shape (C, C)
        Delta.
    """
    bare = weight - torch.diag(weight.diagonal())
    norm = bare.square().sum(1, keepdim=True)
    return torch.where(norm > TINY, bare * norm.clamp_min(TINY).rsqrt(), torch.zeros_like(bare))


def _corrected(weight: Tensor, closeness: Tensor, beta: float) -> tuple[Tensor, Tensor]:
    """The matrix, and one over the norm of each row of W without its diagonal, of shape (C, 1)."""
    cost = weight.clone().fill_diagonal_(0)
    norm = torch.linalg.vector_norm(cost, dim=1, keepdim=True)
    inverse = threshold(norm, TINY**0.5, math.inf).reciprocal_()  # a row of zeros stays
    return torch.addcmul(closeness, cost, inverse, value=beta, out=cost), inverse


def _tangent(result: Tensor, weight: Tensor, inverse: Tensor) -> Tensor:
    """Take from each row what lies along that of W, in place; both without their diagonals."""
    result.fill_diagonal_(0)
    along = (result * weight).sum(1, keepdim=True)  # the diagonal of `result` is 0, so that of W is out
    return result.addcmul_(weight, along.mul_(inverse).mul_(inverse), value=-1).fill_diagonal_(0)


class _Scores(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, probabilities: Tensor, weight: Tensor, closeness: Tensor, beta: float
    ) -> tuple[Tensor, Tensor]:
        cost, inverse = _corrected(weight, closeness, beta)
        if ctx.needs_input_grad[1]:
            ctx.save_for_backward(cost, probabilities, weight, closeness, inverse)
        else:  # a frozen weight may be changed before the way back
            ctx.save_for_backward(cost)
            ctx.mark_non_differentiable(cost)
        ctx.beta = beta
        ctx.set_materialize_grads(False)
        return probabilities @ cost.T, cost

    @staticmethod
    def backward(
        ctx: Any, of_scores: Tensor | None, of_cost: Tensor | None
    ) -> tuple[Tensor | None, Tensor | None, None, None]:
        cost, *others = ctx.saved_tensors
        need_first, need_second = of_scores is not None and ctx.needs_input_grad[0], ctx.needs_input_grad[1]
        first = second = None
        if not need_second:
            return (of_scores @ cost if need_first else None), None, None, None
        probabilities, weight, closeness, inverse = others
        if torch.is_grad_enabled():  # somebody wants gradients of the gradients
            delta = ctx.beta * difference(weight)
            if need_first:
                first = of_scores @ (delta + closeness)
            parts = [of_cost] if of_scores is None else [of_scores.T @ probabilities, of_cost]
            given = torch.stack([part for part in parts if part is not None]).sum(0)
            (second,) = torch.autograd.grad(delta, weight, given, create_graph=True)
            return first, second, None, None
        if need_first:
            first = of_scores @ cost
        scale = ctx.beta * inverse
        second = torch.zeros_like(weight) if of_scores is None else (of_scores.T * scale) @ probabilities
        if of_cost is not None:
            second.addcmul_(of_cost, scale)
        second = _tangent(second, weight, inverse)
        return first, second, None, None


def being_recorded() -> bool:
    """Tell whether this pass is compiled, exported or traced.

    Returns
    -------
    bool
        True then: closed forms of our own would not go into the graph.
    """
    tracing: bool = torch.jit.is_tracing()  # type: ignore[attr-defined, no-untyped-call]
    return tracing or torch.compiler.is_compiling()


def corrected_cost(weight: Tensor, distance: Tensor, beta: float) -> Tensor:
    """The matrix that turns probabilities into risk scores.

    Parameters
    ----------
    weight : Tensor of shape (C, C)
        W.
    distance : Tensor of shape (C, C)
        Tree distances, a constant.
    beta : float
        Size of the correction.

    Returns
    -------
    Tensor of shape (C, C)
        ``beta * difference(weight) - distance``.
    """
    return corrected_closeness(weight, -distance, beta)


def corrected_closeness(weight: Tensor, closeness: Tensor, beta: float) -> Tensor:
    """`corrected_cost` of distances that are kept with a minus sign.

    Parameters
    ----------
    weight : Tensor of shape (C, C)
        W.
    closeness : Tensor of shape (C, C)
        Tree distances with a minus sign, a constant.
    beta : float
        Size of the correction.

    Returns
    -------
    Tensor of shape (C, C)
        ``beta * difference(weight) + closeness``.
    """
    # A graph that was exported or traced without gradients may later run with them: it gets the plain form.
    if torch.is_grad_enabled() or being_recorded():
        return beta * difference(weight) + closeness
    return _corrected(weight, closeness, beta)[0]


def risk_scores(
    probabilities: Tensor, weight: Tensor, closeness: Tensor, beta: float
) -> tuple[Tensor, Tensor]:
    """Risk scores and the matrix that made them, for training.

    Parameters
    ----------
    probabilities : Tensor of shape (N, C)
        Rows that sum to 1.
    weight : Tensor of shape (C, C)
        W, of the same dtype.
    closeness : Tensor of shape (C, C)
        Tree distances with a minus sign, a constant.
    beta : float
        Size of the correction.

    Returns
    -------
    tuple of (Tensor of shape (N, C), Tensor of shape (C, C))
        ``probabilities @ corrected_cost(weight, -closeness, beta).T``, and that matrix.
    """
    scores, cost = _Scores.apply(probabilities, weight, closeness, beta)
    return scores, cost
