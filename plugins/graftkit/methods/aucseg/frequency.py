"""Pixels by class over a data set, and the split into head, middle and tail.

The published code fixes its tail lists by hand. Those of Cityscapes are exactly its classes below about
0.5 % of the training pixels, and a border at 2 % between head and middle gives six of each; both borders
are our reading (specification section 2.2), unverified against the paper. Print the split beside results.

>>> import numpy as np
>>> counts = count_pixels([np.array([[0, 0, 0, 1], [0, 0, 2, 255]])], num_classes=3)
>>> counts.tolist(), split_classes(counts, tail_below=0.15, head_above=0.5)
([5, 1, 1], {'head': [0], 'middle': [], 'tail': [1, 2]})
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from graftkit.core.extras import require
from graftkit.core.validation import check_integer, check_iterable, check_number, raise_invalid

__all__ = ["count_pixels", "split_classes"]


def count_pixels(labels: Iterable[Any], num_classes: int, ignore_index: int = 255) -> Tensor:
    """Count the pixels of each class.

    Parameters
    ----------
    labels : iterable of str, pathlib.Path, ndarray or Tensor
        Label maps of any shape, or paths of palette or grey pictures whose values are class numbers.
    num_classes : int
        Classes are 0 to ``num_classes - 1``.
    ignore_index : int, default=255
        The label that says nothing.

    Returns
    -------
    Tensor of shape (num_classes,)
        int64 counts.

    Raises
    ------
    TypeError
        If `labels` is no iterable, or labels are not integers.
    ValueError
        If a label is out of range or a picture damaged; it names the label map.
    """
    check_integer("num_classes", num_classes, low=1)
    check_integer("ignore_index", ignore_index, low=-(2**63))
    total = torch.zeros(num_classes, dtype=torch.int64)
    check_iterable("labels", labels, "a list of label maps or paths")
    for position, entry in enumerate(labels):
        where = f"label map {entry}" if isinstance(entry, str | Path) else f"label map {position}"
        label = _read(entry)
        if label.is_floating_point() or label.is_complex() or label.dtype == torch.bool:
            raise_invalid("labels", label, f"integers in {where}", error=TypeError)
        flat = label.flatten().long()
        valid = flat[flat != ignore_index]
        outside = valid[(valid < 0) | (valid >= num_classes)]
        if outside.numel():
            raise_invalid("labels", f"label {int(outside[0])} in {where}", f"num_classes={num_classes}")
        total += torch.bincount(valid.cpu(), minlength=num_classes)
    return total


def split_classes(counts: Any, tail_below: float = 0.005, head_above: float = 0.02) -> dict[str, list[int]]:
    """Split classes by their share of the pixels.

    Parameters
    ----------
    counts : array-like of shape (num_classes,)
        Pixels of each class.
    tail_below : float, default=0.005
        Classes with a smaller share are tail, those without a pixel included.
    head_above : float, default=0.02
        Classes with a larger share are head.

    Returns
    -------
    dict
        Ascending class numbers under "head", "middle" and "tail".

    Raises
    ------
    TypeError
        If a border is no number.
    ValueError
        If counts are negative, not one-dimensional or all zero, or the borders are out of order.
    """
    low = check_number("tail_below", tail_below, low=0, high=1)
    high = check_number("head_above", head_above, low=0, high=1)
    if low > high:
        raise_invalid("tail_below", low, f"at most head_above={high:g}")
    try:
        pixels = np.asarray(counts.detach().cpu() if isinstance(counts, Tensor) else counts, dtype=np.float64)
    except (TypeError, ValueError, OverflowError):
        pixels = np.empty(0)
    if pixels.ndim != 1 or not (np.isfinite(pixels) & (pixels >= 0)).all() or not pixels.sum() > 0:
        raise_invalid("counts", counts, "finite counts, none negative, not all zero, one a class")
    share = pixels / pixels.sum()
    groups = np.where(share < low, "tail", np.where(share > high, "head", "middle"))
    return {name: np.flatnonzero(groups == name).tolist() for name in ("head", "middle", "tail")}


def _read(entry: Any) -> Tensor:
    if isinstance(entry, str | Path):
        image = require("PIL.Image", extra="examples", distribution="pillow")
        try:
            with image.open(entry) as opened:
                return torch.from_numpy(np.array(opened))
        except FileNotFoundError:
            raise
        except (OSError, ValueError, SyntaxError) as error:  # what Pillow says of a damaged picture
            raise ValueError(
                f"{Path(entry).name}: expected a picture, could not read it ({error})"
            ) from error
    if isinstance(entry, Tensor):
        return entry
    array = np.ascontiguousarray(entry)
    if array.dtype.kind not in "biufc":
        raise_invalid("labels", entry, "label maps or paths", error=TypeError)
    return torch.from_numpy(array)
