"""Figures of OOD detection whose names say which side is positive, by label tails, and mAP beside them.

``FPR95_ID+`` is the share of OOD accepted while at least 95 % of the known rows are (the figure of
JointEnergy's and EDGE's code); ``FPR95_OOD+`` the share of known rows rejected while at least 95 % of OOD is
caught (pytorch-ood, OpenOOD). On one pair of score sets they may be 78 % and 26 %. ``AP_IN`` and ``AP_OUT``
are average precisions without interpolation. An AUROC below 0.5 mostly means that `positive` is the wrong
way round.

Source: specification 3.2 and 1.3; the sweep over label tails is that of the released evaluation.

>>> figures = ood_metrics(range(1, 21), [0, 1.5, 2.5, 25])
>>> {name: round(value, 4) for name, value in figures.items()}
{'FPR95_ID+': 0.5, 'FPR95_OOD+': 1.0, 'AUROC': 0.7125, 'AP_IN': 0.8613, 'AP_OUT': 0.6083}
"""

import math
import random
from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from graftkit.core.validation import check_choice, check_integer, check_iterable, check_number, raise_invalid

__all__ = ["MultilabelMAP", "TailFigures", "multilabel_map", "ood_metrics", "tail_sweep"]

FloatArray = npt.NDArray[np.float64]


class TailFigures(NamedTuple):
    """Figures of one step of `tail_sweep`.

    Parameters
    ----------
    heads : int
        Most frequent labels whose rows were left out.
    n_id : int
        Known rows that remain.
    figures : dict of str to float
        As `ood_metrics` gives them; NaN where no row remains.
    """

    heads: int
    n_id: int
    figures: dict[str, float]


class MultilabelMAP(NamedTuple):
    """Macro average precision, and what it is made of.

    Parameters
    ----------
    value : float
        The mean over labels, in [0, 1]; NaN if no label has a positive.
    per_label : ndarray of shape (C,)
        Average precision of each label; NaN, or 0, for a label without positives.
    empty : tuple of int
        Labels without positives.
    """

    value: float
    per_label: FloatArray
    empty: tuple[int, ...]


def ood_metrics(
    id_scores: Any, ood_scores: Any, *, positive: str = "id", tpr: float = 0.95
) -> dict[str, float]:
    """How well scores tell known rows from unknown ones.

    Parameters
    ----------
    id_scores : array-like or Tensor of shape (n,)
        Scores of known rows.
    ood_scores : array-like or Tensor of shape (m,)
        Scores of unknown rows.
    positive : {"id", "ood"}, default="id"
        The side for which larger scores speak: "id" for `joint_energy`, "ood" for outlier scores such as
        pytorch-ood's. The names of the figures say which side is positive in each of them.
    tpr : float, default=0.95
        True positive rate of the two FPR figures, whose names carry it.

    Returns
    -------
    dict of str to float
        ``FPR95_ID+``, ``FPR95_OOD+``, ``AUROC``, ``AP_IN`` and ``AP_OUT``.

    Raises
    ------
    TypeError
        If scores are no numbers.
    ValueError
        If a side is empty or not finite, `positive` is unknown, or `tpr` not in (0, 1].
    """
    check_choice("positive", positive, ("id", "ood"))
    check_number("tpr", tpr, low=0, high=1, closed="(]")
    known, ood = _scores("id_scores", id_scores), _scores("ood_scores", ood_scores)
    if positive == "ood":
        known, ood = -known, -ood
    metrics = _sklearn_metrics()
    truth = np.repeat([1, 0], [len(known), len(ood)])
    score = np.concatenate([known, ood])
    percent = f"{100 * tpr:g}"
    return {
        f"FPR{percent}_ID+": _false_positive_rate(known, ood, tpr),
        f"FPR{percent}_OOD+": _false_positive_rate(-ood, -known, tpr),
        "AUROC": float(metrics.roc_auc_score(truth, score)),
        "AP_IN": float(metrics.average_precision_score(truth, score)),
        "AP_OUT": float(metrics.average_precision_score(1 - truth, -score)),
    }


def tail_sweep(
    id_scores: Any,
    id_targets: Any,
    ood_scores: Any,
    *,
    heads: Iterable[int],
    label_counts: Any = None,
    positive: str = "id",
    tpr: float = 0.95,
) -> list[TailFigures]:
    """Figures on the known rows that carry none of the most frequent labels.

    Parameters
    ----------
    id_scores : array-like or Tensor of shape (n,)
        Scores of known rows.
    id_targets : array-like or Tensor of shape (n, C)
        Their labels, 0 or 1.
    ood_scores : array-like or Tensor of shape (m,)
        Scores of unknown rows.
    heads : iterable of int
        For each j, rows with any of the j most frequent labels are left out; 0 keeps all.
    label_counts : array-like of shape (C,) or None, default=None
        How frequent labels are, best in the training data. ``None`` counts `id_targets`, as the released
        evaluation does. Ties go to the label of lower index.
    positive : {"id", "ood"}, default="id"
        The side for which larger scores speak.
    tpr : float, default=0.95
        As in `ood_metrics`.

    Returns
    -------
    list of TailFigures
        One an entry of `heads`, with the rows that remain; NaN where none does.

    Raises
    ------
    TypeError
        If an argument has the wrong type.
    ValueError
        If shapes do not fit, targets are not 0 or 1, or an entry of `heads` is not in [0, C].
    """
    known = _scores("id_scores", id_scores)
    targets = _targets("id_targets", id_targets)
    if len(targets) != len(known):
        raise_invalid("id_targets", targets, f"one row a score, {len(known)}")
    counts = targets.sum(0) if label_counts is None else _numbers("label_counts", label_counts)
    if counts.shape != targets.shape[1:] or not np.isfinite(counts).all() or (counts < 0).any():
        raise_invalid("label_counts", counts, f"{targets.shape[1]} counts, none negative")
    frequent = np.argsort(-counts, kind="stable")
    check_iterable("heads", heads, "several integers, such as range(5)")
    swept = []
    for j in list(heads):
        check_integer("heads", j, low=0, high=targets.shape[1])
        rest = ~targets[:, frequent[:j]].any(1)
        if rest.any():
            figures = ood_metrics(known[rest], ood_scores, positive=positive, tpr=tpr)
        else:
            names = ood_metrics(known, ood_scores, positive=positive, tpr=tpr)
            figures = dict.fromkeys(names, math.nan)
        swept.append(TailFigures(int(j), int(rest.sum()), figures))
    return swept


def multilabel_map(logits: Any, targets: Any, *, empty_class: str = "exclude") -> MultilabelMAP:
    """Macro average precision of known rows, with the labels that could not be measured.

    Parameters
    ----------
    logits : array-like or Tensor of shape (n, C)
        Logits or any score a label.
    targets : array-like or Tensor of shape (n, C)
        0 or 1. Leave outliers' rows out.
    empty_class : {"exclude", "zero"}, default="exclude"
        A label without positives does not count, or counts as 0 (timm, torchmetrics).

    Returns
    -------
    MultilabelMAP
        Mean, values by label, and labels without positives.

    Raises
    ------
    TypeError
        If an argument is no array of numbers.
    ValueError
        If shapes differ, logits are not finite, or targets are not 0 or 1.
    """
    check_choice("empty_class", empty_class, ("exclude", "zero"))
    truth = _targets("targets", targets)
    score = _numbers("logits", logits)
    if score.shape != truth.shape:
        raise_invalid("logits", score, f"the targets' shape {truth.shape}")
    if not np.isfinite(score).all():
        raise_invalid("logits", score, "finite values, without NaN or infinity")
    metrics = _sklearn_metrics()
    missing = math.nan if empty_class == "exclude" else 0.0
    values = np.array(
        [
            metrics.average_precision_score(truth[:, c], score[:, c]) if truth[:, c].any() else missing
            for c in range(truth.shape[1])
        ]
    )
    empty = tuple(np.flatnonzero(~truth.any(0)).tolist())
    counted = values[~np.isnan(values)]
    return MultilabelMAP(float(counted.mean()) if len(counted) else math.nan, values, empty)


def _false_positive_rate(positive: FloatArray, negative: FloatArray, tpr: float) -> float:
    """Share of negatives at or above the highest threshold that keeps `tpr` of the positives."""
    falling = np.sort(positive)[::-1]
    kept = np.arange(1, len(falling) + 1) / len(falling)
    threshold = falling[np.flatnonzero(kept >= tpr)[0]]
    return float((negative >= threshold).mean())


def _plain(values: Any) -> Any:
    """Tensors of any device as arrays; torch is not imported for it."""
    return values.detach().cpu().double().numpy() if hasattr(values, "detach") else values


def _numbers(name: str, values: Any) -> FloatArray:
    if hasattr(values, "is_complex") and values.is_complex():
        raise_invalid(name, values, "an array of real numbers", error=TypeError)
    try:
        array = np.asarray(_plain(values))
    except (TypeError, ValueError):  # ragged
        array = np.asarray(None)
    if array.dtype.kind not in "biuf":  # text, objects, complex numbers
        raise_invalid(name, values, "an array of real numbers", error=TypeError)
    return array.astype(np.float64)


def _scores(name: str, values: Any) -> FloatArray:
    scores = _numbers(name, list(values) if isinstance(values, range) else values)
    side = "ID" if name == "id_scores" else "OOD"
    if scores.ndim != 1 or not len(scores):
        raise_invalid(name, scores, f"a vector with at least one {side} score")
    if not np.isfinite(scores).all():
        position = int(np.flatnonzero(~np.isfinite(scores))[0])
        raise_invalid(name, float(scores[position]), f"finite {side} scores, at position {position}")
    return scores


def _targets(name: str, values: Any) -> npt.NDArray[np.bool_]:
    targets = _numbers(name, values)
    if targets.ndim != 2 or 0 in targets.shape:
        raise_invalid(name, targets, "multi-hot targets of shape (n, C), at least one row")
    wrong = ~np.isin(targets, (0, 1))
    if wrong.any():
        row, label = np.argwhere(wrong)[0]
        fix = "Leave outliers' rows out." if targets[row, label] == -1 else ""
        raise_invalid(name, float(targets[row, label]), f"0 or 1, in row {row}", fix=fix)
    return targets.astype(bool)


def _sklearn_metrics() -> Any:
    # Importing scikit-learn's metrics draws from Python's global generator (through rich).
    state = random.getstate()
    from sklearn import metrics

    random.setstate(state)
    return metrics
