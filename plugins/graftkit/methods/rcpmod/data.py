"""Multi-view data for trying RCPMOD: a generator of any size, and readers of two real sources.

Outliers are planted by :mod:`graftkit.methods.rcpmod.planting`, whose names are repeated here.

>>> planted = make_multiview_outliers(200, (6, 5), missing=0.2, random_state=0)
>>> [view.shape for view in planted.views], int(planted.is_outlier.sum())
([(200, 6), (200, 5)], 30)
"""

from __future__ import annotations

from collections.abc import Sequence
from os import PathLike, fspath
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.io import loadmat
from sklearn.datasets import load_digits

from graftkit.core.random import numpy_generator
from graftkit.core.validation import check_bool, check_integer, check_number, raise_invalid
from graftkit.methods.rcpmod.planting import (
    KINDS,
    PlantedOutliers,
    check_rates,
    missing_mask,
    plant_in_place,
    plant_outliers,
)

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
LATENT_DIM, HIDDEN_DIM = 16, 32
CHUNK = 65_536


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
    check_bool("leak_free", leak_free)
    shares = check_rates(rates)
    if (
        isinstance(dims, str)
        or not isinstance(dims, Sequence | np.ndarray)
        or getattr(dims, "shape", None) == ()
        or len(dims) < 2
    ):
        raise_invalid("dims", dims, "the widths of two or more views")
    for dim in dims:
        check_integer("dims", dim, low=1)
    rng = numpy_generator(random_state)
    groups = rng.integers(n_groups, size=n_samples)
    latent = 2.0 * rng.standard_normal((n_groups, LATENT_DIM))[groups]
    latent += 0.5 * rng.standard_normal(latent.shape)
    views = [_random_tanh_map(latent, dim, noise, rng) for dim in dims]
    return plant_in_place(views, groups, shares, missing, "views", leak_free, rng)


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
    FileNotFoundError
        If there is no such file.
    ValueError
        If the file lacks ``X`` or ``Y``, if they do not hold one 2-D array a view and one label a row, or
        if a view does not exist.
    TypeError
        If a view's number is no integer.
    """
    content = loadmat(fspath(path), appendmat=False)
    if "X" not in content or "Y" not in content:
        raise ValueError(
            f"path: expected a .mat file with X and Y, got {sorted(k for k in content if k[0] != '_')}"
        )
    stored, labels = content["X"].ravel(), np.asarray(content["Y"]).ravel()
    if content["X"].dtype != object or any(np.ndim(view) != 2 or len(view) != len(labels) for view in stored):
        raise_invalid(
            "path", content["X"], f"X to hold one array of shape ({len(labels)}, n_features) a view"
        )
    chosen = [check_integer("views", view, low=0, high=len(stored) - 1) for view in views]
    return [np.asarray(stored[view], dtype=np.float64) for view in chosen], labels.astype(np.int64)


def _random_tanh_map(latent: FloatArray, dim: int, noise: float, rng: np.random.Generator) -> FloatArray:
    first = rng.standard_normal((latent.shape[1], HIDDEN_DIM)) / np.sqrt(latent.shape[1])
    second = rng.standard_normal((HIDDEN_DIM, dim)) / np.sqrt(HIDDEN_DIM)
    view = np.empty((len(latent), dim))
    for start in range(0, len(latent), CHUNK):
        part = np.tanh(np.tanh(latent[start : start + CHUNK] @ first) @ second)
        view[start : start + CHUNK] = part + noise * rng.standard_normal(part.shape)
    return view
