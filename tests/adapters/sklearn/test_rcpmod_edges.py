"""Shapes and contents at the edge: few rows, few columns, constants, duplicates, scales, missing rates."""

import warnings

import numpy as np
import pytest

from tests.adapters.sklearn.rcpmod_cases import make_views, mask_of, tiny


def fit_checked(views, n_rows=None, **options):
    """Fit, and hold what must be true of any fit: finite scores, labels as predicted."""
    detector = tiny(**options).fit(views)
    n_rows = n_rows or len(views[0])
    assert detector.outlier_scores_.shape == (n_rows,)
    assert np.isfinite(detector.outlier_scores_).all()
    score = detector.score_samples(views)
    assert np.isfinite(score).all()
    np.testing.assert_array_equal(detector.predict(views), detector.labels_)
    return detector


def without(views, rate, seed=0):
    """A share `rate` of rows keeps one view only."""
    rng = np.random.default_rng(seed)
    out = [view.copy() for view in views]
    n = len(views[0])
    for row in rng.permutation(n)[: int(rate * n)]:
        keep = rng.integers(len(views))
        for v, view in enumerate(out):
            if v != keep:
                view[row] = np.nan
    return out


@pytest.mark.parametrize("dims", [(5, 4), (5, 4, 3), (2, 3, 2, 3), (2, 3, 2, 3, 4)])
def test_two_to_five_views(dims):
    detector = fit_checked(make_views(dims=dims))
    assert len(detector.pairs_) == len(dims) * (len(dims) - 1) // 2


@pytest.mark.parametrize("rate", [0.0, 0.45, 0.9])
@pytest.mark.parametrize("dims", [(5, 4), (5, 4, 3)])
def test_missing_rates(rate, dims):
    views = without(make_views(n=80, dims=dims, missing=0), rate)
    fit_checked(views, impute_from=1)
    assert mask_of(views).all(axis=1).mean() == pytest.approx(1 - rate)


def test_rows_absent_from_a_pair_do_not_enter_it():
    views = make_views(n=60, dims=(5, 4, 3), missing=0)
    views[0][:7], views[1][:7] = np.nan, np.nan  # only view 2 is left
    told = fit_checked(views).explain(views)
    assert told.pair_names == (("view0", "view1"), ("view0", "view2"), ("view1", "view2"))
    assert np.isnan(told.consistency[:7, 0]).all()
    assert np.isfinite(told.consistency[:7, 1:]).all()
    assert np.isfinite(told.consistency[7:]).all()


def test_one_disjoint_pair_is_named_among_many():
    views = make_views(n=60, dims=(5, 4, 3), missing=0)
    views[1][:30], views[2][30:] = np.nan, np.nan
    with pytest.raises(ValueError, match="views 'view1' and 'view2': expected rows observed in both"):
        tiny().fit(views)


def test_constant_features_carry_no_score():
    views = make_views(missing=0)
    padded = [np.column_stack((view, np.full(60, 7.0), np.zeros(60))) for view in views]
    detector = fit_checked(padded)
    moved = [view.copy() for view in padded]
    moved[0][:, -1] += 1e-3  # a constant column is not scaled up to see this
    np.testing.assert_allclose(detector.score_samples(moved), detector.score_samples(padded), atol=1e-2)


@pytest.mark.parametrize("scale", ["feature", "global"])
def test_a_constant_view(scale):
    views = make_views(missing=0)
    fit_checked([views[0], np.full((60, 3), 2.5)], scale=scale)
    fit_checked([np.zeros((60, 2)), np.full((60, 3), 2.5)], scale=scale)


def test_one_feature_views():
    views = make_views(dims=(1, 1))
    fit_checked(views)
    fit_checked([views[0], make_views(dims=(1, 6))[1]])


@pytest.mark.parametrize("n", [2, 3, 4])
def test_fewer_rows_than_neighbours_warn_once(n):
    views = make_views(n=n, missing=0)
    with pytest.warns(UserWarning, match=rf"n_neighbors=6 is more than the {n - 1} neighbour\(s\)") as caught:
        tiny(n_neighbors=6, spread_warm=5.0).fit(views)
    assert len(caught) == 1


def test_warnings_point_at_the_callers_line():
    views = make_views(n=4, missing=0)
    with pytest.warns(UserWarning, match="n_neighbors=6") as caught:
        tiny(n_neighbors=6).fit(views)
    assert caught[0].filename == __file__
    with pytest.warns(UserWarning, match="view_slices='auto'") as caught:
        tiny(n_neighbors=2).fit(np.concatenate(views, axis=1))
    assert caught[0].filename == __file__


def test_few_complete_rows_warn_once_for_all_pairs():
    views = without(make_views(n=40, dims=(5, 4, 3), missing=0), 0.9)
    with pytest.warns(UserWarning, match=r"n_neighbors=6 is more than the 4 neighbour\(s\)") as caught:
        detector = tiny(n_neighbors=6).fit(views)
    assert len(caught) == 1
    assert np.isfinite(detector.outlier_scores_).all()


def test_one_row_to_borrow_from():
    views = make_views(n=20, missing=0)
    views[0][1:8], views[1][8:] = np.nan, np.nan  # row 0 alone has both views
    with pytest.warns(UserWarning, match=r"the 1 neighbour\(s\)"):
        detector = tiny(impute_from=0).fit(views)
    assert np.isfinite(detector.outlier_scores_).all()


@pytest.mark.parametrize("n", [10, 49, 51])
def test_rank_beyond_the_rows_is_clipped(n):
    detector = fit_checked(make_views(n=n, missing=0), spread_warm=5.0, negative_rank=50)
    assert detector.loss_curve_[-1]["spreading"] != 0
    # A rank past the last row and the last row itself are the same thing.
    twin = tiny(spread_warm=5.0, negative_rank=n - 1).fit(make_views(n=n, missing=0))
    np.testing.assert_array_equal(twin.outlier_scores_, detector.outlier_scores_)


def test_last_batch_of_one_row():
    fit_checked(make_views(n=65), batch_size=32)
    fit_checked(make_views(n=3, missing=0), batch_size=2, n_neighbors=1)


def test_every_row_twice():
    views = [np.repeat(view, 2, axis=0) for view in make_views(n=40)]
    detector = fit_checked(views, spread_warm=5.0, impute_from=1)
    scores = detector.score_samples(views)
    np.testing.assert_allclose(scores[::2], scores[1::2], rtol=0, atol=1e-12)


def test_one_row_a_hundred_times():
    views = make_views(n=60, missing=0)
    crowded = [np.concatenate((view, np.repeat(view[:1], 100, axis=0))) for view in views]
    detector = fit_checked(crowded, spread_warm=5.0, impute_from=1)
    assert np.ptp(detector.outlier_scores_[60:]) < 1e-9
    partial = [view.copy() for view in crowded]
    partial[0][60:90], partial[1][90:120] = np.nan, np.nan
    fit_checked(partial, spread_warm=5.0, impute_from=1)


@pytest.mark.parametrize("power", [-400, -40, 40, 400])
@pytest.mark.parametrize("scale", ["feature", "global"])
def test_units_do_not_matter(power, scale):
    # Powers of two scale without rounding, so the scores are the same to the last bit.
    views = make_views()
    other = [views[0] * 2.0**power, views[1]]
    expected = fit_checked(views, scale=scale)
    detector = fit_checked(other, scale=scale)
    np.testing.assert_array_equal(detector.outlier_scores_, expected.outlier_scores_)
    np.testing.assert_array_equal(detector.score_samples(other), expected.score_samples(views))


def test_columns_of_very_different_scale():
    views = make_views(missing=0)
    factors = 2.0 ** np.array([-60, 0, 60, 10, -10])
    expected = tiny(scale="feature").fit(views)
    detector = tiny(scale="feature").fit([views[0] * factors, views[1]])
    np.testing.assert_array_equal(detector.outlier_scores_, expected.outlier_scores_)


def test_offsets_are_removed():
    views = make_views(missing=0)
    detector = tiny().fit(views)
    shifted = tiny().fit([views[0] + 1000.0, views[1] - 1000.0])
    np.testing.assert_allclose(shifted.outlier_scores_, detector.outlier_scores_, atol=1e-3)


def test_scaling_is_learnt_from_observed_rows():
    # Far fillers under a mask would stretch the scale if they were read.
    views, mask = make_views(), mask_of(make_views())
    filled = [np.where(mask[:, [v]], view, 1e6) for v, view in enumerate(views)]
    expected = tiny().fit(views)
    got = tiny().fit(filled, view_mask=mask)
    np.testing.assert_array_equal(got.outlier_scores_, expected.outlier_scores_)


def test_new_values_outside_the_training_range_are_evidence():
    views = make_views(missing=0)
    detector = tiny().fit(views)
    rows = [view[:1].copy() for view in views]
    scores = [detector.score_samples([rows[0] + step, rows[1]])[0] for step in (0.0, 50.0, 500.0)]
    assert scores[0] > scores[1] > scores[2]
    assert detector.outlier_probability([rows[0] + 500.0, rows[1]])[0] == pytest.approx(1.0)


def test_single_rows_can_be_scored():
    views = make_views(missing=0)
    detector = tiny().fit(views)
    assert detector.predict([views[0][:1], None]).shape == (1,)
    assert detector.explain([None, views[1][:1]]).score.shape == (1,)


def test_more_references_than_rows_means_all():
    views = make_views()
    expected = tiny().fit(views)
    detector = tiny(n_reference=10_000).fit(views)
    np.testing.assert_array_equal(detector.outlier_scores_, expected.outlier_scores_)
    assert all(scorer.n_references == 60 for scorer in detector.model_.scorers)


def test_automatic_references_switch_to_a_sample(monkeypatch):
    from graftkit.methods.rcpmod import fitting

    assert [fitting._reference_count("auto", n) for n in (4_999, 5_000, 5_001)] == [4_999, 5_000, 2_048]
    monkeypatch.setattr(fitting, "ALL_REFERENCES", 59)
    monkeypatch.setattr(fitting, "SAMPLED_REFERENCES", 12)
    views = make_views(missing=0)
    detector = tiny().fit(views)
    assert [scorer.n_references for scorer in detector.model_.scorers] == [12]
    # Above the limit the published score is not formed; the frozen one stands in.
    np.testing.assert_allclose(detector.outlier_scores_, -detector.score_samples(views), rtol=0, atol=1e-12)


def test_no_warning_on_ordinary_data():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        tiny(spread_warm=5.0, impute_from=1).fit_predict(make_views(dims=(5, 4, 3)))
