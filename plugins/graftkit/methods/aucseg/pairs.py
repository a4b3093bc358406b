"""The loss over all pairs of pixels as an autograd function: linear in pixels and in present classes.

Forward: two matrix-vector products a block of pixels give the means over rivals, a gather gives each pixel's
own score. Backward: scores are computed again, block by block, so that nothing of the logits' size is kept
beside the logits. Means are accumulated in float64, blocks in float32 (float64 for float64 logits), autocast
off.

Specification sections 1.3, 1.4, 1.6 and 4.2.

>>> import torch
>>> logits = torch.zeros(1, 2, 3, requires_grad=True)
>>> pairing = Pairing("square", "ovo", "sigmoid", margin=1.0, ignore_index=255, min_pixels=1)
>>> PairLoss.apply(logits, torch.tensor([[0, 1, 255]]), None, pairing)
tensor(0.5000, grad_fn=<PairLossBackward>)
"""

from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.autograd.function import once_differentiable

from graftkit.methods.aucseg.blocks import all_rows, blocks, exact_dtype, rival_scale
from graftkit.methods.aucseg.presence import Presence, present_classes, processes
from graftkit.methods.aucseg.surrogates import (
    own_feature,
    rival_feature,
    surrogate_loss,
    surrogate_slopes,
)

__all__ = ["PairLoss", "Pairing"]


@dataclass(frozen=True)
class Pairing:
    """Which pairs are compared, and how; the arguments of `graftkit.torch.pixel_auc_loss`."""

    surrogate: str
    scheme: str
    activation: str
    margin: float
    ignore_index: int
    min_pixels: int
    sync: bool = False
    check_labels: bool = True


class PairLoss(torch.autograd.Function):
    """The mean surrogate loss over all pairs; the gradient recomputes the scores."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, target: Tensor, weight: Tensor | None, pairing: Pairing) -> Tensor:
        """Return the loss of `logits` (B, C, P), `target` (B, P) and `weight` (B, P) or None, shape ()."""
        presence = present_classes(
            target,
            weight,
            channels=logits.shape[1],
            ignore_index=pairing.ignore_index,
            min_pixels=pairing.min_pixels,
            sync=pairing.sync,
            check_labels=pairing.check_labels,
        )
        ctx.pairing = pairing
        ctx.pairs = len(presence.classes) > 1
        if not ctx.pairs:
            ctx.save_for_backward(logits)
            return torch.zeros((), dtype=exact_dtype(logits), device=logits.device)
        with torch.autocast(logits.device.type, enabled=False):
            means = class_means(logits, weight, presence, pairing)
            losses = surrogate_loss(pairing.surrogate, means[:2], means[2:], pairing.margin)
            loss = losses[_columns(logits)].mean().to(exact_dtype(logits))
        ctx.save_for_backward(
            logits, weight, presence.classes, presence.sizes, presence.labels, means[0], means[2]
        )
        return loss

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradient by the logits, of their shape and type."""
        logits, *rest = ctx.saved_tensors
        # Contiguous whatever the logits' strides.
        if not ctx.pairs:
            return torch.zeros(logits.shape, dtype=logits.dtype, device=logits.device), None, None, None
        weight, classes, sizes, labels, own, rivals = rest
        presence = Presence(classes, sizes, labels)
        # Rows of absent classes stay as they are made; where every row is written, zeros would be in vain.
        written = all_rows(presence, logits) or ctx.pairing.activation == "softmax"
        make = torch.empty if written else torch.zeros
        gradient = make(logits.shape, dtype=logits.dtype, device=logits.device)
        with torch.autocast(logits.device.type, enabled=False):
            _fill_gradient(gradient, logits, weight, presence, own, rivals, upstream, ctx.pairing)
        return gradient, None, None, None


def class_means(logits: Tensor, weight: Tensor | None, presence: Presence, pairing: Pairing) -> Tensor:
    """Means of the surrogate's features and of their squares, over own and over rival pixels.

    Parameters
    ----------
    logits : Tensor of shape (B, C, P)
        Logits.
    weight : Tensor of shape (B, P) or None
        Pixel weights.
    presence : Presence
        The K classes that take part.
    pairing : Pairing
        Settings.

    Returns
    -------
    Tensor of shape (4, K)
        Own mean, own mean of squares, rivals' mean, rivals' mean of squares; float64. The squares are left
        out (zero) where the surrogate does not ask for them.
    """
    count = len(presence.classes)
    name, squares = pairing.surrogate, pairing.surrogate == "square"
    own = presence.sizes.new_zeros(2, count + 1)  # the last column gathers what is dropped
    rivals = presence.sizes.new_zeros(2, count)
    for block in blocks(logits, weight, presence, pairing.scheme, pairing.activation):
        feature = own_feature(name, block.scores.gather(0, block.mine)[0], pairing.margin)
        weighted = (feature * block.shares).to(own.dtype)
        own[0].index_add_(0, block.labels, weighted)
        if squares:
            own[1].index_add_(0, block.labels, weighted.mul_(feature))
        others = rival_feature(name, block.scores, pairing.margin)
        others.scatter_(0, block.mine, 0.0)  # a class is no rival of itself
        rivals[0] += others @ block.rival_shares
        if squares:
            rivals[1] += others.square_() @ block.rival_shares
    means = torch.cat((own[:, :count], rivals * rival_scale(presence, pairing.scheme)))
    if pairing.sync and processes() > 1:
        dist.all_reduce(means)
    return means


def _fill_gradient(
    gradient: Tensor,
    logits: Tensor,
    weight: Tensor | None,
    presence: Presence,
    own: Tensor,
    rivals: Tensor,
    upstream: Tensor,
    pairing: Pairing,
) -> None:
    slopes = surrogate_slopes(pairing.surrogate, own, rivals, pairing.margin)
    columns = _columns(logits)
    scale = upstream.to(own.dtype) / len(own[columns])
    if pairing.sync:  # DistributedDataParallel averages gradients, the loss is already the mean
        scale = scale * processes()
    exact = exact_dtype(logits)
    to_rivals = scale * rival_scale(presence, pairing.scheme)
    rival_constant = (slopes.rival_constant * to_rivals).to(exact)[:, None]
    rival_factor = (slopes.rival_factor * to_rivals).to(exact)[:, None]
    own_constant = (slopes.own_constant * scale).to(exact)
    own_factor = (slopes.own_factor * scale).to(exact)
    for block in blocks(logits, weight, presence, pairing.scheme, pairing.activation):
        s, mine = block.scores, block.mine
        feature = own_feature(pairing.surrogate, s.gather(0, mine)[0], pairing.margin)
        at_own = feature.mul(own_factor.index_select(0, mine[0]))
        at_own.add_(own_constant.index_select(0, mine[0])).mul_(block.shares)
        others = rival_feature(pairing.surrogate, s, pairing.margin)
        place = gradient[block.image, :, block.pixels]
        direct = gradient.dtype == exact and len(place) == len(s) and block.all_scores is None
        # Two passes: a fused one with broadcast factors is not vectorised.
        slope = torch.mul(others, rival_factor, out=place if direct else None)
        slope.add_(rival_constant).mul_(block.rival_shares).scatter_(0, mine, at_own[None])
        if block.all_scores is not None:  # softmax: every channel moves every score
            slope.mul_(s)
            p = block.all_scores
            place.copy_((p * -slope.sum(0)).index_add_(0, presence.classes, slope))
            continue
        slope.mul_(s.addcmul_(s, s, value=-1))
        if direct:
            continue
        if all_rows(presence, logits):
            place.copy_(slope[columns])
        else:
            place.index_copy_(0, presence.classes, slope.to(gradient.dtype))


def _columns(logits: Tensor) -> slice:
    """The score maps that rank something: of a single channel only that of class 1."""
    return slice(1, None) if logits.shape[1] == 1 else slice(None)
