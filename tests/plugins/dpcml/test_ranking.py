"""Recommendations equal a full sort with masking, in any block size, with ties and with nothing left."""

import numpy as np
import pytest
import scipy.sparse as sp
import torch

from graftkit.methods.dpcml.lists import block_size, top_items
from graftkit.methods.dpcml.ranking import Ranker
from graftkit.methods.dpcml.vectors import pointers
from tests.plugins.dpcml import reference


def model(seed=0, n_users=15, n_items=30, d=4, dtype=np.float64):
    rng = np.random.default_rng(seed)
    ptr = pointers(rng.integers(1, 4, n_users))
    users, items = rng.normal(size=(ptr[-1], d)).astype(dtype), rng.normal(size=(n_items, d)).astype(dtype)
    seen = sp.csr_matrix((rng.random((n_users, n_items)) < 0.3).astype(np.float32))
    return users, ptr, items, seen


@pytest.mark.parametrize("n", [1, 5, 30, 40])
@pytest.mark.parametrize("batch_size", [None, 1, 4])
def test_equals_a_full_sort(n, batch_size):
    users, ptr, items, seen = model()
    ids, scores = Ranker(users, ptr, items).top(np.arange(15), n, seen, batch_size=batch_size)
    assert ids.shape == scores.shape == (15, n)
    for u in range(15):
        own = users[ptr[u] : ptr[u + 1]]
        expected = reference.ranking(own, items, banned=seen[u].indices)[:n]
        padding = n - len(expected)
        assert ids[u].tolist() == expected + [-1] * padding
        by_hand = [-reference.score(own, items[i])[0] for i in expected]
        np.testing.assert_allclose(scores[u], by_hand + [-np.inf] * padding, rtol=0, atol=1e-12)


def test_allow_list():
    users, ptr, items, seen = model()
    allowed = np.array([2, 3, 7, 11, 29])
    ids, scores = Ranker(users, ptr, items).top(np.arange(15), 6, seen, items=allowed)
    for u in range(15):
        banned = set(range(30)) - set(allowed.tolist()) | set(seen[u].indices.tolist())
        expected = reference.ranking(users[ptr[u] : ptr[u + 1]], items, banned=banned)
        assert ids[u].tolist() == expected + [-1] * (6 - len(expected))
        assert (scores[u, len(expected) :] == -np.inf).all()


def test_any_order_and_repeats_of_users():
    users, ptr, items, seen = model()
    ranker = Ranker(users, ptr, items)
    wanted = np.array([3, 3, 14, 0])
    ids, _ = ranker.top(wanted, 4, seen[wanted])
    np.testing.assert_array_equal(ids, ranker.top(np.arange(15), 4, seen)[0][wanted])


def test_no_user_and_no_item():
    users, ptr, items, _ = model()
    ranker = Ranker(users, ptr, items)
    assert ranker.top(np.zeros(0, dtype=np.int64), 3)[0].shape == (0, 3)
    ids, scores = ranker.top(np.array([0]), 2, items=np.zeros(0, dtype=np.int64))
    assert ids.tolist() == [[-1, -1]]
    assert scores.tolist() == [[-np.inf, -np.inf]]


def test_ties_go_to_the_smaller_id():
    distances = torch.tensor(
        [[2.0, 1.0, 1.0, 1.0, 0.5], [1.0, 1.0, 1.0, 1.0, 1.0], [3.0, 1.0, 2.0, torch.inf, 5.0]]
    )
    columns, values = top_items(distances, 3)
    assert columns.tolist() == [[4, 1, 2], [0, 1, 2], [1, 2, 0]]
    assert values.tolist() == [[0.5, 1.0, 1.0], [1.0, 1.0, 1.0], [1.0, 2.0, 3.0]]
    rng = np.random.default_rng(0)
    coarse = torch.from_numpy(rng.integers(0, 5, (50, 40)).astype(np.float64))
    for n in (1, 7, 39, 40):
        expected = np.argsort(coarse.numpy(), axis=1, kind="stable")[:, :n]
        np.testing.assert_array_equal(top_items(coarse, n)[0].numpy(), expected)


def test_pairs_are_exact_and_name_the_vector():
    users, ptr, items, _ = model(dtype=np.float32)
    who, what = np.repeat(np.arange(15), 30), np.tile(np.arange(30), 15)
    scores, vectors = Ranker(users, ptr, items).pairs(who, what)
    for u, i, s, v in zip(who, what, scores, vectors, strict=True):
        distance, winner = reference.score(users[ptr[u] : ptr[u + 1]], items[i])
        assert s == pytest.approx(-distance, rel=1e-5)
        assert v == winner


@pytest.mark.parametrize("width", [1, 2, 5])
def test_rounding_gives_no_negative_distance(width):
    users = np.random.default_rng(0).normal(size=(20 * width, 50)).astype(np.float32)
    ranker = Ranker(users, pointers(np.full(20, width)), users)  # every user vector is an item too
    scores = ranker.score(np.arange(20))
    assert (scores <= 0).all()
    assert (np.sort(scores, axis=1)[:, -width:] > -1e-3).all()


def test_single_precision_agrees_on_the_best_ten():
    users, ptr, items, seen = model(n_users=100, n_items=300, d=20)
    double = Ranker(users, ptr, items).top(np.arange(100), 10, seen=None)[0]
    single = Ranker(users.astype(np.float32), ptr, items.astype(np.float32)).top(np.arange(100), 10)[0]
    assert (double == single).mean() > 0.99
    assert seen.shape == (100, 300)


def test_scores_of_many_users_are_put_together(monkeypatch):
    from graftkit.methods.dpcml import lists

    users, ptr, items, _ = model()
    whole = Ranker(users, ptr, items).score(np.arange(15))
    monkeypatch.setattr(lists, "BLOCK_BYTES", 2000)  # two users a block
    widths = []
    original = Ranker.distances
    monkeypatch.setattr(
        Ranker, "distances", lambda self, u, i=None: widths.append(len(u)) or original(self, u, i)
    )
    np.testing.assert_allclose(Ranker(users, ptr, items).score(np.arange(15)), whole, rtol=0, atol=1e-12)
    assert max(widths) == 2
    assert Ranker(users, ptr, items).score(np.zeros(0, dtype=np.int64)).shape == (0, 30)


def test_blocks_stay_small():
    for width, n_items in ((1, 100), (5, 5113), (10, 200_000)):
        assert block_size(width, n_items, 4) * width * n_items * 4 <= 64 * 2**20
    assert block_size(5, 10**8, 8) == 1


def test_inputs_are_left_alone():
    users, ptr, items, seen = model()
    copies = [part.copy() for part in (users, ptr, items, seen.data, seen.indices)]
    Ranker(users, ptr, items).top(np.arange(15), 5, seen)
    for part, copy in zip((users, ptr, items, seen.data, seen.indices), copies, strict=True):
        np.testing.assert_array_equal(part, copy)
