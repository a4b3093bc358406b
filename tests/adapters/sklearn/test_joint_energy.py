"""JointEnergyDetector is a scikit-learn outlier detector over logits."""

import pickle

import numpy as np
import pytest
from sklearn.base import clone, is_outlier_detector
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer
from sklearn.utils.estimator_checks import parametrize_with_checks

from graftkit.sklearn import JointEnergyDetector
from tests.house.subprocesses import run_json
from tests.plugins.edge import reference

LOGITS = np.random.default_rng(0).normal(0, 2, (200, 4))


@parametrize_with_checks([JointEnergyDetector(), JointEnergyDetector(contamination=0.1)])
def test_scikit_learn_checks(estimator, check):
    check(estimator)


def test_scores_are_joint_energies_and_signs_are_scikit_learns():
    detector = JointEnergyDetector().fit(LOGITS)
    scores = detector.score_samples(LOGITS)
    np.testing.assert_allclose(scores, [reference.energy(row) for row in LOGITS.tolist()], rtol=1e-13)
    np.testing.assert_allclose(detector.decision_function(LOGITS), scores - detector.offset_, rtol=1e-13)
    np.testing.assert_array_equal(detector.predict(LOGITS) == -1, scores < detector.offset_)
    np.testing.assert_allclose(detector.none_probability(LOGITS), np.exp(-scores), rtol=1e-13)
    assert is_outlier_detector(detector)


@pytest.mark.parametrize("contamination", [0.05, 0.1, 0.5])
def test_the_promised_share_is_unknown(contamination):
    labels = JointEnergyDetector(contamination).fit_predict(LOGITS)
    assert (labels == -1).sum() == 200 * contamination


def test_huge_logits():
    detector = JointEnergyDetector().fit(LOGITS)
    assert detector.score_samples([[1e4, -1e4, -1e4, -1e4]]) == [1e4]
    assert detector.none_probability([[-1e4] * 4]) == [1.0]


def test_copies_and_pipelines():
    detector = JointEnergyDetector(0.1).fit(LOGITS)
    again = pickle.loads(pickle.dumps(detector))
    np.testing.assert_array_equal(again.predict(LOGITS), detector.predict(LOGITS))
    assert clone(detector).get_params() == {"contamination": 0.1}
    doubled = make_pipeline(FunctionTransformer(lambda logits: logits + 1), JointEnergyDetector(0.1))
    assert doubled.fit(LOGITS)[-1].offset_ > detector.offset_


@pytest.mark.parametrize("contamination", [0, 0.6, "auto", None])
def test_contamination_is_checked(contamination):
    with pytest.raises(ValueError, match=r"'contamination' parameter .* must be a float in the range"):
        JointEnergyDetector(contamination).fit(LOGITS)


@pytest.mark.parametrize(
    ("X", "words"),
    [
        (np.full((5, 4), np.nan), "NaN"),
        (np.zeros((5, 3)), "X has 3 features, but JointEnergyDetector is expecting 4"),
        (np.zeros(4), "Expected 2D array"),
    ],
)
def test_refusals(X, words):
    detector = JointEnergyDetector().fit(LOGITS)
    with pytest.raises(ValueError, match=words):
        detector.predict(X)


def test_a_failed_fit_leaves_the_detector_as_it_was():
    detector = JointEnergyDetector().fit(LOGITS)
    before = dict(vars(detector))
    with pytest.raises(ValueError, match="NaN"):
        detector.fit(np.full((5, 3), np.nan))
    assert vars(detector) == before


def test_torch_is_not_imported_before_it_is_needed():
    loaded = run_json(
        "import sys, json; from graftkit.sklearn import JointEnergyDetector as D; D(0.1).get_params();"
        "print(json.dumps('torch' in sys.modules))"
    )
    assert loaded is False
