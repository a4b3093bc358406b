"""Thresholds and probabilities by hand."""

import math

import numpy as np
import pytest

from graftkit.methods.rcpmod.thresholds import contamination_threshold, outlier_probability


@pytest.mark.parametrize("contamination", [0.05, 0.1, 0.25, 0.5])
@pytest.mark.parametrize("n", [20, 100, 1000])
def test_asked_share_lies_above(contamination, n):
    scores = np.random.default_rng(n).normal(size=n)
    threshold = contamination_threshold(scores, contamination)
    assert (scores > threshold).sum() == round(contamination * n)
    assert threshold == -np.percentile(-scores, 100 * contamination)  # the offset of the specification, 3.3


def test_automatic_threshold_by_hand():
    # Median 3, deviations 2 1 0 1 97, MAD 1: 3 + 3 * 1.4826.
    scores = np.array([1.0, 2.0, 3.0, 4.0, 100.0])
    assert contamination_threshold(scores, "auto") == pytest.approx(3 + 3 * 1.4826, abs=1e-12)


def test_automatic_threshold_without_spread_flags_nothing():
    scores = np.array([1.0, 1.0, 1.0, 1.0, 5.0])  # MAD 0
    assert contamination_threshold(scores, "auto") == 5.0


def test_probability_by_hand():
    scores = np.array([0.0, 1.0, 2.0, 3.0, 50.0])
    expected = [0.0, 0.0, math.erf(1 / (2 * math.sqrt(2))), math.erf(2 / (2 * math.sqrt(2))), 1.0]
    assert outlier_probability(scores, 1.0, 2.0).tolist() == pytest.approx(expected, abs=1e-12)


def test_probability_without_spread_is_zero():
    assert outlier_probability(np.array([1.0, 9.0]), 1.0, 0.0).tolist() == [0.0, 0.0]
