"""Figures of a fitted RCPMOD, in the manner of scikit-learn's displays."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from graftkit.core.extras import require
from graftkit.core.validation import check_integer
from graftkit.methods.rcpmod import Explanation

if TYPE_CHECKING:
    from graftkit.sklearn.rcpmod_fitted import FittedMixin

__all__ = ["RCPMODDisplay"]


class RCPMODDisplay:
    """Score histogram with the threshold, and what makes the top rows outlying.

    Parameters
    ----------
    explanation : Explanation
        From ``RCPMOD.explain``, over n rows.
    threshold : float
        Outlier score above which a row is labelled an outlier.

    Attributes
    ----------
    figure_ : matplotlib.figure.Figure
        The figure, after `plot`.
    axes_ : ndarray of matplotlib.axes.Axes, shape (2,)
        Histogram and contributions, after `plot`.
    """

    def __init__(self, *, explanation: Explanation, threshold: float) -> None:
        self.explanation = explanation
        self.threshold = threshold

    @classmethod
    def from_estimator(
        cls, estimator: FittedMixin, X: Any, *, view_mask: Any = None, n_top: int = 10, ax: Any = None
    ) -> RCPMODDisplay:
        """Explain and draw rows with a fitted estimator.

        Parameters
        ----------
        estimator : RCPMOD
            Fitted.
        X : list or dict of arrays of shape (n_samples, n_features_v), or one 2-D array
            Rows to draw.
        view_mask : array-like of bool, shape (n_samples, n_views), or None, default=None
            False marks a missing view.
        n_top : int, default=10
            Rows in the contribution chart.
        ax : sequence of two matplotlib axes or None, default=None
            Where to draw; None makes a figure.

        Returns
        -------
        RCPMODDisplay
            Drawn.

        Raises
        ------
        ImportError
            If matplotlib is not installed.
        ValueError
            If `n_top` is less than 1, or `ax` does not hold two axes.
        """
        explanation = estimator.explain(X, view_mask=view_mask)
        return cls(explanation=explanation, threshold=-estimator.offset_).plot(n_top=n_top, ax=ax)

    def plot(self, *, n_top: int = 10, ax: Any = None) -> RCPMODDisplay:
        """Draw the two charts.

        Parameters
        ----------
        n_top : int, default=10
            Rows in the contribution chart.
        ax : sequence of two matplotlib axes or None, default=None
            Where to draw; None makes a figure.

        Returns
        -------
        RCPMODDisplay
            This object.

        Raises
        ------
        ImportError
            If matplotlib is not installed.
        TypeError
            If `n_top` is no integer.
        ValueError
            If `n_top` is less than 1, or `ax` does not hold two axes.
        """
        check_integer("n_top", n_top, low=1)
        pyplot = require("matplotlib.pyplot", extra="examples", distribution="matplotlib")
        if ax is None:
            _, axes = pyplot.subplots(1, 2, figsize=(10, 4), layout="constrained")
        else:
            axes = np.asarray(ax, dtype=object).ravel()
            if len(axes) != 2:
                raise ValueError(f"ax: expected two axes, got {len(axes)}")
        self._histogram(axes[0])
        self._contributions(axes[1], n_top)
        self.axes_: npt.NDArray[Any] = axes
        self.figure_ = axes[0].figure
        return self

    def _histogram(self, ax: Any) -> None:
        score = self.explanation.score
        flagged = int((score > self.threshold).sum())
        ax.hist(score, bins=min(50, max(10, len(score) // 20)), color="tab:blue", alpha=0.8)
        ax.axvline(self.threshold, color="tab:red", label=f"threshold ({flagged} of {len(score)} rows above)")
        ax.set(xlabel="outlier score (larger is more outlying)", ylabel="rows")
        ax.legend()

    def _contributions(self, ax: Any, n_top: int) -> None:
        explanation = self.explanation
        top = np.argsort(-explanation.score, kind="stable")[:n_top][::-1]
        labels = [str(name) for name in explanation.view_names]
        labels += [f"{a} vs {b}" for a, b in explanation.pair_names]
        parts = np.nan_to_num(np.concatenate((explanation.reconstruction, explanation.consistency), axis=1))[
            top
        ]
        # Small negative parts (below the training minimum) extend to the left of zero.
        right, left = np.zeros(len(top)), np.zeros(len(top))
        for label, part in zip(labels, parts.T, strict=True):
            ax.barh(range(len(top)), part, left=np.where(part >= 0, right, left), label=label)
            right, left = right + np.maximum(part, 0), left + np.minimum(part, 0)
        ax.set_yticks(range(len(top)), [f"row {row}" for row in top])
        ax.set(xlabel="contribution to the score")
        ax.legend(fontsize="small")
