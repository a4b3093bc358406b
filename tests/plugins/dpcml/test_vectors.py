"""Ragged vectors: rules of assignment, pointers, padding."""

from itertools import pairwise

import numpy as np
import pytest

from graftkit.methods.dpcml.ranking import Ranker
from graftkit.methods.dpcml.vectors import assign_vectors, pad_vectors, padded_rows, pointers
from tests.plugins.dpcml import reference

COUNTS = np.array([0, 1, 5, 40])


def test_basic_assignment_is_the_same_for_all():
    assert assign_vectors(COUNTS, "bpa", 3).tolist() == [3, 3, 3, 3]


def test_adaptive_assignment_against_loops():
    counts = np.arange(0, 3000)
    for largest in (1, 4, 20):
        expected = [reference.apa(int(n), largest) for n in counts]
        assert assign_vectors(counts, "apa", largest).tolist() == expected


def test_callable_and_array():
    assert assign_vectors(COUNTS, lambda counts: counts + 1, 5).tolist() == [1, 2, 6, 41]
    assert assign_vectors(COUNTS, np.array([1, 2, 3, 4]), 5).tolist() == [1, 2, 3, 4]
    assert assign_vectors(COUNTS, [2, 2, 2, 2], 5).tolist() == [2, 2, 2, 2]


@pytest.mark.parametrize(
    ("assignment", "error", "words"),
    [
        ("abc", ValueError, r"assignment: expected one of 'bpa', 'apa'"),
        (
            [1, 2, 3],
            ValueError,
            r"assignment: .*4 users, so length 4.*length 3|assignment: .*length 4.*\(3,\)",
        ),
        ([1, 0, 2, 1], ValueError, r"assignment: .*>= 1 in an array of length 4, got 0 in one of length 4"),
        ([1.0, 2.0, 1.0, 1.0], TypeError, r"assignment: expected integers"),
        (lambda counts: counts[:2], ValueError, r"assignment: .*length 4"),
    ],
)
def test_bad_assignments(assignment, error, words):
    with pytest.raises(error, match=words):
        assign_vectors(COUNTS, assignment, 5)


def test_pointers_and_padding():
    ptr = pointers(np.array([2, 1, 3]))
    assert ptr.tolist() == [0, 2, 3, 6]
    assert padded_rows(ptr).tolist() == [[0, 1, 1], [2, 2, 2], [3, 4, 5]]
    assert padded_rows(ptr, np.array([1, 0])).tolist() == [[2, 2], [0, 1]]
    table = np.arange(12.0).reshape(6, 2)
    padded, mask = pad_vectors(table, ptr, np.array([0, 2]))
    assert mask.tolist() == [[True, True, False], [True, True, True]]
    np.testing.assert_array_equal(padded[0], table[[0, 1, 1]])
    np.testing.assert_array_equal(padded[1], table[3:])


def random_ragged(seed, n_users=20, n_items=15, d=4):
    rng = np.random.default_rng(seed)
    ptr = pointers(rng.integers(1, 5, n_users))
    return rng.normal(size=(ptr[-1], d)), ptr, rng.normal(size=(n_items, d))


def test_ragged_and_padded_storage_give_the_same_scores():
    table, ptr, items = random_ragged(0)
    padded, _ = pad_vectors(table, ptr)
    wide = np.arange(21) * padded.shape[1]
    ragged = Ranker(table, ptr, items).score(np.arange(20))
    flat = Ranker(padded.reshape(-1, 4), wide, items).score(np.arange(20))
    np.testing.assert_array_equal(ragged, flat)


@pytest.mark.parametrize("change", ["permute", "rotate", "duplicate"])
def test_scores_do_not_depend_on(change):
    table, ptr, items = random_ragged(1)
    before = Ranker(table, ptr, items).score(np.arange(20))
    rng = np.random.default_rng(2)
    if change == "permute":
        for u in range(20):
            rng.shuffle(table[ptr[u] : ptr[u + 1]])
    elif change == "rotate":
        turn = np.linalg.qr(rng.normal(size=(4, 4)))[0]
        table, items = table @ turn, items @ turn
    else:
        parts = [table[a:b] for a, b in pairwise(ptr)]
        table = np.concatenate([np.concatenate((part, part[:1])) for part in parts])
        ptr = pointers(np.diff(ptr) + 1)
    np.testing.assert_allclose(Ranker(table, ptr, items).score(np.arange(20)), before, rtol=0, atol=1e-12)


def test_one_more_vector_never_raises_a_distance():
    table, ptr, items = random_ragged(3)
    before = Ranker(table, ptr, items).score(np.arange(20))
    rng = np.random.default_rng(4)
    parts = [np.concatenate((table[a:b], rng.normal(size=(1, 4)))) for a, b in pairwise(ptr)]
    after = Ranker(np.concatenate(parts), pointers(np.diff(ptr) + 1), items).score(np.arange(20))
    assert (after >= before - 1e-12).all()
    assert (after > before + 1e-3).any()
