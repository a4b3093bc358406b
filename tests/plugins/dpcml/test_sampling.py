"""Candidates are never positives, uniform over the rest, and the same by both kinds of look-up."""

import numpy as np
import pytest
import scipy.sparse as sp
from scipy.stats import chisquare

from graftkit.methods.dpcml.sampling import NegativeSampler


def interactions(seed=0, n_users=30, n_items=40, density=0.2):
    dense = np.random.default_rng(seed).random((n_users, n_items)) < density
    dense[0] = True
    dense[0, [3, 17]] = False  # nearly everything: drawn from the listed complement
    dense[1] = False
    return dense, sp.csr_matrix(dense.astype(np.float32))


@pytest.mark.parametrize("popular", [False, True])
@pytest.mark.parametrize("bitmap", [False, True])
def test_no_positive_is_ever_drawn(popular, bitmap):
    dense, matrix = interactions(density=0.45)
    sampler = NegativeSampler(matrix, popular=popular, bitmap=bitmap)
    users = np.random.default_rng(1).integers(30, size=5000)
    drawn = sampler.draw(users, 7, np.random.default_rng(2))
    assert drawn.shape == (5000, 7)
    assert not dense[users[:, None], drawn].any()
    assert set(drawn[users == 0].ravel()) == {3, 17}
    assert sampler._crowded[0]  # drawn from the list of what is left, not by rejection


def test_look_ups_agree_with_the_dense_matrix():
    dense, matrix = interactions()
    users, items = (part.ravel() for part in np.indices(dense.shape))
    for bitmap in (False, True):
        found = NegativeSampler(matrix, bitmap=bitmap).owns(users, items)
        np.testing.assert_array_equal(found, dense.ravel())
    # Remainders of keys collide (here the second user's with the first's); the keys themselves decide.
    wide = sp.csr_matrix((np.ones(2), ([0, 1], [5, 4000])), shape=(2, 4096))
    wide = NegativeSampler(wide, bitmap=False)
    assert wide._bits.size * 8 < 4096
    users, items = (part.ravel() for part in np.indices((2, 4096)))
    assert np.flatnonzero(wide.owns(users, items)).tolist() == [5, 4096 + 4000]
    empty = NegativeSampler(sp.csr_matrix((3, 5)), bitmap=False)
    assert not empty.owns(np.array([0, 2]), np.array([4, 4])).any()


@pytest.mark.parametrize("popular", [False, True])
def test_keys_and_bitmap_give_the_same_draws(popular):
    _, matrix = interactions()
    users = np.arange(30).repeat(20)
    draws = [
        NegativeSampler(matrix, popular=popular, bitmap=bitmap).draw(users, 5, np.random.default_rng(3))
        for bitmap in (False, True, None)
    ]
    np.testing.assert_array_equal(draws[0], draws[1])
    np.testing.assert_array_equal(draws[0], draws[2])
    other = NegativeSampler(matrix, popular=popular).draw(users, 5, np.random.default_rng(4))
    assert (draws[0] != other).any()


@pytest.mark.parametrize("user", [0, 1, 2])
def test_draws_are_uniform_over_the_complement(user):
    dense, matrix = interactions()
    drawn = NegativeSampler(matrix).draw(np.full(10**5, user), 10, np.random.default_rng(5))
    counts = np.bincount(drawn.ravel(), minlength=40)
    assert counts[dense[user]].sum() == 0
    assert chisquare(counts[~dense[user]]).pvalue > 1e-4


@pytest.mark.parametrize("user", [0, 1, 2])
def test_popular_draws_follow_the_counts(user):
    dense, matrix = interactions()
    drawn = NegativeSampler(matrix, popular=True).draw(np.full(10**5, user), 10, np.random.default_rng(6))
    weight = dense.sum(axis=0) * ~dense[user]
    counts = np.bincount(drawn.ravel(), minlength=40)
    assert counts[weight == 0].sum() == 0
    assert chisquare(counts[weight > 0], weight[weight > 0] / weight.sum() * 10**6).pvalue > 1e-4


def test_popular_falls_back_to_items_that_nobody_has():
    matrix = sp.csr_matrix(np.array([[1, 1, 0, 0], [1, 0, 0, 0]], dtype=np.float32))
    drawn = NegativeSampler(matrix, popular=True).draw(
        np.zeros(500, dtype=np.int64), 2, np.random.default_rng(0)
    )
    assert set(drawn.ravel()) == {2, 3}


def test_saturated_users_are_known_and_refused():
    matrix = sp.csr_matrix(np.array([[1, 1], [1, 0]], dtype=np.float32))
    sampler = NegativeSampler(matrix)
    assert sampler.saturated.tolist() == [True, False]
    with pytest.raises(ValueError, match="owns every item"):
        sampler.draw(np.array([1, 0]), 3, np.random.default_rng(0))


def test_large_tables_take_keys(monkeypatch):
    from graftkit.methods.dpcml import sampling

    monkeypatch.setattr(sampling, "BITMAP_BYTES", 10)
    _, matrix = interactions()
    large = NegativeSampler(matrix)
    assert large._keys is not None
    assert len(large._bits) <= 4 * matrix.nnz  # not a bit for every pair
    monkeypatch.setattr(sampling, "BITMAP_BYTES", 150)
    assert NegativeSampler(matrix)._keys is None
