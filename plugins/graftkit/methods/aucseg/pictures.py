"""What a bank asks of pictures and labels before it takes them, and which classes they show.

Errors come before anything is stored (specification section 5.5).

>>> import torch
>>> present_classes(torch.tensor([[3, 3, 255], [0, 1, 255]]), ignore_index=255)
{0, 1, 3}
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from graftkit.core.validation import check_integer, check_iterable, raise_invalid

__all__ = ["check_alike", "check_picture", "check_tail_classes", "present_classes"]

# Marking takes memory by the largest label.
LARGEST_LABEL = 65_535


def check_picture(image: Any, label: Any) -> None:
    """Refuse what is no picture with its labels.

    Parameters
    ----------
    image : Tensor of shape (c, H, W)
        Any type.
    label : Tensor of shape (H, W)
        Integers.

    Raises
    ------
    TypeError
        If an argument is no tensor, or `label` not integer.
    ValueError
        If shapes do not fit.
    """
    for name, value in (("image", image), ("label", label)):
        if not isinstance(value, Tensor):
            raise_invalid(name, value, "a tensor", error=TypeError)
    if label.is_floating_point() or label.is_complex() or label.dtype == torch.bool:
        raise_invalid("label", label, "integer labels", error=TypeError)
    shapes = tuple(image.shape), tuple(label.shape)
    if image.ndim != 3 or label.ndim != 2:
        raise_invalid("image and label", shapes, "shapes (c, H, W) and (H, W)")
    if image.shape[1:] != label.shape or not label.numel():
        raise_invalid("image and label", shapes, "the same height and width, not empty")


def check_alike(images: Sequence[Tensor] | Tensor) -> None:
    """Refuse pictures that differ in channels or type.

    Parameters
    ----------
    images : sequence of Tensor
        Each of shape (c, H, W).

    Raises
    ------
    ValueError
        If they differ.
    """
    kinds = {(image.shape[0], image.dtype) for image in images}
    if len(kinds) > 1:
        raise_invalid(
            "image",
            " and ".join(sorted(f"{c} channels of {t}" for c, t in kinds)),
            "the same channels and dtype in all pictures of a bank",
        )


def check_tail_classes(tail_classes: Any, ignore_index: int) -> tuple[int, ...]:
    """Return the tail classes, in order.

    Parameters
    ----------
    tail_classes : iterable of int
        Class numbers.
    ignore_index : int
        The label that is no class.

    Returns
    -------
    tuple of int
        At least one, all different.

    Raises
    ------
    TypeError
        If they are no integers.
    ValueError
        If there is none, or one is negative, twice there, or `ignore_index`.
    """
    given = check_iterable("tail_classes", tail_classes, "class numbers")
    classes = tuple(check_integer("tail_classes", c, low=0) for c in given)
    if not classes:
        raise_invalid("tail_classes", list(classes), "at least one class")
    twice = sorted({c for c in classes if classes.count(c) > 1})
    if twice:
        raise_invalid("tail_classes", f"class {twice[0]} twice", "different classes")
    if ignore_index in classes:
        raise_invalid("tail_classes", f"{ignore_index}, which is ignore_index", "classes")
    return classes


def present_classes(label: Tensor, ignore_index: int) -> set[int]:
    """The classes of a picture.

    Parameters
    ----------
    label : Tensor of shape (H, W)
        Integers.
    ignore_index : int
        The label that says nothing.

    Returns
    -------
    set of int
        Without `ignore_index`.

    Raises
    ------
    ValueError
        If a label is negative or too large to be one.
    """
    # Marking, not counting: on runs of one label each count waits for the last.
    values = label.detach().cpu().numpy()
    if ignore_index < 0:
        values = values[values != ignore_index]
    if not values.size:
        return set()
    low, high = int(values.min()), int(values.max())
    if low < 0 or high > LARGEST_LABEL:
        raise_invalid("label", low if low < 0 else high, f"labels in [0, {LARGEST_LABEL}] or ignore_index")
    found = np.zeros(high + 1, dtype=bool)
    found[values] = True
    return set(np.flatnonzero(found).tolist()) - {ignore_index}
