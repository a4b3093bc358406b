"""How many pixels each class has in a batch, and how much weight: the only thing the loss asks of labels.

Counts come from integer labels, never from scores: a class whose scores coincide is still present.
Specification sections 1.4 and 4.2.

>>> import torch
>>> target = torch.tensor([[0, 0, 2, 255]])
>>> class_sizes(target, None, n_classes=3, ignore_index=255)[0].tolist()  # ..., ignored, out of range
[2.0, 0.0, 1.0, 1.0, 0.0]
"""

import torch
from torch import Tensor

__all__ = ["class_index", "class_sizes"]


def class_index(target: Tensor, n_classes: int, ignore_index: int) -> Tensor:
    """Labels as indices: `n_classes` where ignored, one more where no class has that number.

    Parameters
    ----------
    target : Tensor of shape (...)
        Integer labels.
    n_classes : int
        Classes are 0 to ``n_classes - 1``.
    ignore_index : int
        The label that says nothing.

    Returns
    -------
    Tensor of shape (...)
        int64, in ``[0, n_classes + 1]``.
    """
    index = target.long()
    outside = (index < 0) | (index >= n_classes)
    return index.masked_fill(outside, n_classes + 1).masked_fill_(target == ignore_index, n_classes)


def class_sizes(
    target: Tensor, weight: Tensor | None, *, n_classes: int, ignore_index: int
) -> tuple[Tensor, Tensor]:
    """Pixels and summed weight of every class; pixels of no weight do not count.

    Parameters
    ----------
    target : Tensor of shape (B, P)
        Integer labels.
    weight : Tensor of shape (B, P) or None
        Weights, none negative.
    n_classes : int
        Classes are 0 to ``n_classes - 1``.
    ignore_index : int
        The label that says nothing.

    Returns
    -------
    (Tensor, Tensor)
        Both of shape (n_classes + 2,), on the labels' device: pixels and weight by class, then of ignored
        pixels, then of labels that no class has.
    """
    wide = torch.float64 if target.device.type != "mps" else torch.float32
    pixels = torch.zeros(n_classes + 2, dtype=torch.int64, device=target.device)
    weights = torch.zeros(n_classes + 2, dtype=wide, device=target.device)
    for b in range(target.shape[0]):  # one image at a time: its index is the largest temporary
        index = class_index(target[b], n_classes, ignore_index)
        if weight is None:
            pixels.scatter_add_(0, index, torch.ones_like(index))
        else:
            share = weight[b].to(wide)
            pixels.scatter_add_(0, index, (share > 0).long())
            weights.scatter_add_(0, index, share)
    pixels = pixels.to(wide)
    return pixels, pixels if weight is None else weights
