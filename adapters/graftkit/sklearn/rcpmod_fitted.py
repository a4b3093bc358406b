"""What a fitted RCPMOD does: scores, labels, explanations, a plot, and the reading of its input."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from warnings import warn

import numpy as np
import numpy.typing as npt

from graftkit.core.validation import raise_invalid
from graftkit.methods.rcpmod import (
    Explanation,
    FittedPairs,
    MultiViewData,
    ViewLayout,
    is_view_collection,
    outlier_probability,
    read_views,
)
from graftkit.methods.rcpmod.matrices import refuse_masked
from sklearn.utils.validation import check_is_fitted, validate_data

if TYPE_CHECKING:
    from graftkit.sklearn.rcpmod_display import RCPMODDisplay

__all__ = ["FittedMixin"]

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]


class FittedMixin:
    """The fitted state of `RCPMOD` and what is asked of it."""

    fit: Any
    model_: FittedPairs
    offset_: float
    n_jobs: int | None
    view_slices: Any
    partial_nan: str
    _layout: ViewLayout
    _score_moments: tuple[float, float]

    def fit_predict(self, X: Any, y: Any = None, *, view_mask: Any = None, callback: Any = None) -> IntArray:
        """Fit, and label the training rows; scikit-learn's own version predicts without the mask.

        Parameters
        ----------
        X : list or dict of arrays of shape (n_samples, n_features_v), or one 2-D array
            As in `fit`.
        y : object, default=None
            Ignored.
        view_mask : array-like of bool, shape (n_samples, n_views), or None, default=None
            False marks a missing view.
        callback : callable or None, default=None
            As in `fit`.

        Returns
        -------
        ndarray of shape (n_samples,)
            ``labels_``: +1 for inliers, -1 for outliers.
        """
        labels: IntArray = self.fit(X, y, view_mask=view_mask, callback=callback).labels_
        return labels

    def score_samples(self, X: Any, *, view_mask: Any = None) -> FloatArray:
        """Opposite of the outlier score of each row.

        Parameters
        ----------
        X : list or dict of arrays of shape (n_samples, n_features_v), or one 2-D array
            In the form given to `fit`; an entry may be None, or a name absent, when every row misses it.
        view_mask : array-like of bool, shape (n_samples, n_views), or None, default=None
            False marks a missing view.

        Returns
        -------
        ndarray of shape (n_samples,)
            Larger is more normal. Each row's score depends on that row alone.

        Raises
        ------
        ValueError
            If `X` does not match what `fit` saw, or holds a row without any view.
        NotFittedError
            If the estimator is not fitted.
        """
        data = self._read(X, view_mask)
        scores: FloatArray = -self.model_.score(data.arrays, data.mask, n_jobs=self.n_jobs)
        return scores

    def decision_function(self, X: Any, *, view_mask: Any = None) -> FloatArray:
        """``score_samples - offset_``: negative for outliers.

        Parameters
        ----------
        X : list or dict of arrays of shape (n_samples, n_features_v), or one 2-D array
            As in `score_samples`.
        view_mask : array-like of bool, shape (n_samples, n_views), or None, default=None
            False marks a missing view.

        Returns
        -------
        ndarray of shape (n_samples,)
            Signed distance to the threshold.
        """
        decision: FloatArray = self.score_samples(X, view_mask=view_mask) - self.offset_
        return decision

    def predict(self, X: Any, *, view_mask: Any = None) -> npt.NDArray[np.int64]:
        """Label rows +1 (inlier) or -1 (outlier).

        Parameters
        ----------
        X : list or dict of arrays of shape (n_samples, n_features_v), or one 2-D array
            As in `score_samples`.
        view_mask : array-like of bool, shape (n_samples, n_views), or None, default=None
            False marks a missing view.

        Returns
        -------
        ndarray of shape (n_samples,)
            +1 or -1.
        """
        return np.where(self.decision_function(X, view_mask=view_mask) >= 0, 1, -1)

    def outlier_probability(self, X: Any, *, view_mask: Any = None) -> FloatArray:
        """Probability-like outlyingness by the error function of the standardised score ("unify").

        Parameters
        ----------
        X : list or dict of arrays of shape (n_samples, n_features_v), or one 2-D array
            As in `score_samples`.
        view_mask : array-like of bool, shape (n_samples, n_views), or None, default=None
            False marks a missing view.

        Returns
        -------
        ndarray of shape (n_samples,)
            In [0, 1], 0 at or below the mean training score.
        """
        return outlier_probability(-self.score_samples(X, view_mask=view_mask), *self._score_moments)

    def explain(self, X: Any, *, view_mask: Any = None) -> Explanation:
        """Say which view, or which pair of views, makes a row outlying.

        Parameters
        ----------
        X : list or dict of arrays of shape (n_samples, n_features_v), or one 2-D array
            As in `score_samples`.
        view_mask : array-like of bool, shape (n_samples, n_views), or None, default=None
            False marks a missing view.

        Returns
        -------
        Explanation
            ``reconstruction`` (n_samples, n_views) and ``consistency`` (n_samples, n_pairs), which sum to
            the outlier score, and ``largest``, the biggest contributor's name for each row.
        """
        data = self._read(X, view_mask)
        explanation: Explanation = self.model_.explain(data.arrays, data.mask, n_jobs=self.n_jobs)
        return explanation

    def plot(self, X: Any, *, view_mask: Any = None, **options: Any) -> RCPMODDisplay:
        """Draw the score histogram and the contributions of the top outliers.

        Parameters
        ----------
        X : list or dict of arrays of shape (n_samples, n_features_v), or one 2-D array
            As in `score_samples`.
        view_mask : array-like of bool, shape (n_samples, n_views), or None, default=None
            False marks a missing view.
        **options : object
            Arguments of `RCPMODDisplay.from_estimator`.

        Returns
        -------
        RCPMODDisplay
            With ``figure_`` and ``axes_``.
        """
        from graftkit.sklearn.rcpmod_display import RCPMODDisplay

        return RCPMODDisplay.from_estimator(self, X, view_mask=view_mask, **options)

    def _read(self, X: Any, view_mask: Any, *, reset: bool = False) -> MultiViewData:
        """Check the input in scikit-learn's way where it is one table, then as views."""
        if not reset:
            check_is_fitted(self, "model_")
        if not is_view_collection(X):
            if not (hasattr(X, "shape") or hasattr(X, "__array__") or (isinstance(X, list | tuple) and X)):
                raise_invalid("X", X, "a list or mapping of views, or one 2-D array", error=TypeError)
            if reset and isinstance(self.view_slices, str):
                warn(
                    "RCPMOD got one 2-D array and view_slices='auto': its columns are split into two "
                    "contiguous blocks. Pass a list of arrays, or view_slices, to say what the views are",
                    UserWarning,
                    stacklevel=4,
                )
            refuse_masked("X", X)  # scikit-learn would drop the mask
            checked = validate_data(
                self,
                X,
                reset=reset,
                dtype=[np.float64, np.float32],
                ensure_all_finite=False,
                ensure_min_samples=1,
            )
            # A frame's column names resolve named slices in fit, and are compared in prediction.
            X = X if hasattr(X, "iloc") else checked
        return read_views(
            X,
            view_slices=self.view_slices,
            view_mask=view_mask,
            partial_nan=self.partial_nan,
            layout=None if reset else self._layout,
        )
