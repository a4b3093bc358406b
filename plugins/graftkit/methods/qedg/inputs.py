"""What an owner hands to an audit, checked before the first query."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from graftkit.core.validation import check_integer, check_number, raise_invalid
from graftkit.methods.qedg.campaign import Schedule

__all__ = [
    "check_confirmation",
    "check_range",
    "check_rows",
    "check_schedule",
    "check_shape",
    "check_true_labels",
]


def check_confirmation(owner_confirmation: Any, target_id: Any) -> str:
    """The owner's word, and the target's name.

    Parameters
    ----------
    owner_confirmation : object
        Must be True itself.
    target_id : object
        Must be a string with something in it.

    Returns
    -------
    str
        The name.

    Raises
    ------
    TypeError
        If `target_id` is no string.
    ValueError
        If the confirmation is missing or the name is empty.
    """
    if owner_confirmation is not True:
        raise_invalid(
            "owner_confirmation",
            owner_confirmation,
            "True",
            fix="This audit copies a model. Run it only on a model that you own or whose owner has asked "
            "you to, and say so by owner_confirmation=True",
        )
    if not isinstance(target_id, str):
        raise_invalid("target_id", target_id, "a string", error=TypeError)
    if not target_id.strip():
        raise_invalid("target_id", target_id, "name and version of the audited model")
    return target_id


def check_shape(input_shape: Any) -> tuple[int, ...]:
    """The shape of one row.

    Parameters
    ----------
    input_shape : object
        ``(c, H, W)`` or ``(d,)``.

    Returns
    -------
    tuple of int
        The shape.

    Raises
    ------
    TypeError
        If it is no sequence of integers.
    ValueError
        If it has another length, or a side is too small (images: 4 pixels).
    """
    if isinstance(input_shape, str | bytes) or not isinstance(input_shape, Sequence):
        raise_invalid("input_shape", input_shape, "(channels, height, width) or (features,)", error=TypeError)
    shape = tuple(check_integer("input_shape", side, low=1) for side in input_shape)
    if len(shape) not in (1, 3) or (len(shape) == 3 and min(shape[1:]) < 4):
        raise_invalid(
            "input_shape", shape, "(channels, height, width) with sides of 4 or more, or (features,)"
        )
    return shape


def check_range(value_range: Any) -> tuple[float, float]:
    """What the target's inputs span.

    Parameters
    ----------
    value_range : object
        A pair of numbers, the first below the second.

    Returns
    -------
    (float, float)
        The pair.

    Raises
    ------
    TypeError
        If it is no pair of numbers.
    ValueError
        If it is not ascending.
    """
    if not isinstance(value_range, tuple | list) or len(value_range) != 2:
        raise_invalid("value_range", value_range, "a pair (low, high)", error=TypeError)
    low, high = (check_number("value_range", bound) for bound in value_range)
    if not low < high or not high - low < float(np.finfo(np.float32).max):
        raise_invalid("value_range", value_range, "low < high, apart by what float32 holds")
    return low, high


def check_rows(name: str, x: Any, shape: tuple[int, ...], value_range: tuple[float, float]) -> Tensor:
    """Rows of inputs.

    Parameters
    ----------
    name : str
        The argument's.
    x : object
        A tensor or array.
    shape : tuple of int
        Of one row.
    value_range : (float, float)
        What values may span.

    Returns
    -------
    Tensor of shape (n, ...)
        float32 on the CPU.

    Raises
    ------
    TypeError
        If it is no array of numbers.
    ValueError
        If the shape is another, there is no row, or a value is not finite or out of range.
    """
    array = _array(x)
    if array is None or array.dtype.kind not in "iufb":
        raise_invalid(name, x, "an array of numbers", error=TypeError)
    # A copy of our own: read-only, reversed or byte-swapped arrays are no tensors.
    rows = torch.from_numpy(array.astype(np.float32, order="C"))
    if tuple(rows.shape[1:]) != shape or not len(rows):
        raise_invalid(name, x, f"shape (n, {', '.join(map(str, shape))}) with n >= 1")
    if not bool(torch.isfinite(rows).all()):
        raise_invalid(name, x, "finite values")
    low, high = value_range
    slack = 1e-6 * max(abs(low), abs(high))  # float32 of the bounds themselves
    smallest, largest = float(rows.min()), float(rows.max())
    if smallest < low - slack or largest > high + slack:
        raise_invalid(name, smallest if smallest < low - slack else largest, f"values in {value_range}")
    return rows.clamp(low, high)


def check_true_labels(y: Any, rows: int, num_classes: int) -> Tensor:
    """True labels of evaluation rows.

    Parameters
    ----------
    y : object
        A tensor or array of integers.
    rows : int
        How many.
    num_classes : int
        C.

    Returns
    -------
    Tensor of shape (rows,)
        int64.

    Raises
    ------
    TypeError
        If they are no integers.
    ValueError
        If their number is wrong or one is out of range.
    """
    array = _array(y)
    if array is None or array.dtype.kind not in "iu":
        raise_invalid("eval_data labels", y, "integers", error=TypeError)
    if array.shape != (rows,):
        raise_invalid("eval_data labels", y, f"shape ({rows},)")
    outside = array[(array < 0) | (array >= num_classes)]
    if len(outside):
        raise_invalid("eval_data labels", int(outside[0]), f"labels in [0, {num_classes - 1}]")
    return torch.from_numpy(array.astype(np.int64))


def check_schedule(eval_every: Any) -> Schedule:
    """After which numbers of queries to measure.

    Parameters
    ----------
    eval_every : object
        "round", an integer or integers.

    Returns
    -------
    str, int or tuple of int
        The schedule.

    Raises
    ------
    TypeError
        If it is of another type.
    ValueError
        If a number is below 1 or the text another.
    """
    if isinstance(eval_every, str):
        if eval_every != "round":
            raise_invalid("eval_every", eval_every, '"round", an integer or a sequence of integers')
        return eval_every
    if isinstance(eval_every, Sequence | np.ndarray) and getattr(eval_every, "shape", None) != ():
        return tuple(check_integer("eval_every", point, low=1) for point in eval_every)
    return check_integer("eval_every", eval_every, low=1)


def _array(x: Any) -> Any:
    """As an array; ``None`` for what is none (ragged lists, sparse tensors, tensors without data)."""
    try:
        if isinstance(x, Tensor):
            x = x.detach().cpu()
            x = (x.float() if x.dtype == torch.bfloat16 else x).numpy()
        return np.asarray(x)
    except (ValueError, TypeError, RuntimeError):
        return None
