"""How an input falls into views: a list, a mapping, or columns of one table.

>>> is_view_collection([[1.0, 2.0], [3.0, 4.0]]), is_view_collection([[[1.0], [3.0]], [[2.0], [4.0]]])
(False, True)
"""

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import sparse

from graftkit.core.validation import check_choice, check_integer, raise_invalid
from graftkit.methods.rcpmod.matrices import as_array

__all__ = ["ViewLayout", "is_view_collection", "split_input"]

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


def split_input(
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
    table = X if hasattr(X, "ndim") else as_array("X", X)
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
    elif not isinstance(specs, Sequence | np.ndarray) or getattr(specs, "shape", None) == ():
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
        if spec.step == 0:
            raise_invalid("view_slices", spec, "a slice whose step is not 0")
        return np.arange(n_features)[spec]
    if not isinstance(spec, Sequence) and getattr(spec, "ndim", 0) == 0:  # pandas' Index will do
        raise_invalid("view_slices", spec, expected, error=TypeError)
    labels = list(getattr(table, "columns", []))
    wanted = [spec] if isinstance(spec, str) else list(spec)
    if any(isinstance(item, str) for item in wanted):
        unknown = [item for item in wanted if item not in labels]
        if unknown:
            raise ValueError(f"view_slices: unknown column(s) {unknown}, expected names of columns of X")
        return np.array([labels.index(item) for item in wanted], dtype=np.int64)
    chosen = as_array("view_slices", wanted)
    if chosen.dtype == bool and chosen.shape == (n_features,):
        return np.flatnonzero(chosen)
    if (
        chosen.ndim != 1
        or not np.issubdtype(chosen.dtype, np.integer)
        or ((chosen < 0) | (chosen >= n_features)).any()
    ):
        raise_invalid("view_slices", spec, expected)
    return chosen.astype(np.int64)
