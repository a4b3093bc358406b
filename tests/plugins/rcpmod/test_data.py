"""The planting protocol, masks, the generator and the loaders: counts, values, laws, errors."""

import tracemalloc
from itertools import combinations
from typing import Any

import numpy as np
import pytest
from scipy.io import savemat

from graftkit.methods.rcpmod.data import (
    load_digits_views,
    load_mat_views,
    make_multiview_outliers,
    missing_mask,
    plant_outliers,
)

INLIER, ATTRIBUTE, CLASS, MIXED = range(4)


def tagged_views(n: int, widths: tuple[int, ...], n_classes: int = 4) -> tuple[list[np.ndarray], np.ndarray]:
    """Views whose values name their row, so that swaps can be traced; beside them a column of 0 and one of 1.

    Every row that is not noise holds both ends of [0, 1], so scaling changes nothing.
    """
    tags = np.repeat(np.arange(n)[:, None] / (n - 1), max(widths), axis=1)
    ends = np.column_stack((np.zeros(n), np.ones(n)))
    return [np.hstack((ends, tags[:, :width])) for width in widths], np.arange(n) % n_classes


def rows_found(view: np.ndarray) -> np.ndarray:
    """The original row of each row of a tagged view; -1 where it is noise or missing."""
    n = len(view)
    tags = np.nan_to_num(view[:, 2], nan=0.5)
    row = np.rint(tags * (n - 1)).astype(int)
    intact = (view[:, 0] == 0) & (view[:, 1] == 1) & (view[:, 2:] == row[:, None] / (n - 1)).all(axis=1)
    return np.where(intact, row, -1)


# ---- masks


@pytest.mark.parametrize("rate", [0.0, 0.15, 0.29, 0.45, 1.0])
@pytest.mark.parametrize("n_views", [2, 3, 6])
def test_kind_views_removes_exactly_one_view_from_floor_of_the_rate(rate: float, n_views: int) -> None:
    mask = missing_mask(100, n_views, rate, random_state=0)
    lost = (~mask).sum(axis=1)
    assert (lost == 1).sum() == round(rate * 100)
    assert lost.max() <= 1


def test_kind_views_takes_every_view_equally_often() -> None:
    mask = missing_mask(30_000, 3, 1.0, random_state=0)
    # 30 000 draws of 1 in 3: sd 82.
    assert np.abs((~mask).sum(axis=0) - 10_000).max() < 5 * 82


@pytest.mark.parametrize(("n_views", "share"), [(2, 0.45), (3, 0.40), (6, 0.376)])
def test_kind_entries_loses_the_stated_share_of_entries_and_of_rows(n_views: int, share: float) -> None:
    n, rate = 20_000, 0.45
    mask = missing_mask(n, n_views, rate, kind="entries", random_state=0)
    assert (~mask).sum() == round(rate * n)
    assert mask.any(axis=1).all()
    # Of the V - 1 entries that may go, each is gone with rate / (V - 1): 1 - (1 - .225)^2 = .399 at V = 3,
    # 1 - (1 - .09)^5 = .376 at V = 6, and the rate itself at V = 2.
    assert abs((~mask).any(axis=1).mean() - share) < 0.012
    assert ((~mask).sum(axis=1).max() > 1) == (n_views > 2)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ((10, 2, 1.5), ValueError, r"rate: expected a finite number in \[0, 1\], got 1.5"),
        ((10, 2, float("nan")), ValueError, "rate: .* got nan"),
        ((0, 2, 0.5), ValueError, "n_rows: expected an integer >= 1, got 0"),
        ((10, 1, 0.5), ValueError, "n_views: expected an integer >= 2, got 1"),
        ((10.0, 2, 0.5), TypeError, "n_rows: expected an integer"),
    ],
)
def test_mask_refuses_bad_arguments(arguments: tuple[Any, ...], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        missing_mask(*arguments)


def test_mask_names_the_kind_that_was_meant() -> None:
    with pytest.raises(ValueError, match=r"kind: expected one of 'views', 'entries'.*Did you mean 'entries'"):
        missing_mask(10, 2, 0.5, kind="entry")


# ---- planting


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


# ---- generator


def test_generator_gives_two_views_of_one_latent() -> None:
    clean = make_multiview_outliers(600, (20, 10), rates=(0, 0, 0), random_state=0)
    assert [view.shape for view in clean.views] == [(600, 20), (600, 10)]
    assert not clean.is_outlier.any()
    assert clean.mask.all()

    def explained(a: np.ndarray, b: np.ndarray) -> float:
        a, b = a - a.mean(axis=0), b - b.mean(axis=0)
        return float(np.square(a @ np.linalg.lstsq(a, b, rcond=None)[0]).sum() / np.square(b).sum())

    assert explained(*clean.views) > 0.8
    assert (
        explained(clean.views[0], np.roll(clean.views[1], 1, axis=0)) < 0.1
    )  # the control: rows out of step


def test_planted_answers_are_found() -> None:
    from sklearn.metrics import roc_auc_score

    from graftkit.methods.rcpmod.baselines import cross_view_knn

    planted = make_multiview_outliers(1000, (32, 32), random_state=0)
    scores = cross_view_knn(planted.views, planted.mask)
    for code in (ATTRIBUTE, CLASS, MIXED):
        rows = np.isin(planted.outlier_type, (INLIER, code))
        assert roc_auc_score(planted.is_outlier[rows], scores[rows]) > 0.95


def test_noise_and_groups_do_what_they_say() -> None:
    def spread_within(noise: float) -> float:
        clean = make_multiview_outliers(400, (8, 8), noise=noise, rates=(0, 0, 0), random_state=3)
        a = clean.views[0] - clean.views[0].mean(axis=0)
        values = np.linalg.svd(a, compute_uv=False)
        return float(values[-1] / values[0])

    assert spread_within(0.5) > 3 * spread_within(0.01)
    with pytest.raises(ValueError, match="n_groups: expected an integer >= 2, got 1"):
        make_multiview_outliers(10, n_groups=1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dims": (4,)}, "dims: expected the widths of two or more views"),
        ({"dims": 64}, "dims: expected the widths of two or more views, got 64"),
        ({"dims": (4, 0)}, "dims: expected an integer >= 1, got 0"),
        ({"n_samples": 1}, "n_samples: expected an integer >= 2, got 1"),
        ({"noise": -1.0}, "noise: expected a finite number >= 0, got -1.0"),
        ({"missing": 1.1}, r"rate: expected a finite number in \[0, 1\]"),
    ],
)
def test_generator_refuses_bad_arguments(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_multiview_outliers(**options)


def test_large_n_needs_little_more_than_its_own_arrays() -> None:
    tracemalloc.start()
    planted = make_multiview_outliers(100_000, (32, 32), missing=0.3, random_state=0)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert np.bincount(planted.outlier_type).tolist() == [85_000, 5_000, 5_000, 5_000]
    assert peak < 2 * sum(view.nbytes for view in planted.views)


# ---- loaders


def test_digits_views_are_pixels_and_their_fourier_magnitudes() -> None:
    views, labels = load_digits_views()
    assert [view.shape for view in views] == [(1797, 64), (1797, 40)]
    assert np.bincount(labels).min() > 170
    assert [(view.min(), view.max()) for view in views] == [(0.0, 1.0)] * 2
    # By definition: entry (u, v) of row 5 is log(1 + |sum x e^(-2 pi i (u r + v c) / 8)|), before scaling.
    image, grid = views[0][5].reshape(8, 8), np.arange(8)
    u, v = 3, 2
    wave = np.exp(-2j * np.pi * (u * grid[:, None] + v * grid[None, :]) / 8)
    magnitude = np.log1p(np.abs((image * wave).sum()))
    # Entry (0, 0) is the sum of the pixels; two entries fix the scale.
    zero = np.log1p(image.sum())
    other = views[0][6].sum()
    slope = (views[1][5, 0] - views[1][6, 0]) / (zero - np.log1p(other))
    assert views[1][5, u * 5 + v] == pytest.approx(views[1][5, 0] + slope * (magnitude - zero), abs=1e-9)


def mat_file(path: Any, views: list[Any], labels: Any) -> str:
    cell = np.empty((1, len(views)), dtype=object)
    cell[0, :] = views
    savemat(path, {"X": cell, "Y": labels})
    return str(path)


def test_mat_views_come_back_by_number(tmp_path: Any) -> None:
    views = [np.arange(12.0).reshape(4, 3), np.arange(8).reshape(4, 2), np.ones((4, 5), np.float32)]
    path = mat_file(tmp_path / "made.mat", views, np.array([[3], [1], [2], [1]], np.uint8))
    loaded, labels = load_mat_views(path, (2, 0))
    np.testing.assert_array_equal(loaded[0], views[2])
    np.testing.assert_array_equal(loaded[1], views[0])
    assert [view.dtype for view in loaded] == [np.float64] * 2
    assert labels.tolist() == [3, 1, 2, 1]


def test_mat_views_refuse_other_files(tmp_path: Any) -> None:
    good = mat_file(tmp_path / "good.mat", [np.ones((4, 2)), np.zeros((4, 3))], np.arange(4))
    with pytest.raises(ValueError, match=r"views: expected an integer in \[0, 1\], got 2"):
        load_mat_views(good, (0, 2))
    savemat(tmp_path / "other.mat", {"data": np.ones((4, 2))})
    with pytest.raises(ValueError, match=r"path: expected a .mat file with X and Y, got \['data'\]"):
        load_mat_views(tmp_path / "other.mat", (0, 1))
    savemat(tmp_path / "plain.mat", {"X": np.ones((4, 2)), "Y": np.arange(4)})
    with pytest.raises(ValueError, match=r"path: expected X to hold one array of shape \(4, n_features\)"):
        load_mat_views(tmp_path / "plain.mat", (0, 1))
    short = mat_file(tmp_path / "short.mat", [np.ones((4, 2)), np.zeros((3, 3))], np.arange(4))
    with pytest.raises(ValueError, match="path: expected X to hold one array"):
        load_mat_views(short, (0, 1))
    with pytest.raises(FileNotFoundError, match="absent"):
        load_mat_views(tmp_path / "absent.mat", (0, 1))


@pytest.mark.data
@pytest.mark.parametrize(
    ("name", "views", "shapes", "n_classes"),
    [
        ("Scene-15", (0, 1), [(4485, 20), (4485, 59)], 15),
        ("LandUse-21", (1, 2), [(2100, 59), (2100, 40)], 21),
    ],
)
def test_shared_mat_files(
    data_root: Any, name: str, views: tuple[int, int], shapes: Any, n_classes: int
) -> None:
    path = data_root / "multiview" / f"{name}.mat"
    if not path.is_file():
        pytest.skip(f"{name}.mat is not under GRAFTKIT_DATA")
    loaded, labels = load_mat_views(path, views)
    assert [view.shape for view in loaded] == shapes
    assert len(np.unique(labels)) == n_classes
    planted = plant_outliers(loaded, labels, rates=(0.05, 0.02, 0.08), missing=0.3, random_state=0)
    assert planted.is_outlier.mean() == pytest.approx(0.15, abs=0.001)
