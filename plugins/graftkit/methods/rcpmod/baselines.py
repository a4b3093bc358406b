"""Cheap cross-view baselines, which every comparison of RCPMOD must show.

XV-kNN: rows that are near in one view should be near in the other. XV-ridge: one view should predict
the other linearly. Missing views are filled with column means first. Own definitions, specification
section 4.3.

>>> import numpy as np
>>> a = np.repeat(np.eye(3), 20, axis=0) + 0.01 * np.random.default_rng(0).random((60, 3))
>>> b = a.copy()
>>> b[0] = a[59]
>>> int(cross_view_knn([a, b]).argmax())
0
"""

from collections.abc import Sequence
from itertools import permutations
from typing import Any

import numpy as np
import numpy.typing as npt
from sklearn.linear_model import Ridge

from graftkit.core.validation import check_integer, check_number
from graftkit.methods.rcpmod.neighbors import nearest_rows
from graftkit.methods.rcpmod.views import read_views

__all__ = ["cross_view_knn", "cross_view_ridge", "impute_and_concatenate", "impute_views"]

FloatArray = npt.NDArray[np.float64]


def impute_views(views: Sequence[Any], mask: Any = None) -> list[FloatArray]:
    """Fill missing views with the column means of the observed rows.

    Parameters
    ----------
    views : sequence of array-like, each of shape (n, p_v)
        Two or more views; an all-NaN row is missing.
    mask : array-like of bool, shape (n, V), or None, default=None
        False marks a missing view.

    Returns
    -------
    list of ndarray, each of shape (n, p_v)
        Complete views.
    """
    data = read_views(list(views), view_mask=mask)
    return [
        np.where(observed[:, None], array, mean)
        for array, observed, mean in zip(data.arrays, data.mask.T, data.layout.means, strict=True)
    ]


def impute_and_concatenate(views: Sequence[Any], mask: Any = None) -> FloatArray:
    """Put mean-imputed views side by side, for detectors that take one complete table.

    Parameters
    ----------
    views : sequence of array-like, each of shape (n, p_v)
        Two or more views; an all-NaN row is missing.
    mask : array-like of bool, shape (n, V), or None, default=None
        False marks a missing view.

    Returns
    -------
    ndarray of shape (n, sum of p_v)
        Float64, no NaN.
    """
    return np.concatenate(impute_views(views, mask), axis=1)


def cross_view_knn(views: Sequence[Any], mask: Any = None, n_neighbors: int = 10) -> FloatArray:
    """Mean squared distance, in one view, to the neighbours found in another.

    Parameters
    ----------
    views : sequence of array-like, each of shape (n, p_v)
        Two or more views; an all-NaN row is missing.
    mask : array-like of bool, shape (n, V), or None, default=None
        False marks a missing view.
    n_neighbors : int, default=10
        Neighbours.

    Returns
    -------
    ndarray of shape (n,)
        Summed over ordered pairs of views, each divided by its standard deviation; larger is more
        outlying.

    Raises
    ------
    ValueError
        If `n_neighbors` is less than 1 or the views do not fit together.
    TypeError
        If `n_neighbors` is no integer.
    """
    check_integer("n_neighbors", n_neighbors, low=1)
    filled = impute_views(views, mask)
    rows = np.arange(len(filled[0]))
    tables = [nearest_rows(view, rows, view, rows, n_neighbors) for view in filled]
    total = np.zeros(len(rows))
    for a, b in permutations(range(len(filled)), 2):
        distance = np.zeros(len(rows))
        for column in tables[a].T:
            distance += np.square(filled[b] - filled[b][column]).sum(axis=1)
        total += _standardised(distance / tables[a].shape[1])
    return total


def cross_view_ridge(views: Sequence[Any], mask: Any = None, alpha: float = 1.0) -> FloatArray:
    """Squared residual of a ridge regression from one view to another.

    Parameters
    ----------
    views : sequence of array-like, each of shape (n, p_v)
        Two or more views; an all-NaN row is missing.
    mask : array-like of bool, shape (n, V), or None, default=None
        False marks a missing view.
    alpha : float, default=1.0
        Ridge penalty.

    Returns
    -------
    ndarray of shape (n,)
        Summed over ordered pairs of views, each divided by its standard deviation; larger is more
        outlying.

    Raises
    ------
    ValueError
        If `alpha` is negative or the views do not fit together.
    TypeError
        If `alpha` is no number.
    """
    check_number("alpha", alpha, low=0)
    filled = impute_views(views, mask)
    total = np.zeros(len(filled[0]))
    for a, b in permutations(range(len(filled)), 2):
        # The target's width in 2-D also where the view has one column.
        predicted = Ridge(alpha=alpha).fit(filled[a], filled[b]).predict(filled[a]).reshape(filled[b].shape)
        total += _standardised(np.square(filled[b] - predicted).sum(axis=1))
    return total


def _standardised(values: FloatArray) -> FloatArray:
    deviation = values.std()
    return np.asarray(values / deviation) if deviation > 0 else np.zeros_like(values)
