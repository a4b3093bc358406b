"""Where training starts, and a state that grows by users and items."""

import numpy as np
import pytest

from graftkit.methods.dpcml import Settings
from graftkit.methods.dpcml.state import TrainingState
from tests.plugins.dpcml import reference
from tests.plugins.dpcml.training_cases import OPTIONS, fitted, some


def test_growth_keeps_old_rows():
    settings = Settings(**OPTIONS)
    state = fitted(some()).state
    grown = state.grown(np.array([2, 1]), 3, settings, np.random.default_rng(0))
    for name, moment in state.moments.items():
        np.testing.assert_array_equal(grown.moments[name][: len(moment)], moment)
        assert not grown.moments[name][len(moment) :].any()
    assert state.moments["user/moment1"].any()
    assert grown.user_ptr[-3:].tolist() == [36, 38, 39]
    assert grown.item_vectors.shape == (23, 5)
    np.testing.assert_array_equal(grown.user_vectors[:36], state.user_vectors)
    assert (grown.moments["user/moment1"][36:] == 0).all()
    assert grown.thresholds.shape == (14, 1)
    np.testing.assert_allclose(np.linalg.norm(grown.user_vectors, axis=1), 1, atol=1e-12)


@pytest.mark.parametrize(("init", "low", "high"), [("jitter", 0.05, 0.4), ("random", 1.2, 2.8)])
def test_starts(init, low, high):
    settings = Settings(n_components=50, n_vectors=4, init=init)
    state = TrainingState.initial(np.full(30, 4), 10, settings, np.random.default_rng(0))
    vectors = state.user_vectors.reshape(30, 4, 50).astype(np.float64)
    assert low < np.mean([2 * reference.diversity(v) for v in vectors]) < high
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=2), 1, atol=1e-6)
    assert np.linalg.norm(state.item_vectors, axis=1).max() <= 1 + 1e-6


def test_free_start_has_the_size_of_the_constraint():
    options = {"n_components": 50, "n_vectors": 4, "user_norm": None, "max_norm": 3.0}
    state = TrainingState.initial(np.full(30, 4), 10, Settings(**options), np.random.default_rng(0))
    norms = np.linalg.norm(state.user_vectors, axis=1)
    # A direction and noise of three tenths: within 0.7 and 1.3 of the radius.
    assert 3 * 0.7 <= norms.min() <= norms.max() <= 3 * 1.3
    assert 3 * 0.95 < norms.mean() < 3 * 1.15
