r"""Ragged user vectors: how many each user gets, and where they lie in one table.

BPA gives every user C vectors (P1). APA gives more to users with more interactions,

.. math:: C_u = \mathrm{clip}(\lfloor \log_2 n^+_u \rfloor, 1, C_{max})

which is **reconstructed** from a remark in the authors' code (the rule of P2 could not be read).
Storage is one table of :math:`\sum_u C_u` rows and pointers like those of CSR.

>>> assign_vectors(np.array([1, 4, 1000]), "apa", 5).tolist()
[1, 2, 5]
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from graftkit.core.validation import check_choice, raise_invalid

__all__ = ["assign_vectors", "pad_vectors", "padded_rows", "pointers"]

IntArray = npt.NDArray[np.int64]


def assign_vectors(counts: IntArray, assignment: Any, n_vectors: int) -> IntArray:
    """Number of vectors of each user.

    Parameters
    ----------
    counts : ndarray of int, shape (n_users,)
        Interactions of each user.
    assignment : {"bpa", "apa"}, callable or array of int, shape (n_users,)
        The rule; a callable gets `counts` and returns such an array.
    n_vectors : int
        C of ``"bpa"``, the cap of ``"apa"``; not used otherwise.

    Returns
    -------
    ndarray of int, shape (n_users,)
        At least 1 each.

    Raises
    ------
    ValueError
        If an array has the wrong length or an entry below 1, or the name is unknown.
    TypeError
        If the array does not hold integers.
    """
    if isinstance(assignment, str):
        check_choice("assignment", assignment, ("bpa", "apa"))
        if assignment == "bpa":
            return np.full(len(counts), n_vectors, dtype=np.int64)
        # frexp is exact at powers of two, log2 of a float need not be.
        exponents = np.frexp(np.maximum(counts, 1).astype(np.float64))[1] - 1
        found: IntArray = np.clip(exponents, 1, n_vectors).astype(np.int64)
        return found
    numbers = assignment(counts) if callable(assignment) else assignment
    try:
        given = np.asarray(numbers)
    except ValueError:  # lists of different lengths
        raise_invalid("assignment", assignment, "numbers of vectors, one a user", error=TypeError)
    if given.shape != counts.shape:
        raise_invalid(
            "assignment",
            given,
            f"one number of vectors for each of the {len(counts)} users, so length {len(counts)}",
        )
    if given.dtype.kind not in "iu":
        raise_invalid("assignment", given, "integers", error=TypeError)
    if len(given) and given.min() < 1:
        raise ValueError(
            f"assignment: expected numbers of vectors >= 1 in an array of length {len(counts)}, got "
            f"{int(given.min())} in one of length {len(given)}"
        )
    return given.astype(np.int64)


def pointers(n_vectors: IntArray) -> IntArray:
    """Start of each user's rows, and the end of the last one's.

    Parameters
    ----------
    n_vectors : ndarray of int, shape (n_users,)
        Vectors of each user.

    Returns
    -------
    ndarray of int, shape (n_users + 1,)
        User u owns rows ``ptr[u]`` to ``ptr[u + 1]``.
    """
    return np.concatenate(([0], np.cumsum(n_vectors))).astype(np.int64)


def padded_rows(ptr: IntArray, users: IntArray | None = None, width: int | None = None) -> IntArray:
    """Row numbers of each user's vectors, the last one repeated up to a common width.

    Parameters
    ----------
    ptr : ndarray of int, shape (n_users + 1,)
        Pointers.
    users : ndarray of int, shape (b,), or None, default=None
        Which users; all where None.
    width : int or None, default=None
        Columns; the largest count of the chosen users where None.

    Returns
    -------
    ndarray of int, shape (b, width)
        A repeated vector changes no minimum, so scores over these rows are those of the ragged table.
    """
    start = ptr[:-1] if users is None else ptr[users]
    count = (ptr[1:] if users is None else ptr[users + 1]) - start
    if width is None:
        width = int(count.max()) if len(count) else 1
    offsets = np.minimum(np.arange(width), count[:, None] - 1)
    rows: IntArray = start[:, None] + offsets
    return rows


def pad_vectors(
    vectors: npt.NDArray[np.floating],
    ptr: IntArray,
    users: IntArray | None = None,
    *,
    width: int | None = None,
) -> tuple[npt.NDArray[np.floating], npt.NDArray[np.bool_]]:
    """Users' vectors as one padded array with its mask, the form that suits a GPU.

    Parameters
    ----------
    vectors : ndarray of shape (n_rows, d)
        The ragged table.
    ptr : ndarray of int, shape (n_users + 1,)
        Pointers.
    users : ndarray of int, shape (b,), or None, default=None
        Which users; all where None.
    width : int or None, default=None
        C_max; the largest count of the chosen users where None.

    Returns
    -------
    padded : ndarray of shape (b, C_max, d)
        The last vector of a user repeated.
    mask : ndarray of bool, shape (b, C_max)
        False where a vector is a repetition.
    """
    rows = padded_rows(ptr, users, width)
    count = np.diff(ptr) if users is None else ptr[users + 1] - ptr[users]
    return vectors[rows], np.arange(rows.shape[1]) < count[:, None]
