r"""The training losses of RCPMOD, on torch tensors.

.. math:: L = L_{rec} + \lambda_1 L_{oc} + \lambda_2 L_{na} + w(t) L_{sp}

Reconstruction, outlier-aware contrast, neighbour alignment and spreading, for one mini-batch of one
pair of views.

Source: Wang et al., "Regularized Contrastive Partial Multi-view Outlier Detection", ACM MM 2024
(arXiv 2408.07819), through its public code; the spreading term is the KoLeo regulariser and rank loss
of Sablayrolles et al., "Spreading vectors for similarity search", ICLR 2019.

Differs from the public code: the nearest vector of the spreading term excludes the vector itself by
minus infinity instead of -1, which unnormalised latents can undercut. Unverified, since the paper's
body could not be read: whether the spreading term is meant for normalised vectors.

>>> import torch
>>> u = torch.eye(2, dtype=torch.float64)
>>> round(contrastive_loss(u, u, temperature=0.5).item(), 6)  # log(1 + 2 exp(-2))
0.239545
"""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

__all__ = [
    "contrastive_loss",
    "nearest_distance_loss",
    "neighbor_alignment_loss",
    "rank_loss",
    "reconstruction_loss",
    "spread_weight",
]

# Added to differences before the norm, so that a duplicate has a finite logarithm and gradient.
DISTANCE_EPS = 1e-6
WARMUP_EPOCHS = 100


def contrastive_loss(
    u: Tensor, w: Tensor, negatives: Tensor | None = None, *, temperature: float = 0.5
) -> Tensor:
    r"""Average the two-view contrastive loss over all 2N anchors.

    With :math:`H` the 2N vectors together, :math:`s^+` the counterpart of an anchor :math:`s` and
    :math:`Q` the extra negatives,

    .. math:: \ell(s) = -\frac{s \cdot s^+}{\tau} + \log\Big[\sum_{t \in H, t \ne s} e^{s \cdot t/\tau}
              + \sum_{q \in Q} e^{s \cdot q/\tau}\Big]

    Parameters
    ----------
    u, w : Tensor of shape (..., N, d)
        Unit vectors of the two views, row i of `u` beside row i of `w`. Leading dimensions are
        independent problems.
    negatives : Tensor of shape (M, d) or None, default=None
        Unit vectors that join every anchor's denominator (the bank of potential outliers).
    temperature : float, default=0.5
        :math:`\tau`.

    Returns
    -------
    Tensor of shape ()
        The mean over anchors and leading dimensions.

    Notes
    -----
    RCPMOD's public code, ``losses``; specification section 1.6 (b). This is the readable form; training
    uses a fused one that a test holds equal to it.
    """
    h = torch.cat((u, w), dim=-2)
    n = u.shape[-2]
    logits = h @ h.mT / temperature
    itself = torch.eye(2 * n, dtype=torch.bool, device=h.device)
    logits = logits.masked_fill(itself, -torch.inf)
    if negatives is not None and negatives.shape[0]:
        logits = torch.cat((logits, h @ negatives.mT / temperature), dim=-1)
    positive = (u * w).sum(-1) / temperature
    return logits.logsumexp(-1).mean() - positive.mean()


class _FusedContrast(torch.autograd.Function):
    """`contrastive_loss` with its gradient formed in the forward pass: one exponential an entry.

    The similarity matrix is symmetric, so both directions of the gradient come from the same
    exponentials: dL/dH = (E diag(1/r) + diag(1/r) E) H / (2 N tau), less the positives. Unit vectors
    bound the logits by 1/tau, which serves as the shift.
    """

    @staticmethod
    def forward(ctx: Any, u: Tensor, w: Tensor, negatives: Tensor | None, temperature: float) -> Tensor:
        """Return the loss and keep its gradients with respect to `u`, `w` and `negatives`."""
        n = u.shape[-2]
        h = torch.cat((u, w), dim=-2)
        weights = (h @ h.mT).sub_(1.0).mul_(1.0 / temperature).exp_()
        weights.diagonal(dim1=-2, dim2=-1).zero_()
        denominator = weights.sum(-1, keepdim=True)
        extra = None
        if negatives is not None and negatives.shape[0]:
            extra = (h @ negatives.mT).sub_(1.0).mul_(1.0 / temperature).exp_()
            denominator = denominator + extra.sum(-1, keepdim=True)
        positive = (u * w).sum(-1)
        loss = denominator.log().mean() + (1.0 - positive.mean()) / temperature
        inverse = denominator.reciprocal()
        scaled = inverse * h
        grad = torch.addcmul(weights @ scaled, inverse, weights @ h)
        scale = 1.0 / (temperature * denominator.numel())
        if extra is not None and negatives is not None:
            grad.add_(inverse * (extra @ negatives))
            grad_negatives = (extra.mT @ scaled).reshape(-1, *negatives.shape).sum(0).mul_(scale)
        else:
            grad_negatives = h.new_zeros(0)
        grad[..., :n, :] -= 2 * w
        grad[..., n:, :] -= 2 * u
        grad.mul_(scale)
        ctx.save_for_backward(grad, grad_negatives)
        ctx.has_negatives = extra is not None
        return loss

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        """Scale the gradients kept by the forward pass."""
        grad, grad_negatives = ctx.saved_tensors
        upstream = grad_outputs[0]
        n = grad.shape[-2] // 2
        return (
            grad[..., :n, :] * upstream,
            grad[..., n:, :] * upstream,
            grad_negatives * upstream if ctx.has_negatives else None,
            None,
        )


def fused_contrastive_loss(
    u: Tensor, w: Tensor, negatives: Tensor | None = None, *, temperature: float = 0.5
) -> Tensor:
    """`contrastive_loss` with one exponential an entry, first derivatives only.

    Parameters
    ----------
    u, w : Tensor of shape (..., N, d)
        Unit vectors of the two views.
    negatives : Tensor of shape (M, d) or None, default=None
        Extra negatives.
    temperature : float, default=0.5
        Below 0.04 the shifted exponentials could vanish in float32; the readable form is used there.

    Returns
    -------
    Tensor of shape ()
        As `contrastive_loss`.
    """
    if temperature < 0.04:
        return contrastive_loss(u, w, negatives, temperature=temperature)
    loss: Tensor = _FusedContrast.apply(u, w, negatives, temperature)
    return loss


def neighbor_alignment_loss(u: Tensor, w: Tensor, *, temperature: float = 0.5) -> Tensor:
    r"""Contrast the r-th neighbours in one view with the r-th neighbours in the other.

    .. math:: L_{na} = \frac{1}{k} \sum_{r=1}^{k} \mathrm{NCE}(u_r, w_r)

    Parameters
    ----------
    u, w : Tensor of shape (k, N, d)
        ``u[r, i]`` is the unit latent of row i's r-th neighbour in the first view, `w` likewise.
    temperature : float, default=0.5
        :math:`\tau`.

    Returns
    -------
    Tensor of shape ()
        The mean over ranks.

    Notes
    -----
    Specification section 1.6 (c). Rows that share a neighbour hold identical vectors and count as each
    other's negatives, as in the public code.
    """
    return fused_contrastive_loss(u, w, temperature=temperature)


def reconstruction_loss(reconstruction: Tensor, x: Tensor) -> Tensor:
    """Squared error, summed over features and averaged over rows.

    Parameters
    ----------
    reconstruction, x : Tensor of shape (N, p)
        Decoder output and scaled input of the rows observed in this view.

    Returns
    -------
    Tensor of shape ()
        Zero, still on the graph, when no row is observed.

    Notes
    -----
    Specification section 1.6 (a).
    """
    return (reconstruction - x).square().sum() / max(x.shape[0], 1)


def rank_loss(z: Tensor, positive: Tensor, negative: Tensor) -> Tensor:
    """Ask a raw-space neighbour to stay nearer in latent space than the 50th latent neighbour.

    Parameters
    ----------
    z, positive, negative : Tensor of shape (N, d)
        Unnormalised latents of the rows, of one random neighbour each, and of the rank-50 neighbour.

    Returns
    -------
    Tensor of shape ()
        Mean of ``max(0, |z - positive| - |z - negative|)``; zero when there is no row.

    Notes
    -----
    Specification section 1.6 (d), after Sablayrolles et al. (2019).
    """
    near = functional.pairwise_distance(z, positive, eps=DISTANCE_EPS)
    far = functional.pairwise_distance(z, negative, eps=DISTANCE_EPS)
    return functional.relu(near - far).sum() / max(z.shape[0], 1)


def nearest_distance_loss(z: Tensor) -> Tensor:
    """Entropy (KoLeo) term: minus the log distance to the row of largest inner product.

    Parameters
    ----------
    z : Tensor of shape (N, d)
        Unnormalised latents of one view.

    Returns
    -------
    Tensor of shape ()
        ``-mean(log(N * |z_i - z_nearest(i)|))``; zero, still on the graph, with fewer than two rows.

    Notes
    -----
    Specification section 1.6 (d). The choice of the nearest row carries no gradient. The term is
    unbounded below in the norm of `z`, which is why its weight stays small.
    """
    n = z.shape[0]
    if n < 2:
        return z.sum() * 0.0
    with torch.no_grad():
        similarity = z @ z.mT
        similarity.fill_diagonal_(-torch.inf)
        nearest = similarity.argmax(dim=1)
    distance = functional.pairwise_distance(z, z[nearest], eps=DISTANCE_EPS)
    return -(n * distance).log().mean()


def spread_weight(epoch: int, *, warm: float, end: float, schedule: int) -> float:
    """Weight of the spreading term at a 0-based epoch.

    Rises linearly from 0 to `warm` over the first 100 epochs, then linearly to `end`, which it reaches
    in the last epoch of the schedule.

    Parameters
    ----------
    epoch : int
        0-based epoch.
    warm : float
        The plateau ``w_warm`` reached in epoch 99.
    end : float
        The target ``w_end``.
    schedule : int
        Length T of the schedule in epochs; beyond it the weight stays at `end`.

    Returns
    -------
    float
        w(epoch).

    Notes
    -----
    Specification section 1.6 (e). Training stops long before T in every published configuration.
    """
    if epoch < WARMUP_EPOCHS:
        return warm * epoch / (WARMUP_EPOCHS - 1)
    if schedule <= WARMUP_EPOCHS + 1:
        return end
    share = (epoch - WARMUP_EPOCHS) / (schedule - WARMUP_EPOCHS - 1)
    return warm + (end - warm) * min(share, 1.0)
