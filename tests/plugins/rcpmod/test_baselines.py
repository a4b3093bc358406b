"""The cross-view baselines against plain loops, and what they must and must not see."""

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from graftkit.methods.rcpmod.baselines import (
    cross_view_knn,
    cross_view_ridge,
    impute_and_concatenate,
    impute_views,
)
from graftkit.methods.rcpmod.data import make_multiview_outliers


def views_with_gaps(n: int = 40, seed: int = 0) -> tuple[list[np.ndarray], np.ndarray]:
    rng = np.random.default_rng(seed)
    views = [rng.normal(size=(n, 3)), rng.normal(size=(n, 2)), rng.normal(size=(n, 1))]
    mask = np.ones((n, 3), dtype=bool)
    mask[np.arange(0, n, 4), rng.integers(3, size=len(range(0, n, 4)))] = False
    return views, mask


def loop_imputed(views: list[np.ndarray], mask: np.ndarray) -> list[np.ndarray]:
    filled = []
    for v, view in enumerate(views):
        rows = [view[i] for i in range(len(view)) if mask[i, v]]
        mean = sum(rows) / len(rows)
        filled.append(np.array([view[i] if mask[i, v] else mean for i in range(len(view))]))
    return filled


def loop_cross_view_knn(views: list[np.ndarray], k: int) -> np.ndarray:
    n = len(views[0])
    total = np.zeros(n)
    for a in range(len(views)):
        for b in range(len(views)):
            if a == b:
                continue
            part = np.zeros(n)
            for i in range(n):
                distances = [(np.sum((views[a][i] - views[a][j]) ** 2), j) for j in range(n) if j != i]
                near = [j for _, j in sorted(distances)[:k]]
                part[i] = np.mean([np.sum((views[b][i] - views[b][j]) ** 2) for j in near])
            total += part / np.sqrt(np.mean((part - part.mean()) ** 2))
    return total


def loop_cross_view_ridge(views: list[np.ndarray], alpha: float) -> np.ndarray:
    total = np.zeros(len(views[0]))
    for a in range(len(views)):
        for b in range(len(views)):
            if a == b:
                continue
            # An unpenalised intercept equals centring both sides; then (A'A + alpha I) W = A'B.
            left, right = views[a] - views[a].mean(axis=0), views[b] - views[b].mean(axis=0)
            weights = np.linalg.solve(left.T @ left + alpha * np.eye(left.shape[1]), left.T @ right)
            part = np.square(right - left @ weights).sum(axis=1)
            total += part / part.std()
    return total


def test_imputation_is_the_mean_of_observed_rows_whatever_fills_the_gaps() -> None:
    views, mask = views_with_gaps()
    expected = loop_imputed(views, mask)
    as_nan = [np.where(mask[:, [v]], view, np.nan) for v, view in enumerate(views)]
    for got, from_nan, want in zip(impute_views(views, mask), impute_views(as_nan), expected, strict=True):
        np.testing.assert_allclose(got, want, atol=1e-12)
        np.testing.assert_allclose(from_nan, want, atol=1e-12)
    np.testing.assert_allclose(
        impute_and_concatenate(views, mask), np.concatenate(expected, axis=1), atol=1e-12
    )


@pytest.mark.parametrize("k", [1, 4, 10])
def test_cross_view_knn_equals_its_loop(k: int) -> None:
    views, _ = views_with_gaps(30)
    np.testing.assert_allclose(cross_view_knn(views, n_neighbors=k), loop_cross_view_knn(views, k), rtol=1e-9)


def test_cross_view_knn_equals_its_loop_on_imputed_views() -> None:
    views, mask = views_with_gaps(30)
    # One gap a view: two imputed rows would be duplicates, whose order as neighbours is anybody's.
    mask[:] = True
    mask[0, 0] = mask[1, 1] = mask[2, 2] = False
    expected = loop_cross_view_knn(loop_imputed(views, mask), 5)
    np.testing.assert_allclose(cross_view_knn(views, mask, 5), expected, rtol=1e-9)


@pytest.mark.parametrize("alpha", [1.0, 0.01, 30.0])
def test_cross_view_ridge_equals_the_normal_equations(alpha: float) -> None:
    views, mask = views_with_gaps()
    expected = loop_cross_view_ridge(loop_imputed(views, mask), alpha)
    np.testing.assert_allclose(cross_view_ridge(views, mask, alpha=alpha), expected, rtol=1e-8)


@pytest.mark.parametrize("baseline", [cross_view_knn, cross_view_ridge])
def test_mismatched_views_score_high_though_each_is_normal(baseline: object) -> None:
    planted = make_multiview_outliers(800, (24, 24), rates=(0, 0.1, 0), missing=0.2, random_state=1)
    scores = baseline(planted.views, planted.mask)  # type: ignore[operator]
    assert roc_auc_score(planted.is_outlier, scores) > 0.9
    # The control: no detector of one view can rank them.
    alone = np.linalg.norm(
        impute_views(planted.views)[0] - planted.views[0][planted.mask[:, 0]].mean(axis=0), axis=1
    )
    assert roc_auc_score(planted.is_outlier, alone) < 0.7


def test_the_order_of_views_does_not_matter() -> None:
    views, mask = views_with_gaps()
    for baseline in (cross_view_knn, cross_view_ridge):
        np.testing.assert_allclose(baseline(views, mask), baseline(views[::-1], mask[:, ::-1]), rtol=1e-9)


def test_constant_views_add_nothing_and_no_nan() -> None:
    views = [np.ones((12, 2)), np.zeros((12, 1))]
    for baseline in (cross_view_knn, cross_view_ridge):
        np.testing.assert_array_equal(baseline(views), np.zeros(12))


def test_more_neighbours_than_rows_uses_all_rows() -> None:
    views, _ = views_with_gaps(8)
    np.testing.assert_allclose(
        cross_view_knn(views, n_neighbors=50), loop_cross_view_knn(views, 7), rtol=1e-9
    )


def test_bad_settings_are_named() -> None:
    views, mask = views_with_gaps(8)
    with pytest.raises(ValueError, match="n_neighbors: expected an integer >= 1, got 0"):
        cross_view_knn(views, n_neighbors=0)
    with pytest.raises(TypeError, match="n_neighbors: expected an integer"):
        cross_view_knn(views, n_neighbors=2.5)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="alpha: expected a finite number >= 0, got -1"):
        cross_view_ridge(views, alpha=-1)
    with pytest.raises(ValueError, match="same number of rows"):
        cross_view_ridge([views[0], views[1][:5]])
    mask[3] = False
    with pytest.raises(ValueError, match="at least one observed view in every row"):
        impute_and_concatenate(views, mask)
