r"""The guideline as a paired measurement: how far a technique brings reconstructions back to their images.

.. math:: \mathrm{gain} = \frac{d(x, r) - d(x, r')}{d(x, r)}

r is the plain reconstruction of picture x, r' the one with the technique, from the same noise. 1 is a perfect
reconstruction, 0 no effect, below 0 harm.

The paper compares by eye (section 5.1); metric, pairing and test are decided here. A technique's own negative
control (another picture's edges, another picture's prompt) tells what part of a gain is content and what a
better denoiser: without it the guideline over-credits (specification section 6.3).

>>> summary = summarise([[0.3, 0.2], [0.1, 0.2], [0.2, 0.1], [0.3, 0.3]])
>>> summary.n, round(summary.mean, 4), summary.improved_share, summary.p_value < 0.05
(8, 0.2125, 1.0, True)
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.stats import wilcoxon

from graftkit.core.validation import check_number, raise_invalid

__all__ = ["VERDICTS", "GainSummary", "paired_gain", "summarise", "verdict"]

VERDICTS = ("helps", "helps, but so does its control", "no evidence", "harms")


@dataclass(frozen=True)
class GainSummary:
    """Gains of one technique in one metric.

    Parameters
    ----------
    mean, sd : float
        Over all pairs; the deviation is the sample's (NaN for one pair).
    improved_share : float
        Share of pairs with a gain above 0.
    p_value : float
        Two-sided Wilcoxon signed-rank test of the gains against 0; 1 if all are 0.
    n : int
        Pairs: images times seeds. Seeds of one image are no independent samples, so the p-value is
        optimistic where there are few images and many seeds.
    """

    mean: float
    sd: float
    improved_share: float
    p_value: float
    n: int


def paired_gain(d_reference: Any, d_candidate: Any, resolution: float = 0.0) -> npt.NDArray[np.float64]:
    """Relative reduction of the distance to the image.

    Parameters
    ----------
    d_reference : array-like of any shape
        Distances of the plain reconstructions, finite and not negative.
    d_candidate : array-like of the same shape
        Distances of the reconstructions with the technique.
    resolution : float, default=0.0
        Gains not larger than this in size count as 0: what rounding does is no effect.

    Returns
    -------
    ndarray
        Gains, of that shape. Where the plain reconstruction is perfect, 0 if the other is too and minus
        infinity otherwise.

    Raises
    ------
    TypeError
        If `resolution` is no number.
    ValueError
        If shapes differ, a distance is negative or not finite, or `resolution` is negative.

    Examples
    --------
    >>> paired_gain([1.0, 2.0, 0.0], [0.5, 3.0, 0.0])
    array([ 0.5, -0.5,  0. ])
    """
    least = check_number("resolution", resolution, low=0)
    reference = np.asarray(d_reference, dtype=np.float64)
    candidate = np.asarray(d_candidate, dtype=np.float64)
    if reference.shape != candidate.shape:
        raise_invalid("d_candidate", candidate, f"the shape of d_reference, {reference.shape}")
    for name, values in (("d_reference", reference), ("d_candidate", candidate)):
        if not (np.isfinite(values).all() and (values >= 0).all()):
            raise_invalid(name, values, "finite distances, none negative")
    worse = np.where(candidate == 0, 0.0, -np.inf)
    safe = np.where(reference == 0, 1.0, reference)
    gains = np.where(reference == 0, worse, (reference - candidate) / safe)
    return np.asarray(np.where(np.abs(gains) <= least, 0.0, gains))


def summarise(gains: Any) -> GainSummary:
    """Mean, spread, share improved and a paired test.

    Parameters
    ----------
    gains : array-like of any shape
        Gains of all images and seeds, at least one.

    Returns
    -------
    GainSummary
        Over all entries.

    Raises
    ------
    ValueError
        If there are none, or one is NaN.
    """
    values = np.asarray(gains, dtype=np.float64).ravel()
    if values.size == 0 or np.isnan(values).any():
        raise_invalid("gains", values, "at least one gain, none NaN")
    # Ranks care for order alone: minus infinity is the largest loss.
    p = 1.0 if not values.any() else float(wilcoxon(values, zero_method="zsplit").pvalue)
    sd = float(values.std(ddof=1)) if values.size > 1 and np.isfinite(values).all() else float("nan")
    return GainSummary(float(values.mean()), sd, float((values > 0).mean()), p, values.size)


def verdict(own: GainSummary, controls: Sequence[GainSummary] = (), alpha: float = 0.05) -> str:
    """Say in words whether a technique is worth integrating.

    Parameters
    ----------
    own : GainSummary
        The technique.
    controls : sequence of GainSummary, default=()
        Its negative controls.
    alpha : float, default=0.05
        Level of the test.

    Returns
    -------
    str
        One of `VERDICTS`. A control that helps by the same test takes the credit away: the table then says
        how much of the gain it keeps.

    Raises
    ------
    TypeError
        If `alpha` is no number.
    ValueError
        If it is outside (0, 1).
    """
    check_number("alpha", alpha, low=0, high=1, closed="()")
    if own.p_value >= alpha or own.mean == 0:
        return "no evidence"
    if own.mean < 0:
        return "harms"
    if any(control.p_value < alpha and control.mean > 0 for control in controls):
        return "helps, but so does its control"
    return "helps"
