"""A few interactions, small settings and a fit of both."""

import numpy as np
import scipy.sparse as sp

from graftkit.methods.dpcml import Settings, fit_vectors

OPTIONS = {"n_components": 5, "n_vectors": 3, "n_negatives": 4, "batch_size": 16, "dtype": "float64"}


def some(seed=0, n_users=12, n_items=20, density=0.25):
    dense = np.random.default_rng(seed).random((n_users, n_items)) < density
    dense[:, 0] |= ~dense.any(axis=1)
    return sp.csr_matrix(dense.astype(np.float32))


def fitted(X, seed=0, **options):
    return fit_vectors(X, Settings(**{**OPTIONS, "max_iter": 3, **options}), np.random.default_rng(seed))
