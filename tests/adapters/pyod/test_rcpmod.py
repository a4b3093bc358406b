"""RCPMODDetector keeps PyOD's contract: larger is more outlying, 1 is an outlier, on any form of views."""

import pickle

import numpy as np
import pytest
from scipy.stats import binom
from sklearn.base import clone

pytest.importorskip("pyod", reason="the pyod extra is not installed")

from pyod.models.base import BaseDetector

from graftkit.pyod import RCPMODDetector
from graftkit.sklearn import RCPMOD, stack_views
from tests.adapters.sklearn.rcpmod_cases import TINY, make_views, mask_of

VIEWS = make_views(n=80)
WHOLE = make_views(n=80, missing=0)
TABLE, WIDTHS = stack_views(WHOLE)
# Beyond the training scores on both sides, so that clipping is seen.
NEW = np.concatenate((TABLE, TABLE[:20] + 40.0, np.tile(TABLE.mean(axis=0), (3, 1))))


def small(contamination=0.1, **options):
    return RCPMODDetector(contamination, **{**TINY, **options})


@pytest.fixture(scope="module")
def fitted():
    """Fitted on views of which some are missing."""
    return small().fit(VIEWS)


@pytest.fixture(scope="module")
def tabular():
    """Fitted on one table, the form that PyOD's own methods can read."""
    return small(view_slices=WIDTHS).fit(TABLE)


def test_training_scores_are_decision_scores(fitted):
    scores = fitted.decision_scores_
    np.testing.assert_array_equal(fitted.decision_function(VIEWS), scores)
    assert fitted.threshold_ == np.percentile(scores, 90)
    np.testing.assert_array_equal(fitted.labels_, (scores > fitted.threshold_).astype(int))
    np.testing.assert_array_equal(fitted.predict(VIEWS), fitted.labels_)
    assert isinstance(fitted, BaseDetector)


@pytest.mark.parametrize("contamination", [0.05, 0.25, 0.5])
def test_contamination_labels_that_share(contamination):
    detector = small(contamination).fit(VIEWS)
    assert detector.labels_.sum() == round(80 * contamination)
    assert set(detector.labels_) == {0, 1}


def test_orientation_is_the_opposite_of_scikit_learns(fitted):
    other = RCPMOD(contamination=0.1, **TINY).fit(VIEWS)
    np.testing.assert_array_equal(fitted.decision_function(VIEWS), -other.score_samples(VIEWS))
    np.testing.assert_array_equal(fitted.outlier_scores_, other.outlier_scores_)
    np.testing.assert_array_equal(1 - 2 * fitted.labels_, other.labels_)  # 0 is +1, 1 is -1
    np.testing.assert_allclose(fitted.threshold_, -other.offset_, rtol=0, atol=1e-12)


def test_a_strange_row_scores_high():
    views = [view.copy() for view in WHOLE]
    for view in views:
        view[11] = view.min(axis=0) + np.random.default_rng(1).random(view.shape[1]) * np.ptp(view, axis=0)
    detector = small(0.05, n_epochs=30, hidden_layer_sizes=(32,), latent_dim=8, learning_rate=3e-3).fit(views)
    assert detector.decision_scores_.argmax() == 11
    assert detector.labels_[11] == 1
    assert detector.predict_proba(views)[11, 1] == 1.0


@pytest.mark.parametrize("method", ["linear", "unify"])
def test_probabilities_are_pyods_own(method, tabular):
    expected = BaseDetector.predict_proba(tabular, NEW, method=method)
    got = tabular.predict_proba(NEW, method=method)
    np.testing.assert_allclose(got, expected, rtol=0, atol=1e-12)
    assert (got[:, 1] == 0).any()
    assert ((got[:, 1] > 0) & (got[:, 1] < 1)).any()
    assert got[80:100, 1].max() > 0.999
    np.testing.assert_array_equal(got.sum(axis=1), 1.0)


def test_linear_is_the_default(tabular):
    np.testing.assert_array_equal(tabular.predict_proba(NEW), tabular.predict_proba(NEW, method="linear"))
    assert not np.allclose(tabular.predict_proba(NEW), tabular.predict_proba(NEW, method="unify"))


def test_probability_comes_with_confidence(tabular):
    expected = BaseDetector.predict_proba(tabular, NEW, return_confidence=True)
    got = tabular.predict_proba(NEW, return_confidence=True)
    assert len(got) == 2
    for ours, theirs in zip(got, expected, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-12)
    np.testing.assert_array_equal(tabular.predict_proba(NEW, "unify", True)[1], expected[1])


def test_probabilities_of_a_list_of_views(fitted):
    # PyOD's method reads X.shape, which a list lacks: the reason for an own one.
    scores, training = fitted.decision_function(VIEWS), fitted.decision_scores_
    low, high = training.min(), training.max()
    got = fitted.predict_proba(VIEWS)
    np.testing.assert_allclose(got[:, 1], (scores - low) / (high - low), rtol=0, atol=1e-12)
    assert got[training.argmax()].tolist() == [0.0, 1.0]
    assert got[training.argmin()].tolist() == [1.0, 0.0]
    one = fitted.predict_proba([view[3:4] for view in VIEWS])
    np.testing.assert_allclose(one, got[3:4], rtol=0, atol=1e-9)  # by the training scores, not the batch's


@pytest.mark.parametrize("method", ["linear", "unify"])
def test_equal_scores_have_probability_zero(method):
    views = [np.ones((20, 3)), np.ones((20, 2))]
    detector = small().fit(views)
    np.testing.assert_array_equal(detector.predict_proba(views, method), np.tile([1.0, 0.0], (20, 1)))
    assert detector.labels_.sum() == 0


def test_confidence_on_a_list_of_views(fitted):
    training = fitted.decision_scores_
    n = len(training)
    expected = []
    for score in fitted.decision_function(VIEWS):
        posterior = (1 + np.sum(training <= score)) / (2 + n)
        outlying = 1 - binom.cdf(n - int(n * 0.1), n, posterior)
        expected.append(outlying if score > fitted.threshold_ else 1 - outlying)
    np.testing.assert_allclose(fitted.predict_confidence(VIEWS), expected, rtol=0, atol=1e-12)
    labels, confidence = fitted.predict(VIEWS, return_confidence=True)
    np.testing.assert_array_equal(labels, fitted.labels_)
    np.testing.assert_allclose(confidence, expected, rtol=0, atol=1e-12)


def test_forms_say_the_same(fitted):
    mask, expected = mask_of(VIEWS), fitted.decision_scores_
    filled = [np.nan_to_num(view) for view in VIEWS]
    np.testing.assert_array_equal(small().fit(filled, view_mask=mask).decision_scores_, expected)
    np.testing.assert_array_equal(fitted.decision_function(filled, view_mask=mask), expected)
    table, widths = stack_views(VIEWS)
    np.testing.assert_array_equal(small(view_slices=widths).fit(table).decision_scores_, expected)
    named = dict(zip(("view0", "view1"), VIEWS, strict=True))
    np.testing.assert_array_equal(fitted.decision_function(named), expected)
    rows = mask[:, 0]
    alone = fitted.decision_function([VIEWS[0][rows], None])
    np.testing.assert_array_equal(alone, fitted.decision_function({"view0": VIEWS[0][rows]}))
    assert not np.array_equal(alone, expected[rows])


def test_one_table_without_slices_warns():
    with pytest.warns(UserWarning, match="RCPMODDetector got one 2-D array and view_slices='auto'"):
        detector = small().fit(TABLE)  # nine columns: blocks of five and four, as WHOLE has
    np.testing.assert_array_equal(detector.decision_scores_, small().fit(WHOLE).decision_scores_)


def test_parameters_round_trip():
    detector = small(0.2, n_neighbors=4, view_slices=[5, 4], recon_weight=0.5)
    twin = clone(detector)
    assert twin.get_params() == detector.get_params()
    assert twin.set_params(n_epochs=9).n_epochs == 9
    assert detector.n_epochs == 3
    assert RCPMODDetector(**detector.get_params()).get_params() == detector.get_params()
    shared = RCPMOD().get_params()
    mine = RCPMODDetector().get_params()
    assert mine.pop("contamination") == 0.1  # PyOD's default
    assert shared.pop("contamination") == "auto"
    assert mine == shared


def test_fitting_again_and_cloning_repeat_the_scores(fitted):
    expected = fitted.decision_scores_.copy()
    np.testing.assert_array_equal(clone(fitted).fit(VIEWS).decision_scores_, expected)
    twice = small().fit(WHOLE).fit(VIEWS)
    np.testing.assert_array_equal(twice.decision_scores_, expected)
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(fitted)).decision_function(VIEWS), expected)
    assert not np.array_equal(small(random_state=1).fit(VIEWS).decision_scores_, expected)


class MeanThreshold:
    """Stands in for a PyThresh object: labels what lies above the mean."""

    def fit(self, scores):
        self.thresh_ = float(scores.mean())
        self.labels_ = self.predict(scores)
        return self

    def predict(self, scores):
        return (scores > self.thresh_).astype(int)


def test_a_threshold_object_is_accepted():
    detector = small(MeanThreshold()).fit(VIEWS)
    assert detector.threshold_ == detector.decision_scores_.mean()
    expected = (detector.decision_scores_ > detector.decision_scores_.mean()).astype(int)
    np.testing.assert_array_equal(detector.labels_, expected)
    np.testing.assert_array_equal(detector.predict(VIEWS), expected)


def test_y_is_ignored_with_pyods_warning(fitted):
    with pytest.warns(UserWarning, match="y should not be presented in unsupervised learning"):
        detector = small().fit(VIEWS, np.arange(80) % 2)
    np.testing.assert_array_equal(detector.decision_scores_, fitted.decision_scores_)


def test_silent_by_default_and_a_bar_on_request(capfd):
    small().fit(VIEWS).predict(VIEWS)
    assert capfd.readouterr() == ("", "")
    small(verbose=1).fit(VIEWS)
    out, err = capfd.readouterr()
    assert out == ""
    assert "RCPMOD: 100%" in err
