"""Min-max scaling by hand."""

import numpy as np
import pytest

from graftkit.methods.rcpmod.scaling import ViewScaler

X = np.array([[0.0, 10.0, 7.0], [4.0, 30.0, 7.0]])


def test_feature_scaling_by_hand():
    scaled = ViewScaler.fit(X, "feature").transform(X)
    assert scaled.tolist() == [[0.0, 0.0, 0.0], [1.0, 1.0, 0.0]]  # a constant column maps to 0


def test_global_scaling_uses_one_minimum_and_maximum():
    scaled = ViewScaler.fit(X, "global").transform(X)
    np.testing.assert_allclose(scaled, X / 30.0)
    assert ViewScaler.fit(X, "global").low.shape == (1,)


def test_no_scaling_is_the_identity_in_double_precision():
    scaled = ViewScaler.fit(X, None).transform(X.astype(np.float32))
    assert scaled.dtype == np.float64
    assert scaled.tolist() == X.tolist()


@pytest.mark.parametrize("scale", ["feature", "global"])
def test_new_values_are_not_clipped(scale):
    scaler = ViewScaler.fit(X, scale)
    assert scaler.transform(X + 100).min() > 1
    assert scaler.transform(X - 100).max() < 0


@pytest.mark.parametrize("scale", ["feature", "global"])
def test_a_range_beyond_float64_is_refused(scale):
    with pytest.raises(
        ValueError, match=r"X: expected values whose range fits float64, got a minimum of -1.5e"
    ):
        ViewScaler.fit(np.array([[-1.5e308], [1.5e308]]), scale)


def test_constant_view_is_zero():
    assert ViewScaler.fit(np.full((3, 2), 5.0), "global").transform(np.full((1, 2), 5.0)).tolist() == [
        [0.0, 0.0]
    ]


@pytest.mark.parametrize("scale", ["feature", "global"])
@pytest.mark.parametrize("factor", [1e-200, 1e-12, 1e12, 1e200])
def test_scaling_forgets_the_unit(scale, factor):
    x = np.random.default_rng(0).normal(size=(9, 3))
    plain = ViewScaler.fit(x, scale).transform(x)
    np.testing.assert_allclose(
        ViewScaler.fit(x * factor, scale).transform(x * factor), plain, rtol=1e-9, atol=1e-12
    )
