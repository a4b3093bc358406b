"""Bad input is refused before training, by name, and leaves the detector as it was."""

import re

import numpy as np
import pandas as pd
import pytest
from scipy import sparse
from sklearn.exceptions import NotFittedError

from graftkit.sklearn import stack_views
from tests.adapters.sklearn.rcpmod_cases import make_views, mask_of, same_state, state_of, tiny

A, B = make_views(missing=0)
TABLE = np.concatenate((A, B), axis=1)


def changed(view, row, column, value):
    out = view.copy()
    out[row, column] = value
    return out


def no_row_without(view, rows):
    return changed(view, rows, slice(None), np.nan)


BAD_FIT = {
    "one view": (ValueError, [A], "X: expected at least 2 views, got 1"),
    "one named view": (ValueError, {"a": A}, "X: expected at least 2 views, got 1"),
    "no view": (ValueError, {}, "X: expected at least 2 views, got 0"),
    "row counts": (
        ValueError,
        [A, B[:59]],
        "X: expected the same number of rows in every view, got {'view0': 60, 'view1': 59}",
    ),
    "no view at all": (ValueError, [A, None], "view 'view1': expected an array in fit, got None"),
    "view never seen": (
        ValueError,
        [A, np.full_like(B, np.nan)],
        "view 'view1': expected at least one observed row, got none",
    ),
    "row missing everywhere": (
        ValueError,
        [no_row_without(A, [3, 8]), no_row_without(B, [3, 8])],
        "X: expected at least one observed view in every row, got none in 2 row(s): [3, 8]",
    ),
    "partial NaN": (
        ValueError,
        [changed(A, [4, 9], 1, np.nan), B],
        (
            "view 'view0': expected rows without NaN, or all NaN where the view is missing, got NaN in part "
            "of row(s) [4, 9]. Set partial_nan='missing' or 'impute'"
        ),
    ),
    "infinity": (
        ValueError,
        [A, changed(B, 5, 2, np.inf)],
        "view 'view1': expected finite values, got infinity in row 5",
    ),
    "minus infinity": (
        ValueError,
        [changed(A, 0, 0, -np.inf), B],
        "view 'view0': expected finite values, got infinity in row 0",
    ),
    "one row": (ValueError, [A[:1], B[:1]], "X: expected at least 2 samples, got 1 sample(s)"),
    "no row": (ValueError, [A[:0], B[:0]], "X: expected at least 2 samples, got 0 sample(s)"),
    "no column": (
        ValueError,
        [A, B[:, :0]],
        "view 'view1': expected an array of shape (n_samples, n_features >= 1)",
    ),
    "one dimension": (
        ValueError,
        [A, B[:, 0]],
        "view 'view1': expected an array of shape (n_samples, n_features >= 1)",
    ),
    "three dimensions": (ValueError, [A, B[:, :, None]], "view 'view1': expected an array of shape"),
    "complex": (ValueError, [A, B * 1j], "view 'view1': expected real numbers"),
    "text": (TypeError, [A, np.full((60, 2), "x")], "view 'view1': expected numbers"),
    "dates": (
        TypeError,
        [A, np.full((60, 2), np.datetime64("2024-01-01"))],
        "view 'view1': expected numbers",
    ),
    "frame indices": (
        ValueError,
        [pd.DataFrame(A), pd.DataFrame(B, index=range(1, 61))],
        "X: expected equal row indices in every DataFrame, got different ones",
    ),
    "two columns": (
        ValueError,
        [A[:, 0], B[:, 0]],
        "view 'view0': expected an array of shape (n_samples, n_features >= 1)",
    ),
    "two series": (
        ValueError,
        [pd.Series(A[:, 0]), pd.Series(B[:, 0])],
        "view 'view0': expected an array of shape (n_samples, n_features >= 1)",
    ),
    "empty list": (TypeError, [], "X: expected a list or mapping of views, or one 2-D array, got []"),
    "nothing": (TypeError, None, "X: expected a list or mapping of views, or one 2-D array, got None"),
    "a word": (TypeError, "abc", "X: expected a list or mapping of views, or one 2-D array, got 'abc'"),
    "a number": (TypeError, 3, "X: expected a list or mapping of views, or one 2-D array, got 3"),
    "a generator": (TypeError, (v for v in (A, B)), "X: expected a list or mapping of views"),
    "rows of unequal length": (
        ValueError,
        [A, [[1.0, 2.0], [3.0]] * 30],
        "view 'view1': expected rows of equal length, got list of length 60",
    ),
    "masked entries": (
        TypeError,
        [A, np.ma.masked_less(B, 0)],
        "view 'view1': expected a plain array, got MaskedArray",
    ),
    "range beyond float64": (
        ValueError,
        [np.where(A > 0, 1.7e308, -1.7e308), B],
        "X: expected values whose range fits float64, got a minimum of -1.7e+308",
    ),
    "no common row": (
        ValueError,
        {"image": no_row_without(A, slice(0, 30)), "text": no_row_without(B, slice(30, 60))},
        "views 'image' and 'text': expected rows observed in both",
    ),
    "one common row, no other": (
        ValueError,
        [no_row_without(A, slice(1, 60)), B],
        "views 'view0' and 'view1': expected rows observed in both",
    ),
}


@pytest.mark.parametrize("case", BAD_FIT)
@pytest.mark.parametrize("fitted", [False, True], ids=["new", "fitted"])
def test_fit_refuses(case, fitted):
    error, X, words = BAD_FIT[case]
    detector = tiny().fit([A, B]) if fitted else tiny()
    before = state_of(detector)
    with pytest.raises(error, match=re.escape(words)):
        detector.fit(X, callback=lambda *_: pytest.fail("training has started"))
    assert same_state(detector, before)


BAD_TABLE = {
    "no slices": (ValueError, None, "view_slices: expected how one 2-D array falls into views"),
    "widths": (ValueError, [5, 5], "view_slices: expected positive widths that sum to"),
    "negative width": (ValueError, [10, -1], "view_slices: expected positive widths that sum to"),
    "overlap": (
        ValueError,
        [slice(0, 5), slice(4, 9)],
        "view_slices: expected disjoint columns, got overlapping views",
    ),
    "repeated column": (
        ValueError,
        [[0, 0, 1], [5, 6]],
        "view_slices: expected disjoint columns, got overlapping views",
    ),
    "one block": (ValueError, [slice(0, 9)], "view_slices: expected at least 2 views, got 1"),
    "empty": (ValueError, [], "view_slices: expected at least 2 views, got 0"),
    "empty view": (
        ValueError,
        [slice(0, 9), slice(9, 9)],
        "view_slices: expected at least one column in every view",
    ),
    "position": (ValueError, [[0, 1], [2, 9]], "view_slices: expected column positions in [0, 8]"),
    "unknown column": (ValueError, {"a": ["p"], "b": ["q"]}, "view_slices: unknown column(s) ['p']"),
    "flags for widths": (TypeError, [True, False], "view_slices: expected column positions in [0, 8]"),
    "a number beside a list": (TypeError, [5, [0, 1]], "view_slices: expected column positions in [0, 8]"),
    "None beside a list": (TypeError, [None, [1]], "view_slices: expected column positions in [0, 8]"),
    "named widths": (TypeError, {"x": 5, "y": 3}, "view_slices: expected column positions in [0, 8]"),
    "slice of names": (
        TypeError,
        [slice("a", "c"), [1]],
        "view_slices: expected a slice of column positions, got slice('a', 'c', None)",
    ),
    "ragged positions": (
        ValueError,
        [[[0, 1], [2]], [3]],
        "view_slices: expected rows of equal length, got [[0, 1], [2]]",
    ),
    "nested positions": (
        ValueError,
        [[[0, 1]], [[2, 3]]],
        "view_slices: expected column positions in [0, 8], a slice or column names, got [[0, 1]]",
    ),
    "array without axes": (
        TypeError,
        [np.array(0), np.array([1, 2])],
        "view_slices: expected column positions in [0, 8], a slice or column names, got array(0)",
    ),
    "step of zero": (
        ValueError,
        [slice(0, 5, 0), slice(5, 9)],
        "view_slices: expected a slice whose step is not 0, got slice(0, 5, 0)",
    ),
    "too many blocks": (ValueError, 10, "X: expected at least 10 features for 10 views, got 9 feature(s)"),
    "one": (ValueError, 1, "The 'view_slices' parameter of RCPMOD must be"),
    "word": (ValueError, "halves", "The 'view_slices' parameter of RCPMOD must be"),
    "fraction": (ValueError, 2.5, "The 'view_slices' parameter of RCPMOD must be"),
    "flag": (ValueError, True, "The 'view_slices' parameter of RCPMOD must be"),
}


@pytest.mark.parametrize("case", BAD_TABLE)
def test_fit_refuses_slices(case):
    error, view_slices, words = BAD_TABLE[case]
    detector = tiny(view_slices=view_slices)
    before = state_of(detector)
    with pytest.raises(error, match=re.escape(words)):
        detector.fit(TABLE, callback=lambda *_: pytest.fail("training has started"))
    assert same_state(detector, before)


def test_partial_nan_in_one_table_names_nan():
    with pytest.raises(ValueError, match="NaN"):
        tiny(view_slices=[5, 4]).fit(changed(TABLE, 3, 2, np.nan))


def test_one_sparse_table_is_refused():
    with pytest.raises(TypeError, match="dense"):
        tiny(view_slices=[5, 4]).fit(sparse.csr_array(TABLE))


def test_one_masked_table_is_refused():
    masked = np.ma.masked_less(TABLE, 0)  # scikit-learn would read what lies under the mask
    detector = tiny(view_slices=[5, 4])
    with pytest.raises(TypeError, match="X: expected a plain array, got MaskedArray"):
        detector.fit(masked)
    detector.fit(TABLE)
    with pytest.raises(TypeError, match="X: expected a plain array, got MaskedArray"):
        detector.predict(masked)


@pytest.mark.parametrize(
    ("mask", "error", "words"),
    [
        (np.ones((60, 3), bool), ValueError, "view_mask: expected an array of shape (60, 2)"),
        (np.ones(60, bool), ValueError, "view_mask: expected an array of shape (60, 2)"),
        (np.full((60, 2), 0.5), TypeError, "view_mask: expected booleans"),
        (np.full((60, 2), "yes"), TypeError, "view_mask: expected booleans"),
        (np.full((60, 2), np.nan), TypeError, "view_mask: expected booleans"),
        ([[True, True], [True]] * 30, ValueError, "view_mask: expected rows of equal length"),
        (np.zeros((60, 2), bool), ValueError, "got none in 60 row(s): [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]"),
    ],
    ids=["width", "flat", "fractions", "text", "NaN", "ragged", "all missing"],
)
def test_bad_masks(mask, error, words):
    detector = tiny()
    with pytest.raises(error, match=re.escape(words)):
        detector.fit([A, B], view_mask=mask)
    detector.fit([A, B])
    with pytest.raises(error, match=re.escape(words)):
        detector.score_samples([A, B], view_mask=mask)


@pytest.mark.parametrize("method", ["fit", "score_samples"])
def test_a_framed_mask_goes_by_its_labels(method):
    views = {"image": pd.DataFrame(A), "text": pd.DataFrame(B)}
    frame = pd.DataFrame(np.ones((60, 2), bool), columns=["image", "text"])
    detector = tiny().fit(views, view_mask=frame)
    words = r"view_mask: expected columns in the order of the views, \['image', 'text'\], got \['text', 'im"
    with pytest.raises(ValueError, match=words):
        getattr(detector, method)(views, view_mask=frame[["text", "image"]])
    with pytest.raises(ValueError, match="X: expected equal row indices in every DataFrame"):
        getattr(detector, method)(views, view_mask=frame[::-1])
    with pytest.raises(ValueError, match="views: expected equal row indices in every DataFrame"):
        stack_views(list(views.values()), frame[::-1])


BAD_PREDICT = {
    "number of views": ([A, B, B], "X: expected 2 views as in fit, got 3"),
    "one view": ([A], "X: expected 2 views as in fit, got 1"),
    "width": ([A[:, :4], B], "view 'view0': expected 5 features as in fit, got 4"),
    "swapped": ([B, A], "view 'view0': expected 5 features as in fit, got 4"),
    "row counts": ([A[:3], B[:4]], "X: expected the same number of rows in every view"),
    "unknown name": (
        {"view0": A, "text": B},
        "X: unknown view name(s) ['text'], expected some of ['view0', 'view1']",
    ),
    "nothing": ([None, None], "X: expected at least one view that is present, got only None"),
    "no name": ({}, "X: expected at least one view that is present"),
    "no row": ([A[:0], B[:0]], "X: expected at least 1 sample, got 0 sample(s)"),
    "row missing everywhere": (
        [no_row_without(A[:5], 2), no_row_without(B[:5], 2)],
        "got none in 1 row(s): [2]",
    ),
    "absent and NaN": ([no_row_without(A[:5], [1, 2]), None], "got none in 2 row(s): [1, 2]"),
    "partial NaN": ([changed(A, 1, 1, np.nan), B], "got NaN in part of row(s) [1]"),
    "infinity": (
        [A, changed(B, 1, 1, np.inf)],
        "view 'view1': expected finite values, got infinity in row 1",
    ),
    "one table": (TABLE, "a list or mapping of 2 views, as in fit"),
    "beyond float64": (
        [changed(A, 1, 1, 1.7e308), B],
        "view 'view0': expected values within 1e+100 times the range seen in fit, got one",
    ),
    "squares beyond float64": ([A, changed(B, 2, 0, -1e160)], "view 'view1': expected values within 1e+100"),
}


@pytest.fixture(scope="module")
def fitted():
    return tiny().fit([A, B])


@pytest.mark.parametrize("case", BAD_PREDICT)
@pytest.mark.parametrize("method", ["score_samples", "predict", "explain"])
def test_prediction_refuses(case, method, fitted):
    X, words = BAD_PREDICT[case]
    before = state_of(fitted)
    with pytest.raises(ValueError, match=re.escape(words)):
        getattr(fitted, method)(X)
    assert same_state(fitted, before)


def test_at_most_ten_rows_are_named():
    with pytest.raises(ValueError, match=re.escape("in 20 row(s): [40, 41, 42, 43, 44, 45, 46, 47, 48, 49]")):
        tiny().fit([no_row_without(A, slice(40, 60)), no_row_without(B, slice(40, 60))])


def test_a_table_of_another_width():
    detector = tiny(view_slices=[5, 4]).fit(TABLE)
    with pytest.raises(ValueError, match="X has 8 features, but RCPMOD is expecting 9 features"):
        detector.predict(TABLE[:, :8])


def test_a_frame_with_other_columns():
    frame = pd.DataFrame(TABLE, columns=[f"c{j}" for j in range(9)])
    detector = tiny(view_slices=[5, 4]).fit(frame)
    with pytest.raises(ValueError, match="feature names should match"):
        detector.predict(frame.rename(columns={"c3": "other"}))


def test_numbered_columns_in_another_order():
    frame = pd.DataFrame(TABLE)  # scikit-learn compares names of type str only
    detector = tiny(view_slices=[5, 4]).fit(frame)
    with pytest.raises(ValueError, match="X: expected the columns of fit, in its order"):
        detector.predict(frame[frame.columns[::-1]])


@pytest.mark.parametrize(
    "method", ["score_samples", "decision_function", "predict", "outlier_probability", "explain"]
)
def test_unfitted_use(method):
    with pytest.raises(NotFittedError, match="RCPMOD instance is not fitted yet"):
        getattr(tiny(), method)([A, B])


@pytest.mark.parametrize(
    ("options", "fit", "error", "words"),
    [
        ({"n_jobs": 0}, {}, ValueError, "n_jobs: expected None or an integer other than 0, got 0"),
        ({}, {"callback": 1}, TypeError, "callback: expected a callable or None, got 1"),
        ({"device": "meta"}, {}, ValueError, "device: expected a torch device of this machine ("),
    ],
)
def test_what_would_fail_late_is_refused_before_training(options, fit, error, words, monkeypatch):
    from graftkit.methods.rcpmod import training

    monkeypatch.setattr(training, "train_pair", lambda *_: pytest.fail("training has started"))
    with pytest.raises(error, match=re.escape(words)):
        tiny(**options).fit([A, B], **fit)


def test_a_mean_of_huge_values_does_not_overflow():
    huge = changed(np.full((60, 2), 1.7e308), 0, 0, np.nan)
    scores = tiny(partial_nan="impute").fit([A, huge]).outlier_scores_
    assert np.isfinite(scores).all()


def test_divergence_leaves_the_detector_as_it_was():
    detector = tiny().fit([A, B])
    detector.set_params(learning_rate=1e30)
    before = state_of(detector)
    with pytest.raises(RuntimeError, match="RCPMOD training diverged"):
        detector.fit([A, B])
    assert same_state(detector, before)


@pytest.mark.parametrize(
    ("views", "mask", "words"),
    [
        ([A], None, "views: expected a sequence of two or more 2-D arrays"),
        (TABLE, None, "views: expected a sequence of two or more 2-D arrays"),
        ([A, B[:3]], None, "views: expected the same number of rows in every view"),
        ([A, B], np.ones((60, 3)), "mask: expected an array of shape (60, 2)"),
        ([A, B[:, 0]], None, "view 'view1': expected an array of shape"),
    ],
)
def test_stack_views_refuses(views, mask, words):
    with pytest.raises(ValueError, match=re.escape(words)):
        stack_views(views, mask)


def test_mask_helper_of_these_tests_sees_missing_rows():
    assert mask_of([no_row_without(A, 3), B])[3].tolist() == [False, True]
