"""One view as a matrix of numbers: what is taken, what is refused, by the view's name.

>>> as_matrix("view0", [[1], [2]])
array([[1.],
       [2.]])
"""

from collections.abc import Hashable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import sparse

from graftkit.core.validation import describe, raise_invalid

__all__ = ["as_array", "as_matrix", "check_rows", "refuse_masked"]

FloatArray = npt.NDArray[np.floating]


def refuse_masked(argument: str, value: Any) -> None:
    """Refuse an array whose masked entries most of NumPy would read as numbers."""
    if isinstance(value, np.ma.MaskedArray):
        raise_invalid(argument, value, "a plain array", error=TypeError, fix="Use value.filled(numpy.nan)")


def as_array(argument: str, value: Any) -> npt.NDArray[Any]:
    """An array of what came; rows of unequal length and masked entries are refused by name."""
    refuse_masked(argument, value)
    try:
        return np.asarray(value)
    except ValueError as error:  # NumPy's "inhomogeneous shape" names no argument
        raise ValueError(f"{argument}: expected rows of equal length, got {describe(value)}") from error


def as_matrix(name: Hashable, view: Any) -> FloatArray:
    """One view as a fresh 2-D float array."""
    if sparse.issparse(view):
        view = view.toarray()
    array = as_array(f"view {name!r}", view)
    if array.ndim != 2 or array.shape[1] == 0:
        raise_invalid(f"view {name!r}", array, "an array of shape (n_samples, n_features >= 1)")
    if np.iscomplexobj(array):
        raise_invalid(f"view {name!r}", array, "real numbers")
    if array.dtype.kind not in "fiubOUS":
        raise_invalid(f"view {name!r}", array, "numbers", error=TypeError)
    if array.dtype.kind in "OUS":
        try:
            # pandas' nullable columns hold pd.NA, which only pandas turns into NaN.
            if hasattr(view, "to_numpy"):
                return np.array(view.to_numpy(dtype=np.float64, na_value=np.nan))
            return array.astype(np.float64)
        except (TypeError, ValueError) as error:
            raise TypeError(f"view {name!r}: expected numbers, got {describe(array)} ({error})") from error
    return array.astype(array.dtype if array.dtype in (np.float32, np.float64) else np.float64)


def check_rows(
    arrays: Sequence[FloatArray | None],
    names: tuple[Hashable, ...],
    entries: Sequence[Any],
    *,
    argument: str = "X",
) -> None:
    """Refuse views of different lengths, or DataFrames with different row indices."""
    rows = {name: len(array) for name, array in zip(names, arrays, strict=True) if array is not None}
    if len(set(rows.values())) > 1:
        raise ValueError(f"{argument}: expected the same number of rows in every view, got {rows}")
    frames = [entry for entry in entries if hasattr(entry, "iloc")]
    if any(not frame.index.equals(frames[0].index) for frame in frames[1:]):
        raise ValueError(f"{argument}: expected equal row indices in every DataFrame, got different ones")
