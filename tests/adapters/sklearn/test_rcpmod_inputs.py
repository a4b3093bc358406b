"""Every input form says the same thing: lists, mappings, frames, sparse views, one sliced table, masks."""

import numpy as np
import pandas as pd
import pytest
from scipy import sparse

from graftkit.sklearn import RCPMOD, stack_views
from tests.adapters.sklearn.rcpmod_cases import make_views, mask_of, tiny

VIEWS = make_views(dims=(5, 4, 3))
MASK = mask_of(VIEWS)
TABLE = np.concatenate(VIEWS, axis=1)
FULL = [np.nan_to_num(view, nan=0.0) for view in VIEWS]


@pytest.fixture(scope="module")
def expected():
    """Transductive and frozen scores of the list form."""
    detector = tiny().fit(VIEWS)
    return detector.outlier_scores_, detector.score_samples(VIEWS)


def check(detector, expected, fit_input, score_input=None, **kwargs):
    detector.fit(fit_input, **kwargs)
    np.testing.assert_array_equal(detector.outlier_scores_, expected[0])
    again = detector.score_samples(fit_input if score_input is None else score_input, **kwargs)
    np.testing.assert_array_equal(again, expected[1])


@pytest.mark.parametrize(
    "form",
    [
        tuple,
        lambda views: [view.tolist() for view in views],
        lambda views: [np.asfortranarray(view) for view in views],
        lambda views: [pd.DataFrame(view) for view in views],
        lambda views: [pd.DataFrame(view, index=[f"r{i}" for i in range(60)]) for view in views],
        lambda views: [pd.DataFrame(views[0], index=range(60, 120)), *views[1:]],
        lambda views: {f"view{v}": view for v, view in enumerate(views)},
        lambda views: {f"view{v}": pd.DataFrame(view) for v, view in enumerate(views)},
        lambda views: [view.astype(object) for view in views],
        lambda views: [pd.DataFrame(view).astype("Float64") for view in views],
    ],
    ids=[
        "tuple",
        "lists",
        "fortran",
        "frames",
        "index",
        "mixed",
        "dict",
        "dict of frames",
        "object",
        "nullable",
    ],
)
def test_forms_equal_the_list(form, expected):
    check(tiny(), expected, form(VIEWS))


@pytest.mark.parametrize(
    "container", [sparse.csr_array, sparse.csc_matrix, sparse.csr_matrix, sparse.dok_array]
)
def test_sparse_views_with_a_mask_equal_the_list(container, expected):
    check(tiny(), expected, [container(view) for view in FULL], view_mask=MASK)


def test_mask_equals_nan_rows_whatever_lies_under_it(expected):
    check(tiny(), expected, FULL, view_mask=MASK)
    wild = [np.where(MASK[:, [v]], view, np.inf if v else -1e9) for v, view in enumerate(FULL)]
    check(tiny(), expected, wild, view_mask=MASK)
    ones = [[int(flag) for flag in row] for row in MASK]
    check(tiny(), expected, FULL, view_mask=ones)
    check(tiny(), expected, VIEWS, view_mask=np.ones_like(MASK))  # NaN rows are missing in any case


@pytest.mark.parametrize(
    "view_slices",
    [
        [5, 4, 3],
        (5, 4, 3),
        np.array([5, 4, 3]),
        [slice(0, 5), slice(5, 9), slice(9, None)],
        [range(5), [5, 6, 7, 8], np.array([9, 10, 11])],
        [slice(0, 5), slice(5, 9), np.arange(12) >= 9],
        {"view0": slice(0, 5), "view1": slice(5, 9), "view2": [9, 10, 11]},
    ],
    ids=["widths", "tuple", "array", "slices", "indices", "booleans", "names"],
)
def test_slices_of_one_table_equal_the_list(view_slices, expected):
    check(tiny(view_slices=view_slices), expected, TABLE)


def test_columns_may_be_interleaved(expected):
    order = np.random.default_rng(0).permutation(12)
    where = np.argsort(order)
    check(tiny(view_slices=[where[:5], where[5:9], where[9:]]), expected, TABLE[:, order])


def test_named_columns_of_one_frame(expected):
    columns = [f"c{j}" for j in range(12)]
    frame = pd.DataFrame(TABLE, columns=columns)
    detector = tiny(view_slices={"view0": columns[:5], "view1": columns[5:9], "view2": columns[9:]})
    check(detector, expected, frame)
    assert detector.feature_names_in_.tolist() == columns
    assert detector.view_names_ == ("view0", "view1", "view2")
    index = frame.columns
    check(tiny(view_slices={"view0": index[:5], "view1": index[5:9], "view2": index[9:]}), expected, frame)
    single = tiny(view_slices={"a": "c0", "b": columns[1:]}).fit(frame.fillna(0.0))
    assert single.n_features_per_view_ == (1, 11)


def test_number_of_blocks_follows_array_split():
    blocks = np.array_split(np.arange(12), 5)
    detector = tiny(view_slices=5, partial_nan="missing").fit(TABLE)
    assert detector.n_features_per_view_ == tuple(map(len, blocks)) == (3, 3, 2, 2, 2)


def test_automatic_split_warns_and_makes_two_blocks():
    views = make_views(missing=0)
    table = np.concatenate(views, axis=1)  # nine columns: blocks of five and four
    with pytest.warns(
        UserWarning, match=r"view_slices='auto': its columns are split into two contiguous blocks"
    ):
        detector = tiny().fit(table)
    np.testing.assert_array_equal(detector.outlier_scores_, tiny().fit(views).outlier_scores_)
    detector.predict(table)  # the warning belongs to fit


def test_only_the_automatic_split_warns():
    tiny(view_slices=[5, 4]).fit(np.concatenate(make_views(missing=0), axis=1))  # warnings are errors here
    tiny().fit(make_views())


def test_view_names():
    named = {"image": VIEWS[0], "text": VIEWS[1], 7: VIEWS[2]}
    detector = tiny().fit(named)
    assert detector.view_names_ == ("image", "text", 7)
    assert detector.pairs_ == (("image", "text"), ("image", 7), ("text", 7))
    assert [entry["pair"] for entry in detector.loss_curve_][::3] == list(detector.pairs_)
    backwards = dict(reversed(named.items()))  # at prediction names decide, not order
    np.testing.assert_array_equal(detector.score_samples(backwards), detector.score_samples(named))


def test_absent_views_at_prediction():
    detector = tiny().fit(VIEWS)
    rows = MASK[:, :2].any(axis=1)
    first_two = [view[rows] for view in VIEWS[:2]]
    mask = MASK[rows] & [True, True, False]
    expected = detector.score_samples([view[rows] for view in FULL], view_mask=mask)
    np.testing.assert_array_equal(detector.score_samples([*first_two, None]), expected)
    named = {f"view{v}": view for v, view in enumerate(first_two)}
    np.testing.assert_array_equal(detector.score_samples(named), expected)
    np.testing.assert_array_equal(detector.score_samples({**named, "view2": None}), expected)
    nan = np.full((int(rows.sum()), 3), np.nan)
    np.testing.assert_array_equal(detector.score_samples([*first_two, nan]), expected)
    labels = detector.predict([*first_two, None])
    np.testing.assert_array_equal(labels, np.where(expected >= detector.offset_, 1, -1))
    told = detector.explain([*first_two, None])
    assert np.isnan(told.reconstruction[:, 2]).all()


@pytest.mark.parametrize("method", ["score_samples", "decision_function", "predict", "outlier_probability"])
def test_every_method_takes_a_mask(method):
    detector = tiny().fit(VIEWS)
    got = getattr(detector, method)(FULL, view_mask=MASK)
    np.testing.assert_array_equal(got, getattr(detector, method)(VIEWS))
    assert not np.array_equal(detector.score_samples(FULL), detector.score_samples(VIEWS))


@pytest.mark.parametrize("container", [np.asarray, sparse.csr_array])
def test_fit_predict_labels_with_the_mask_it_fits_with(container):
    full = [container(view) for view in FULL]
    options = {"contamination": 0.2, "n_epochs": 1}
    seen = []
    labels = tiny(**options).fit_predict(full, view_mask=MASK, callback=lambda *epoch: seen.append(epoch))
    assert len(seen) == 3  # one epoch of three pairs
    detector = tiny(**options).fit(full, view_mask=MASK)
    np.testing.assert_array_equal(labels, detector.labels_)
    np.testing.assert_array_equal(labels, detector.predict(full, view_mask=MASK))
    assert (labels != detector.predict(full)).any()


def test_partial_nan_can_mean_missing():
    views = [view.copy() for view in VIEWS]
    full_rows = np.flatnonzero(MASK.all(axis=1))[:6]
    views[0][full_rows, 2] = np.nan
    whole = [view.copy() for view in views]
    whole[0][full_rows] = np.nan
    expected = tiny().fit(whole)
    detector = tiny(partial_nan="missing").fit(views)
    np.testing.assert_array_equal(detector.outlier_scores_, expected.outlier_scores_)
    np.testing.assert_array_equal(detector.score_samples(views), expected.score_samples(whole))


def test_partial_nan_can_be_imputed_with_training_means():
    views = [view.copy() for view in VIEWS]
    full_rows = np.flatnonzero(MASK.all(axis=1))[:6]
    views[0][full_rows, 2] = np.nan
    filled = [view.copy() for view in views]
    filled[0][full_rows, 2] = np.nanmean(views[0][:, 2])
    expected = tiny().fit(filled)
    detector = tiny(partial_nan="impute").fit(views)
    np.testing.assert_array_equal(detector.outlier_scores_, expected.outlier_scores_)
    # A new row gets the training mean, not that of the rows it comes with.
    row = full_rows[:1]
    np.testing.assert_array_equal(
        detector.score_samples([view[row] for view in views]),
        expected.score_samples([view[row] for view in filled]),
    )


def test_a_column_of_nan_is_imputed_by_zero_not_by_nan():
    views = make_views(missing=0)
    views[0][:, 1] = np.nan
    detector = tiny(partial_nan="impute").fit(views)
    assert np.isfinite(detector.score_samples(views)).all()


@pytest.mark.parametrize("dtype", [np.float32, np.int16, np.uint8, bool])
def test_numbers_of_any_kind(dtype):
    views = [np.abs(np.round(view * 2)).astype(dtype) for view in make_views(missing=0)]
    detector = tiny().fit(views)
    doubles = [view.astype(np.float64) for view in views]
    np.testing.assert_array_equal(detector.outlier_scores_, tiny().fit(doubles).outlier_scores_)
    assert detector.score_samples(views).dtype == np.float64
    np.testing.assert_array_equal(detector.score_samples(views), detector.score_samples(doubles))


def test_read_only_and_mapped_views(tmp_path, expected):
    mapped = []
    for v, view in enumerate(VIEWS):
        np.save(tmp_path / f"{v}.npy", view)
        mapped.append(np.load(tmp_path / f"{v}.npy", mmap_mode="r"))
    check(tiny(), expected, mapped)


def test_input_is_left_alone():
    views = [view.copy() for view in VIEWS]
    mask = MASK.copy()
    tiny().fit(views, view_mask=mask).score_samples(views, view_mask=mask)
    for view, original in zip(views, VIEWS, strict=True):
        np.testing.assert_array_equal(view, original)
    np.testing.assert_array_equal(mask, MASK)


def test_stack_views_is_undone_by_its_widths(expected):
    X, widths = stack_views(FULL, MASK)
    assert widths == [5, 4, 3]
    np.testing.assert_array_equal(X, TABLE)
    check(RCPMOD(**{**tiny().get_params(), "view_slices": widths}), expected, X)
    X, _ = stack_views(tuple(VIEWS))
    np.testing.assert_array_equal(X, TABLE)
    X, _ = stack_views([sparse.csr_array(FULL[0]), FULL[1].tolist(), pd.DataFrame(FULL[2])], MASK.tolist())
    np.testing.assert_array_equal(X, TABLE)


def test_list_of_rows_is_one_table():
    views = make_views(missing=0)
    table = np.concatenate(views, axis=1)
    got = tiny(view_slices=[5, 4]).fit(table.tolist())
    np.testing.assert_array_equal(got.outlier_scores_, tiny().fit(views).outlier_scores_)
