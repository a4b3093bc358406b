"""Fold-in: a k-means by hand, ties, edges."""

import numpy as np
import pytest

from graftkit.methods.dpcml.folding import fold_in
from tests.plugins.dpcml import reference


def by_loops(points, k):
    """Start at the item nearest to the mean, then farthest first; ten rounds of Lloyd."""
    mean = [sum(c) / len(points) for c in zip(*points, strict=True)]
    chosen = [min(range(len(points)), key=lambda i: (reference.squared_distance(points[i], mean), i))]
    while len(chosen) < k:
        gap = [min(reference.squared_distance(p, points[c]) for c in chosen) for p in points]
        chosen.append(max(range(len(points)), key=lambda i: (gap[i], -i)))
    centres = [list(points[c]) for c in chosen]
    for _ in range(10):
        groups = [min(range(k), key=lambda c: (reference.squared_distance(p, centres[c]), c)) for p in points]
        for c in range(k):
            mine = [p for p, g in zip(points, groups, strict=True) if g == c]
            if mine:
                centres[c] = [sum(x) / len(mine) for x in zip(*mine, strict=True)]
    return centres


@pytest.mark.parametrize("rule", ["sphere", "ball", None])
@pytest.mark.parametrize("k", [2, 3, 5])
def test_equals_loops(rule, k):
    rng = np.random.default_rng(k)
    items = rng.normal(size=(40, 3))
    liked = rng.choice(40, 12, replace=False)
    expected = [reference.project(c, rule, 1.0) for c in by_loops(items[liked].tolist(), k)]
    np.testing.assert_allclose(fold_in(items, liked, k, rule=rule), expected, rtol=0, atol=1e-9)


def test_ten_rounds_and_no_more(monkeypatch):
    from graftkit.methods.dpcml import folding

    items = np.random.default_rng(8).uniform(size=(150, 2))
    everything = np.arange(150)
    expected = by_loops(items.tolist(), 5)
    np.testing.assert_allclose(fold_in(items, everything, 5, rule=None), expected, rtol=0, atol=1e-9)
    for rounds in (9, 11):  # it is still moving there
        monkeypatch.setattr(folding, "LLOYD_STEPS", rounds)
        assert np.abs(fold_in(items, everything, 5, rule=None) - expected).max() > 1e-4


def test_one_vector_is_the_mean():
    items = np.array([[3.0, 0.0], [0.0, 4.0], [9.0, 9.0]])
    np.testing.assert_allclose(fold_in(items, np.array([0, 1]), 1), [[0.6, 0.8]], atol=1e-12)
    assert fold_in(items, np.array([0, 1]), 1, rule=None).tolist() == [[1.5, 2.0]]


def test_no_more_vectors_than_items():
    items = np.eye(4)
    assert fold_in(items, np.array([2]), 5).tolist() == [[0.0, 0.0, 1.0, 0.0]]
    assert fold_in(items, np.array([2, 0]), 5).shape == (2, 4)


def test_nothing_liked_is_the_popular_mean():
    items = np.array([[1.0, 0.0], [0.0, 1.0]])
    none = np.zeros(0, dtype=np.int64)
    assert fold_in(items, none, 3, rule=None, weights=np.array([3.0, 1.0])).tolist() == [[0.75, 0.25]]
    for weights in (None, np.zeros(2)):
        assert fold_in(items, none, 3, rule=None, weights=weights).tolist() == [[0.5, 0.5]]


def test_equal_items_stay_finite():
    items = np.ones((5, 3))
    found = fold_in(items, np.arange(5), 3)
    np.testing.assert_allclose(found, np.full((3, 3), 3**-0.5), atol=1e-12)
    assert fold_in(np.zeros((3, 2)), np.arange(3), 2).tolist() == [[0, 0], [0, 0]]


def test_two_tastes_get_a_vector_each():
    rng = np.random.default_rng(0)
    items = np.concatenate(
        [np.eye(2)[[0]] + rng.normal(size=(8, 2)) * 0.05, np.eye(2)[[1]] + rng.normal(size=(3, 2)) * 0.05]
    )
    found = fold_in(items, np.arange(11), 2)
    nearest = [reference.score(found, item)[1] for item in items]
    assert len(set(nearest[:8])) == len(set(nearest[8:])) == 1
    assert nearest[0] != nearest[-1]
