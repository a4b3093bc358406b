"""Pieces of a level's loss: weights of levels, soft labels, means over the samples that have a label.

>>> [round(w, 3) for w in level_weights(3, alpha=1.0)]
[0.135, 0.368, 1.0]
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from graftkit.core.validation import check_choice, check_number, raise_invalid

__all__ = ["level_weights", "mean_cross_entropy", "soft_rows", "wide"]

ROWS = 1024


def level_weights(num_levels: int, alpha: float, weights: str | Sequence[float] | None = None) -> list[float]:
    """Weights of the levels, coarse to fine.

    Parameters
    ----------
    num_levels : int
        H.
    alpha : float
        Decay towards coarse levels.
    weights : {None, "equal", "uniform", "finest"} or sequence of float, default=None
        None is ``exp(alpha * (h - H))``; "uniform" is the public code's name for weights proportional to h.

    Returns
    -------
    list of float
        H weights.

    Raises
    ------
    TypeError
        If a weight is no number.
    ValueError
        If a weight is negative or their number is not H.
    """
    levels = range(1, num_levels + 1)
    if weights is None:
        return torch.tensor([alpha * (h - num_levels) for h in levels], dtype=torch.float64).exp().tolist()
    if isinstance(weights, str):
        check_choice("level_weights", weights, ("equal", "uniform", "finest"))
        rules: dict[str, Callable[[int], float]] = {
            "equal": lambda _: 1.0,
            "uniform": float,
            "finest": lambda h: float(h == num_levels),
        }
        return [rules[weights](h) for h in levels]
    if not isinstance(weights, Sequence):
        raise_invalid("level_weights", weights, "a name or a sequence of numbers", error=TypeError)
    if len(weights) != num_levels:
        raise_invalid("level_weights", weights, f"{num_levels} numbers, one a level")
    return [check_number("level_weights", weight, low=0) for weight in weights]


def wide(values: Tensor) -> Tensor:
    """At least float32: half precision loses what AIGDL adds.

    Parameters
    ----------
    values : Tensor
        Any floating numbers.

    Returns
    -------
    Tensor
        Of the same shape.
    """
    return values.to(torch.promote_types(values.dtype, torch.float32))


def soft_rows(y: Tensor, logits_of: Callable[[Tensor], Tensor], size: int) -> Tensor:
    """Soft labels: rows of hard labels, mixtures of rows for shares.

    Parameters
    ----------
    y : Tensor of shape (B,) or (B, C)
        Labels or shares.
    logits_of : callable
        From class numbers of shape (N,) to logits of shape (N, C).
    size : int
        C.

    Returns
    -------
    Tensor of shape (B, C)
        Rows sum to 1.
    """
    if not y.is_floating_point():
        return logits_of(y).softmax(1)
    parts = [
        y[:, rows].to(soft.dtype) @ soft
        for rows in torch.arange(size, device=y.device).split(ROWS)
        for soft in (logits_of(rows).softmax(1),)
    ]
    return torch.stack(parts).sum(0) if len(parts) > 1 else parts[0]


def mean_cross_entropy(z: Tensor, target: Tensor, labels: Tensor | None = None) -> Tensor:
    """Cross-entropy of labels or shares, averaged over the samples whose label is known.

    Parameters
    ----------
    z : Tensor of shape (B, C)
        Logits.
    target : Tensor of shape (B,) or (B, C)
        Labels, -1 where unknown, or shares.
    labels : Tensor of shape (B,) or None, default=None
        Labels, -1 where unknown; None where all are known. The mean is zero, on the graph, where none is.

    Returns
    -------
    Tensor
        A scalar.
    """
    if labels is None:
        return cross_entropy(z, target)
    known = (labels >= 0).to(z.dtype)
    each = cross_entropy(z, target, reduction="none", ignore_index=-1)
    return (each * known).sum() / known.sum().clamp_min(1)
