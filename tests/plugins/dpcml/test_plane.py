"""The plane of a picture: principal components, by hand where they are known."""

import numpy as np
import pytest

from graftkit.methods.dpcml.plane import fit_plane


def test_points_of_a_plane_keep_their_distances():
    rng = np.random.default_rng(0)
    basis = np.linalg.qr(rng.normal(size=(7, 2)))[0]
    points = rng.normal(size=(9, 2)) @ basis.T + rng.normal(size=7)
    flat = fit_plane(points)(points)
    assert flat.shape == (9, 2)
    for a in range(9):
        for b in range(9):
            assert np.sum((flat[a] - flat[b]) ** 2) == pytest.approx(np.sum((points[a] - points[b]) ** 2))
    np.testing.assert_allclose(flat.mean(axis=0), 0, atol=1e-12)
    assert flat[:, 0].var() >= flat[:, 1].var()


def test_the_best_plane_is_taken():
    # Spread 3, 2 and 1 along the axes: the plane is that of the first two.
    points = np.array([[3.0, 0, 0], [-3, 0, 0], [0, 2, 0], [0, -2, 0], [0, 0, 1], [0, 0, -1]])
    flat = fit_plane(points)(np.array([[1.0, 0, 9], [0, 1, 9]]))
    np.testing.assert_allclose(np.abs(flat), np.eye(2), atol=1e-12)


@pytest.mark.parametrize("points", [np.array([[2.0, 5.0]]), np.array([[1.0], [3.0], [8.0]])])
def test_less_than_a_plane_is_filled_with_zeros(points):
    flat = fit_plane(points)(points)
    assert flat.shape == (len(points), 2)
    np.testing.assert_allclose(flat[:, 1], 0, atol=1e-12)
