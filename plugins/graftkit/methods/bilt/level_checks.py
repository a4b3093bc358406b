"""Whether a table of ancestors is a tree, and whether names fit it.

>>> ancestor_table([[0, 0, 1], [0, 1, 2]]).shape
(2, 3)
"""

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import Tensor

from graftkit.core.validation import raise_invalid
from graftkit.methods.bilt.growth import listed

__all__ = ["ancestor_table", "check_levels"]


def ancestor_table(ancestors: Any) -> npt.NDArray[np.int64]:
    """Read ancestors as an array of their own.

    Parameters
    ----------
    ancestors : array-like of int, shape (H, C_H)
        For each finest class the number of its ancestor at every level.

    Returns
    -------
    ndarray of shape (H, C_H)
        int64, a copy.

    Raises
    ------
    TypeError
        If the numbers are no integers.
    ValueError
        If the shape is wrong, a number negative or above C_H - 1, or the last row not 0 to C_H - 1.
    """
    if isinstance(ancestors, Tensor):
        ancestors = ancestors.detach().cpu().numpy()
    try:
        table = np.array(ancestors)
    except ValueError as error:
        raise ValueError(f"ancestors: expected rows of one length ({error})") from error
    if table.ndim != 2 or not table.size:
        raise_invalid("ancestors", table, "shape (H, C_H), neither of them 0")
    if not np.issubdtype(table.dtype, np.integer):
        raise_invalid("ancestors", table, "integers", error=TypeError)
    if table.min() < 0:
        raise_invalid("ancestors", int(table.min()), "numbers from 0")
    if table.max() >= table.shape[1]:  # before names are made up for every number below it
        raise_invalid("ancestors", int(table.max()), f"numbers below {table.shape[1]}, the finest classes")
    if not np.array_equal(table[-1], np.arange(table.shape[1])):
        raise_invalid("ancestors", table[-1], f"the last row to be 0 to {table.shape[1] - 1}")
    return table.astype(np.int64)


def check_levels(names: Sequence[Sequence[str]], table: npt.NDArray[np.int64]) -> tuple[tuple[str, ...], ...]:
    """Refuse names and ancestors that contradict each other.

    Parameters
    ----------
    names : sequence of sequences of str
        By level, coarse to fine.
    table : ndarray of shape (H, C_H)
        From `ancestor_table`.

    Returns
    -------
    tuple of tuple of str
        The names.

    Raises
    ------
    TypeError
        If a name is no string.
    ValueError
        If names and numbers do not fit, a name comes twice in a level or a node has two parents.
    """
    if isinstance(names, str) or not isinstance(names, Sequence):
        raise_invalid("names", names, "a sequence of names for each level", error=TypeError)
    for position, level in enumerate(names, start=1):
        if isinstance(level, str) or not isinstance(level, Sequence) or not all(
            isinstance(name, str) for name in level
        ):  # fmt: skip
            raise_invalid("names", level, f"strings at level {position}", error=TypeError)
    levels = tuple(tuple(level) for level in names)
    if len(levels) != len(table):
        raise_invalid("names", len(levels), f"one sequence for each of {len(table)} levels")
    for position, (level, row) in enumerate(zip(levels, table, strict=True), start=1):
        if row.max() >= len(level):
            raise_invalid("ancestors", int(row.max()), f"numbers below {len(level)} at level {position}")
        used = np.bincount(row, minlength=len(level)) > 0
        if not used.all():
            childless = listed(level[k] for k in np.flatnonzero(~used))
            raise ValueError(
                "ancestors: expected a finest class below every node, got none below "
                f"{childless} of level {position}"
            )
        twice = [name for name, count in Counter(level).items() if count > 1]
        if twice:
            raise ValueError(
                f"names: expected each once a level, got {listed(twice)} twice at level {position}"
            )
    for h in range(1, len(table)):
        parent = np.zeros(len(levels[h]), dtype=np.int64)
        parent[table[h]] = table[h - 1]
        torn = np.unique(table[h][parent[table[h]] != table[h - 1]])
        if len(torn):
            raise ValueError(
                f"ancestors: expected one parent a node, got two or more for "
                f"{listed(levels[h][k] for k in torn)} of level {h + 1}"
            )
    return levels
