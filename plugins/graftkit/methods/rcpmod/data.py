"""Multi-view data with planted outliers, by the published protocol, and two ready data sets.

Three kinds are planted in disjoint rows: *class* outliers swap half of the views between two rows of
different classes, *attribute* outliers replace every view by noise, *class-attribute* outliers swap half
and replace the rest.

Source: RCPMOD's public code (``get_outlier.py``, ``get_mask.py``); specification section 2.2. The masks
of kind ``"entries"`` are COMPLETER's. Note the protocol's leak: class outliers are planted in complete
rows only, so "this row is complete" already predicts the label; ``leak_free=True`` plants first.

>>> planted = make_multiview_outliers(200, (6, 5), missing=0.2, random_state=0)
>>> [view.shape for view in planted.views], int(planted.is_outlier.sum())
([(200, 6), (200, 5)], 30)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from os import PathLike
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.io import loadmat
from sklearn.datasets import load_digits

from graftkit.core.random import numpy_generator
from graftkit.core.validation import check_bool, check_choice, check_integer, check_number, raise_invalid

__all__ = [
    "KINDS",
    "PlantedOutliers",
    "load_digits_views",
    "load_mat_views",
    "make_multiview_outliers",
    "missing_mask",
    "plant_outliers",
]

FloatArray = npt.NDArray[np.float64]
KINDS = ("inlier", "attribute", "class", "class-attribute")


@dataclass(frozen=True)
class PlantedOutliers:
    """Views with planted outliers.

    Parameters
    ----------
    views : list of ndarray, each of shape (n, p_v)
        Values in [0, 1]; a row is NaN where the view is missing.
    mask : ndarray of bool, shape (n, V)
        Which views each row has.
    outlier_type : ndarray of int, shape (n,)
        0 inlier, 1 attribute, 2 class, 3 class-attribute.
    """

    views: list[FloatArray]
    mask: npt.NDArray[np.bool_]
    outlier_type: npt.NDArray[np.int64]

    @property
    def is_outlier(self) -> npt.NDArray[np.bool_]:
        """Whether each row is an outlier, of shape (n,)."""
        return self.outlier_type > 0


def missing_mask(
    n_rows: int, n_views: int, rate: float, *, kind: str = "views", random_state: Any = None
) -> npt.NDArray[np.bool_]:
    """Draw which views each row has; every row keeps at least one.

    Parameters
    ----------
    n_rows, n_views : int
        Shape of the mask; at least 1 and 2.
    rate : float in [0, 1]
        Missing rate m.
    kind : {"views", "entries"}, default="views"
        ``"views"`` removes one view from ``floor(m n)`` rows. ``"entries"`` keeps one view a row and
        switches further entries on at random until a share ``1 - m / V`` of all is on. The same for two
        views.
    random_state : None, int, Generator or RandomState, default=None
        Seeds the draw.

    Returns
    -------
    ndarray of bool, shape (n_rows, n_views)
        True where observed.

    Raises
    ------
    ValueError
        If an argument is out of range.
    TypeError
        If an argument is of the wrong type.
    """
    check_integer("n_rows", n_rows, low=1)
    check_integer("n_views", n_views, low=2)
    check_number("rate", rate, low=0, high=1)
    check_choice("kind", kind, ("views", "entries"))
    rng = numpy_generator(random_state)
    if kind == "views":
        mask = np.ones((n_rows, n_views), dtype=bool)
        rows = rng.choice(n_rows, size=int(rate * n_rows), replace=False)
        mask[rows, rng.integers(n_views, size=len(rows))] = False
        return mask
    mask = np.zeros((n_rows, n_views), dtype=bool)
    mask[np.arange(n_rows), rng.integers(n_views, size=n_rows)] = True
    more = max(0, round((1 - rate / n_views) * mask.size) - n_rows)
    off = np.flatnonzero(~mask.ravel())
    mask.flat[rng.choice(off, size=min(more, len(off)), replace=False)] = True
    return mask


def plant_outliers(
    views: Sequence[Any],
    labels: Any,
    *,
    rates: Sequence[float] = (0.05, 0.05, 0.05),
    missing: float = 0.0,
    kind: str = "views",
    leak_free: bool = False,
    random_state: Any = None,
) -> PlantedOutliers:
    """Scale views to [0, 1], plant the three kinds of outliers and remove views.

    Parameters
    ----------
    views : sequence of array-like, each of shape (n, p_v)
        Two or more complete views over the same rows.
    labels : array-like of shape (n,)
        Class labels, used for planting only.
    rates : sequence of three floats, default=(0.05, 0.05, 0.05)
        Share of attribute, class and class-attribute outliers.
    missing : float, default=0.0
        Missing rate.
    kind : {"views", "entries"}, default="views"
        See :func:`missing_mask`.
    leak_free : bool, default=False
        False follows the protocol (class outliers only among rows that keep two views); True plants first
        and removes views afterwards.
    random_state : None, int, Generator or RandomState, default=None
        Seeds everything.

    Returns
    -------
    PlantedOutliers
        Views with NaN rows where missing, the mask, and the kind of each row.

    Raises
    ------
    ValueError
        If shapes disagree, a rate is out of range, or the data cannot hold that many outliers.
    TypeError
        If an argument is of the wrong type.
    """
    rng = numpy_generator(random_state)
    check_bool("leak_free", leak_free)
    arrays, classes = _check_views(views, labels)
    if len(rates) != 3:
        raise_invalid("rates", rates, "three rates: attribute, class, class-attribute")
    for rate in rates:
        check_number("rates", rate, low=0, high=1)
    n, n_views = len(classes), len(arrays)
    mask = missing_mask(n, n_views, missing, kind=kind, random_state=rng)
    eligible = np.ones_like(mask) if leak_free else mask
    outlier_type = np.zeros(n, dtype=np.int64)
    arrays = [_unit_interval(array, eligible[:, v]) for v, array in enumerate(arrays)]
    _plant_pairs(arrays, classes, eligible, outlier_type, 2, int(rates[1] * n), rng)
    free = np.flatnonzero(outlier_type == 0)
    n_attribute = int(rates[0] * n)
    if n_attribute > len(free):
        raise_invalid("rates", rates, f"at most {len(free)} attribute outliers among the {n} rows")
    chosen = rng.choice(free, size=n_attribute, replace=False)
    outlier_type[chosen] = 1
    for array in arrays:
        array[chosen] = rng.random((len(chosen), array.shape[1]))
    arrays = [_unit_interval(array, eligible[:, v]) for v, array in enumerate(arrays)]
    _plant_pairs(arrays, classes, eligible, outlier_type, 3, int(rates[2] * n), rng)
    arrays = [_unit_interval(array, mask[:, v]) for v, array in enumerate(arrays)]
    for v, array in enumerate(arrays):
        array[~mask[:, v]] = np.nan
    return PlantedOutliers(arrays, mask, outlier_type)


def make_multiview_outliers(
    n_samples: int = 1000,
    dims: Sequence[int] = (64, 64),
    *,
    n_groups: int = 10,
    noise: float = 0.05,
    rates: Sequence[float] = (0.05, 0.05, 0.05),
    missing: float = 0.0,
    leak_free: bool = False,
    random_state: Any = None,
) -> PlantedOutliers:
    """Generate views of Gaussian groups in a 16-dimensional latent space, with planted outliers.

    Parameters
    ----------
    n_samples : int, default=1000
        Rows.
    dims : sequence of int, default=(64, 64)
        Width of each view; every view is a fixed random two-layer tanh map of the latent.
    n_groups : int, default=10
        Groups, which play the part of classes.
    noise : float, default=0.05
        Standard deviation added to each view.
    rates : sequence of three floats, default=(0.05, 0.05, 0.05)
        As in :func:`plant_outliers`.
    missing : float, default=0.0
        Missing rate.
    leak_free : bool, default=False
        As in :func:`plant_outliers`.
    random_state : None, int, Generator or RandomState, default=None
        Seeds everything.

    Returns
    -------
    PlantedOutliers
        The data.

    Raises
    ------
    ValueError
        If an argument is out of range.
    TypeError
        If an argument is of the wrong type.
    """
    check_integer("n_samples", n_samples, low=2)
    check_integer("n_groups", n_groups, low=2)
    check_number("noise", noise, low=0)
    if len(dims) < 2:
        raise_invalid("dims", dims, "the widths of two or more views")
    rng = numpy_generator(random_state)
    groups = rng.integers(n_groups, size=n_samples)
    latent = 2.0 * rng.standard_normal((n_groups, 16))[groups] + 0.5 * rng.standard_normal((n_samples, 16))
    views = []
    for dim in dims:
        check_integer("dims", dim, low=1)
        first = rng.standard_normal((16, 32)) / 4.0
        second = rng.standard_normal((32, dim)) / np.sqrt(32)
        view = np.tanh(np.tanh(latent @ first) @ second)
        view += noise * rng.standard_normal(view.shape)
        views.append(view)
    return plant_outliers(
        views, groups, rates=rates, missing=missing, leak_free=leak_free, random_state=rng
    )


def load_digits_views() -> tuple[list[FloatArray], npt.NDArray[np.int64]]:
    """scikit-learn's digits as two views: pixels, and magnitudes of the Fourier transform.

    Returns
    -------
    views : list of ndarray of shape (1797, 64) and (1797, 40)
        Pixels divided by 16; ``log1p`` of the 2-D real Fourier magnitudes, scaled to [0, 1].
    labels : ndarray of shape (1797,)
        Digits.
    """
    digits = load_digits()
    pixels = digits.images / 16.0
    fourier = np.log1p(np.abs(np.fft.rfft2(pixels))).reshape(len(pixels), -1)
    fourier = (fourier - fourier.min()) / (fourier.max() - fourier.min())
    return [pixels.reshape(len(pixels), -1), fourier], digits.target


def load_mat_views(
    path: str | PathLike[str], views: Sequence[int]
) -> tuple[list[FloatArray], npt.NDArray[np.int64]]:
    """Read views of a multi-view ``.mat`` file (``X``: 1 x V object array, ``Y``: labels).

    Parameters
    ----------
    path : str or path-like
        Such as ``Scene-15.mat``.
    views : sequence of int
        Which views, 0-based.

    Returns
    -------
    views : list of ndarray, each of shape (n, p_v)
        Float64.
    labels : ndarray of shape (n,)
        Class labels.

    Raises
    ------
    ValueError
        If the file lacks ``X`` or ``Y``, or a view does not exist.
    """
    content = loadmat(path)
    if "X" not in content or "Y" not in content:
        raise_invalid("path", str(path), "a .mat file with X and Y")
    stored = content["X"].ravel()
    for view in views:
        check_integer("views", view, low=0, high=len(stored) - 1)
    labels = np.asarray(content["Y"]).ravel().astype(np.int64)
    return [np.asarray(stored[view], dtype=np.float64) for view in views], labels


def _plant_pairs(
    arrays: list[FloatArray],
    classes: npt.NDArray[np.int64],
    eligible: npt.NDArray[np.bool_],
    outlier_type: npt.NDArray[np.int64],
    code: int,
    n_wanted: int,
    rng: np.random.Generator,
) -> None:
    """Swap half of the views between rows of different classes; for code 3, replace the others by noise."""
    n_swapped = len(arrays) // 2
    for _ in range(n_wanted // 2):
        i, j, common = _draw_pair(classes, eligible, outlier_type, n_swapped, rng)
        swapped = rng.choice(common, size=n_swapped, replace=False)
        for v, array in enumerate(arrays):
            if v in swapped:
                array[[i, j]] = array[[j, i]]
            elif code == 3:
                array[[i, j]] = rng.random((2, array.shape[1]))
        outlier_type[[i, j]] = code


def _draw_pair(
    classes: npt.NDArray[np.int64],
    eligible: npt.NDArray[np.bool_],
    outlier_type: npt.NDArray[np.int64],
    n_swapped: int,
    rng: np.random.Generator,
) -> tuple[int, int, npt.NDArray[np.int64]]:
    # Rejection draws from the law of "uniform among admissible pairs" without listing them all.
    free = np.flatnonzero((outlier_type == 0) & (eligible.sum(axis=1) >= 2))
    for _ in range(10_000 if len(free) > 1 else 0):
        i, j = rng.choice(free, size=2, replace=False) if len(free) < 1000 else free[rng.integers(len(free), size=2)]
        common = np.flatnonzero(eligible[i] & eligible[j])
        if i != j and classes[i] != classes[j] and len(common) >= n_swapped:
            return int(i), int(j), common
    raise ValueError("rates: expected enough complete rows of different classes to swap, got too few")


def _check_views(views: Sequence[Any], labels: Any) -> tuple[list[FloatArray], npt.NDArray[np.int64]]:
    if isinstance(views, np.ndarray) or not isinstance(views, Sequence) or len(views) < 2:
        raise_invalid("views", views, "a sequence of two or more 2-D arrays")
    arrays = [np.array(view, dtype=np.float64) for view in views]
    classes = np.unique(np.asarray(labels).ravel(), return_inverse=True)[1].astype(np.int64)
    for array in arrays:
        if array.ndim != 2 or len(array) != len(classes):
            raise_invalid("views", array, f"arrays of shape ({len(classes)}, n_features), one row a label")
        if not np.isfinite(array).all():
            raise ValueError("views: expected finite values, got NaN or infinity")
    return arrays, classes


def _unit_interval(array: FloatArray, observed: npt.NDArray[np.bool_]) -> FloatArray:
    """One minimum and maximum for the whole view, over the rows that will be seen."""
    seen = array[observed]
    low, high = seen.min(), seen.max()
    return (array - low) / (high - low if high > low else 1.0)
