"""Splits hold out entries: disjoint, complete, of the promised size, repeatable."""

import numpy as np
import pytest
import scipy.sparse as sp

from graftkit.methods.dpcml import LeaveOneOut, PerUserRatioSplit, TemporalSplit
from graftkit.methods.dpcml.partition import hold_out_share


def some(seed=0):
    rng = np.random.default_rng(seed)
    dense = (rng.random((12, 30)) < 0.4) * rng.integers(1, 100, (12, 30))
    dense[0] = 0
    dense[1] = 0
    dense[1, 4] = 9
    return dense


def assert_partition(parts, dense, rows=slice(None)):
    total = sum(part.toarray() for part in parts)
    np.testing.assert_array_equal(total[rows], (dense > 0)[rows])
    assert total.max() <= 1


def test_leave_one_out():
    dense = some()
    ((train, test),) = LeaveOneOut(random_state=0).split(dense)
    assert_partition((train, test), dense)
    assert np.diff(test.indptr).tolist() == [0, 0] + [1] * 10  # one interaction is not given away
    ((_, again),) = LeaveOneOut(random_state=0).split(sp.csc_matrix(dense))
    ((_, other),) = LeaveOneOut(random_state=1).split(dense)
    assert (test != again).nnz == 0
    assert (test != other).nnz > 0


def test_leave_the_last_out():
    dense = some()
    ((_, test),) = LeaveOneOut(by="last").split(dense)
    for row in range(2, 12):
        assert dense[row, test[row].indices[0]] == dense[row].max()


@pytest.mark.parametrize("ratios", [(0.6, 0.2, 0.2), (0.8, 0.2)])
def test_ratios_are_rounded_down_and_the_rest_is_test(ratios):
    dense = some()
    counts = (dense > 0).sum(axis=1)
    (parts,) = PerUserRatioSplit(ratios, random_state=0).split(dense)
    enough = counts >= 5
    assert_partition(parts, dense, enough)
    assert all(part[np.flatnonzero(~enough)].nnz == 0 for part in parts)
    for part, ratio in list(zip(parts, ratios, strict=True))[:-1]:
        np.testing.assert_array_equal(np.diff(part.indptr)[enough], np.floor(ratio * counts + 1e-9)[enough])


def test_shares_of_whole_counts_are_whole():
    # In floats 0.29 * 100 is 28.999999999999996.
    train, test = PerUserRatioSplit((0.29, 0.71), random_state=0).split(np.ones((1, 100)))[0]
    assert (train.nnz, test.nnz) == (29, 71)


def test_repeats_differ():
    splits = PerUserRatioSplit(n_repeats=3, min_interactions=1, random_state=0).split(some())
    assert len(splits) == 3
    assert (splits[0][0] != splits[1][0]).nnz > 0


def test_time_runs_from_training_to_test():
    dense = some()
    ((train, test),) = TemporalSplit(test_size=0.25).split(dense)
    assert_partition((train, test), dense)
    assert dense[train.nonzero()].max() < dense[test.nonzero()].min()
    assert 0.15 < test.nnz / (dense > 0).sum() < 0.3
    ((_, given),) = TemporalSplit(dense, test_size=0.25).split(dense > 0)
    assert (given != test).nnz == 0


def test_validation_share():
    matrix = sp.csr_matrix((some() > 0).astype(np.float32))
    stay, held = hold_out_share(matrix, 0.1, np.random.default_rng(0), most_users=6)
    assert_partition((stay, held), matrix.toarray())
    held_counts = np.diff(held.indptr)
    assert (held_counts > 0).sum() == 6
    assert (np.diff(stay.indptr)[held_counts > 0] >= 1).all()
    _, half = hold_out_share(matrix, 0.5, np.random.default_rng(0))
    np.testing.assert_array_equal(np.diff(half.indptr)[2:], np.diff(matrix.indptr)[2:] // 2)
    assert half[:2].nnz == 0  # users without two interactions


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: LeaveOneOut(by="first").split(some()), "by: expected one of 'random', 'last'"),
        (lambda: PerUserRatioSplit((0.5, 0.2)).split(some()), "ratios: .*sum is 1"),
        (lambda: PerUserRatioSplit((1.0,)).split(some()), "ratios"),
        (lambda: PerUserRatioSplit((0.5, -0.5, 1.0)).split(some()), "ratios"),
        (lambda: PerUserRatioSplit(min_interactions=0).split(some()), "min_interactions.*>= 1"),
        (lambda: TemporalSplit(test_size=1.0).split(some()), "test_size"),
        (
            lambda: TemporalSplit(np.ones((2, 2))).split(some()),
            r"timestamps: expected the shape of X, \(12, 30\)",
        ),
        (lambda: TemporalSplit(np.zeros((12, 30))).split(some()), "timestamps: expected a time above 0"),
        (
            lambda: TemporalSplit(np.full((12, 30), np.nan)).split(some()),
            "timestamps: expected a time above 0",
        ),
        (lambda: LeaveOneOut().split(np.ones(3)), "2D"),
        (
            lambda: hold_out_share(sp.csr_matrix(np.eye(3)), 0.1, np.random.default_rng(0)),
            "validation: expected a user with two interactions",
        ),
    ],
)
def test_bad_arguments(call, words):
    with pytest.raises(ValueError, match=words):
        call()


def test_ratios_are_a_sequence():
    with pytest.raises(TypeError, match=r"ratios: expected two or three shares, got 0.8"):
        PerUserRatioSplit(0.8).split(some())
    assert len(PerUserRatioSplit(np.array([0.8, 0.2])).split(some())[0]) == 2
