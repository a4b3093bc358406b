"""Reading multi-view input: lists, mappings or one sliced table, with missing views.

A view of a row is missing when its features are all NaN, when ``view_mask`` says so, or when the whole
view is ``None``. Everything is decided here, before any training starts.

>>> import numpy as np
>>> a, b = np.ones((3, 2)), np.array([[1.0], [np.nan], [2.0]])
>>> read_views([a, b]).mask
array([[ True,  True],
       [ True, False],
       [ True,  True]])
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from graftkit.core.validation import check_choice, raise_invalid
from graftkit.methods.rcpmod.matrices import as_matrix, check_rows
from graftkit.methods.rcpmod.missing import (
    check_observed,
    column_means,
    fill_missing,
    observe_rows,
    read_mask,
)
from graftkit.methods.rcpmod.slicing import ViewLayout, split_input

__all__ = ["MultiViewData", "read_views", "stack_views"]

FloatArray = npt.NDArray[np.floating]


@dataclass(frozen=True)
class MultiViewData:
    """Views over the same rows, read and checked.

    Parameters
    ----------
    arrays : list of ndarray, each of shape (n, p_v)
        Float32 or float64; zero rows where a view is missing.
    mask : ndarray of bool, shape (n, V)
        Which views each row has, at least one a row.
    layout : ViewLayout
        Names, widths and columns.
    """

    arrays: list[FloatArray]
    mask: npt.NDArray[np.bool_]
    layout: ViewLayout


def read_views(
    X: Any,
    *,
    view_slices: Any = "auto",
    view_mask: Any = None,
    partial_nan: str = "raise",
    layout: ViewLayout | None = None,
) -> MultiViewData:
    """Read any supported form of multi-view input.

    Parameters
    ----------
    X : list, tuple or mapping of array-likes of shape (n, p_v), or one array-like of shape (n, p)
        The views. With `layout`, an entry may be ``None`` and a mapping may lack a name: that view is
        then missing for every row.
    view_slices : int, "auto", list of int, list of slices or index arrays, or mapping, default="auto"
        How one table falls into views: a number of contiguous near-equal blocks, block widths, column
        selections, or named column selections. ``"auto"`` is two blocks.
    view_mask : array-like of bool, shape (n, V), or None, default=None
        False marks a missing view, whatever its content. A row of NaN is missing in any case.
    partial_nan : {"raise", "missing", "impute"}, default="raise"
        What to do with a row that is NaN in some features of a view only.
    layout : ViewLayout or None, default=None
        From fitting; the input must then match it.

    Returns
    -------
    MultiViewData
        Checked arrays, mask and layout.

    Raises
    ------
    ValueError
        If shapes, names, values or the mask do not fit; the message names the argument.
    TypeError
        If a view, the slices or the mask are of the wrong type.
    """
    check_choice("partial_nan", partial_nan, ("raise", "missing", "impute"))
    entries, names, columns = split_input(X, view_slices, layout)
    raw = [
        None if entry is None else as_matrix(name, entry) for name, entry in zip(names, entries, strict=True)
    ]
    check_rows(raw, names, [*entries, view_mask])
    n_rows = next(len(array) for array in raw if array is not None)
    if layout is None:
        for name, array in zip(names, raw, strict=True):
            if array is None:
                raise_invalid(f"view {name!r}", None, "an array in fit", fix="None is for prediction only")
        if n_rows < 2:
            raise ValueError(f"X: expected at least 2 samples, got {n_rows} sample(s)")
        widths = tuple(array.shape[1] for array in raw if array is not None)
        table = None if columns is None else (np.shape(X)[1], tuple(getattr(X, "columns", ())) or None)
        layout = ViewLayout(names, widths, columns, table)
        fitting = True
    else:
        fitting = False
        if n_rows < 1:
            raise ValueError("X: expected at least 1 sample, got 0 sample(s)")
        for name, array, width in zip(names, raw, layout.widths, strict=True):
            if array is not None and array.shape[1] != width:
                raise ValueError(f"view {name!r}: expected {width} features as in fit, got {array.shape[1]}")
    mask = read_mask(view_mask, n_rows, names)
    arrays = []
    for v, array in enumerate(raw):
        filled, mask[:, v] = observe_rows(names[v], array, layout.widths[v], mask[:, v], partial_nan)
        arrays.append(filled)
    if fitting:
        layout = replace(layout, means=tuple(column_means(a, mask[:, v]) for v, a in enumerate(arrays)))
    check_observed(mask, names, fitting=fitting)
    for array, observed, mean in zip(arrays, mask.T, layout.means, strict=True):
        fill_missing(array, observed, mean)
    return MultiViewData(arrays, mask, layout)


def stack_views(views: Sequence[Any], mask: Any = None) -> tuple[FloatArray, list[int]]:
    """Put views side by side in one table, NaN where a view is missing.

    Parameters
    ----------
    views : sequence of array-like, each of shape (n, p_v)
        Two or more views over the same rows.
    mask : array-like of bool, shape (n, V), or None, default=None
        False marks a missing view.

    Returns
    -------
    X : ndarray of shape (n, sum of p_v)
        For pipelines and searches, which pass one table through.
    widths : list of int
        For ``RCPMOD(view_slices=widths)``.

    Raises
    ------
    ValueError
        If the views or the mask do not fit together.
    TypeError
        If a view or the mask is of the wrong type.

    Examples
    --------
    >>> X, widths = stack_views([[[1.0], [2.0]], [[3.0, 4.0], [5.0, 6.0]]], [[True, True], [True, False]])
    >>> widths
    [1, 2]
    >>> X[1]
    array([ 2., nan, nan])
    """
    if isinstance(views, np.ndarray) or not isinstance(views, Sequence) or len(views) < 2:
        raise_invalid("views", views, "a sequence of two or more 2-D arrays")
    names = tuple(f"view{v}" for v in range(len(views)))
    arrays = [as_matrix(name, view) for name, view in zip(names, views, strict=True)]
    check_rows(list(arrays), names, [*views, mask], argument="views")
    observed = read_mask(mask, len(arrays[0]), names, argument="mask")
    parts = [np.where(observed[:, [v]], array, np.nan) for v, array in enumerate(arrays)]
    return np.concatenate(parts, axis=1), [array.shape[1] for array in arrays]
