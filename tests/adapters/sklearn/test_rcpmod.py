"""RCPMOD is a scikit-learn outlier detector: common checks, signs, thresholds, explanations."""

import math

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.metrics import roc_auc_score
from sklearn.utils.estimator_checks import parametrize_with_checks

from graftkit.sklearn import RCPMOD
from tests.adapters.sklearn.rcpmod_cases import make_views, mask_of, tiny, trained

ONE_TABLE = "ignore:RCPMOD got one 2-D array:UserWarning"
FEW_ROWS = "ignore:n_neighbors=:UserWarning"


@parametrize_with_checks(
    [
        RCPMOD(
            view_slices=2,
            n_epochs=3,
            hidden_layer_sizes=(8,),
            latent_dim=4,
            contamination=0.1,
            random_state=0,
        ),
        RCPMOD(n_epochs=2),
    ]
)
@pytest.mark.filterwarnings(ONE_TABLE, FEW_ROWS)
def test_scikit_learn_checks(estimator, check):
    check(estimator)


@pytest.mark.slow
@parametrize_with_checks([RCPMOD()])
@pytest.mark.filterwarnings(ONE_TABLE, FEW_ROWS)
def test_scikit_learn_checks_of_the_default_instance(estimator, check):
    check(estimator)


def test_checks_cover_what_an_outlier_detector_promises():
    # parametrize_with_checks goes by tags: without these, the checks that bite would not run.
    from sklearn.base import is_outlier_detector
    from sklearn.utils import get_tags

    assert is_outlier_detector(RCPMOD())
    assert not get_tags(RCPMOD()).input_tags.allow_nan
    for mode in ("missing", "impute"):
        assert get_tags(RCPMOD(partial_nan=mode)).input_tags.allow_nan


def test_one_call_on_a_list_of_views():
    views = make_views()
    labels = tiny().fit_predict(views)
    assert labels.shape == (60,)
    assert labels.dtype.kind == "i"
    assert set(labels) <= {1, -1}


def test_signs_are_scikit_learns():
    views = make_views(n=120, missing=0)
    for view in views:
        view[7] = view.min(axis=0) + np.random.default_rng(0).random(view.shape[1]) * np.ptp(view, axis=0)
    detector = trained(contamination=0.05).fit(views)
    score, decision = detector.score_samples(views), detector.decision_function(views)
    assert score.argmin() == 7  # larger is more normal
    assert detector.outlier_scores_.argmax() == 7  # larger is more outlying
    np.testing.assert_array_equal(decision, score - detector.offset_)
    np.testing.assert_array_equal(detector.predict(views), np.where(decision >= 0, 1, -1))
    assert detector.predict(views)[7] == -1
    assert score.dtype == decision.dtype == np.float64


@pytest.mark.parametrize("contamination", [0.05, 0.1, 0.25, 0.5])
@pytest.mark.parametrize("missing", [0.0, 0.3])
def test_contamination_flags_exactly_that_share(contamination, missing):
    views = make_views(n=100, missing=missing)
    detector = tiny(contamination=contamination).fit(views)
    assert (detector.labels_ == -1).sum() == round(100 * contamination)
    assert detector.offset_ == np.percentile(detector.score_samples(views), 100 * contamination)


@pytest.mark.parametrize("contamination", ["auto", 0.1])
def test_labels_are_predictions_of_the_training_rows(contamination):
    views = make_views()
    detector = tiny(contamination=contamination).fit(views)
    np.testing.assert_array_equal(detector.labels_, detector.predict(views))
    np.testing.assert_array_equal(detector.labels_, clone(detector).fit_predict(views))


def test_automatic_offset_is_median_plus_three_deviations():
    views = make_views()
    detector = tiny().fit(views)
    s = -detector.score_samples(views)
    expected = -(np.median(s) + 3 * 1.4826 * np.median(np.abs(s - np.median(s))))
    assert detector.offset_ == pytest.approx(expected, abs=1e-12)


def test_automatic_offset_without_spread_flags_nothing():
    views = [np.ones((20, 3)), np.ones((20, 2))]  # one row, twenty times: all scores are equal
    detector = tiny().fit(views)
    assert (detector.labels_ == 1).all()
    assert detector.offset_ == detector.score_samples(views).min()


def test_outlier_probability_unifies_training_scores():
    views = make_views()
    detector = tiny().fit(views)
    s = -detector.score_samples(views)
    expected = [max(0.0, math.erf((v - s.mean()) / (s.std() * math.sqrt(2)))) for v in s]
    np.testing.assert_allclose(detector.outlier_probability(views), expected, rtol=0, atol=1e-12)
    few = detector.outlier_probability([view[:5] for view in views])
    np.testing.assert_allclose(few, expected[:5], rtol=0, atol=1e-9)


@pytest.mark.parametrize("dims", [(5, 4), (5, 4, 3), (3, 3, 2, 4), (2, 3, 2, 3, 4)])
@pytest.mark.parametrize("pairing", ["sequential", "independent"])
def test_explanation_adds_up_to_the_score(dims, pairing):
    views = make_views(dims=dims)
    mask = mask_of(views)
    detector = tiny(pairing=pairing, recon_weight=0.6).fit(views)
    told = detector.explain(views)
    n_pairs = len(dims) * (len(dims) - 1) // 2
    assert told.reconstruction.shape == (60, len(dims))
    assert told.consistency.shape == (60, n_pairs)
    np.testing.assert_array_equal(np.isnan(told.reconstruction), ~mask)
    total = np.nansum(told.reconstruction, axis=1) + np.nansum(told.consistency, axis=1)
    np.testing.assert_allclose(total, -detector.score_samples(views), rtol=0, atol=1e-12)
    np.testing.assert_array_equal(told.score, -detector.score_samples(views))
    assert (
        told.pair_names
        == detector.pairs_
        == tuple((f"view{a}", f"view{b}") for a in range(len(dims)) for b in range(a + 1, len(dims)))
    )
    assert told.view_names == detector.view_names_


def test_explanation_names_what_is_wrong():
    views = make_views(n=120, dims=(5, 4, 3), missing=0)
    views[1][3] += 60.0  # only view 1 is strange
    told = (
        tiny(n_epochs=20, n_neighbors=6)
        .fit(dict(zip("abc", views, strict=True)))
        .explain(dict(zip("abc", views, strict=True)))
    )
    assert told.largest[3] == "b"
    for row, name in enumerate(told.largest):
        parts = dict(
            zip(
                [*told.view_names, *told.pair_names],
                [*told.reconstruction[row], *told.consistency[row]],
                strict=True,
            )
        )
        assert parts[name] == np.nanmax(list(parts.values()))


def test_fitted_attributes():
    views = make_views(dims=(5, 4, 3))
    detector = tiny().fit(views)
    assert detector.n_views_ == 3
    assert detector.view_names_ == ("view0", "view1", "view2")
    assert detector.n_features_per_view_ == (5, 4, 3)
    assert detector.n_features_in_ == 12
    assert detector.n_iter_ == 9  # three pairs of three epochs
    assert [(entry["pair"], entry["epoch"]) for entry in detector.loss_curve_] == [
        (pair, epoch) for pair in detector.pairs_ for epoch in range(3)
    ]
    terms = {"reconstruction", "contrast", "alignment", "spreading", "total"}
    assert all(terms <= entry.keys() for entry in detector.loss_curve_)


def test_losses_fall():
    curve = trained().fit(make_views(n=120)).loss_curve_
    for term in ("reconstruction", "contrast", "alignment"):
        assert curve[-1][term] < 0.9 * curve[0][term]


def test_callback_sees_every_epoch_and_stops_a_pair():
    views = make_views(dims=(5, 4, 3))
    seen = []

    def stop(epoch, losses):
        seen.append((losses["pair"], epoch))
        return losses["pair"] == ("view0", "view1")

    detector = tiny().fit(views, callback=stop)
    assert seen == [(("view0", "view1"), 0)] + [(pair, e) for pair in detector.pairs_[1:] for e in range(3)]
    assert detector.n_iter_ == 7


def test_y_is_ignored():
    views = make_views()
    plain = tiny().fit(views).outlier_scores_
    np.testing.assert_array_equal(tiny().fit(views, y=np.arange(60)).outlier_scores_, plain)
    np.testing.assert_array_equal(tiny().fit(views, "not even an array").outlier_scores_, plain)


def test_class_outliers_are_found_where_no_single_view_shows_them():
    views = make_views(n=200, missing=0)
    group = np.unique(np.round(views[0] / 3), axis=0, return_inverse=True)[1].ravel()
    swapped = np.r_[np.flatnonzero(group == group[0])[:5], np.flatnonzero(group != group[0])[:5]]
    views[1][swapped] = views[1][swapped[::-1]]
    truth = np.isin(np.arange(200), swapped)
    detector = trained(n_epochs=40).fit(views)
    assert roc_auc_score(truth, detector.outlier_scores_) > 0.95
    assert roc_auc_score(truth, -detector.score_samples(views)) > 0.95
