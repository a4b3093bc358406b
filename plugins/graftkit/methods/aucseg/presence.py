"""Which classes a batch shows, how large each is, and every pixel's place among them.

The loss asks nothing else of labels. Counts come from integer labels, never from scores: a class whose scores
coincide is still present. Specification sections 1.4, 1.6 and 4.2.

>>> import torch
>>> target = torch.tensor([[0, 0, 2, 255]])
>>> found = present_classes(target, None, channels=4, ignore_index=255)
>>> found.classes.tolist(), found.sizes.tolist(), found.labels.tolist()
([0, 2], [2.0, 1.0], [[0, 0, 1, 2]])
"""

from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor

__all__ = ["Presence", "present_classes", "processes"]


@dataclass(frozen=True)
class Presence:
    """The classes of this batch that take part, K of them, and their sizes."""

    classes: Tensor  # (K,) class numbers
    sizes: Tensor  # (K,) pixels or summed weights, float64
    labels: Tensor  # (B, P) int16, each pixel's place in `classes`, or K for what is dropped


def present_classes(
    target: Tensor,
    weight: Tensor | None,
    *,
    channels: int,
    ignore_index: int,
    min_pixels: int = 1,
    sync: bool = False,
    check_labels: bool = True,
) -> Presence:
    """Count the classes (over all processes with `sync`) and number those that take part.

    Parameters
    ----------
    target : Tensor of shape (B, P)
        Integer labels.
    weight : Tensor of shape (B, P) or None
        Pixel weights; a pixel of no weight is dropped.
    channels : int
        Score maps; a single one tells class 1 from class 0.
    ignore_index : int
        The label that says nothing.
    min_pixels : int, default=1
        Smaller classes take no part.
    sync : bool, default=False
        Count over all processes.
    check_labels : bool, default=True
        Refuse labels that no class has; otherwise their pixels are dropped.

    Returns
    -------
    Presence
        The classes with at least `min_pixels` pixels.

    Raises
    ------
    ValueError
        If a label is no class and is not ignored.
    """
    n_classes = max(channels, 2)
    pixels, sizes = _count(target, weight, n_classes, ignore_index)
    if sync and processes() > 1:
        both = torch.stack((pixels, sizes))
        dist.all_reduce(both)
        pixels, sizes = both
    on_host = pixels.cpu()  # the one synchronisation of a step
    if check_labels and on_host[-1] > 0:
        _refuse_labels(target, n_classes, channels, ignore_index)
    classes = (on_host[:-1] >= min_pixels).nonzero().flatten()
    # One place before and one behind the classes, for labels that are none.
    compact = torch.full((n_classes + 2,), len(classes), dtype=torch.int16)
    compact[classes + 1] = torch.arange(len(classes), dtype=torch.int16)
    classes, compact = classes.to(target.device), compact.to(target.device)
    labels = torch.empty(target.shape, dtype=torch.int16, device=target.device)
    if len(classes) > 1:
        for image in range(len(target)):  # one at a time: the index is 8 bytes a pixel
            torch.index_select(compact, 0, _index(target[image], n_classes), out=labels[image])
            if weight is not None:
                labels[image].masked_fill_(weight[image] <= 0, len(classes))
    return Presence(classes, sizes[classes], labels)


def processes() -> int:
    """How many processes share the batch.

    Returns
    -------
    int
        1 without a process group.
    """
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def _index(target: Tensor, n_classes: int) -> Tensor:
    """Labels as int64 indices: class c at c + 1, 0 below all classes, ``n_classes + 1`` above them."""
    return target.long().clamp(-1, n_classes).add_(1)


def _count(target: Tensor, weight: Tensor | None, n_classes: int, ignore_index: int) -> tuple[Tensor, Tensor]:
    """Pixels and weight by class, (C + 1,) each; last those whose label is no class and not ignored.

    Pixels of no weight do not count.
    """
    wide = torch.float64 if target.device.type != "mps" else torch.float32
    pixels = torch.zeros(n_classes + 2, dtype=torch.int64, device=target.device)
    weights = torch.zeros(n_classes + 2, dtype=wide, device=target.device)
    one, a_class = torch.ones_like(pixels[0]), 0 <= ignore_index < n_classes
    for image in range(len(target)):  # one at a time: the index is the largest temporary
        index = _index(target[image], n_classes)
        if weight is None:
            counted = one.expand_as(index)
        else:
            share = weight[image].to(wide).clamp(min=0)
            weights.scatter_add_(0, index, share)
            counted = (share > 0).long()
        pixels.scatter_add_(0, index, counted)
        if not a_class:
            ignored = target[image].long() == ignore_index  # a byte would wrap
            pixels[-1] -= (ignored if weight is None else ignored & (share > 0)).sum()
    pixels[-1] += pixels[0]
    pixels, weights = pixels[1:].to(wide), weights[1:]
    if a_class:
        pixels[ignore_index] = 0
    return pixels, pixels if weight is None else weights


def _refuse_labels(target: Tensor, n_classes: int, channels: int, ignore_index: int) -> None:
    labels = target.long()
    here = labels[((labels < 0) | (labels >= n_classes)) & (labels != ignore_index)]
    found = f"label {int(here[0])}" if here.numel() else "such a label in another process"
    if channels == 1:
        expected = f"binary labels (0 and 1, or ignore_index={ignore_index}) with one channel of logits"
        raise ValueError(f"target: expected {expected}, got {found}")
    raise ValueError(
        f"target: expected labels in [0, {n_classes}) (num_classes={n_classes}) or "
        f"ignore_index={ignore_index}, got {found}. Check num_classes and reduce_zero_label."
    )
