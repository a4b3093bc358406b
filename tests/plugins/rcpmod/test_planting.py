"""The planting protocol: counts, values, laws, errors."""

from itertools import combinations
from typing import Any

import numpy as np
import pytest

from graftkit.methods.rcpmod.data import missing_mask, plant_outliers
from tests.plugins.rcpmod.planting_cases import ATTRIBUTE, CLASS, INLIER, MIXED, rows_found, tagged_views


@pytest.mark.parametrize(
    "rates", [(0.05, 0.02, 0.08), (0.02, 0.05, 0.08), (0.07, 0.29, 0.0), (0.0, 0.0, 0.0)]
)
@pytest.mark.parametrize("missing", [0.0, 0.3])
def test_counts_are_exact_and_pairs_make_them_even(rates: tuple[float, float, float], missing: float) -> None:
    views, labels = tagged_views(300, (3, 2))
    planted = plant_outliers(views, labels, rates=rates, missing=missing, random_state=1)
    attribute, by_class, mixed = (round(300 * rate) for rate in rates)
    counts = np.bincount(planted.outlier_type, minlength=4)
    assert counts.tolist()[1:] == [attribute, by_class // 2 * 2, mixed // 2 * 2]
    assert planted.is_outlier.sum() == counts[1:].sum()


@pytest.mark.parametrize("n_views", [2, 3, 4, 5])
def test_each_kind_holds_what_it_says_by_value(n_views: int) -> None:
    views, labels = tagged_views(240, (3,) * n_views)
    planted = plant_outliers(views, labels, rates=(0.1, 0.1, 0.1), random_state=0)
    source = np.stack([rows_found(view) for view in planted.views], axis=1)
    own = np.arange(240)[:, None]
    kind = planted.outlier_type
    assert (source[kind == INLIER] == own[kind == INLIER]).all()
    assert (source[kind == ATTRIBUTE] == -1).all()
    for code, rest in ((CLASS, own), (MIXED, np.full_like(own, -1))):
        rows = np.flatnonzero(kind == code)
        moved = (source[rows] != own[rows]) & (source[rows] >= 0)
        assert (moved.sum(axis=1) == n_views // 2).all()
        assert (source[rows] == np.where(moved, source[rows], rest[rows])).all()
        for row, swapped in zip(rows, moved, strict=True):
            (partner,) = set(source[row][swapped])
            assert kind[partner] == code
            assert labels[partner] != labels[row]
            assert (source[partner][swapped] == row).all()  # a swap, in the same views
    if n_views > 2:  # the swapped views differ from pair to pair
        rows = np.flatnonzero(kind == CLASS)
        assert len(np.unique(source[rows] != own[rows], axis=0)) > 1


def test_swapped_views_are_observed_in_both_rows_unless_leak_free() -> None:
    views, labels = tagged_views(400, (3, 3, 3, 3))
    planted = plant_outliers(
        views, labels, rates=(0.0, 0.2, 0.0), missing=0.8, kind="entries", random_state=0
    )
    rows = np.flatnonzero(planted.outlier_type == CLASS)
    assert (planted.mask[rows].sum(axis=1) >= 2).all()
    for row in rows:
        source = [rows_found(view)[row] for view in planted.views]
        assert sum(tag not in (row, -1) for tag in source) == 2


def test_published_order_leaks_completeness_and_leak_free_does_not() -> None:
    views, labels = tagged_views(20_000, (1, 1))
    options: dict[str, Any] = {"rates": (0.05, 0.05, 0.05), "missing": 0.3, "random_state": 0}
    leaky = plant_outliers(views, labels, **options)
    fair = plant_outliers(views, labels, leak_free=True, **options)
    complete = leaky.mask.all(axis=1)
    assert complete[np.isin(leaky.outlier_type, (CLASS, MIXED))].all()
    assert complete.mean() == pytest.approx(0.7)
    for code in range(4):
        # 1000 rows, sd 0.0145: every kind loses views at the rate of the inliers.
        assert abs(fair.mask.all(axis=1)[fair.outlier_type == code].mean() - 0.7) < 0.06


def test_completeness_flag_reaches_the_auc_of_the_specification() -> None:
    from sklearn.metrics import roc_auc_score

    views, labels = tagged_views(20_000, (1, 1))
    for missing, expected in ((0.15, 0.547), (0.30, 0.617), (0.45, 0.667)):
        planted = plant_outliers(views, labels, missing=missing, random_state=0)
        flag = roc_auc_score(planted.is_outlier, planted.mask.all(axis=1))
        # Two thirds of the outliers are complete for certain; the specification's figures are of one draw.
        assert flag == pytest.approx(expected, abs=0.02)


def test_views_lie_in_the_unit_interval_and_missing_rows_are_nan() -> None:
    rng = np.random.default_rng(0)
    raw = [rng.normal(5.0, 100.0, (500, 4)), rng.exponential(1e-6, (500, 3))]
    kept = [view.copy() for view in raw]
    planted = plant_outliers(raw, rng.integers(3, size=500), missing=0.4, random_state=0)
    for view, before, after, observed in zip(raw, kept, planted.views, planted.mask.T, strict=True):
        np.testing.assert_array_equal(view, before)  # the caller's arrays are not touched
        assert after.dtype == np.float64
        assert np.isnan(after[~observed]).all()
        assert np.nanmin(after) == 0.0
        assert np.nanmax(after) == 1.0
        inlier = observed & (planted.outlier_type == INLIER)
        # One affine map for the whole view: columns keep their relations.
        slope = (after[inlier] - after[inlier].mean()) / (before[inlier] - before[inlier].mean())
        assert np.ptp(slope) < 1e-6 * abs(slope).max()


def test_constant_view_is_planted_without_a_division_by_zero() -> None:
    planted = plant_outliers([np.full((40, 2), 7.0), np.eye(40)], np.arange(40) % 2, rates=(0, 0.2, 0))
    assert (planted.views[0] == 0).all()


def test_attribute_noise_is_uniform() -> None:
    views, labels = tagged_views(4000, (5, 5))
    noise = plant_outliers(views, labels, rates=(0.5, 0, 0), random_state=0)
    values = np.concatenate([view[noise.outlier_type == ATTRIBUTE].ravel() for view in noise.views])
    counts = np.histogram(values, bins=10, range=(0, 1))[0] / len(values)
    assert np.abs(counts - 0.1).max() < 0.01  # 20 000 values: sd 0.0021 a bin


def test_pairs_follow_the_uniform_law_over_admissible_pairs() -> None:
    labels = np.array([0, 0, 0, 1, 1, 2])
    admissible = [pair for pair in combinations(range(6), 2) if labels[pair[0]] != labels[pair[1]]]
    rng = np.random.default_rng(0)
    counts = dict.fromkeys(admissible, 0)
    for _ in range(2200):
        views, _ = tagged_views(6, (1, 1))
        planted = plant_outliers(views, labels, rates=(0, 1 / 3, 0), random_state=rng)
        counts[tuple(np.flatnonzero(planted.outlier_type == CLASS))] += 1
    # 11 pairs, 200 expected each, sd 13.5.
    assert np.abs(np.array(list(counts.values())) - 200).max() < 4.5 * 13.5


def test_rare_admissible_pairs_are_still_found() -> None:
    # One row in 40 000 differs: rejection alone would need about 20 000 draws.
    views, labels = tagged_views(40_000, (1, 1), n_classes=1)
    labels[123] = 1
    planted = plant_outliers(views, labels, rates=(0, 2 / 40_000, 0), random_state=0)
    assert planted.outlier_type[123] == CLASS
    assert planted.is_outlier.sum() == 2


def test_same_seed_same_data_and_the_global_generator_is_left_alone() -> None:
    views, labels = tagged_views(200, (3, 2))
    before = np.random.get_state()[1].copy()  # noqa: NPY002
    runs = [plant_outliers(views, labels, missing=0.3, random_state=seed) for seed in (5, 5, 6)]
    np.testing.assert_array_equal(before, np.random.get_state()[1])  # noqa: NPY002
    for a, b in zip(runs[0].views, runs[1].views, strict=True):
        np.testing.assert_array_equal(a, b)
    assert (runs[0].outlier_type == runs[1].outlier_type).all()
    assert (runs[0].outlier_type != runs[2].outlier_type).any()
    assert (runs[0].mask != runs[2].mask).any()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"labels": np.zeros(20, int)}, "rates: expected room for 2 pairs of class outliers .*, got 0"),
        ({"rates": (0, 0.9, 0.9)}, "pairs of class-attribute outliers .*, got 1"),
        ({"rates": (0.9, 0.3, 0)}, "rates: expected room for 18 attribute outliers in the 14 rows left"),
        ({"missing": 1.0}, "pairs of class outliers .*, got 0. Lower the rates or `missing`"),
        ({"rates": (0.1, 0.1)}, "rates: expected three rates"),
        ({"rates": 0.1}, "rates: expected three rates"),
        ({"rates": (0.1, -0.1, 0)}, r"rates: expected a finite number in \[0, 1\], got -0.1"),
        ({"missing": 2}, r"rate: expected a finite number in \[0, 1\], got 2"),
        ({"kind": "rows"}, "kind: expected one of 'views', 'entries'"),
        (
            {"labels": np.zeros(19, int)},
            r"views: expected arrays of shape \(19, n_features >= 1\).* got .*\(20, 5\)",
        ),
        ({"labels": np.zeros((20, 2))}, r"labels: expected one class label a row.* got .*\(20, 2\)"),
        ({"views": [np.zeros((20, 2))]}, "views: expected a sequence of two or more"),
        ({"views": np.zeros((2, 20, 2))}, "views: expected a sequence of two or more"),
        ({"views": [np.zeros((20, 2)), np.full((20, 2), np.nan)]}, "views: expected finite values, got NaN"),
        ({"views": [np.zeros(20), np.zeros((20, 2))]}, r"views: .*got ndarray of shape \(20,\)"),
        ({"random_state": -1}, "random_state: expected a non-negative seed, got -1"),
    ],
)
def test_planting_refuses_what_cannot_be(options: dict[str, Any], message: str) -> None:
    views, labels = tagged_views(20, (3, 2))
    arguments = {"views": views, "labels": labels, "rates": (0.1, 0.2, 0.1), "random_state": 0, **options}
    with pytest.raises(ValueError, match=message):
        plant_outliers(arguments.pop("views"), arguments.pop("labels"), **arguments)


def test_a_view_that_nobody_keeps_is_named() -> None:
    seed = next(s for s in range(20) if not missing_mask(2, 2, 1.0, random_state=s).any(axis=0).all())
    with pytest.raises(
        ValueError, match=r"missing: expected a rate that leaves view [01] some of the 2 rows"
    ):
        plant_outliers([np.eye(2), np.eye(2)], [0, 1], rates=(0, 0, 0), missing=1.0, random_state=seed)


def test_a_flag_is_not_read_from_a_number() -> None:
    views, labels = tagged_views(20, (3, 2))
    with pytest.raises(TypeError, match="leak_free: expected True or False, got 1"):
        plant_outliers(views, labels, leak_free=1)
