"""AUROC, AUPR and FPR95 with out-of-distribution as the positive class.

AUPR is the average precision (no interpolation). FPR95 is the false positive rate at the first threshold
whose true positive rate is at least 0.95, scores falling; the other convention in use makes ID the positive
class.

>>> ood_metrics([0, 0, 1, 1], [0.1, 0.2, 0.8, 0.9])
{'AUROC': 1.0, 'AUPR': 1.0, 'FPR95': 0.0}
"""

import random
from typing import Any

import numpy as np
from torch import Tensor

from graftkit.core.validation import raise_invalid

__all__ = ["ood_metrics"]


def ood_metrics(is_ood: Any, scores: Any) -> dict[str, float]:
    """How well scores rank OOD graphs above ID graphs.

    Parameters
    ----------
    is_ood : array-like of shape (n,)
        1 or True for OOD, 0 or False for ID. Labels with -1 for outliers: pass ``y < 0``.
    scores : array-like of shape (n,)
        Higher = more out-of-distribution.

    Returns
    -------
    dict of str to float
        "AUROC", "AUPR" and "FPR95".

    Raises
    ------
    TypeError
        If they are no numbers.
    ValueError
        If lengths differ, scores are not finite, labels are other than 0 and 1, or one class is missing.
    """
    truth, score = (x.detach().cpu() if isinstance(x, Tensor) else x for x in (is_ood, scores))
    truth, score = _vector("is_ood", truth), _vector("scores", score).astype(np.float64)
    if score.ndim != 1 or truth.shape != score.shape:
        raise_invalid("scores", score, f"a vector as long as is_ood, shape {truth.shape}")
    if not np.isfinite(score).all():
        position = int(np.flatnonzero(~np.isfinite(score))[0])
        raise_invalid("scores", float(score[position]), f"finite scores at position {position}")
    if not np.isin(truth, (0, 1)).all():
        raise_invalid(
            "is_ood",
            truth[~np.isin(truth, (0, 1))][0],
            "0 (ID) or 1 (OOD)",
            fix="Pass y < 0 for labels of -1",
        )
    truth = truth.astype(bool)
    if truth.all() or not truth.any():
        raise_invalid("is_ood", truth, "both ID and OOD graphs")
    metrics = _metrics()
    fpr, tpr, _ = metrics.roc_curve(truth, score, drop_intermediate=False)
    return {
        "AUROC": float(metrics.roc_auc_score(truth, score)),
        "AUPR": float(metrics.average_precision_score(truth, score)),
        "FPR95": float(fpr[np.flatnonzero(tpr >= 0.95)[0]]),
    }


def _vector(name: str, values: Any) -> np.ndarray:
    try:
        found = np.asarray(values)
    except (TypeError, ValueError):  # lists of different lengths
        found = np.empty(0, dtype=object)
    if found.dtype.kind not in "biuf":
        raise_invalid(name, values, "a vector of numbers", error=TypeError)
    return found


def _metrics() -> Any:
    # Importing scikit-learn's metrics draws from Python's global generator (through rich).
    state = random.getstate()
    from sklearn import metrics

    random.setstate(state)
    return metrics
