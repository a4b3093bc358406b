"""Missing views and missing entries: which rows of a view are observed, and what fills the rest.

>>> import numpy as np
>>> observe_rows("a", np.array([[1.0], [np.nan]]), 1, np.array([True, True]), "raise")[1]
array([ True, False])
"""

from collections.abc import Hashable
from typing import Any

import numpy as np
import numpy.typing as npt

from graftkit.core.validation import raise_invalid
from graftkit.methods.rcpmod.matrices import as_array

__all__ = ["check_observed", "column_means", "fill_missing", "observe_rows", "read_mask"]

FloatArray = npt.NDArray[np.floating]


def read_mask(
    view_mask: Any, n_rows: int, names: tuple[Hashable, ...], *, argument: str = "view_mask"
) -> npt.NDArray[np.bool_]:
    """The user's mask as booleans of shape (n, V), all true without one."""
    n_views = len(names)
    if view_mask is None:
        return np.ones((n_rows, n_views), dtype=bool)
    mask = as_array(argument, view_mask)
    columns = list(getattr(view_mask, "columns", ()))
    if set(columns) == set(names) and columns != list(names):
        raise ValueError(
            f"{argument}: expected columns in the order of the views, {list(names)}, got {columns}"
        )
    if mask.shape != (n_rows, n_views):
        raise_invalid(argument, mask, f"an array of shape ({n_rows}, {n_views})")
    if mask.dtype != bool and not np.isin(mask, (0, 1)).all():
        raise_invalid(argument, mask, "booleans", error=TypeError)
    return mask.astype(bool)


def observe_rows(
    name: Hashable, array: FloatArray | None, width: int, claimed: npt.NDArray[np.bool_], partial_nan: str
) -> tuple[FloatArray, npt.NDArray[np.bool_]]:
    """Decide which rows of one view are observed; NaN stays only where it is to be imputed."""
    if array is None:
        return np.zeros((len(claimed), width)), np.zeros(len(claimed), dtype=bool)
    if np.isinf(array[claimed]).any():
        row = int(np.flatnonzero(claimed & np.isinf(array).any(axis=1))[0])
        raise ValueError(f"view {name!r}: expected finite values, got infinity in row {row}")
    absent = np.isnan(array)
    observed = claimed & ~absent.all(axis=1)
    partial = observed & absent.any(axis=1)
    if partial.any() and partial_nan == "raise":
        raise ValueError(
            f"view {name!r}: expected rows without NaN, or all NaN where the view is missing, got NaN in "
            f"part of row(s) {np.flatnonzero(partial)[:10].tolist()}. Set partial_nan='missing' or 'impute'"
        )
    if partial_nan == "missing":
        observed = observed & ~partial
    return array, observed


def check_observed(mask: npt.NDArray[np.bool_], names: tuple[Hashable, ...], *, fitting: bool) -> None:
    """Refuse rows without any view and, in fit, views without any row."""
    empty = np.flatnonzero(~mask.any(axis=1))
    if len(empty):
        raise ValueError(
            f"X: expected at least one observed view in every row, got none in {len(empty)} row(s): "
            f"{empty[:10].tolist()}"
        )
    if fitting:
        for v in np.flatnonzero(~mask.any(axis=0)):
            raise ValueError(f"view {names[v]!r}: expected at least one observed row, got none")


def column_means(array: FloatArray, observed: npt.NDArray[np.bool_]) -> FloatArray:
    """Means of the observed rows' known entries, shape (p,); 0 where none is known."""
    rows = array[observed]
    known = ~np.isnan(rows)
    count = np.maximum(known.sum(axis=0), 1)
    # Divided before the sum, which could overflow.
    return np.asarray(np.where(known, rows / count.astype(np.float64), 0.0).sum(axis=0))


def fill_missing(array: FloatArray, observed: npt.NDArray[np.bool_], mean: FloatArray) -> None:
    """Write zeros into missing rows and means into missing entries, in place."""
    array[~observed] = 0.0
    rows, columns = np.nonzero(np.isnan(array))
    array[rows, columns] = mean[columns]
