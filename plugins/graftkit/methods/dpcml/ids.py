"""Ids of users and items, as a caller gives them.

>>> check_ids("user_ids", 3, 5, (5, 9)).tolist()
[3]
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from graftkit.core.validation import describe, raise_invalid

__all__ = ["check_ids"]

IntArray = npt.NDArray[np.int64]


def check_ids(name: str, ids: Any, size: int, shape: tuple[int, int]) -> IntArray:
    """Ids as an array, refused where they are no integers or out of range.

    Parameters
    ----------
    name : str
        The argument's name.
    ids : int or array-like of int, shape (m,)
        What came.
    size : int
        Ids must lie below.
    shape : tuple of (int, int)
        Users x items of the fitted model, for the message.

    Returns
    -------
    ndarray of int, shape (m,)
        At least 1-D.

    Raises
    ------
    TypeError
        If an id is no integer.
    IndexError
        If an id is out of range.
    ValueError
        If `ids` has more than one axis.
    """
    try:
        given = np.atleast_1d(np.asarray(ids))
    except ValueError:  # lists of different lengths
        raise_invalid(name, ids, "integer ids", error=TypeError)
    if given.dtype.kind not in "iu" and given.size:
        raise_invalid(name, ids, "integer ids", error=TypeError)
    if given.ndim != 1:
        raise_invalid(name, ids, "an id or a 1-D array of ids")
    if given.size and (given.min() < 0 or given.max() >= size):
        wrong = given[(given < 0) | (given >= size)]
        raise IndexError(
            f"{name}: expected integer ids in [0, {size}), got {describe(int(wrong[0]))}; the model was "
            f"fitted on users x items = {shape}. If these are ids of the other kind, the training matrix "
            "may have been transposed"
        )
    return given.astype(np.int64)
