"""Seeds, global state, interrupted fits, pickles, and silence."""

import itertools
import json
import os
import pickle
import random
import subprocess
import sys
import warnings

import joblib
import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.exceptions import NotFittedError

from graftkit.sklearn import RCPMOD
from tests.adapters.sklearn.rcpmod_cases import make_views, same_state, state_of, tiny

VIEWS = make_views(dims=(5, 4, 3))
# Every kind of draw is in play: several batches, imputed rows, positives of the rank loss.
BUSY = {"n_epochs": 4, "impute_from": 1, "spread_warm": 5.0, "negative_refresh": 1, "n_reference": 20}


def scores(detector):
    return detector.outlier_scores_


def test_same_seed_same_scores():
    first = tiny(**BUSY).fit(VIEWS)
    expected, frozen = scores(first).copy(), first.score_samples(VIEWS)
    np.testing.assert_array_equal(scores(tiny(**BUSY).fit(VIEWS)), expected)
    np.testing.assert_array_equal(scores(first.fit(VIEWS)), expected)  # twice on one object
    np.testing.assert_array_equal(first.score_samples(VIEWS), frozen)
    np.testing.assert_array_equal(scores(clone(first).fit(VIEWS)), expected)
    assert not np.array_equal(scores(tiny(**{**BUSY, "random_state": 1}).fit(VIEWS)), expected)


def test_no_seed_means_fresh_entropy():
    assert not np.array_equal(
        scores(tiny(random_state=None).fit(VIEWS)), scores(tiny(random_state=None).fit(VIEWS))
    )


@pytest.mark.parametrize("make", [np.random.RandomState, np.random.default_rng])
def test_generators_as_seed(make):
    a, b = (scores(tiny(random_state=make(3)).fit(VIEWS)) for _ in range(2))
    np.testing.assert_array_equal(a, b)
    shared = tiny(random_state=make(3))
    assert not np.array_equal(scores(shared.fit(VIEWS)).copy(), scores(shared.fit(VIEWS)))  # it advances


@pytest.mark.parametrize("pairing", ["sequential", "independent"])
def test_scores_do_not_depend_on_jobs(pairing, monkeypatch):
    from graftkit.methods.rcpmod import model

    expected = tiny(**BUSY, pairing=pairing).fit(VIEWS)
    monkeypatch.setattr(model, "SCORE_CHUNK", 7)
    for n_jobs in (2, -1):
        got = tiny(**BUSY, pairing=pairing, n_jobs=n_jobs).fit(VIEWS)
        np.testing.assert_array_equal(scores(got), scores(expected))
        # Chunks of seven rows: another shape of matrix product, so equal to rounding only.
        np.testing.assert_allclose(
            got.score_samples(VIEWS), expected.score_samples(VIEWS), rtol=0, atol=1e-12
        )
        assert [entry["pair"] for entry in got.loss_curve_] == [
            entry["pair"] for entry in expected.loss_curve_
        ]


def test_jobs_reach_the_workers(monkeypatch):
    from graftkit.methods.rcpmod import fitting, model

    asked = []

    class Watched(joblib.Parallel):
        def __init__(self, n_jobs=None, **options):
            asked.append(n_jobs)
            super().__init__(n_jobs=n_jobs, **options)

    for module in (fitting, model):
        monkeypatch.setattr(module, "Parallel", Watched)
    detector = tiny(n_jobs=2, pairing="independent").fit(VIEWS)
    assert asked == [2, 2]  # the pairs, then the training rows' scores
    detector.score_samples(VIEWS)
    detector.explain(VIEWS)
    assert asked == [2] * 4


def global_state():
    generator = np.random.get_state()  # noqa: NPY002 - the global generator is what is watched
    return {
        "numpy": (generator[1].tolist(), generator[2:]),
        "python": random.getstate(),
        "torch": torch.get_rng_state().tolist(),
        "threads": torch.get_num_threads(),
        "dtype": torch.get_default_dtype(),
        "grad": torch.is_grad_enabled(),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "warnings": list(warnings.filters),
        "floating point": np.geterr(),
        "environment": dict(os.environ),
    }


def test_global_state_is_untouched():
    before = global_state()
    tiny(**{**BUSY, "random_state": None, "n_jobs": 2, "pairing": "independent"}).fit(VIEWS).predict(VIEWS)
    assert global_state() == before


def test_global_seeds_do_not_matter():
    expected = scores(tiny(**BUSY).fit(VIEWS))
    state = torch.get_rng_state()
    try:
        torch.manual_seed(123)
        np.testing.assert_array_equal(scores(tiny(**BUSY).fit(VIEWS)), expected)
    finally:
        torch.set_rng_state(state)


@pytest.mark.slow  # a fit takes a blink, but two threads wait for one another where the cores are busy
def test_number_of_threads_hardly_matters():
    # Bit for bit the same on our machines; other kernels may split a sum differently.
    threads = torch.get_num_threads()
    found = []
    try:
        for count in (1, 2):
            torch.set_num_threads(count)
            found.append(scores(tiny(**BUSY).fit(VIEWS)))
            assert torch.get_num_threads() == count
    finally:
        torch.set_num_threads(threads)
    np.testing.assert_allclose(found[0], found[1], rtol=0, atol=1e-3)


def test_hash_seed_does_not_matter():
    code = (
        "import json, sys; from tests.adapters.sklearn.rcpmod_cases import make_views, tiny;"
        "views = dict(zip(('image', 'text', 'sound'), make_views(dims=(5, 4, 3))));"
        "print(json.dumps([tiny(pairing=p).fit(views).outlier_scores_.tolist()"
        " for p in ('sequential', 'independent')]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONHASHSEED": "12345", "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert done.returncode == 0, done.stderr
    views = dict(zip(("image", "text", "sound"), VIEWS, strict=True))
    for pairing, found in zip(("sequential", "independent"), json.loads(done.stdout), strict=True):
        np.testing.assert_array_equal(found, scores(tiny(pairing=pairing).fit(views)))


def test_a_views_weights_do_not_depend_on_its_place():
    options = {"pairing": "independent", "n_epochs": 1}  # no spreading yet, whose draws go view by view
    views = dict(zip("abc", VIEWS, strict=True))
    there, back = tiny(**options).fit(views), tiny(**options).fit(dict(reversed(views.items())))
    assert back.view_names_ == ("c", "b", "a")
    np.testing.assert_allclose(scores(back), scores(there), rtol=0, atol=1e-4)
    np.testing.assert_allclose(back.score_samples(views), there.score_samples(views), rtol=0, atol=1e-4)


@pytest.mark.parametrize("stop", [KeyboardInterrupt, RuntimeError])
@pytest.mark.parametrize("form", ["views", "frame"])
def test_interrupted_fit_leaves_the_detector_unfitted(stop, form):
    import pandas as pd

    def interrupt(epoch, losses):
        if losses["pair"] == ("view0", "view2") and epoch == 1:
            raise stop("now")

    full = make_views(dims=(5, 4, 3), missing=0)
    X = full if form == "views" else pd.DataFrame(np.concatenate(full, axis=1)).add_prefix("c")
    detector = tiny(view_slices=[5, 4, 3])
    before = state_of(detector)
    with pytest.raises(stop, match="now"):
        detector.fit(X, callback=interrupt)
    assert same_state(detector, before)
    with pytest.raises(NotFittedError, match="not fitted"):
        detector.predict(X)


def test_interrupted_fit_leaves_an_earlier_fit_whole():
    def interrupt(epoch, losses):
        raise KeyboardInterrupt(f"{epoch} {losses['total']}")

    detector = tiny().fit(VIEWS)
    expected, before = detector.score_samples(VIEWS), state_of(detector)
    with pytest.raises(KeyboardInterrupt, match=r"^0 "):
        detector.fit(make_views(dims=(2, 3), seed=7), callback=interrupt)
    assert same_state(detector, before)
    np.testing.assert_array_equal(detector.score_samples(VIEWS), expected)


@pytest.mark.parametrize("step", range(6))
def test_an_interrupt_after_training_leaves_one_fit_whole(step):
    """Stop at each of the lines that hand the result over; the frame's names must not go without the rest."""
    import pandas as pd

    frame = pd.DataFrame(np.concatenate(make_views(missing=0), axis=1)).add_prefix("c")
    detector = tiny(view_slices=[5, 4]).fit(frame)
    before = state_of(detector)
    steps = itertools.count()

    def trace(code_frame, event, _):
        if code_frame.f_code is not RCPMOD.fit.__wrapped__.__code__:
            return None
        if event == "line" and "fitted" in code_frame.f_locals and next(steps) == step:
            raise KeyboardInterrupt
        return trace

    previous = sys.gettrace()
    sys.settrace(trace)
    try:
        detector.fit(VIEWS)
    except KeyboardInterrupt:
        pass
    finally:
        sys.settrace(previous)
    if not same_state(detector, before):
        assert (detector.n_features_in_, hasattr(detector, "feature_names_in_")) == (12, False)


def test_refit_on_another_form_forgets_the_first():
    import pandas as pd

    full = make_views(dims=(5, 4), missing=0)
    frame = pd.DataFrame(np.concatenate(full, axis=1)).add_prefix("c")
    detector = tiny(view_slices=[5, 4]).fit(frame)
    assert detector.n_features_in_ == 9
    detector.fit(VIEWS)
    assert not hasattr(detector, "feature_names_in_")
    assert (detector.n_features_in_, detector.n_views_) == (12, 3)
    np.testing.assert_array_equal(scores(detector), scores(tiny().fit(VIEWS)))


@pytest.mark.parametrize("protocol", [pickle.DEFAULT_PROTOCOL, 2])
def test_pickle_round_trip(protocol):
    detector = tiny(contamination=0.1).fit(VIEWS)
    twin = pickle.loads(pickle.dumps(detector, protocol=protocol))
    np.testing.assert_array_equal(twin.score_samples(VIEWS), detector.score_samples(VIEWS))
    np.testing.assert_array_equal(twin.predict(VIEWS), detector.labels_)


def test_pickles_score_where_torch_cannot_be_imported(tmp_path):
    detector = tiny(contamination=0.1).fit(VIEWS)
    (tmp_path / "detector.pkl").write_bytes(pickle.dumps(detector))
    joblib.dump(detector, tmp_path / "detector.joblib")
    joblib.dump(VIEWS, tmp_path / "views.joblib")
    code = """
import sys

class NoTorch:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "torch":
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, NoTorch())
import pickle, joblib
views = joblib.load("views.joblib", mmap_mode="r")
with open("detector.pkl", "rb") as file:
    detectors = [pickle.load(file)]
detectors += [joblib.load("detector.joblib"), joblib.load("detector.joblib", mmap_mode="r")]
found = [
    (d.score_samples(views), d.predict(views), d.outlier_probability(views), d.explain(views).score)
    for d in detectors
]
joblib.dump(found, "found.joblib")
try:
    detectors[0].fit(views)
except ImportError:
    print("fit needs torch")
"""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == "fit needs torch\n"
    for score, label, probability, told in joblib.load(tmp_path / "found.joblib"):
        np.testing.assert_array_equal(score, detector.score_samples(VIEWS))
        np.testing.assert_array_equal(label, detector.labels_)
        np.testing.assert_array_equal(probability, detector.outlier_probability(VIEWS))
        np.testing.assert_array_equal(told, -score)


def test_fitted_state_holds_no_torch_and_no_training_rows():
    detector = tiny(n_reference=5).fit(make_views(n=400, missing=0))
    blob = pickle.dumps(detector)
    assert b"torch" not in blob
    # Donor latents (n x 4 doubles a view) stay, references are five rows: no copy of the inputs.
    assert not any(np.shares_memory(a, b) for a in VIEWS for b in detector.model_.scorers[0].donors)
    assert all(len(scorer.references) == 10 for scorer in detector.model_.scorers)


def test_prediction_stores_nothing():
    detector = tiny().fit(VIEWS)
    before = state_of(detector)
    detector.predict(VIEWS)
    detector.explain(VIEWS)
    detector.outlier_probability(VIEWS)
    assert same_state(detector, before)


def test_silent_by_default(capfd):
    tiny().fit(VIEWS).predict(VIEWS)
    out, err = capfd.readouterr()
    assert out == ""
    assert err == ""


def test_verbose_shows_a_bar_on_standard_error(capfd):
    tiny(verbose=1).fit(VIEWS)
    out, err = capfd.readouterr()
    assert out == ""
    assert "RCPMOD: 100%" in err
    assert "9/9" in err  # three pairs of three epochs


def test_rows_are_scored_one_by_one_and_in_any_order():
    detector = tiny().fit(VIEWS)
    whole = detector.score_samples(VIEWS)
    for size in (1, 7):
        parts = [
            detector.score_samples([view[start : start + size] for view in VIEWS])
            for start in range(0, 60, size)
        ]
        np.testing.assert_allclose(np.concatenate(parts), whole, rtol=0, atol=1e-7)
    order = np.random.default_rng(0).permutation(60)
    np.testing.assert_allclose(
        detector.score_samples([view[order] for view in VIEWS]), whole[order], rtol=0, atol=1e-9
    )
