"""Small interactions and a small recommender, shared by the DPCML tests."""

from typing import Any

import numpy as np
import scipy.sparse as sp

from graftkit.sklearn import DPCML

TINY: dict[str, Any] = {
    "n_components": 6,
    "n_vectors": 3,
    "max_iter": 3,
    "batch_size": 32,
    "n_negatives": 4,
    "random_state": 0,
}


def tiny(**options: Any) -> DPCML:
    """An estimator that fits in a blink."""
    return DPCML(**{**TINY, **options})


def interactions(
    n_users: int = 20, n_items: int = 30, *, density: float = 0.2, seed: int = 0
) -> sp.csr_matrix:
    """Random interactions; every user has two or more."""
    dense = np.random.default_rng(seed).random((n_users, n_items)) < density
    dense[np.arange(n_users), np.arange(n_users) % n_items] = True
    dense[np.arange(n_users), (np.arange(n_users) + 7) % n_items] = True
    return sp.csr_matrix(dense.astype(np.float32))


def tables(model: DPCML) -> list[Any]:
    """What a fit learns, as arrays."""
    return [model.user_vectors_, model.user_ptr_, model.item_vectors_]


def assert_same(a: DPCML, b: DPCML) -> None:
    """The same vectors, bit for bit."""
    for left, right in zip(tables(a), tables(b), strict=True):
        np.testing.assert_array_equal(left, right)
