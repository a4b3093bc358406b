"""The generator and the loaders: shapes, values, planted answers, errors."""

import tracemalloc
from typing import Any

import numpy as np
import pytest
from scipy.io import savemat

from graftkit.methods.rcpmod.data import (
    load_digits_views,
    load_mat_views,
    make_multiview_outliers,
    plant_outliers,
)
from tests.plugins.rcpmod.planting_cases import ATTRIBUTE, CLASS, INLIER, MIXED

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
