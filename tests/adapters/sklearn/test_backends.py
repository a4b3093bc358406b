"""The active joblib backend does the work of scoring and ranking, and changes no bit of it."""

import os
import threading

import joblib
import numpy as np
import pytest
from joblib.externals.loky import get_reusable_executor

from graftkit.methods.dpcml import Ranker
from graftkit.methods.rcpmod import FittedPairs, model
from graftkit.methods.rcpmod.data import make_multiview_outliers
from graftkit.sklearn import DPCML, RCPMOD
from tests.adapters.sklearn import dpcml_cases

pytestmark = pytest.mark.filterwarnings("ignore:A worker stopped")
USERS = np.arange(20)


@pytest.fixture
def where(monkeypatch):
    """Threads of this process that computed anything; a worker process leaves no trace here."""
    threads = []

    def watch(owner, name):
        original = getattr(owner, name)

        def watched(*args):
            threads.append(threading.get_ident())
            return original(*args)

        watched.__name__ = name  # what a bound method is pickled by
        monkeypatch.setattr(owner, name, watched)

    watch(FittedPairs, "_explain_chunk")
    watch(Ranker, "_top")
    monkeypatch.setattr(model, "SCORE_CHUNK", 16)
    return threads


@pytest.fixture(autouse=True)
def fresh_workers():
    """Loky replaces a worker that grew by 300 MB, as one that scored does when ranking loads torch.

    It warns in a thread of its own, where a warning that is an error would end in a wait without end.
    """
    yield
    get_reusable_executor().shutdown(wait=True)


@pytest.fixture(scope="module")
def detector():
    data = make_multiview_outliers(80, dims=(5, 6), missing=0.2, random_state=0)
    fitted = RCPMOD(n_epochs=2, hidden_layer_sizes=(8,), latent_dim=4, random_state=0)
    return fitted.fit(data.views, view_mask=data.mask), data


@pytest.fixture(scope="module")
def recommender():
    return dpcml_cases.tiny().fit(dpcml_cases.interactions())


def check(compute, where, backend):
    expected = compute()
    here = threading.get_ident()
    assert set(where) == {here}
    where.clear()
    with joblib.parallel_config(backend, n_jobs=2):
        found = compute()
    if backend == "loky":
        assert not where
    else:
        assert where
        assert here not in where
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("backend", ["threading", "loky"])
def test_rcpmod_scores(backend, where, detector):
    fitted, data = detector

    def compute():
        explained = fitted.explain(data.views, view_mask=data.mask)
        return fitted.score_samples(data.views, view_mask=data.mask), explained.consistency

    check(compute, where, backend)


@pytest.mark.parametrize("backend", ["threading", "loky"])
def test_dpcml_lists(backend, where, recommender):
    check(lambda: recommender.recommend(USERS, n=4, batch_size=3), where, backend)


@pytest.mark.parametrize("backend", ["threading", "loky"])
def test_dpcml_lists_of_new_users(backend, where, recommender):
    new = dpcml_cases.interactions(seed=1)
    check(lambda: recommender.recommend_for(new, n=4, batch_size=3, items=[3, 5, 8, 21]), where, backend)


@pytest.mark.parametrize("batch_size", [None, 1, 3, 7, 40])
@pytest.mark.parametrize("n_jobs", [2, 3, -1])
def test_dpcml_jobs_change_nothing(n_jobs, batch_size, recommender):
    more = dpcml_cases.interactions()
    expected = recommender.recommend(USERS, n=4, batch_size=batch_size, exclude=more)
    parallel = dpcml_cases.tiny(n_jobs=n_jobs).fit(more)
    found = parallel.recommend(USERS, n=4, batch_size=batch_size, exclude=more)
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_array_equal(a, b)


def test_jobs_reach_the_ranker(where):
    fitted = dpcml_cases.tiny(n_jobs=2).fit(dpcml_cases.interactions())
    fitted.recommend(USERS, n=4, batch_size=3)
    # Seven blocks of three users, for two workers in tasks of one block.
    assert len(where) == 7
    assert threading.get_ident() not in where


def test_no_user_at_all(recommender):
    with joblib.parallel_config("threading", n_jobs=2):
        ids, scores = recommender.recommend(np.zeros(0, dtype=np.int64), n=3)
    assert ids.shape == scores.shape == (0, 3)


@pytest.mark.parametrize(("n_jobs", "error"), [(0, ValueError), (1.5, TypeError)])
def test_jobs_set_after_the_fit(n_jobs, error):
    fitted = dpcml_cases.tiny().fit(dpcml_cases.interactions())
    fitted.n_jobs = n_jobs
    with pytest.raises(error, match=r"n_jobs: expected"):
        fitted.recommend(USERS)


def test_a_failed_block_raises_its_own_error(detector):
    fitted, data = detector
    far = [data.views[0].copy(), data.views[1]]
    far[0][data.mask[:, 0]] = 1e200
    with joblib.parallel_config("loky", n_jobs=2), pytest.raises(ValueError, match=r"times the range"):
        fitted.score_samples(far, view_mask=data.mask)


@pytest.mark.parametrize("backend", ["threading", "loky"])
def test_pairs_are_trained_where_progress_and_callbacks_are(backend):
    data = make_multiview_outliers(40, dims=(4, 5, 6), random_state=0)
    options = {"n_epochs": 2, "hidden_layer_sizes": (6,), "latent_dim": 3, "random_state": 0}
    one = RCPMOD(**options, pairing="independent").fit(data.views)
    seen = []
    with joblib.parallel_config(backend, n_jobs=2):
        several = RCPMOD(**options, pairing="independent")
        several.fit(data.views, callback=lambda *args: seen.append((os.getpid(), args[1]["pair"])))
    assert len(seen) == 6
    assert {pid for pid, _ in seen} == {os.getpid()}
    np.testing.assert_array_equal(several.outlier_scores_, one.outlier_scores_)


def test_parameter():
    assert DPCML(n_jobs=3).get_params()["n_jobs"] == 3
