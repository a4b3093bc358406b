"""The bank of potential outliers: who enters, in which order they leave."""

import numpy as np
import pytest

from graftkit.methods.rcpmod.memory import OutlierMemory
from tests.plugins.rcpmod import reference


@pytest.mark.parametrize("n", [1, 3, 19, 20, 40, 257])
@pytest.mark.parametrize("fraction", [0.05, 0.34, 1.0])
def test_least_similar_rows_enter(n, fraction):
    rng = np.random.default_rng(n)
    rows, similarity = rng.permutation(1000)[:n], rng.normal(size=n)
    bank = OutlierMemory(3, fraction)
    bank.push(rows, similarity)
    expected = [int(rows[i]) for i in reference.least_similar(similarity.tolist(), fraction)]
    assert bank.rows.tolist() == expected
    assert len(expected) == max(1, int(fraction * n))


def test_a_share_that_rounds_below_a_whole_number_counts_it():
    bank = OutlierMemory(1, 0.29)
    bank.push(np.arange(100), np.arange(100.0))
    assert len(bank.rows) == 29  # 0.29 * 100 is 28.999999999999996


def test_ties_go_to_the_first_row():
    bank = OutlierMemory(1, 0.5)
    bank.push(np.array([8, 3, 5, 1, 9, 2]), np.array([0.0, 1.0, 0.0, 0.0, 0.0, 1.0]))
    assert bank.rows.tolist() == [8, 5, 1]


def test_ties_go_to_the_first_row_in_long_batches_too():
    rows = np.random.default_rng(0).permutation(300)
    bank = OutlierMemory(1, 0.5)
    bank.push(rows, np.zeros(300))  # an unstable sort shuffles more than 16 equal entries
    assert bank.rows.tolist() == rows[:150].tolist()


def test_first_in_first_out():
    bank = OutlierMemory(2, 0.5)
    for block in range(4):
        bank.push(np.array([10 * block, 10 * block + 1]), np.array([0.9, -0.9]))
        assert len(bank.blocks) == min(block + 1, 2)
    assert bank.rows.tolist() == [21, 31]  # oldest first; blocks 0 and 1 have left


def test_capacity_zero_stores_nothing():
    bank = OutlierMemory(0, 0.5)
    bank.push(np.array([1, 2]), np.array([0.0, 1.0]))
    assert bank.rows.shape == (0,)
    assert bank.rows.dtype == np.int64


def test_batch_without_complete_rows_stores_no_block():
    bank = OutlierMemory(2, 0.5)
    bank.push(np.array([4, 5]), np.array([0.0, 1.0]))
    bank.push(np.empty(0, dtype=np.int64), np.empty(0))
    assert len(bank.blocks) == 1
    assert bank.rows.tolist() == [4]


def test_stored_rows_do_not_follow_the_callers_array():
    rows = np.array([4, 5])
    bank = OutlierMemory(2, 1.0)
    bank.push(rows, np.array([0.0, 1.0]))
    rows[:] = -1
    assert bank.rows.tolist() == [4, 5]
