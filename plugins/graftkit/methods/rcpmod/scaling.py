"""Min-max scaling of a view on its observed rows.

The decoder ends in a sigmoid, so inputs must lie in [0, 1] during training; new values outside stay
outside, since that is evidence. Source: RCPMOD's public code scales by one minimum and maximum per view
(``"global"``); per-feature scaling is graftkit's default for heterogeneous tables.

>>> import numpy as np
>>> scaler = ViewScaler.fit(np.array([[0.0, 5.0], [2.0, 5.0]]), "feature")
>>> scaler.transform(np.array([[1.0, 5.0], [4.0, 5.0]]))
array([[0.5, 0. ],
       [2. , 0. ]])
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

__all__ = ["ViewScaler"]


@dataclass(frozen=True)
class ViewScaler:
    """Minimum and span of a view.

    Parameters
    ----------
    low, span : ndarray of shape (1,) or (n_features,)
        ``transform`` gives ``(x - low) / span``; a constant column has span 1.
    """

    low: npt.NDArray[np.float64]
    span: npt.NDArray[np.float64]

    @classmethod
    def fit(cls, x: npt.NDArray[np.floating], scale: str | None) -> "ViewScaler":
        """Learn the constants from observed rows.

        Parameters
        ----------
        x : ndarray of shape (n_observed, n_features)
            Finite values.
        scale : {"feature", "global"} or None
            One pair of constants per column, one for the whole view, or no scaling.

        Returns
        -------
        ViewScaler
            The scaler.

        Raises
        ------
        ValueError
            If maximum less minimum overflows float64.
        """
        if scale is None:
            return cls(np.zeros(1), np.ones(1))
        axis = 0 if scale == "feature" else None
        low = np.atleast_1d(np.asarray(x.min(axis=axis), dtype=np.float64))
        high = np.atleast_1d(np.asarray(x.max(axis=axis), dtype=np.float64))
        with np.errstate(over="ignore"):
            span = high - low
        if not np.isfinite(span).all():
            raise ValueError(
                f"X: expected values whose range fits float64, got a minimum of {low.min():g} and a maximum "
                f"of {high.max():g}; rescale the data"
            )
        return cls(low, np.where(span > 0, span, 1.0))

    def transform(self, x: npt.NDArray[np.floating]) -> npt.NDArray[np.float64]:
        """Scale without clipping.

        Parameters
        ----------
        x : ndarray of shape (n, n_features)
            Rows of the view.

        Returns
        -------
        ndarray of shape (n, n_features)
            Float64.
        """
        return np.asarray((x - self.low) / self.span, dtype=np.float64)
