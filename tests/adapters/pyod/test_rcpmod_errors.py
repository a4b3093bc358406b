"""RCPMODDetector refuses bad input by name, and keeps what it was."""

import re

import numpy as np
import pytest
from sklearn.exceptions import NotFittedError

pytest.importorskip("pyod", reason="the pyod extra is not installed")

from graftkit.pyod import RCPMODDetector
from graftkit.sklearn import stack_views
from tests.adapters.sklearn.rcpmod_cases import TINY, make_views, same_state, state_of

VIEWS = make_views(n=80)
WHOLE = make_views(n=80, missing=0)
TABLE, WIDTHS = stack_views(WHOLE)


def small(contamination=0.1, **options):
    return RCPMODDetector(contamination, **{**TINY, **options})


@pytest.fixture(scope="module")
def fitted():
    return small().fit(VIEWS)


@pytest.fixture(scope="module")
def tabular():
    return small(view_slices=WIDTHS).fit(TABLE)


@pytest.mark.parametrize("contamination", [0.0, -0.1, 0.51, 1])
def test_contamination_out_of_range(contamination):
    with pytest.raises(ValueError, match=re.escape("contamination must be in (0, 0.5]")):
        RCPMODDetector(contamination)
    detector = small().set_params(contamination=contamination)  # the constructor does not see this one
    before = state_of(detector)
    with pytest.raises(ValueError, match=r"^contamination: expected"):
        detector.fit(VIEWS)
    assert same_state(detector, before)


@pytest.mark.parametrize("method", ["decision_function", "predict", "predict_proba", "predict_confidence"])
def test_unfitted_use(method):
    with pytest.raises(NotFittedError, match="not fitted"):
        getattr(small(), method)(VIEWS)


def test_unknown_probability_method(fitted):
    with pytest.raises(ValueError, match=r"^method: expected one of 'linear', 'unify'"):
        fitted.predict_proba(VIEWS, method="softmax")


BAD = {
    "one view": (ValueError, [VIEWS[0]], {}, "X: expected at least 2 views, got 1"),
    "rows": (ValueError, [VIEWS[0], VIEWS[1][:70]], {}, "X: expected the same number of rows in every view"),
    "no view": (
        ValueError,
        [v * np.nan for v in VIEWS],
        {},
        "expected at least one observed view in every row",
    ),
    "setting": (ValueError, VIEWS, {"n_epochs": 0}, "n_epochs: expected"),
    "type": (TypeError, VIEWS, {"latent_dim": "wide"}, "latent_dim: expected"),
    "seed": (TypeError, VIEWS, {"random_state": "x"}, "random_state: expected"),
    "jobs": (ValueError, VIEWS, {"n_jobs": 0}, "n_jobs: expected None or an integer other than 0"),
    "slices": (
        ValueError,
        TABLE,
        {"view_slices": [5, 5]},
        "view_slices: expected positive widths that sum to",
    ),
}


@pytest.mark.parametrize("case", BAD)
@pytest.mark.parametrize("earlier", [False, True], ids=["new", "fitted"])
def test_fit_refuses_and_leaves_the_detector_as_it_was(case, earlier):
    error, X, options, words = BAD[case]
    detector = small().fit(WHOLE) if earlier else small()
    detector.set_params(**options)
    before = state_of(detector)
    with pytest.raises(error, match=re.escape(words)):
        detector.fit(X)
    assert same_state(detector, before)


def test_prediction_refuses_other_views(fitted, tabular):
    with pytest.raises(ValueError, match="X: expected 2 views as in fit, got 3"):
        fitted.decision_function([*VIEWS, VIEWS[0]])
    with pytest.raises(ValueError, match="view 'view1': expected 4 features as in fit, got 3"):
        fitted.decision_function([VIEWS[0], VIEWS[1][:, :3]])
    with pytest.raises(ValueError, match=r"9 features.*, got 8"):
        tabular.decision_function(TABLE[:, :8])


def test_prediction_refuses_a_wider_table(tabular):
    with pytest.raises(ValueError, match="expected 9 features"):
        tabular.decision_function(np.concatenate((TABLE, TABLE[:, :2]), axis=1))


def test_frame_columns_go_by_name():
    pandas = pytest.importorskip("pandas")
    names = list("abcdefghi")
    frame = pandas.DataFrame(TABLE, columns=names)
    detector = small(view_slices={"p": names[:5], "q": names[5:]}).fit(frame)
    try:
        again = detector.decision_function(frame[names[::-1]])
    except ValueError:
        return  # to refuse another order, as scikit-learn does, is as good
    np.testing.assert_allclose(again, detector.decision_scores_, rtol=0, atol=1e-9)


@pytest.mark.parametrize(
    ("contamination", "y", "words"),
    [
        ("auto", None, "contamination"),
        (None, None, "contamination"),
        (0.1, np.linspace(0, 1, 80), "label type"),
    ],
)
def test_late_refusals_leave_the_detector_as_it_was(contamination, y, words):
    detector = small().set_params(contamination=contamination)
    before = state_of(detector)
    with pytest.raises((TypeError, ValueError), match=words):
        detector.fit(VIEWS, y)
    assert same_state(detector, before)
