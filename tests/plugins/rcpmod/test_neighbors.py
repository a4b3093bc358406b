"""Neighbour tables: exact, self excluded by index, transferred only to rows that have the view."""

from importlib.util import find_spec

import numpy as np
import pytest

from graftkit.methods.rcpmod.neighbors import nearest_rows, neighbor_table, rank_neighbor
from tests.plugins.rcpmod import reference


def partial(n, rate, seed):
    """Masks of two views with a share `rate` of one-view rows."""
    rng = np.random.default_rng(seed)
    mask = np.ones((n, 2), dtype=bool)
    rows = rng.permutation(n)[: int(rate * n)]
    mask[rows, rng.integers(2, size=len(rows))] = False
    return mask


def views(n, seed, dims=(3, 4)):
    rng = np.random.default_rng(seed)
    return [rng.normal(size=(n, d)) for d in dims]


@pytest.mark.parametrize("rate", [0.0, 0.45, 0.9])
@pytest.mark.parametrize("k", [1, 3])
def test_table_equals_filtering_an_unlimited_list(rate, k):
    a, b = views(40, seed=1)
    mask = partial(40, rate, seed=2)
    expected = reference.neighbor_lists(a, b, mask[:, 0], mask[:, 1], k)
    assert neighbor_table(a, b, mask[:, 0], mask[:, 1], k).tolist() == expected
    expected = reference.neighbor_lists(b, a, mask[:, 1], mask[:, 0], k)
    assert neighbor_table(b, a, mask[:, 1], mask[:, 0], k).tolist() == expected


@pytest.mark.parametrize("seed", range(5))
def test_borrowed_neighbours_have_the_view(seed):
    a, b = views(60, seed)
    mask = partial(60, 0.7, seed)
    table = neighbor_table(a, b, mask[:, 0], mask[:, 1], 6)
    assert mask[:, 0][table].all()
    assert mask.all(axis=1)[table[~mask[:, 0]]].all()


def test_missing_rows_are_not_read():
    a, b = views(30, seed=3)
    mask = partial(30, 0.5, seed=4)
    table = neighbor_table(a, b, mask[:, 0], mask[:, 1], 4)
    a[~mask[:, 0]], b[~mask[:, 1]] = 1e6, -1e6
    assert np.array_equal(neighbor_table(a, b, mask[:, 0], mask[:, 1], 4), table)


def test_width_is_what_every_row_can_have():
    a, b = views(6, seed=5)
    lost = np.array([True, True, True, True, True, False])
    has_b = np.array([True, True, False, False, False, True])
    # Row 5 borrows from the two rows that have both; the others have four neighbours of their own.
    table = neighbor_table(a, b, lost, has_b, 6)
    assert table.shape == (6, 2)
    assert sorted(table[5]) == [0, 1]
    assert neighbor_table(a, b, np.ones(6, bool), np.ones(6, bool), 6).shape == (6, 5)


def test_self_is_excluded_by_index_among_duplicates():
    a = np.repeat(np.arange(3.0), 2)[:, None]  # pairs of equal rows
    everyone = np.arange(6)
    assert nearest_rows(a, everyone, a, everyone, 1).ravel().tolist() == [1, 0, 3, 2, 5, 4]


def test_row_duplicated_100_times():
    a = np.concatenate((np.zeros((101, 2)), np.random.default_rng(0).normal(5, 1, (20, 2))))
    everyone = np.arange(len(a))
    table = nearest_rows(a, everyone, a, everyone, 6)
    assert table.shape == (121, 6)
    assert not (table == everyone[:, None]).any()
    assert (table[:101] < 101).all()  # a copy's neighbours are the other copies
    assert all(len(set(row)) == 6 for row in table.tolist())
    expected = [reference.sorted_by_distance(a, i, range(len(a)))[:6] for i in range(101, 121)]
    assert table[101:].tolist() == expected


def test_k_is_clipped_to_what_exists():
    a = np.arange(4.0)[:, None]
    everyone = np.arange(4)
    assert nearest_rows(a, everyone, a, everyone, 9).shape == (4, 3)
    outside = np.full(2, -1)
    assert nearest_rows(a[:2], outside, a, everyone, 9).shape == (2, 4)
    assert nearest_rows(a[:1], everyone[:1], a[:1], everyone[:1], 3).shape == (1, 0)
    assert nearest_rows(a[:2], outside, a[:0], everyone[:0], 3).shape == (2, 0)
    assert nearest_rows(a[:0], everyone[:0], a, everyone, 2).shape == (0, 2)


def test_outside_queries_keep_an_identical_candidate():
    a = np.arange(4.0)[:, None]
    assert nearest_rows(a[2:3], np.array([-1]), a, np.arange(4), 1).tolist() == [[2]]


def test_candidates_are_named_by_their_rows():
    a = np.arange(5.0)[:, None]
    pool = np.array([0, 2, 4])
    found = nearest_rows(a, np.arange(5), a[pool], pool, 1).ravel()
    assert found.tolist()[0] == 2
    assert found.tolist()[4] == 2
    assert set(found.tolist()) <= {0, 2, 4}


def test_rank_neighbor_is_the_row_at_that_rank():
    z = views(30, seed=6)[0]
    mask = partial(30, 0.4, seed=7)[:, 0]
    have = np.flatnonzero(mask)
    for rank in (1, 5, len(have) - 1):
        far = rank_neighbor(z, mask, rank)
        assert (far[~mask] == -1).all()
        for i in have:
            assert far[i] == reference.sorted_by_distance(z, i, have)[rank - 1]


def test_rank_is_clipped_to_the_farthest_row():
    z = np.array([[0.0], [1.0], [3.0], [7.0]])
    assert rank_neighbor(z, np.ones(4, bool), 50).tolist() == [3, 3, 3, 0]
    assert rank_neighbor(z, np.array([False, True, False, False]), 50).tolist() == [-1, -1, -1, -1]


def test_rank_in_a_subset_is_proportionate():
    # 1000 points on a line, every 10th may be drawn: rank 500 of 999 is rank 50 of a subset of 100, and
    # the distance reached is that of the full search up to sampling error.
    z = np.linspace(0, 1, 1000)[:, None]
    mask = np.ones(1000, bool)
    far = rank_neighbor(z, mask, 500, rng=np.random.default_rng(0), limit=100)
    exact = rank_neighbor(z, mask, 500)
    reached, wanted = np.abs(z[far] - z).ravel(), np.abs(z[exact] - z).ravel()
    assert np.median(np.abs(reached - wanted)) < 0.05
    assert len(np.unique(far)) <= 100
    assert (far != np.arange(1000)).all()
    again = rank_neighbor(z, mask, 500, rng=np.random.default_rng(0), limit=100)
    assert np.array_equal(far, again)


def test_faiss_finds_nearly_the_same_rows():
    if find_spec("faiss") is None:
        pytest.skip("faiss is not installed: its approximate search is not tested here")
    rng = np.random.default_rng(0)
    z = rng.normal(size=(8, 16))[rng.integers(8, size=4000)] * 3 + rng.normal(size=(4000, 16))
    everyone = np.arange(4000)
    exact = nearest_rows(z, everyone, z, everyone, 6)
    found = nearest_rows(z, everyone, z, everyone, 6, backend="faiss")
    assert not (found == everyone[:, None]).any()
    recall = np.mean([len(set(f) & set(e)) / 6 for f, e in zip(found.tolist(), exact.tolist(), strict=True)])
    assert recall > 0.9


def test_faiss_on_few_rows_is_silent(capfd):
    if find_spec("faiss") is None:
        pytest.skip("faiss is not installed: its approximate search is not tested here")
    z, everyone = np.random.default_rng(0).normal(size=(60, 4)), np.arange(60)
    assert nearest_rows(z, everyone, z, everyone, 6, backend="faiss").shape == (60, 6)
    out, err = capfd.readouterr()
    assert out + err == ""


def test_missing_faiss_says_what_to_install():
    if find_spec("faiss") is not None:
        pytest.skip("faiss is installed")
    a = np.arange(4.0)[:, None]
    with pytest.raises(ImportError, match="faiss-cpu"):
        nearest_rows(a, np.arange(4), a, np.arange(4), 1, backend="faiss")


def test_search_is_exact_far_from_the_origin():
    """A Unix time as offset: distances by inner products alone would lose every digit."""
    x = np.random.default_rng(0).normal(size=(60, 3))
    rows = np.arange(len(x))
    np.testing.assert_array_equal(
        nearest_rows(x + 1.7e9, rows, x + 1.7e9, rows, 5)[:, 0], nearest_rows(x, rows, x, rows, 5)[:, 0]
    )
