"""What a fit has learnt as named arrays, and back with every shape checked.

A file may be damaged or made by hand; what does not fit together is refused before anything is built from it.

>>> from graftkit.methods.dpcml.settings import Settings
>>> state = TrainingState.initial(np.array([2, 1]), 3, Settings(n_components=4), np.random.default_rng(0))
>>> arrays = pack_model(state, None, np.ones(3))
>>> unpack_model(arrays)[0].user_vectors.shape
(3, 4)
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import scipy.sparse as sp

from graftkit.methods.dpcml.state import TrainingState

__all__ = ["pack_model", "unpack_model"]

Arrays = dict[str, npt.NDArray[Any]]
Counts = npt.NDArray[np.floating[Any]]
NEEDED = ("user_vectors_", "user_ptr_", "item_vectors_", "item_counts_", "thresholds")


def pack_model(state: TrainingState, interactions: sp.csr_matrix | None, item_counts: Counts) -> Arrays:
    """Name the arrays of a fitted model.

    Parameters
    ----------
    state : TrainingState
        Vectors and moments.
    interactions : csr_matrix of shape (n_users, n_items) or None
        What was seen, if it is kept.
    item_counts : ndarray of shape (n_items,)
        Users an item.

    Returns
    -------
    dict of str to ndarray, each of any shape
        Numeric arrays.
    """
    arrays: Arrays = {f"moment/{name}": value for name, value in state.moments.items()}
    arrays["user_vectors_"], arrays["user_ptr_"] = state.user_vectors, state.user_ptr
    arrays["item_vectors_"], arrays["item_counts_"] = state.item_vectors, item_counts
    arrays["thresholds"] = state.thresholds
    if interactions is not None:
        arrays["indptr"], arrays["indices"] = interactions.indptr, interactions.indices
    return arrays


def unpack_model(
    arrays: Arrays, *, name: str = "arrays"
) -> tuple[TrainingState, sp.csr_matrix | None, Counts]:
    """Build a fitted model from its arrays.

    Parameters
    ----------
    arrays : dict of str to ndarray, each of any shape
        As from `pack_model`.
    name : str, default="arrays"
        What they come from, for messages.

    Returns
    -------
    state : TrainingState
        Vectors and moments, after 0 steps.
    interactions : csr_matrix of shape (n_users, n_items) or None
        What was seen.
    item_counts : ndarray of shape (n_items,)
        Users an item.

    Raises
    ------
    ValueError
        If an array is missing, or does not fit the others.
    """
    missing = sorted(set(NEEDED) - set(arrays))
    if missing:
        raise ValueError(f"{name}: expected a fitted DPCML, got a file without {missing}")
    ptr = arrays["user_ptr_"]
    if ptr.ndim != 1 or ptr.dtype.kind not in "iu" or len(ptr) < 2 or ptr[0] != 0 or (np.diff(ptr) < 1).any():
        raise ValueError(f"{name}: expected user_ptr_ to rise from 0, a row or more a user")
    items = arrays["item_vectors_"]
    n_items, width = items.shape if items.ndim == 2 else (-1, -1)
    shapes = {
        "user_vectors_": (int(ptr[-1]), width),
        "item_vectors_": (n_items, width),
        "item_counts_": (n_items,),
        "thresholds": (len(ptr) - 1, 1),
    }
    for table, source in (("user", "user_vectors_"), ("item", "item_vectors_"), ("threshold", "thresholds")):
        shapes |= {f"moment/{table}/{moment}": shapes[source] for moment in ("moment1", "moment2")}
    for key, shape in shapes.items():
        array, dtype = arrays.get(key), "float64" if key == "item_counts_" else "float32"
        if array is None or array.shape != shape or array.dtype != dtype or not np.isfinite(array).all():
            got = "none" if array is None else f"shape {array.shape} and dtype {array.dtype}"
            raise ValueError(f"{name}: expected {key} with finite {dtype} of shape {shape}, got {got}")
    state = TrainingState(
        user_vectors=arrays["user_vectors_"],
        user_ptr=ptr.astype(np.int64),
        item_vectors=items,
        thresholds=arrays["thresholds"],
        moments={key.removeprefix("moment/"): arrays[key] for key in shapes if key.startswith("moment/")},
    )
    return state, _interactions(arrays, (len(ptr) - 1, n_items), name), arrays["item_counts_"]


def _interactions(arrays: Arrays, shape: tuple[int, int], name: str) -> sp.csr_matrix | None:
    if "indptr" not in arrays:
        return None
    try:
        ones = np.ones(len(arrays["indices"]), dtype=np.float32)
        matrix = sp.csr_matrix((ones, arrays["indices"], arrays["indptr"]), shape=shape)
        matrix.check_format(full_check=True)
    except (ValueError, TypeError, KeyError) as error:
        raise ValueError(f"{name}: expected interactions of shape {shape}, got others ({error})") from error
    return matrix
