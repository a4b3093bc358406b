r"""How alike two classifiers are, with intervals, and how far queries reach.

"Consistency rate", the method's measure, is Cohen's kappa times 100 in the authors' code,
:math:`\kappa = (p_o - p_e) / (1 - p_e)`; whether the paper's formula is that or plain agreement
:math:`p_o` is unverified, so both are given.

>>> a, b = torch.tensor([0, 0, 1, 1]), torch.tensor([0, 0, 1, 0])
>>> agreement(a, b), cohen_kappa(a, b, 2)
(0.75, 0.5)
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from scipy.stats import norm
from torch import Tensor

from graftkit.core.validation import check_integer, check_number, raise_invalid

__all__ = [
    "agreement",
    "agreement_interval",
    "cohen_kappa",
    "entropy",
    "kappa_interval",
    "pair_entropy",
    "queries_to_kappa",
]

THRESHOLDS = (0.5, 0.7, 0.9)


def agreement(first: Tensor, second: Tensor) -> float:
    """Share of rows with equal labels.

    Parameters
    ----------
    first, second : Tensor of shape (n,)
        Labels.

    Returns
    -------
    float
        In [0, 1].

    Raises
    ------
    ValueError
        If the lengths differ or are 0.
    """
    if first.shape != second.shape or first.ndim != 1 or not len(first):
        raise_invalid("second", second, f"{len(first)} labels, at least one")
    return float((first == second).double().mean())


def cohen_kappa(first: Tensor, second: Tensor, num_classes: int) -> float:
    """Agreement beyond chance.

    Parameters
    ----------
    first, second : Tensor of shape (n,)
        Labels in [0, num_classes).
    num_classes : int
        C.

    Returns
    -------
    float
        At most 1; NaN when both give one and the same label to every row.

    Raises
    ------
    TypeError
        If `num_classes` is no integer.
    ValueError
        If the lengths differ or are 0, or a label is out of range.
    """
    table = _table(first, second, num_classes)
    observed = float(table.trace())
    chance = float(table.sum(0) @ table.sum(1))
    return math.nan if chance >= 1 - 1e-12 else (observed - chance) / (1 - chance)


def kappa_interval(
    first: Tensor, second: Tensor, num_classes: int, level: float = 0.95
) -> tuple[float, float]:
    """Large-sample interval of Cohen's kappa (Fleiss, Cohen and Everitt 1969).

    Its width is 0 at perfect agreement, which large samples alone justify.

    Parameters
    ----------
    first, second : Tensor of shape (n,)
        Labels.
    num_classes : int
        C.
    level : float in (0, 1), default=0.95
        Coverage.

    Returns
    -------
    (float, float)
        Bounds, within [-1, 1]; NaN where kappa is.

    Raises
    ------
    TypeError
        If `level` or `num_classes` has the wrong type.
    ValueError
        If an argument is out of range.
    """
    check_number("level", level, low=0, high=1, closed="()")
    table = _table(first, second, num_classes)
    kappa = cohen_kappa(first, second, num_classes)
    if math.isnan(kappa):
        return math.nan, math.nan
    rows, columns = table.sum(1), table.sum(0)
    observed, chance = float(table.trace()), float(rows @ columns)
    margins = columns[:, None] + rows[None, :]
    diagonal = table.diagonal() * ((1 - chance) - margins.diagonal() * (1 - observed)).square()
    off = (table * margins.square()).sum() - (table.diagonal() * margins.diagonal().square()).sum()
    variance = float(diagonal.sum()) + (1 - observed) ** 2 * float(off)
    variance -= (observed * chance - 2 * chance + observed) ** 2
    error = math.sqrt(max(variance, 0.0) / len(first)) / (1 - chance) ** 2
    reach = float(norm.ppf((1 + level) / 2)) * error
    return max(-1.0, kappa - reach), min(1.0, kappa + reach)


def agreement_interval(share: float, rows: int, level: float = 0.95) -> tuple[float, float]:
    """Wilson's interval of a share.

    Parameters
    ----------
    share : float in [0, 1]
        Observed.
    rows : int
        Of how many.
    level : float in (0, 1), default=0.95
        Coverage.

    Returns
    -------
    (float, float)
        Bounds in [0, 1].

    Raises
    ------
    TypeError
        If an argument has the wrong type.
    ValueError
        If it is out of range.
    """
    check_number("share", share, low=0, high=1)
    check_integer("rows", rows, low=1)
    check_number("level", level, low=0, high=1, closed="()")
    z2 = float(norm.ppf((1 + level) / 2)) ** 2
    centre = (share + z2 / (2 * rows)) / (1 + z2 / rows)
    reach = math.sqrt(z2 * (share * (1 - share) / rows + z2 / (4 * rows**2))) / (1 + z2 / rows)
    return max(0.0, centre - reach), min(1.0, centre + reach)


def entropy(counts: Tensor) -> float:
    """Entropy of a distribution given by counts, in nats.

    Parameters
    ----------
    counts : Tensor of shape (k,)
        Non-negative.

    Returns
    -------
    float
        0 for one filled cell, log k at most; NaN without any count.
    """
    total = float(counts.sum())
    if not total:
        return math.nan
    shares = counts.double() / total
    return float(-(shares * shares.clamp(min=1e-300).log()).sum())


def pair_entropy(logits: Tensor) -> float:
    """Entropy over the unordered pairs of the two likeliest classes: how many boundaries queries lie at.

    Parameters
    ----------
    logits : Tensor of shape (n, C)
        Scores of the substitute.

    Returns
    -------
    float
        In nats; NaN without rows.
    """
    if not len(logits):
        return math.nan
    pairs = logits.topk(2, 1).indices.sort(1).values
    return entropy(torch.bincount(pairs[:, 0] * logits.shape[1] + pairs[:, 1]))


def queries_to_kappa(
    curve: Sequence[Mapping[str, Any]], thresholds: Sequence[float] = THRESHOLDS
) -> dict[str, int | None]:
    """The smallest number of queries on a curve at which kappa reached each threshold.

    Parameters
    ----------
    curve : sequence of mapping
        Rows with ``queries`` and ``kappa``.
    thresholds : sequence of float, default=(0.5, 0.7, 0.9)
        What to reach.

    Returns
    -------
    dict of str to (int or None)
        ``None`` where it was not reached.
    """
    reached = {}
    for threshold in thresholds:
        found = [row["queries"] for row in curve if row["kappa"] is not None and row["kappa"] >= threshold]
        reached[f"{threshold:g}"] = min(found) if found else None
    return reached


def _table(first: Tensor, second: Tensor, num_classes: int) -> Tensor:
    classes = check_integer("num_classes", num_classes, low=1)
    agreement(first, second)
    for name, labels in (("first", first), ("second", second)):
        if int(labels.min()) < 0 or int(labels.max()) >= classes:
            raise_invalid(name, labels, f"labels in [0, {classes - 1}]")
    joint = torch.bincount(first * classes + second, minlength=classes**2)
    return joint.reshape(classes, classes).double() / len(first)
