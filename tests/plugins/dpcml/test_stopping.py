"""When training ends: the best pass, patience, callbacks, an interrupt."""

import numpy as np
import pytest

from graftkit.methods.dpcml import Settings, Stopping, fit_vectors
from graftkit.methods.dpcml.ranking import Ranker
from tests.plugins.dpcml.training_cases import OPTIONS, some


def test_best_pass_is_kept():
    X = some()
    values = iter([0.1, 0.5, 0.3, 0.2, 0.9])
    seen = []

    def scoring(ranker, train, held):
        seen.append(ranker.score(np.arange(12)).copy())
        assert train is X
        assert held is X
        return next(values)

    result = fit_vectors(
        X,
        Settings(**{**OPTIONS, "max_iter": 10}),
        np.random.default_rng(0),
        stopping=Stopping(X, scoring=scoring, patience=2),
    )
    assert (result.n_iter, result.best_iter) == (4, 2)
    state = result.state
    kept = Ranker(state.user_vectors, state.user_ptr, state.item_vectors).score(np.arange(12))
    np.testing.assert_array_equal(kept, seen[1])
    assert [record["validation"] for record in result.history] == [0.1, 0.5, 0.3, 0.2]


@pytest.mark.parametrize(("tol", "best"), [(0.0, 3), (0.15, 1)])
def test_tolerance_and_no_patience(tol, best):
    X, values = some(), iter([0.1, 0.2, 0.22])
    result = fit_vectors(
        X,
        Settings(**{**OPTIONS, "max_iter": 3}),
        np.random.default_rng(0),
        stopping=Stopping(X, scoring=lambda *_: next(values), patience=None, tol=tol),
    )
    assert result.n_iter == 3
    assert result.best_iter == best


def test_an_equal_value_is_no_rise():
    X, values = some(), iter([0.2, 0.2, 0.1])
    result = fit_vectors(
        X,
        Settings(**{**OPTIONS, "max_iter": 3}),
        np.random.default_rng(0),
        stopping=Stopping(X, scoring=lambda *_: next(values), patience=None),
    )
    assert result.best_iter == 1


def test_validation_is_judged_on_a_bounded_set_of_users(monkeypatch):
    from graftkit.methods.dpcml import stopping

    monkeypatch.setattr(stopping, "MOST_VALIDATION_USERS", 5)
    watch = stopping.Watch(Stopping(some(1)), some())
    assert len(watch.users) == 5
    X, settings = some(), Settings(**{**OPTIONS, "max_iter": 2})
    plain, watched = (
        fit_vectors(X, settings, np.random.default_rng(0), stopping=rule)
        for rule in (None, Stopping(some(1), keep_best=False))
    )
    np.testing.assert_array_equal(plain.state.user_vectors, watched.state.user_vectors)


def test_callbacks_see_every_pass_and_end_the_fit():
    calls = []

    def stop(epoch, record):
        calls.append((epoch, sorted(record)))
        return epoch == 1

    result = fit_vectors(
        some(), Settings(**{**OPTIONS, "max_iter": 9}), np.random.default_rng(0), callbacks=[stop, stop]
    )
    assert result.n_iter == 2
    assert calls == [(e, ["active", "diversity", "loss"]) for e in (0, 0, 1, 1)]


def test_interrupt_keeps_what_was_reached():
    def interrupt(epoch, _):
        if epoch == 1:
            raise KeyboardInterrupt

    X, settings = some(), Settings(**{**OPTIONS, "max_iter": 9})
    with pytest.warns(UserWarning, match="interrupted after pass 2 of 9"):
        result = fit_vectors(X, settings, np.random.default_rng(0), callbacks=[interrupt])
    assert len(result.history) == result.n_iter == 2
    assert np.isfinite(result.state.user_vectors).all()
