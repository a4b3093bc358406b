"""The batch in runs of pixels, each with its scores and with what its pixels count in the means.

On a CPU a block fits a core's cache; elsewhere it is an image. Whoever needs scores walks the blocks again:
nothing of the logits' size outlives its block. Pixels dropped (ignored, of no weight, of a class that is too
small) get scores of 0 before any product, so that a NaN there stays there. Specification section 4.2.

>>> import torch
>>> from graftkit.methods.aucseg.presence import present_classes
>>> target = torch.tensor([[0, 1, 255]])
>>> presence = present_classes(target, None, channels=2, ignore_index=255)
>>> [block] = blocks(torch.zeros(1, 2, 3), None, presence, "ovo", "sigmoid")
>>> block.scores.tolist(), block.shares.tolist()
([[0.5, 0.5, 0.0], [0.5, 0.5, 0.0]], [1.0, 1.0, 0.0])
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from graftkit.methods.aucseg.presence import Presence

__all__ = ["Block", "all_rows", "blocks", "exact_dtype", "rival_scale"]

# Scores of a block on a CPU: its few arrays stay in a core's second-level cache, and small beside an image.
BLOCK = 2**16
# Fewer pixels than this are not worth the calls.
FEWEST = 256


@dataclass(frozen=True)
class Block:
    """A run of pixels of one image; `scores` may be overwritten."""

    image: int
    pixels: slice
    scores: Tensor  # (K, P)
    all_scores: Tensor | None  # (C, P), where the activation couples the channels
    labels: Tensor  # (P,) int64, the place in `Presence.classes`, or K where dropped
    mine: Tensor  # (1, P), the same with K - 1 where dropped: a row to read and write
    shares: Tensor  # (P,) what a pixel counts in its own class's mean
    rival_shares: Tensor  # (P,) and in its rivals', before `rival_scale`


def blocks(
    logits: Tensor, weight: Tensor | None, presence: Presence, scheme: str, activation: str
) -> Iterator[Block]:
    """Walk over the batch.

    Parameters
    ----------
    logits : Tensor of shape (B, C, P)
        Logits.
    weight : Tensor of shape (B, P) or None
        Pixel weights.
    presence : Presence
        The K classes that take part, at least one.
    scheme : {"ovo", "ova"}
        Whether a rival counts by its class's mean, or pixel by pixel.
    activation : {"sigmoid", "softmax"}
        Logits to scores.

    Yields
    ------
    Block
        In order of image and pixel.
    """
    images, channels, size = logits.shape
    count, softmax = len(presence.classes), activation == "softmax"
    exact, cpu = exact_dtype(logits), logits.device.type == "cpu"
    step = max(BLOCK // (channels if softmax else count), FEWEST) if cpu else max(size, 1)
    rows = None if softmax or all_rows(presence, logits) else presence.classes
    inverse = torch.cat((presence.sizes.reciprocal(), presence.sizes.new_zeros(1))).to(exact)
    for image in range(images):
        for start in range(0, size, step):
            pixels = slice(start, min(start + step, size))
            labels = presence.labels[image, pixels].long()
            mine = labels.clamp(max=count - 1)[None]
            raw = logits[image, :, pixels]
            raw = (raw if rows is None else raw.index_select(0, rows)).to(exact)
            scores = raw.softmax(0) if softmax else raw.sigmoid()
            if cpu:  # a mask takes as long as the sigmoid, wherever it is set; few are dropped
                scores.index_fill_(1, (labels == count).nonzero().flatten(), 0.0)
            else:
                scores.masked_fill_(labels == count, 0.0)
            all_scores = scores if softmax else None
            if softmax:
                scores = scores.index_select(0, presence.classes)
            elif channels == 1:  # score map 0 belongs to nobody
                scores = torch.cat((torch.zeros_like(scores), scores))
            shares = inverse.index_select(0, labels)
            rival_shares = shares if scheme == "ovo" else (labels < count).to(exact)
            if weight is not None:
                share = weight[image, pixels].to(exact)
                shares, rival_shares = shares * share, rival_shares * share
            yield Block(image, pixels, scores, all_scores, labels, mine, shares, rival_shares)


def rival_scale(presence: Presence, scheme: str) -> Tensor:
    """What turns sums over rivals into means.

    Parameters
    ----------
    presence : Presence
        The K classes that take part, at least two.
    scheme : {"ovo", "ova"}
        Whether a rival counts by its class's mean, or pixel by pixel.

    Returns
    -------
    Tensor of shape (K,)
        1/(K - 1), or one over the size of all other classes; float64.
    """
    sizes = presence.sizes
    if scheme == "ovo":
        return torch.full_like(sizes, 1.0 / (len(sizes) - 1))
    # Summed without the class itself: N - n loses digits where one class is nearly everything.
    outside = (sizes[None, :] * (1 - torch.eye(len(sizes), dtype=sizes.dtype, device=sizes.device))).sum(1)
    return outside.reciprocal()


def all_rows(presence: Presence, logits: Tensor) -> bool:
    """Say whether every channel ranks a class that takes part.

    Parameters
    ----------
    presence : Presence
        The classes that take part.
    logits : Tensor of shape (B, C, P)
        Logits.

    Returns
    -------
    bool
        So for a single channel, and where no class is absent.
    """
    return len(presence.classes) >= logits.shape[1]


def exact_dtype(logits: Tensor) -> torch.dtype:
    """The type to compute in.

    Parameters
    ----------
    logits : Tensor of shape (...)
        Logits.

    Returns
    -------
    torch.dtype
        float64 for float64, otherwise float32.
    """
    return torch.float64 if logits.dtype == torch.float64 else torch.float32
