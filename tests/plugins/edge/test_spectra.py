"""Spectra and the dilation distance: worked, against the definition, invariances, errors."""

import math

import numpy as np
import pytest
import torch

from graftkit.methods.edge import dilation_distance
from graftkit.methods.edge.spectra import batch_spectrum, set_spectrum
from tests.plugins.edge import reference


def features(seed, n=96, width=12, scale=1.0, shift=0.0):
    return np.random.default_rng(seed).normal(shift, scale, (n, width))


def test_worked_distance():
    assert dilation_distance([3, 1], [2, 2], 1) == 1.0
    assert dilation_distance([3, 1], [2, 2], 2) == pytest.approx(math.sqrt(2), abs=1e-12)


def test_distance_is_that_of_the_loop_symmetric_and_growing_in_k():
    one, other = batch_spectrum(features(0), 16), batch_spectrum(features(1, scale=2), 16)
    previous = 0.0
    for k in range(1, 13):
        distance = dilation_distance(one, other, k)
        assert distance == pytest.approx(reference.distance(one.tolist(), other.tolist(), k), rel=1e-13)
        assert distance == dilation_distance(other, one, k)
        assert distance >= previous
        previous = distance
    assert dilation_distance(one, one, 12) == 0.0


def test_k_changes_the_distance():
    """The released code slices the wrong axis: it prints sqrt(k) times the distance over all values."""
    one, other = batch_spectrum(features(0, 6, 9), 6), batch_spectrum(features(1, 6, 9, 2.0), 6)
    top, everything = dilation_distance(one, other, 2), dilation_distance(one, other, 6)
    assert top < everything
    broken = torch.zeros(6, 6, dtype=torch.float64) + (one - other)  # what broadcasting makes of a B x B sum
    assert torch.linalg.matrix_norm(broken[:2]).item() == pytest.approx(math.sqrt(2) * everything)
    assert torch.linalg.matrix_norm(broken[:2]).item() != pytest.approx(top)


def test_spectrum_is_the_mean_over_whole_batches():
    table = features(2, 40)
    expected = np.mean([np.linalg.svd(table[i : i + 16], compute_uv=False) for i in (0, 16)], axis=0)
    for given in (table, torch.from_numpy(table), table.tolist()):
        np.testing.assert_allclose(batch_spectrum(given, 16).numpy(), expected, rtol=1e-12)


def test_arrays_of_any_layout():
    """Read-only, as np.load(mmap_mode="r") gives them, and with negative strides; left as they were."""
    table = features(6, 16, 4)
    expected = batch_spectrum(table, 16)
    frozen = table.copy()
    frozen.setflags(write=False)
    torch.testing.assert_close(
        batch_spectrum(frozen, 16, center=True), batch_spectrum(table, 16, center=True)
    )
    np.testing.assert_allclose(batch_spectrum(table[::-1], 16), expected, rtol=1e-12)
    np.testing.assert_allclose(batch_spectrum(np.asfortranarray(table), 16), expected, rtol=1e-12)
    rising = np.array([1.0, 3.0])
    rising.setflags(write=False)
    assert dilation_distance(rising[::-1], [3.0, 2.0], 2) == 1.0


@pytest.mark.parametrize("shape", [(16, 30), (30, 16)])
def test_gram_form_agrees(shape):
    n, width = shape
    table = features(3, 3 * n, width)
    torch.testing.assert_close(
        batch_spectrum(table, n, fast=True), batch_spectrum(table, n), rtol=1e-7, atol=1e-7
    )


def test_invariances():
    table = features(4, 32, 8, shift=1.0)
    spectrum = batch_spectrum(table, 32)
    rng = np.random.default_rng(0)
    rotation = np.linalg.qr(rng.normal(size=(8, 8)))[0]
    torch.testing.assert_close(batch_spectrum(table[rng.permutation(32)], 32), spectrum, rtol=1e-11, atol=0)
    torch.testing.assert_close(batch_spectrum(table @ rotation, 32), spectrum, rtol=1e-11, atol=0)
    torch.testing.assert_close(batch_spectrum(table * 3, 32), spectrum * 3, rtol=1e-11, atol=0)
    shifted = batch_spectrum(table + 5, 32, center=True)
    torch.testing.assert_close(shifted, batch_spectrum(table, 32, center=True), rtol=1e-9, atol=1e-12)
    assert batch_spectrum(table + 5, 32)[0] > 2 * spectrum[0]  # without centring the mean dominates


def test_set_spectrum_is_that_of_the_whole_matrix_over_the_root_of_n():
    table = features(5, 5000, 6, shift=0.5)  # more than one block of rows
    expected = np.linalg.svd(table, compute_uv=False) / math.sqrt(5000)
    np.testing.assert_allclose(set_spectrum(table).numpy(), expected, rtol=1e-9)
    centred = np.linalg.svd(table - table.mean(0), compute_uv=False) / math.sqrt(5000)
    np.testing.assert_allclose(set_spectrum(table, center=True).numpy(), centred, rtol=1e-9)
    # Twice the set: the same; a batch spectrum would grow by sqrt(2).
    torch.testing.assert_close(set_spectrum(np.vstack([table, table])), set_spectrum(table))


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        (([3, 1], [2, 2, 1], 1), ValueError, "as many singular values as id_spectrum, 2.*different width"),
        (([3, 1], [2, 2], 3), ValueError, r"k: expected an integer in \[1, 2\], got 3"),
        (([3, 1], [2, 2], 0), ValueError, r"k: expected an integer in \[1, 2\], got 0"),
        (([3, 1], [2, 2], 1.0), TypeError, "k: expected an integer"),
        (([1, 3], [2, 2], 1), ValueError, "id_spectrum: expected a descending vector"),
        (([3, 1], [2, -2], 1), ValueError, "oe_spectrum: expected a descending vector"),
        (([3, math.nan], [2, 2], 1), ValueError, "id_spectrum: expected a descending vector of finite"),
        (([], [], 1), ValueError, "id_spectrum: expected a descending vector"),
        (("ab", [2, 2], 1), TypeError, "id_spectrum: expected a vector of numbers"),
    ],
)
def test_distance_refuses(arguments, error, words):
    with pytest.raises(error, match=words):
        dilation_distance(*arguments)


@pytest.mark.parametrize(
    ("table", "options", "error", "words"),
    [
        (features(0, 10), {"batch_size": 11}, ValueError, "at least batch_size=11 rows, got"),
        (np.zeros((0, 4)), {}, ValueError, "the set must not be empty"),
        (np.zeros(4), {}, ValueError, r"features: expected shape \(n, D\)"),
        (
            np.full((64, 2), np.inf),
            {},
            ValueError,
            "features: expected finite features, without NaN or infinity",
        ),
        ("pictures", {}, TypeError, "features: expected an array of numbers"),
        (np.zeros((64, 2), complex), {}, TypeError, "features: expected real numbers"),
        (features(0), {"batch_size": 0}, ValueError, "batch_size: expected an integer >= 1"),
        (features(0), {"center": 1}, TypeError, "center: expected True or False"),
        (features(0), {"fast": None}, TypeError, "fast: expected True or False"),
    ],
)
def test_spectrum_refuses(table, options, error, words):
    with pytest.raises(error, match=words):
        batch_spectrum(table, **options)
    if "batch_size" not in options and "fast" not in options:
        with pytest.raises(error, match=words):
            set_spectrum(table, **options)
