"""The plane through a user's vectors and items, for pictures.

>>> lie_in = fit_plane(np.array([[1.0, 0.0, 0.0], [-1.0, 0.0, 0.0], [0.0, 0.5, 0.0]]))
>>> lie_in(np.array([[0.0, 0.0, 7.0]])).shape
(1, 2)
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["fit_plane"]

Points = npt.NDArray[np.floating[Any]]


def fit_plane(points: Points) -> Callable[[Points], npt.NDArray[np.float64]]:
    """Principal plane of some points.

    Parameters
    ----------
    points : ndarray of shape (m, d)
        At least one point. Where they span less than a plane, the missing coordinates are 0.

    Returns
    -------
    callable
        Takes points of shape (k, d), returns their coordinates in the plane, of shape (k, 2).
    """
    centre = points.astype(np.float64).mean(axis=0)
    axes = np.linalg.svd(points - centre, full_matrices=False)[2][:2]
    axes = np.pad(axes, ((0, 2 - len(axes)), (0, 0)))
    return lambda given: np.asarray((given - centre) @ axes.T)
