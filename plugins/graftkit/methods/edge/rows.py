"""Which rows of a batch are outliers: those whose targets are all -1.

pytorch-ood calls a label below 0 OOD; with one row of targets a sample that becomes a row of -1. A row of
zeros is a known picture with no label (background), *not* an outlier, although the confidence term would
treat both alike. Rows that mix -1 with labels are refused: a partly labelled sample is no outlier.

>>> import torch
>>> ood_labels(torch.tensor([[1.0, 0.0], [0.0, 0.0], [-1.0, -1.0]]))
tensor([ 0,  0, -1])
"""

from typing import Any, NoReturn

import torch
from torch import Tensor

from graftkit.core.validation import raise_invalid

__all__ = ["check_finite", "check_mask", "check_targets", "known_first", "ood_labels", "outlier_rows"]


def outlier_rows(targets: Tensor) -> Tensor:
    """Mark the outliers of a batch, refusing targets that mean nothing.

    Parameters
    ----------
    targets : Tensor of shape (B, C)
        Rows in [0, 1], or rows of -1.

    Returns
    -------
    Tensor of bool, shape (B,)
        True where all targets of a row are -1.

    Raises
    ------
    TypeError
        If it is no real tensor.
    ValueError
        If a row mixes -1 with labels or a value is out of range; the message names the first.
    """
    if not isinstance(targets, Tensor) or targets.is_complex():
        raise_invalid("targets", targets, "a tensor of shape (B, C)", error=TypeError)
    if targets.ndim != 2 or targets.shape[1] == 0:
        _refuse_shape(targets)
    if not len(targets):
        return targets.new_zeros(0, dtype=torch.bool)
    if targets.dtype == torch.bool:
        return torch.zeros_like(targets[:, 0])
    if not targets.dtype.is_signed:
        targets = targets.long()  # torch takes an unsigned 255 for -1
    # Two passes over the targets, the rest over rows; NaN compares as wrong.
    low, high = targets.amin(1), targets.amax(1)
    outlier = (low == -1) & (high == -1)
    right = ((low >= 0) & (high <= 1)) | outlier
    if not bool(right.all()):
        _diagnose(targets, int((~right).nonzero()[0]))
    return outlier


def check_targets(logits: Tensor, targets: Any) -> None:
    """Refuse targets that do not fit logits of shape (n, C).

    Parameters
    ----------
    logits : Tensor of shape (n, C)
        Logits, known to be a floating-point tensor.
    targets : Tensor of shape (n, C)
        Multi-hot or soft targets.

    Raises
    ------
    TypeError
        If it is no real tensor.
    ValueError
        If shapes do not fit.
    """
    if not isinstance(targets, Tensor) or targets.is_complex():
        raise_invalid("targets", targets, "a tensor of shape (n, C)", error=TypeError)
    if logits.ndim != 2 or logits.shape[1] == 0:
        raise_invalid(
            "logits", logits, f"shape (n, C), with targets of shape {tuple(targets.shape)} beside it"
        )
    if targets.ndim == 1 and not targets.is_floating_point():
        _refuse_shape(targets, logits)
    if targets.shape != logits.shape:
        raise_invalid("targets", targets, f"multi-hot targets of the logits' shape {tuple(logits.shape)}")
    if targets.device != logits.device:
        raise_invalid("targets", targets.device, f"targets on the logits' device {logits.device}")


def known_first(targets: Tensor) -> tuple[Tensor | None, int]:
    """The order that puts known rows first, and their number.

    Parameters
    ----------
    targets : Tensor of shape (B, C)
        Rows in [0, 1], or rows of -1.

    Returns
    -------
    order : Tensor of int, shape (B,), or None
        Positions, known rows first; ``None`` where they come first already.
    n_id : int
        Known rows.

    Raises
    ------
    ValueError
        If a row mixes -1 with labels or a value is out of range; the message names the first.
    """
    n_id = len(targets) - int((targets[:, 0] < 0).sum())
    if 0 < n_id < len(targets):
        # The usual batch: the extremes of two blocks say it all, in two passes and one transfer.
        extremes = torch.stack([*targets[:n_id].aminmax(), *targets[n_id:].aminmax()])
        low, high, oe_low, oe_high = extremes.tolist()
        if low >= 0 and high <= 1 and oe_low == oe_high == -1:
            return None, n_id
    outlier = outlier_rows(targets)
    n_id = len(targets) - int(outlier.sum())
    if bool(outlier[n_id:].all()):
        return None, n_id
    return outlier.to(torch.uint8).argsort(stable=True), n_id


def check_mask(mask: Any, logits: Tensor) -> Tensor:
    """Return a tail mask, one truth value a row of `logits` and on their device."""
    if not isinstance(mask, Tensor) or mask.dtype != torch.bool:
        raise_invalid("tail_mask", mask, "a tensor of bool, or None", error=TypeError)
    if mask.shape != (len(logits),):
        raise_invalid("tail_mask", mask, f"shape ({len(logits)},), one entry a row")
    if mask.device != logits.device:
        raise_invalid("tail_mask", mask.device, f"a mask on the logits' device {logits.device}")
    return mask


def check_finite(logits: Tensor, n_id: int) -> None:
    """Refuse NaN and infinity in known rows or in the outliers that follow them, naming the side."""
    for side, part in (("ID", logits[:n_id]), ("OE", logits[n_id:])):
        if not bool(torch.isfinite(part).all()):
            row = int((~torch.isfinite(part)).any(1).nonzero()[0])
            raise_invalid(
                f"{side} logits",
                part[row].tolist(),
                f"finite values, without NaN or infinity, in row {row}",
            )


def ood_labels(targets: Tensor) -> Tensor:
    """Labels as pytorch-ood's metrics want them: 0 for known rows, -1 for outliers.

    Parameters
    ----------
    targets : Tensor of shape (B, C)
        Rows in [0, 1], or rows of -1.

    Returns
    -------
    Tensor of int, shape (B,)
        A vector.
    """
    return -outlier_rows(targets).long()


def _refuse_shape(targets: Tensor, logits: Tensor | None = None) -> NoReturn:
    shape = "(n, C)" if logits is None else str(tuple(logits.shape))
    fix = "Class indices become multi-hot by torch.nn.functional.one_hot(targets, C)."
    raise_invalid("targets", targets, f"multi-hot targets of shape {shape}", fix=fix)


def _diagnose(targets: Tensor, row: int) -> NoReturn:
    values = targets[row]
    outside = ~(((values >= 0) & (values <= 1)) | (values == -1))
    if bool(outside.any()):
        raise_invalid(
            "targets",
            values[outside][0].item(),
            f"values in [0, 1], or rows of -1 for outliers, in row {row}",
        )
    raise_invalid(
        "targets",
        values.tolist(),
        f"only -1, or no -1, in row {row}",
        fix="Partially labelled rows are not outliers: leave them out, or fill the labels in.",
    )
