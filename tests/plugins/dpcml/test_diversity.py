"""The penalty of a pass: scales, bounds, and what it does to the vectors."""

import numpy as np
import pytest
import torch

from graftkit.methods.dpcml import Settings
from graftkit.methods.dpcml.training import Trainer
from tests.plugins.dpcml import reference
from tests.plugins.dpcml.training_cases import OPTIONS, fitted, some


def penalty_gradient(X, scale, users, **options):
    settings = Settings(**{**OPTIONS, "init": "random", "dcrs_scale": scale, "dcrs_weight": 10.0, **options})
    trainer = Trainer(X, X, settings, np.random.default_rng(0))
    _, rows, pulls = trainer._diversity(torch.from_numpy(users))
    table = torch.zeros(3 * X.shape[0], 5, dtype=torch.float64)
    return table.index_add_(0, rows, pulls).numpy()


def test_scales_of_the_penalty():
    X = some()
    everyone = np.arange(12)
    full = penalty_gradient(X, "full", everyone)
    paper = penalty_gradient(X, "paper", everyone)
    # With every user in the batch the two differ by the batch size alone.
    np.testing.assert_allclose(paper, full * 12, rtol=1e-12)
    # The whole-table term does not care who is in the batch.
    np.testing.assert_allclose(penalty_gradient(X, "full", np.zeros(12, dtype=np.int64)), full, rtol=1e-12)
    assert (penalty_gradient(X, "paper", np.zeros(12, dtype=np.int64))[3:] == 0).all()


def test_code_scale_has_the_expectation_of_the_whole_table_term():
    X = some()
    full = penalty_gradient(X, "full", np.arange(16) % 12, batch_size=16)
    users = np.repeat(np.arange(12), np.diff(X.indptr))
    rng = np.random.default_rng(0)
    settings = Settings(**{**OPTIONS, "init": "random", "dcrs_scale": "code", "dcrs_weight": 10.0})
    trainer = Trainer(X, X, settings, np.random.default_rng(0))
    total, repeats = torch.zeros(36, 5, dtype=torch.float64), 4000
    for _ in range(repeats):
        _, rows, pulls = trainer._diversity(torch.from_numpy(rng.choice(users, 16)))
        total.index_add_(0, rows, pulls)
    np.testing.assert_allclose((total / repeats).numpy(), full, rtol=0, atol=0.06 * np.abs(full).max())


def test_code_scale_knows_that_a_batch_holds_no_more_than_all_positives():
    X = some()
    whole, beyond = (
        penalty_gradient(X, "code", np.arange(12), batch_size=size) for size in (X.nnz, 50 * X.nnz)
    )
    np.testing.assert_array_equal(whole, beyond)


@pytest.mark.parametrize("batch_size", [3, 1000])
def test_recorded_penalty_is_a_mean_over_users(batch_size):
    X = some()
    options = {"init": "random", "dcrs_scale": "full", "learning_rate": 1e-12, "batch_size": batch_size}
    trainer = Trainer(X, X, Settings(**{**OPTIONS, **options}), np.random.default_rng(0))
    vectors = trainer.state().user_vectors.reshape(12, 3, 5)
    expected = np.mean([reference.dcrs(v, "pairwise", 0.05, 0.5) for v in vectors])
    assert trainer.run_epoch()["diversity"] == pytest.approx(expected, rel=1e-6)


def test_penalty_pulls_vectors_into_the_bounds():
    X = some()
    mean_distance = {}
    for name, options in {"without": {"dcrs": None}, "with": {"dcrs_weight": 30.0, "delta_max": 0.1}}.items():
        state = fitted(X, init="random", max_iter=40, learning_rate=0.02, **options).state
        vectors = state.user_vectors.reshape(12, 3, 5)
        mean_distance[name] = np.mean([2 * reference.diversity(v) for v in vectors])
    assert mean_distance["with"] < 0.3 < 0.6 < mean_distance["without"]
