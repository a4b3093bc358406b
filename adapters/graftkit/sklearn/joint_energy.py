"""JointEnergy as a scikit-learn outlier detector over logits.

>>> import numpy as np
>>> detector = JointEnergyDetector().fit(np.random.default_rng(0).normal(2, 1, (200, 5)))
>>> detector.predict([[-4.0] * 5, [3.0] * 5])
array([-1,  1])
"""

from __future__ import annotations

from numbers import Real
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from sklearn.base import BaseEstimator, OutlierMixin, _fit_context, clone
from sklearn.utils._param_validation import Interval
from sklearn.utils.validation import check_is_fitted, validate_data

__all__ = ["JointEnergyDetector"]

FloatArray = npt.NDArray[np.float64]


class JointEnergyDetector(OutlierMixin, BaseEstimator):
    r"""Rows of multi-label logits that carry none of the known labels.

    .. math:: E(z) = \sum_c \log(1 + e^{z_c})

    is higher for known rows. Nothing is trained: `fit` sets the offset so that the share `contamination` of
    known rows, best those of a validation set, is called unknown.

    Parameters
    ----------
    contamination : float, default=0.05
        Share of the known rows below the offset, in (0, 0.5].

    Attributes
    ----------
    offset_ : float
        ``decision_function = score_samples - offset_``.
    n_features_in_ : int
        Number of labels.
    feature_names_in_ : ndarray of str, shape (n_features_in_,)
        Column names, when a DataFrame with string names was given.

    See Also
    --------
    graftkit.torch.JointEnergy : The same over tensors, with a model.

    Notes
    -----
    Signs are scikit-learn's: +1 known, -1 unknown, larger scores are more normal.

    References
    ----------
    .. [1] H. Wang, W. Liu, A. Bocchieri, Y. Li, "Can multi-label classification networks know what they
       don't know?", NeurIPS 2021, arXiv 2109.14162.

    Examples
    --------
    >>> import numpy as np
    >>> from graftkit.sklearn import JointEnergyDetector
    >>> detector = JointEnergyDetector(contamination=0.1).fit(np.arange(10.0)[:, None])
    >>> int((detector.predict(np.arange(10.0)[:, None]) == -1).sum())
    1
    """

    _parameter_constraints: ClassVar[dict[str, list[Any]]] = {
        "contamination": [Interval(Real, 0, 0.5, closed="right")],
    }

    def __init__(self, contamination: float = 0.05) -> None:
        self.contamination = contamination

    @_fit_context(prefer_skip_nested_validation=True)
    def fit(self, X: Any, y: Any = None) -> JointEnergyDetector:  # noqa: ARG002
        """Set the offset from the logits of known rows.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_labels)
            Logits, not probabilities.
        y : object, default=None
            Ignored.

        Returns
        -------
        JointEnergyDetector
            The fitted detector.
        """
        form = clone(self)  # a failed fit leaves the estimator as it was
        logits = validate_data(form, X, dtype=np.float64)
        self.offset_ = float(np.quantile(_energies(logits), self.contamination))
        self.n_features_in_ = form.n_features_in_
        if hasattr(form, "feature_names_in_"):
            self.feature_names_in_ = form.feature_names_in_
        elif hasattr(self, "feature_names_in_"):
            del self.feature_names_in_
        return self

    def score_samples(self, X: Any) -> FloatArray:
        """JointEnergy of each row.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_labels)
            Logits.

        Returns
        -------
        ndarray of shape (n_samples,)
            Larger is more normal.
        """
        check_is_fitted(self)
        return _energies(validate_data(self, X, dtype=np.float64, reset=False))

    def decision_function(self, X: Any) -> FloatArray:
        """JointEnergy less the offset.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_labels)
            Logits.

        Returns
        -------
        ndarray of shape (n_samples,)
            Negative for unknown rows.
        """
        return self.score_samples(X) - self.offset_

    def predict(self, X: Any) -> npt.NDArray[np.int64]:
        """Call each row known or unknown.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_labels)
            Logits.

        Returns
        -------
        ndarray of shape (n_samples,)
            +1 known, -1 unknown.
        """
        return np.where(self.decision_function(X) < 0, -1, 1)

    def none_probability(self, X: Any) -> FloatArray:
        """Probability that no known label is present, if labels are independent.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_labels)
            Logits.

        Returns
        -------
        ndarray of shape (n_samples,)
            ``exp(-score_samples(X))``.
        """
        probability: FloatArray = np.exp(-self.score_samples(X))
        return probability


def _energies(logits: FloatArray) -> FloatArray:
    # torch is imported here and not before: a process that only lists or clones estimators does without it.
    # Copied, since torch warns of arrays that cannot be written to.
    import torch

    from graftkit.methods.edge import joint_energy

    energies: FloatArray = joint_energy(torch.from_numpy(logits.copy())).numpy()
    return energies
