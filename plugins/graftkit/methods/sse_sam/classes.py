r"""Which samples belong to the tail: from class counts to a membership for every target.

.. math:: T = \{c : n_c < \eta\}, \qquad m_i = [y_i \in T]

Source: SSE-SAM (AAAI 2025, arXiv 2412.13715), released code; specification section 1.1. ``eta`` is an
absolute number of images, not a fraction. Soft targets get the mass that they put on the tail, so mixed
labels split as their loss does.

>>> tail_classes_from_counts([500, 120, 20, 5], threshold=100)
tensor([2, 3])
"""

import warnings
from collections.abc import Iterable, Sequence
from numbers import Integral
from typing import Any

import torch
from torch import Tensor, nn

from graftkit.core.validation import check_integer, check_iterable, check_number, raise_invalid

__all__ = ["Membership", "on_the_grid_of", "spread_over", "tail_classes_from_counts"]


def tail_classes_from_counts(class_counts: Sequence[int] | Tensor, threshold: float) -> Tensor:
    """List the classes that have fewer training samples than a threshold.

    Parameters
    ----------
    class_counts : sequence of int or Tensor of shape (C,)
        Training samples a class.
    threshold : float
        The specification's ``eta``, in samples; the comparison is strict.

    Returns
    -------
    Tensor of shape (n_tail,)
        Class indices in increasing order, int64.

    Raises
    ------
    ValueError
        If the counts are empty, negative, not whole, or not one-dimensional, or the threshold is negative.
    TypeError
        If the counts are no numbers, or the threshold is none.

    Warns
    -----
    UserWarning
        If no class, or every class, is below the threshold: an absolute threshold easily misses.

    Examples
    --------
    >>> tail_classes_from_counts([5000, 645, 50], 1000)
    tensor([1, 2])
    """
    try:
        counts = torch.as_tensor(class_counts)
    except (TypeError, ValueError, RuntimeError):  # whatever torch makes of what is no array
        raise_invalid("class_counts", class_counts, "one count for each class", error=TypeError)
    if counts.is_complex() or counts.dtype == torch.bool:
        raise_invalid("class_counts", class_counts, "counts, real numbers", error=TypeError)
    if counts.ndim != 1 or counts.numel() == 0:
        raise_invalid("class_counts", class_counts, "one count for each class")
    if not bool(((counts >= 0) & (counts == counts.round())).all()):
        raise_invalid("class_counts", class_counts, "whole numbers >= 0")
    eta = check_number("tail_threshold", threshold, low=0)
    tail = torch.nonzero(counts < eta).flatten()
    _warn_if_degenerate(len(tail), len(counts))
    return tail


def _warn_if_degenerate(n_tail: int, n_classes: int | None) -> None:
    if n_tail == 0:
        warnings.warn(
            "no tail class: nothing is perturbed in stage 2, which is then the base optimizer",
            UserWarning,
            stacklevel=3,
        )
    elif n_tail == n_classes:
        warnings.warn("every class is a tail class: both stages are SAM with the tail's radius", stacklevel=3)


class Membership:
    """The tail as a lookup table over classes.

    Parameters
    ----------
    tail_classes : iterable of int
        Classes of the tail.
    n_classes : int or None, default=None
        Number of classes where it is known; labels beyond it are then errors.
    ignore_index : int or None, default=None
        A label that belongs to no class.

    Raises
    ------
    ValueError
        If a class is negative, listed twice, or not below `n_classes`.
    TypeError
        If a class is not an integer.
    """

    def __init__(
        self,
        tail_classes: Iterable[int] | Tensor,
        *,
        n_classes: int | None = None,
        ignore_index: int | None = None,
    ) -> None:
        classes = (
            [_as_class(c) for c in tail_classes.tolist()]
            if isinstance(tail_classes, Tensor) and tail_classes.ndim == 1
            else [_as_class(c) for c in check_iterable("tail_classes", tail_classes, "several classes")]
        )
        if len(set(classes)) != len(classes):
            raise_invalid("tail_classes", classes, "each class once")
        if n_classes is not None and classes and max(classes) >= n_classes:
            raise_invalid("tail_classes", classes, f"classes below {n_classes}, the length of class_counts")
        self.tail_classes = tuple(sorted(classes))
        self.n_classes = n_classes
        self.ignore_index = (
            None if ignore_index is None else check_integer("ignore_index", ignore_index, low=-(2**63))
        )
        # One entry more than there are classes to tell apart: every class beyond is of the head.
        self.table = torch.zeros(max((n_classes or 0), max(classes, default=-1) + 1, 1) + 1, dtype=torch.bool)
        self.table[list(self.tail_classes)] = True

    def warn_if_degenerate(self) -> None:
        """Warn where the tail is empty or, as far as is known, everything."""
        _warn_if_degenerate(len(self.tail_classes), self.n_classes)

    def of_labels(self, labels: Tensor, ignore_index: int | None = None) -> Tensor:
        """Say for integer labels which are of the tail.

        Parameters
        ----------
        labels : Tensor of any shape, integer
            Class indices.
        ignore_index : int or None, default=None
            One more label that belongs to no class (a criterion's own).

        Returns
        -------
        Tensor of the same shape, bool
            ``True`` for the tail; ignored entries are ``False``.

        Raises
        ------
        ValueError
            If a label is negative or beyond the known classes.
        """
        ignored = {index for index in (self.ignore_index, ignore_index) if index is not None}
        if labels.numel() == 0:
            return torch.zeros_like(labels, dtype=torch.bool)
        table = self._table_on(labels.device)
        low, high = _bounds(labels)
        if low >= 0 and high < (self.n_classes or high + 1) and not any(low <= i <= high for i in ignored):
            whole = labels if labels.dtype == torch.int64 else labels.long()
            return table.take(whole if high < len(table) else whole.clamp(max=len(table) - 1))
        valid = torch.ones_like(labels, dtype=torch.bool)
        for index in ignored:
            valid &= labels != index
        known = labels.masked_fill(~valid, 0)
        low, high = _bounds(known)
        if low < 0 or (self.n_classes is not None and high >= self.n_classes):
            raise_invalid(
                "targets",
                f"labels from {low} to {high}",
                f"labels in [0, {self.n_classes if self.n_classes is not None else 'number of classes'})",
                fix="Say ignore_index= if one label means 'no class'.",
            )
        return table[known.long().clamp(max=len(table) - 1)] & valid

    def of_soft_targets(self, targets: Tensor, dim: int = 1) -> Tensor:
        """Say for class probabilities how much of each sample is of the tail.

        Parameters
        ----------
        targets : Tensor with classes along `dim`, floating
            Probabilities, as mixup and CutMix make them. One column, or none where there is one dimension,
            is the probability of class 1 of two, as binary cross-entropy takes it.
        dim : int, default=1
            The class dimension.

        Returns
        -------
        Tensor without that dimension, floating in [0, 1]
            The mass on the tail, relative to the sample's whole mass.

        Raises
        ------
        ValueError
            If a class of the tail has no column.
        """
        if targets.ndim == 1:
            targets = targets.unsqueeze(1)
        if targets.shape[dim] == 1:
            targets = torch.cat([1 - targets, targets], dim)
        if self.tail_classes and self.tail_classes[-1] >= targets.shape[dim]:
            raise_invalid(
                "targets", targets, f"a column for class {self.tail_classes[-1]}, which is of the tail"
            )
        total = targets.sum(dim)
        index = torch.tensor(self.tail_classes, dtype=torch.long, device=targets.device)
        mass = targets.index_select(dim, index).sum(dim)
        return torch.where(total == 0, torch.zeros_like(mass), mass / total).clamp(0, 1)

    def _table_on(self, device: torch.device) -> Tensor:
        if self.table.device != device:
            self.table = self.table.to(device)
        return self.table


def _bounds(labels: Tensor) -> tuple[int, int]:
    """Smallest and largest label, read in one synchronisation."""
    bounds = torch.aminmax(labels)
    low, high = bounds if labels.device.type == "cpu" else torch.stack(bounds).tolist()
    return int(low), int(high)


def spread_over(membership: Tensor, output: Tensor, *, classes_last: bool = False) -> Tensor:
    """Give a membership the dimensions of the model's output, so that it multiplies its gradient.

    Parameters
    ----------
    membership : Tensor of shape (B,), (B, ...) or the output's own
        One value a sample, an element (pixel, token), or an entry.
    output : Tensor of shape (B, C, ...) or (B, ..., C)
        What the criterion was called on.
    classes_last : bool, default=False
        Which of the two it is where the shapes allow both, as with C tokens and C classes.

    Returns
    -------
    Tensor
        Broadcastable against `output`, in its dtype where that is floating.

    Raises
    ------
    ValueError
        If the shapes do not belong together.
    """
    m, shape = membership, tuple(output.shape)
    if m.ndim == 0 or m.shape[0] != shape[0]:
        raise_invalid(
            "targets", membership, f"one target for each of the {shape[:1]} rows of the output {shape}"
        )
    if tuple(m.shape) == shape:
        return m.to(output.dtype)
    if m.ndim == 1:
        return m.to(output.dtype).reshape(-1, *(1,) * (output.ndim - 1))
    fits = {1: shape[:1] + shape[2:], -1: shape[:-1]}
    for dim in (-1, 1) if classes_last else (1, -1):
        if tuple(m.shape) == fits[dim]:
            return m.to(output.dtype).unsqueeze(dim)
    raise_invalid("targets", membership, f"targets that fit an output of shape {shape}")


def on_the_grid_of(membership: Tensor, output: Tensor) -> Tensor:
    """Bring a map of membership to the resolution of coarser scores; each cell gets its area's share.

    Segmentation heads make scores at a fraction of the label's resolution and enlarge them inside the loss.
    Any split of the scores' gradient adds up to the whole; at class borders this one is not pixel by pixel.

    Parameters
    ----------
    membership : Tensor of shape (B, H, W), floating
        Fine.
    output : Tensor of shape (B, C, h, w)
        The scores.

    Returns
    -------
    Tensor of shape (B, h, w)
        The input itself where nothing is to do.
    """
    coarser = (
        membership.ndim == 3
        and output.ndim == 4
        and membership.shape[1:] != output.shape[2:]
        and all(fine >= coarse for fine, coarse in zip(membership.shape[1:], output.shape[2:], strict=True))
    )
    if not coarser:
        return membership
    return nn.functional.interpolate(membership[:, None].float(), output.shape[2:], mode="area")[:, 0]


def _as_class(value: Any) -> int:
    if isinstance(value, Tensor) and value.ndim == 0:
        value = value.item()
    whole = isinstance(value, Integral) and not isinstance(value, bool)
    if not whole or value < 0:
        raise_invalid("tail_classes", value, "class indices >= 0")
    return int(value)
