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

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import sparse

from graftkit.core.validation import check_choice, check_integer, describe, raise_invalid

__all__ = ["MultiViewData", "ViewLayout", "is_view_collection", "read_views", "stack_views"]

FloatArray = npt.NDArray[np.floating]


@dataclass(frozen=True)
class ViewLayout:
    """What fitting learnt about the input's form.

    Parameters
    ----------
    names : tuple of hashable
        Name of each view; ``view0``, ``view1``, ... unless the input was a mapping or named slices.
    widths : tuple of int
        Features per view.
    columns : tuple of ndarray, each of shape (n_features_v,), or None
        Column positions of each view where the input was one table.
    table : tuple of (int, tuple of names or None), or None
        Width of that table, and its column names where it was a DataFrame.
    means : tuple of ndarray, each of shape (n_features,)
        Column means over observed entries, for ``partial_nan="impute"``.
    """

    names: tuple[Hashable, ...]
    widths: tuple[int, ...]
    columns: tuple[npt.NDArray[np.int64], ...] | None
    table: tuple[int, tuple[Hashable, ...] | None] | None = None
    means: tuple[FloatArray, ...] = ()


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
    entries, names, columns = _split(X, view_slices, layout)
    raw = [
        None if entry is None else _as_matrix(name, entry) for name, entry in zip(names, entries, strict=True)
    ]
    _check_rows(raw, names, entries)
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
    mask = _read_mask(view_mask, n_rows, len(raw))
    arrays = []
    for v, array in enumerate(raw):
        filled, mask[:, v] = _observe(names[v], array, layout.widths[v], mask[:, v], partial_nan)
        arrays.append(filled)
    if fitting:
        layout = replace(layout, means=tuple(_column_means(a, mask[:, v]) for v, a in enumerate(arrays)))
    _check_observed(mask, names, fitting=fitting)
    for array, observed, mean in zip(arrays, mask.T, layout.means, strict=True):
        _fill(array, observed, mean)
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
    arrays = [_as_matrix(name, view) for name, view in zip(names, views, strict=True)]
    _check_rows(list(arrays), names, list(views), argument="views")
    observed = _read_mask(mask, len(arrays[0]), len(arrays), argument="mask")
    parts = [np.where(observed[:, [v]], array, np.nan) for v, array in enumerate(arrays)]
    return np.concatenate(parts, axis=1), [array.shape[1] for array in arrays]


def is_view_collection(X: Any) -> bool:
    """Tell a collection of views from one table.

    Parameters
    ----------
    X : object
        A mapping, or a list or tuple of arrays, Series or nested lists, is a collection; a list of rows
        of numbers is a table.

    Returns
    -------
    bool
        True for a collection of views.
    """
    if sparse.issparse(X):  # one of its formats is a Mapping
        return False
    if isinstance(X, Mapping):
        return True
    if not isinstance(X, list | tuple) or not len(X):
        return False
    return any(entry is None or getattr(entry, "ndim", 0) >= 1 or _ndim(entry) >= 2 for entry in X)


def _ndim(entry: Any) -> int:
    ndim = getattr(entry, "ndim", None)
    if ndim is not None:
        return int(ndim)
    depth = 0
    while isinstance(entry, list | tuple):
        depth += 1
        if not entry:
            break
        entry = entry[0]
    return depth + int(getattr(entry, "ndim", 0) or 0)


def _split(
    X: Any, view_slices: Any, layout: ViewLayout | None
) -> tuple[list[Any], tuple[Hashable, ...], tuple[npt.NDArray[np.int64], ...] | None]:
    """Take the input apart into one entry a view."""
    if sparse.issparse(X):
        raise_invalid("X", X, "a list of sparse views or one dense table", error=TypeError)
    if isinstance(X, Mapping):
        names = layout.names if layout is not None else tuple(X)
        unknown = [name for name in X if name not in names]
        if unknown:
            raise ValueError(f"X: unknown view name(s) {unknown}, expected some of {list(names)}")
        return _at_least_two([X.get(name) for name in names]), names, None
    if is_view_collection(X):
        names = layout.names if layout is not None else tuple(f"view{v}" for v in range(len(X)))
        if layout is not None and len(X) != len(names):
            raise ValueError(f"X: expected {len(names)} views as in fit, got {len(X)}")
        return _at_least_two(list(X)), names, None
    table = X if hasattr(X, "ndim") else _array("X", X)
    if table.ndim != 2:
        raise_invalid("X", X, "a list of two or more 2-D arrays, or one 2-D array with view_slices")
    if layout is not None:
        if layout.columns is None:
            raise_invalid("X", X, f"a list or mapping of {len(layout.names)} views, as in fit")
        names, columns = layout.names, layout.columns
        _check_table(table, layout)
    else:
        names, columns = _columns(view_slices, table)
    values = table.iloc if hasattr(table, "iloc") else table
    return [values[:, c] for c in columns], names, columns


def _check_table(table: Any, layout: ViewLayout) -> None:
    """Refuse a table of another width, or a DataFrame whose columns are not those of fit."""
    width, labels = layout.table or (table.shape[1], None)
    if table.shape[1] != width:
        raise ValueError(f"X: expected {width} features, as in fit, got {table.shape[1]}")
    given = tuple(getattr(table, "columns", ())) or None
    if labels is not None and given is not None and given != labels:
        raise ValueError(f"X: expected the columns of fit, in its order, {list(labels)}, got {list(given)}")


def _at_least_two(entries: list[Any]) -> list[Any]:
    if len(entries) < 2:
        raise ValueError(f"X: expected at least 2 views, got {len(entries)}")
    if all(entry is None for entry in entries):
        raise ValueError("X: expected at least one view that is present, got only None")
    return entries


def _columns(view_slices: Any, table: Any) -> tuple[tuple[Hashable, ...], tuple[npt.NDArray[np.int64], ...]]:
    n_features = table.shape[1]
    named = isinstance(view_slices, Mapping)
    specs = list(view_slices.values()) if named else view_slices
    if specs is None:
        raise ValueError(
            "view_slices: expected how one 2-D array falls into views (a number of blocks, widths, columns "
            "or named columns), got None. Or pass X as a list of arrays, one a view"
        )
    if isinstance(specs, str):
        check_choice("view_slices", specs, ("auto",))
        specs = 2
    positions = np.arange(n_features)
    if isinstance(specs, int | np.integer) and not isinstance(specs, bool):
        check_integer("view_slices", specs, low=2)
        if n_features < specs:
            raise ValueError(
                f"X: expected at least {specs} features for {specs} views, got {n_features} feature(s)"
            )
        columns = np.array_split(positions, int(specs))
    elif not isinstance(specs, Sequence | np.ndarray):
        raise_invalid("view_slices", view_slices, "an int, 'auto', a list or a mapping", error=TypeError)
    elif not named and len(specs) and all(_is_integer(s) for s in specs):
        if min(specs) < 1 or sum(specs) != n_features:
            raise ValueError(
                f"view_slices: expected positive widths that sum to {n_features}, got {list(specs)}"
            )
        columns = np.split(positions, np.cumsum(specs)[:-1])
    else:
        columns = [_positions(spec, table) for spec in specs]
    if len(columns) < 2:
        raise ValueError(f"view_slices: expected at least 2 views, got {len(columns)}")
    joined = np.concatenate(columns)
    if len(np.unique(joined)) != len(joined):
        raise ValueError("view_slices: expected disjoint columns, got overlapping views")
    if not all(len(c) for c in columns):
        raise ValueError("view_slices: expected at least one column in every view, got an empty one")
    names = tuple(view_slices) if named else tuple(f"view{v}" for v in range(len(columns)))
    return names, tuple(np.asarray(c, dtype=np.int64) for c in columns)


def _is_integer(value: Any) -> bool:
    return isinstance(value, int | np.integer) and not isinstance(value, bool)


def _positions(spec: Any, table: Any) -> npt.NDArray[np.int64]:
    n_features = table.shape[1]
    expected = f"column positions in [0, {n_features - 1}], a slice or column names"
    if isinstance(spec, slice):
        if not all(bound is None or _is_integer(bound) for bound in (spec.start, spec.stop, spec.step)):
            raise_invalid("view_slices", spec, "a slice of column positions", error=TypeError)
        return np.arange(n_features)[spec]
    if not isinstance(spec, str | Sequence | np.ndarray):
        raise_invalid("view_slices", spec, expected, error=TypeError)
    labels = list(getattr(table, "columns", []))
    wanted = [spec] if isinstance(spec, str) else list(spec)
    if any(isinstance(item, str) for item in wanted):
        unknown = [item for item in wanted if item not in labels]
        if unknown:
            raise ValueError(f"view_slices: unknown column(s) {unknown}, expected names of columns of X")
        return np.array([labels.index(item) for item in wanted], dtype=np.int64)
    chosen = _array("view_slices", wanted)
    if chosen.dtype == bool and chosen.shape == (n_features,):
        return np.flatnonzero(chosen)
    if not np.issubdtype(chosen.dtype, np.integer) or ((chosen < 0) | (chosen >= n_features)).any():
        raise_invalid("view_slices", spec, expected)
    return chosen.astype(np.int64)


def _as_matrix(name: Hashable, view: Any) -> FloatArray:
    """One view as a fresh 2-D float array."""
    if sparse.issparse(view):
        view = view.toarray()
    array = _array(f"view {name!r}", view)
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


def _check_rows(
    arrays: Sequence[FloatArray | None],
    names: tuple[Hashable, ...],
    entries: Sequence[Any],
    *,
    argument: str = "X",
) -> None:
    rows = {name: len(array) for name, array in zip(names, arrays, strict=True) if array is not None}
    if len(set(rows.values())) > 1:
        raise ValueError(f"{argument}: expected the same number of rows in every view, got {rows}")
    frames = [entry for entry in entries if hasattr(entry, "iloc")]
    if any(not frame.index.equals(frames[0].index) for frame in frames[1:]):
        raise ValueError(f"{argument}: expected equal row indices in every DataFrame, got different ones")


def _read_mask(
    view_mask: Any, n_rows: int, n_views: int, *, argument: str = "view_mask"
) -> npt.NDArray[np.bool_]:
    if view_mask is None:
        return np.ones((n_rows, n_views), dtype=bool)
    mask = _array(argument, view_mask)
    if mask.shape != (n_rows, n_views):
        raise_invalid(argument, mask, f"an array of shape ({n_rows}, {n_views})")
    if mask.dtype != bool and not np.isin(mask, (0, 1)).all():
        raise_invalid(argument, mask, "booleans", error=TypeError)
    return mask.astype(bool)


def _array(argument: str, value: Any) -> npt.NDArray[Any]:
    """An array of what came; rows of unequal length and masked entries are refused by name."""
    if isinstance(value, np.ma.MaskedArray):
        raise_invalid(argument, value, "a plain array", error=TypeError, fix="Use value.filled(numpy.nan)")
    try:
        return np.asarray(value)
    except ValueError as error:  # NumPy's "inhomogeneous shape" names no argument
        raise ValueError(f"{argument}: expected rows of equal length, got {describe(value)}") from error


def _observe(
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


def _check_observed(mask: npt.NDArray[np.bool_], names: tuple[Hashable, ...], *, fitting: bool) -> None:
    empty = np.flatnonzero(~mask.any(axis=1))
    if len(empty):
        raise ValueError(
            f"X: expected at least one observed view in every row, got none in {len(empty)} row(s): "
            f"{empty[:10].tolist()}"
        )
    if fitting:
        for v in np.flatnonzero(~mask.any(axis=0)):
            raise ValueError(f"view {names[v]!r}: expected at least one observed row, got none")


def _column_means(array: FloatArray, observed: npt.NDArray[np.bool_]) -> FloatArray:
    rows = array[observed]
    known = ~np.isnan(rows)
    count = np.maximum(known.sum(axis=0), 1)
    # Divided before the sum, which could overflow.
    return np.asarray(np.where(known, rows / count.astype(np.float64), 0.0).sum(axis=0))


def _fill(array: FloatArray, observed: npt.NDArray[np.bool_], mean: FloatArray) -> None:
    array[~observed] = 0.0
    rows, columns = np.nonzero(np.isnan(array))
    array[rows, columns] = mean[columns]
