"""A pass over the positives: against loops, invariants, batches, edges, planted interests."""

import numpy as np
import pytest
import scipy.sparse as sp
import torch

from graftkit.methods.dpcml import Settings, fit_vectors, make_multi_interest
from graftkit.methods.dpcml.metrics import evaluate
from graftkit.methods.dpcml.ranking import Ranker
from graftkit.methods.dpcml.state import TrainingState
from graftkit.methods.dpcml.training import Trainer
from tests.plugins.dpcml import reference
from tests.plugins.dpcml.training_cases import OPTIONS, fitted, some


def step_by_loops(state, users, items, candidates, settings):
    """One optimizer step out of numerical derivatives of the reference's loss, then Adam and projection."""
    ptr = state.user_ptr

    def loss(P, Q):
        total = reference.batch_loss(
            P,
            ptr,
            Q,
            users,
            items,
            candidates,
            margin=settings.margin,
            sampling=settings.sampling,
            beta=settings.beta,
        )
        distinct = sorted(set(users))
        form = {"form": settings.dcrs, "low": settings.delta_min, "high": settings.delta_max}
        penalty = (
            [reference.dcrs(P[ptr[u] : ptr[u + 1]], **form) for u in distinct] if settings.dcrs else [0.0]
        )
        return total + settings.dcrs_weight * np.mean(penalty)

    tables = [state.user_vectors.copy(), state.item_vectors.copy()]
    moved = [table.copy() for table in tables]
    for which, rule in ((0, settings.user_norm), (1, settings.item_norm)):
        for row in range(len(tables[which])):
            gradient = []
            for column in range(tables[which].shape[1]):
                values = []
                for shift in (1e-6, -1e-6):
                    changed = [table.copy() for table in tables]
                    changed[which][row, column] += shift
                    values.append(loss(*changed))
                gradient.append((values[0] - values[1]) / 2e-6)
            if any(abs(g) > 1e-9 for g in gradient):
                adam = reference.Adam(tables[which][row], settings.learning_rate)
                moved[which][row] = reference.project(adam.touch(gradient, 1), rule, settings.max_norm)
    return moved


@pytest.mark.parametrize("sampling", ["hard", "uniform", "dihars"])
@pytest.mark.parametrize("dcrs", ["pairwise", "mean", None])
def test_first_step_equals_loops(sampling, dcrs):
    X = some(n_users=5, n_items=8)
    settings = Settings(
        **{**OPTIONS, "batch_size": 1000},
        sampling=sampling,
        dcrs=dcrs,
        beta=0.5,
        init="random",
        learning_rate=0.05,
    )
    trainer = Trainer(X, X, settings, np.random.default_rng(1))
    before = trainer.state()
    seen = {}
    original = trainer._step

    def spy(users, items, candidates):
        seen.update(users=users.tolist(), items=items.tolist(), candidates=candidates.tolist())
        return original(users, items, candidates)

    trainer._step = spy
    trainer.run_epoch()
    P, Q = step_by_loops(before, seen["users"], seen["items"], seen["candidates"], settings)
    # Adam's first step is the sign of the gradient, so that numerical derivatives give it to many digits.
    np.testing.assert_allclose(trainer.state().user_vectors, P, rtol=0, atol=1e-5)
    np.testing.assert_allclose(trainer.state().item_vectors, Q, rtol=0, atol=1e-5)


@pytest.mark.parametrize("optimizer", ["lazy_adam", "adam", "adagrad"])
@pytest.mark.parametrize(("user_norm", "item_norm"), [("sphere", "ball"), ("ball", "sphere"), (None, None)])
def test_norms_hold_after_a_fit(optimizer, user_norm, item_norm):
    options = {"optimizer": optimizer, "user_norm": user_norm, "item_norm": item_norm, "max_norm": 0.5}
    state = fitted(some(), dtype="float32", learning_rate=0.1, **options).state
    for table, rule in ((state.user_vectors, user_norm), (state.item_vectors, item_norm)):
        norms = np.linalg.norm(table, axis=1)
        if rule == "sphere":
            np.testing.assert_allclose(norms, 0.5, rtol=0, atol=1e-5)
        elif rule == "ball":
            assert norms.max() <= 0.5 + 1e-5
        else:
            assert norms.max() > 0.7


def test_untouched_rows_stay_bit_for_bit():
    X = some()
    positives = X.copy()
    positives.data[positives.indptr[1] :] = 0
    positives.eliminate_zeros()  # only user 0 is trained
    trainer = Trainer(positives, X, Settings(**OPTIONS), np.random.default_rng(0))
    before = trainer.state()
    trainer.run_epoch()
    after = trainer.state()
    np.testing.assert_array_equal(after.user_vectors[3:], before.user_vectors[3:])
    assert (after.user_vectors[:3] != before.user_vectors[:3]).any()
    idle = ~np.isin(np.arange(20), X[0].indices) & (after.moments["item/moment2"] == 0).all(axis=1)
    assert idle.any()
    np.testing.assert_array_equal(after.item_vectors[idle], before.item_vectors[idle])


def test_dense_adam_moves_rows_by_momentum():
    X = some()
    trainers = {
        kind: Trainer(
            X, X, Settings(**{**OPTIONS, "optimizer": kind, "batch_size": 1}), np.random.default_rng(0)
        )
        for kind in ("adam", "lazy_adam")
    }
    states = {}
    for kind, trainer in trainers.items():
        trainer.run_epoch()
        states[kind] = trainer.state()
    assert np.abs(states["adam"].user_vectors - states["lazy_adam"].user_vectors).max() > 1e-4


def test_one_batch_dense_and_lazy_adam_agree_on_touched_rows():
    X = some()
    found = []
    for kind in ("adam", "lazy_adam"):
        settings = Settings(**{**OPTIONS, "optimizer": kind, "batch_size": 10**6})
        trainer = Trainer(X, X, settings, np.random.default_rng(0))
        trainer.run_epoch()
        found.append(trainer.state())
    np.testing.assert_allclose(found[0].user_vectors, found[1].user_vectors, rtol=0, atol=1e-12)
    np.testing.assert_allclose(found[0].item_vectors, found[1].item_vectors, rtol=0, atol=1e-12)


def test_array_assignment_of_one_number_is_basic_assignment():
    X = some()
    a, b = fitted(X, assignment="bpa").state, fitted(X, assignment=np.full(12, 3)).state
    np.testing.assert_array_equal(a.user_vectors, b.user_vectors)
    np.testing.assert_array_equal(a.item_vectors, b.item_vectors)


def test_one_vector_is_plain_metric_learning():
    X = some()
    with_penalty = fitted(X, n_vectors=1, dcrs="pairwise")
    without = fitted(X, n_vectors=1, dcrs=None)
    np.testing.assert_array_equal(with_penalty.state.user_vectors, without.state.user_vectors)
    assert [record["diversity"] for record in with_penalty.history] == [0.0] * 3


def test_relabelled_users_and_items_give_relabelled_vectors():
    """With the draws relabelled as well: the same positives and candidates, under other names."""
    X = some()
    rng = np.random.default_rng(7)
    user_names, item_names = rng.permutation(12), rng.permutation(20)  # old id -> new id
    renamed = sp.csr_matrix(X.toarray()[np.argsort(user_names)][:, np.argsort(item_names)])
    settings = Settings(**OPTIONS)
    a = Trainer(X, X, settings, np.random.default_rng(0))
    start = a.state()
    moved = TrainingState.initial(np.full(12, 3), 20, settings, np.random.default_rng(0))
    rows = (np.argsort(user_names)[:, None] * 3 + np.arange(3)).ravel()
    moved.user_vectors = start.user_vectors[rows]
    moved.item_vectors = start.item_vectors[np.argsort(item_names)]
    b = Trainer(renamed, renamed, settings, np.random.default_rng(0), moved)
    for seed in range(3):
        draw = np.random.default_rng(seed)
        users, items, candidates = (
            draw.integers(12, size=16),
            draw.integers(20, size=16),
            draw.integers(20, size=(16, 4)),
        )
        a._step(*map(torch.from_numpy, (users, items, candidates)))
        b._step(*map(torch.from_numpy, (user_names[users], item_names[items], item_names[candidates])))
    np.testing.assert_allclose(b.state().user_vectors, a.state().user_vectors[rows], rtol=0, atol=1e-12)
    np.testing.assert_allclose(
        b.state().item_vectors, a.state().item_vectors[np.argsort(item_names)], rtol=0, atol=1e-12
    )


@pytest.mark.parametrize("sampling", ["hard", "uniform", "dihars", "popular"])
@pytest.mark.parametrize("mode", ["topk", "threshold"])
def test_losses_fall(sampling, mode):
    history = fitted(some(), sampling=sampling, dihars_mode=mode, max_iter=30, learning_rate=0.02).history
    assert history[-1]["loss"] < 0.8 * history[0]["loss"]
    assert all(0 <= record["active"] <= 1 for record in history)


def test_thresholds_are_learnt_and_stay_above_zero():
    X = some()
    state = fitted(X, sampling="dihars", dihars_mode="threshold", max_iter=20, learning_rate=0.05).state
    assert state.thresholds.min() >= 0
    assert state.thresholds.max() > 0.05
    assert (fitted(X, sampling="dihars").state.thresholds == 0).all()


def test_same_seed_same_vectors_and_continuation():
    X = some()
    whole, again = fitted(X, max_iter=6), fitted(X, max_iter=6)
    np.testing.assert_array_equal(whole.state.user_vectors, again.state.user_vectors)
    assert (fitted(X, seed=1, max_iter=6).state.user_vectors != whole.state.user_vectors).any()
    rng = np.random.default_rng(0)
    settings = Settings(**{**OPTIONS, "max_iter": 3})
    first = fit_vectors(X, settings, rng)
    kept = first.state.copy()
    second = fit_vectors(X, settings, rng, state=first.state)
    for name, table in second.state.tables().items():
        np.testing.assert_array_equal(table, whole.state.tables()[name])
    np.testing.assert_array_equal(first.state.user_vectors, kept.user_vectors)  # the given state is copied
    assert second.state.n_steps == whole.state.n_steps


def test_saturated_users_take_no_part():
    X = some()
    dense = X.toarray()
    dense[4] = 1
    full = sp.csr_matrix(dense)
    with pytest.warns(UserWarning, match=r"1 user\(s\) own every item"):
        result = fitted(full)
    start = Trainer(full, full, Settings(**OPTIONS), np.random.default_rng(0)).state()
    np.testing.assert_array_equal(result.state.user_vectors[12:15], start.user_vectors[12:15])
    assert result.n_iter == 3


def test_nothing_to_learn_keeps_the_start():
    full = sp.csr_matrix(np.ones((3, 4), dtype=np.float32))
    with pytest.warns(UserWarning, match="nothing can be learnt"):
        result = fitted(full)
    assert (result.n_iter, result.history) == (0, [])


def test_divergence_is_an_error():
    options = {"user_norm": None, "item_norm": None, "learning_rate": 1e200}
    with pytest.raises(RuntimeError, match=r"diverged .*lower learning_rate"):
        fitted(some(), max_iter=20, **options)


def test_missing_device():
    with pytest.raises(RuntimeError, match="device: expected a torch device of this machine"):
        fitted(some(), device="nowhere")
    if not torch.cuda.is_available():
        with pytest.raises(RuntimeError, match=r"(?i)cuda"):
            fitted(some(), device="cuda")


def test_what_was_seen_before_is_never_a_negative(monkeypatch):
    owned = np.ones((4, 6))
    owned[np.arange(4), np.arange(4)] = 0  # each lacks the item of his own number
    positives = np.zeros((4, 6))
    positives[:, 5] = 1
    drawn = []
    original = Trainer._step

    def spy(trainer, users, items, candidates):
        drawn.append((users.numpy(), candidates.numpy()))
        return original(trainer, users, items, candidates)

    monkeypatch.setattr(Trainer, "_step", spy)
    parts = [sp.csr_matrix(part.astype(np.float32)) for part in (positives, owned)]
    settings = Settings(**{**OPTIONS, "max_iter": 2})
    fit_vectors(parts[0], settings, np.random.default_rng(0), owned=parts[1])
    assert len(drawn) == 2
    assert all((candidates == users[:, None]).all() for users, candidates in drawn)


def hit_rate(n_vectors, seed):
    """Hit@5 in a plane, where a point between two groups is near a third; chance is about 0.1."""
    data = make_multi_interest(random_state=seed)
    settings = Settings(
        n_components=2,
        n_vectors=n_vectors,
        sampling="uniform",
        n_negatives=1,
        dcrs=None,
        init="random",
        max_iter=60,
        batch_size=64,
        learning_rate=0.05,
    )
    state = fit_vectors(data.train, settings, np.random.default_rng(seed)).state
    ranker = Ranker(state.user_vectors, state.user_ptr, state.item_vectors)
    return evaluate(ranker.score, data.train, data.test, ["recall@5"])["recall@5"]


# Seeds 0 to 4 gave 0.08, 0.18, -0.04, 0.21, 0.22 more with two vectors, 0.13 in the mean; half is the bar.
@pytest.mark.slow
def test_two_vectors_find_the_minority_interest():
    two, one = (np.mean([hit_rate(c, seed) for seed in range(5)]) for c in (2, 1))
    assert two > one + 0.06


def test_two_vectors_find_the_minority_interest_quickly():
    two, one = (np.mean([hit_rate(c, seed) for seed in range(2)]) for c in (2, 1))
    assert two > one + 0.06


@pytest.mark.parametrize("scale", ["paper", "code", "full"])
@pytest.mark.parametrize("optimizer", ["adam", "lazy_adam"])
def test_pass_over_nothing(scale, optimizer):
    full = sp.csr_matrix(np.ones((3, 4), dtype=np.float32))
    settings = Settings(**{**OPTIONS, "dcrs_scale": scale, "optimizer": optimizer})
    trainer = Trainer(full, full, settings, np.random.default_rng(0))
    before = trainer.state()
    assert trainer.run_epoch() == {"loss": 0.0, "diversity": 0.0, "active": 0.0}
    np.testing.assert_array_equal(trainer.state().user_vectors, before.user_vectors)
    assert trainer.state().n_steps == 0
