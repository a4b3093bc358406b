"""The loss over all pairs of pixels as an autograd function: linear in pixels and in present classes.

The batch is walked in blocks of pixels that fit a core's cache (on a CPU) or one image at a time
(elsewhere). Forward: two matrix-vector products a block give the means over rivals, a gather gives each
pixel's own score. Backward: scores are computed again, block by block, so that nothing of the logits'
size is kept beside the logits. Means are accumulated in float64, blocks in float32 (float64 for float64
logits), autocast off.

Specification sections 1.3, 1.4, 1.6 and 4.2. Pixels dropped (ignored, of no weight, of a class that is too
small) are masked before any product, so that a NaN there stays there.

>>> import torch
>>> logits = torch.zeros(1, 2, 3, requires_grad=True)
>>> pairing = Pairing("square", "ovo", "sigmoid", margin=1.0, ignore_index=255, min_pixels=1)
>>> PairLoss.apply(logits, torch.tensor([[0, 1, 255]]), None, pairing)
tensor(0.5000, grad_fn=<PairLossBackward>)
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.autograd.function import once_differentiable

from graftkit.methods.aucseg.counts import class_index, class_sizes
from graftkit.methods.aucseg.surrogates import (
    own_feature,
    rival_feature,
    surrogate_loss,
    surrogate_slopes,
)

__all__ = ["PairLoss", "Pairing"]

# Scores of a block on a CPU: a few arrays of this many float32 stay in a core's second-level cache.
BLOCK = 2**17


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


@dataclass(frozen=True)
class Presence:
    """The classes of this batch that take part, K of them, and their sizes."""

    classes: Tensor  # (K,) class numbers
    sizes: Tensor  # (K,) pixels or summed weights, float64
    labels: Tensor  # (B, P) int16, each pixel's place in `classes`, or K for what is dropped


@dataclass(frozen=True)
class Block:
    """A run of pixels of one image: scores (K, P), compact labels (P,) and weights (P,) or None."""

    image: int
    pixels: slice
    scores: Tensor
    all_scores: Tensor | None  # (C, P), where the activation couples the channels
    labels: Tensor
    weights: Tensor | None


class PairLoss(torch.autograd.Function):
    """The mean surrogate loss over all pairs; the gradient recomputes the scores."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, target: Tensor, weight: Tensor | None, pairing: Pairing) -> Tensor:
        """Return the loss of `logits` (B, C, P), `target` (B, P) and `weight` (B, P) or None, shape ()."""
        exact = torch.float64 if logits.dtype == torch.float64 else torch.float32
        presence = present_classes(logits, target, weight, pairing)
        ctx.pairing = pairing
        ctx.pairs = len(presence.classes) > 1
        if not ctx.pairs:
            ctx.save_for_backward(logits)
            return torch.zeros((), dtype=exact, device=logits.device)
        with torch.autocast(logits.device.type, enabled=False):
            means = class_means(logits, weight, presence, pairing)
            losses = surrogate_loss(pairing.surrogate, means[:2], means[2:], pairing.margin)
            loss = losses[_columns(logits)].mean().to(exact)
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
        # Rows of absent classes stay as they are made; where every row is written, zeros would be in vain.
        make = torch.empty if _all_rows(classes, logits, ctx.pairing) else torch.zeros
        gradient = make(logits.shape, dtype=logits.dtype, device=logits.device)
        presence = Presence(classes, sizes, labels)
        with torch.autocast(logits.device.type, enabled=False):
            _fill_gradient(gradient, logits, weight, presence, own, rivals, upstream, ctx.pairing)
        return gradient, None, None, None


def present_classes(logits: Tensor, target: Tensor, weight: Tensor | None, pairing: Pairing) -> Presence:
    """Count the classes (over all processes with ``sync``) and number those that take part.

    Parameters
    ----------
    logits : Tensor of shape (B, C, P)
        Logits; only C and the device matter.
    target : Tensor of shape (B, P)
        Labels.
    weight : Tensor of shape (B, P) or None
        Pixel weights.
    pairing : Pairing
        Settings.

    Returns
    -------
    Presence
        The classes with at least ``min_pixels`` pixels.

    Raises
    ------
    ValueError
        If a label is no class and is not ignored.
    """
    n_classes = max(logits.shape[1], 2)  # a single score map tells class 1 from class 0
    pixels, sizes = class_sizes(target, weight, n_classes=n_classes, ignore_index=pairing.ignore_index)
    if pairing.sync and _processes() > 1:
        both = torch.stack((pixels, sizes))
        dist.all_reduce(both)
        pixels, sizes = both
    on_host = pixels.cpu()  # the one synchronisation of a step
    if pairing.check_labels and on_host[-1] > 0:
        _refuse_labels(target, n_classes, logits.shape[1], pairing.ignore_index)
    classes = (on_host[:n_classes] >= pairing.min_pixels).nonzero().flatten()
    compact = torch.full((n_classes + 2,), len(classes), dtype=torch.int16)
    compact[classes] = torch.arange(len(classes), dtype=torch.int16)
    device = logits.device
    classes, compact = classes.to(device), compact.to(device)
    labels = torch.empty(target.shape, dtype=torch.int16, device=device)
    if len(classes) > 1:
        for image in range(len(target)):  # one at a time: the index is 8 bytes a pixel
            index = class_index(target[image], n_classes, pairing.ignore_index)
            torch.index_select(compact, 0, index, out=labels[image])
            if weight is not None:
                labels[image].masked_fill_(weight[image] <= 0, len(classes))
    return Presence(classes, sizes[classes], labels)


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
    for block in _blocks(logits, weight, presence, pairing):
        shares, rival_shares = _shares(block, presence, pairing)
        mine = block.labels.clamp(max=count - 1)[None]
        feature = own_feature(name, block.scores.gather(0, mine)[0], pairing.margin)
        weighted = (feature * shares).to(own.dtype)
        own[0].index_add_(0, block.labels, weighted)
        if squares:
            own[1].index_add_(0, block.labels, weighted.mul_(feature))
        others = rival_feature(name, block.scores, pairing.margin)
        others.scatter_(0, mine, 0.0)  # a class is no rival of itself
        rivals[0] += others @ rival_shares
        if squares:
            rivals[1] += others.square_() @ rival_shares
    means = torch.cat((own[:, :count], rivals * _rival_scale(presence, pairing)))
    if pairing.sync and _processes() > 1:
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
        scale = scale * _processes()
    exact = torch.float64 if logits.dtype == torch.float64 else torch.float32
    to_rivals = scale * _rival_scale(presence, pairing)
    rival_constant = (slopes.rival_constant * to_rivals).to(exact)[:, None]
    rival_factor = (slopes.rival_factor * to_rivals).to(exact)[:, None]
    own_constant = (slopes.own_constant * scale).to(exact)
    own_factor = (slopes.own_factor * scale).to(exact)
    rows = None if _all_rows(presence.classes, logits, pairing) else presence.classes
    for block in _blocks(logits, weight, presence, pairing):
        shares, rival_shares = _shares(block, presence, pairing)
        s = block.scores
        mine = block.labels.clamp(max=len(own) - 1)
        others = rival_feature(pairing.surrogate, s, pairing.margin)
        slope = torch.addcmul(rival_constant, others, rival_factor).mul_(rival_shares)
        feature = own_feature(pairing.surrogate, s.gather(0, mine[None])[0], pairing.margin)
        at_own = feature.mul(own_factor.index_select(0, mine))
        at_own.add_(own_constant.index_select(0, mine)).mul_(shares)
        slope.scatter_(0, mine[None], at_own[None])
        place = gradient[block.image, :, block.pixels]
        if block.all_scores is not None:  # softmax: every channel moves every score
            p = block.all_scores
            slope.mul_(s)
            place.copy_((p * -slope.sum(0)).index_add_(0, presence.classes, slope))
            continue
        slope.mul_(torch.addcmul(s, s, s, value=-1))
        if rows is None:
            place.copy_(slope[columns])
        else:
            place.index_copy_(0, rows, slope.to(gradient.dtype))


def _blocks(logits: Tensor, weight: Tensor | None, presence: Presence, pairing: Pairing) -> Iterator[Block]:
    images, channels, size = logits.shape
    count, softmax = len(presence.classes), pairing.activation == "softmax"
    exact = torch.float64 if logits.dtype == torch.float64 else torch.float32
    cpu = logits.device.type == "cpu"
    step = max(BLOCK // (channels if softmax else count), 256) if cpu else max(size, 1)
    rows = None if _all_rows(presence.classes, logits, pairing) else presence.classes
    for image in range(images):
        for start in range(0, size, step):
            pixels = slice(start, min(start + step, size))
            labels = presence.labels[image, pixels].long()
            weights = None if weight is None else weight[image, pixels].to(exact)
            raw = logits[image, :, pixels]
            raw = (raw if rows is None else raw.index_select(0, rows)).to(exact)
            dropped = labels == count
            if not cpu or bool(dropped.any()):
                raw = raw.masked_fill(dropped, 0.0)
            scores = raw.softmax(0) if softmax else raw.sigmoid()
            all_scores = scores if softmax else None
            if softmax:
                scores = scores.index_select(0, presence.classes) if channels > 1 else scores
            if channels == 1:  # score map 0 belongs to nobody
                scores = torch.cat((torch.zeros_like(scores), scores))
            yield Block(image, pixels, scores, all_scores, labels, weights)


def _shares(block: Block, presence: Presence, pairing: Pairing) -> tuple[Tensor, Tensor]:
    """What a pixel counts in its own class's mean, and in its rivals' before `_rival_scale`; (P,) each."""
    inverse = torch.cat((presence.sizes.reciprocal(), presence.sizes.new_zeros(1)))
    inverse = inverse.to(block.scores.dtype)
    shares = inverse.index_select(0, block.labels)
    if block.weights is not None:
        # Where the weight is NaN or infinite the label check has been switched off on purpose.
        shares = shares * block.weights
    if pairing.scheme == "ovo":
        return shares, shares
    taking_part = (block.labels < len(presence.classes)).to(shares.dtype)
    return shares, taking_part if block.weights is None else taking_part * block.weights


def _rival_scale(presence: Presence, pairing: Pairing) -> Tensor:
    """Of shape (K,): 1/(K - 1), or one over the number of pixels outside the class."""
    sizes = presence.sizes
    if pairing.scheme == "ovo":
        return torch.full_like(sizes, 1.0 / (len(sizes) - 1))
    # Summed without the class itself: N - n loses digits where one class is nearly everything.
    outside = (sizes[None, :] * (1 - torch.eye(len(sizes), dtype=sizes.dtype, device=sizes.device))).sum(1)
    return outside.reciprocal()


def _all_rows(classes: Tensor, logits: Tensor, pairing: Pairing) -> bool:
    """Whether every channel of the logits is read and gets a gradient."""
    return len(classes) >= logits.shape[1] or pairing.activation == "softmax"


def _columns(logits: Tensor) -> slice:
    """The score maps that rank something: of a single channel only that of class 1."""
    return slice(1, None) if logits.shape[1] == 1 else slice(None)


def _processes() -> int:
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def _refuse_labels(target: Tensor, n_classes: int, channels: int, ignore_index: int) -> None:
    index = class_index(target, n_classes, ignore_index)
    here = target[index > n_classes]
    found = f"label {int(here[0])}" if here.numel() else "such a label in another process"
    if channels == 1:
        expected = f"binary labels (0 and 1, or ignore_index={ignore_index}) with one channel of logits"
        raise ValueError(f"target: expected {expected}, got {found}")
    raise ValueError(
        f"target: expected labels in [0, {n_classes}) (num_classes={n_classes}) or "
        f"ignore_index={ignore_index}, got {found}. Check num_classes and reduce_zero_label."
    )
