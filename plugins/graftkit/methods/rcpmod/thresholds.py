r"""From outlier scores to a threshold and to probabilities.

The paper defines no threshold (unverified); both rules here are graftkit's choice.

>>> import numpy as np
>>> contamination_threshold(np.array([0.0, 1.0, 2.0, 3.0]), 0.25)
2.25
"""

import numpy as np
import numpy.typing as npt
from scipy.special import erf

__all__ = ["contamination_threshold", "outlier_probability"]

FloatArray = npt.NDArray[np.float64]


def contamination_threshold(scores: FloatArray, contamination: float | str) -> float:
    r"""The outlier score above which a row counts as an outlier.

    .. math:: \mathrm{median}(s) + 3 \cdot 1.4826 \cdot \mathrm{MAD}(s)

    for ``"auto"``, else the ``1 - contamination`` quantile by linear interpolation.

    Parameters
    ----------
    scores : ndarray of shape (n,)
        Training scores, larger is more outlying.
    contamination : float in (0, 0.5] or "auto"
        The share of outliers, or the rule above; where the MAD is 0, the largest score, so that nothing is
        flagged.

    Returns
    -------
    float
        The threshold.
    """
    if contamination == "auto":
        center = np.median(scores)
        deviation = np.median(np.abs(scores - center))
        return float(center + 3 * 1.4826 * deviation) if deviation > 0 else float(scores.max())
    # -percentile(-s) rather than percentile(s): it must round as an estimator's offset on -s does.
    return float(-np.percentile(-scores, 100.0 * float(contamination)))


def outlier_probability(scores: FloatArray, mean: float, deviation: float) -> FloatArray:
    r"""Turn scores into probabilities by the Gaussian error function ("unify").

    .. math:: \max\big(0, \mathrm{erf}((s - \mu)/(\sigma\sqrt 2))\big)

    Parameters
    ----------
    scores : ndarray of shape (n,)
        Outlier scores, larger is more outlying.
    mean, deviation : float
        Mean and standard deviation of the training scores; a deviation of 0 gives 0 everywhere.

    Returns
    -------
    ndarray of shape (n,)
        In [0, 1]; 0 at or below the training mean.
    """
    if deviation == 0:
        return np.zeros_like(scores)
    return np.asarray(np.clip(erf((scores - mean) / (deviation * np.sqrt(2.0))), 0.0, 1.0))
