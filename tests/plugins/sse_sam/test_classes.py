"""Tail classes and memberships."""

import pytest
import torch

from graftkit.methods.sse_sam.classes import Membership, on_the_grid_of, spread_over
from graftkit.torch import tail_classes_from_counts


def test_strictly_below_the_threshold():
    assert tail_classes_from_counts([100, 99, 5, 0], 100).tolist() == [1, 2, 3]
    assert tail_classes_from_counts(torch.tensor([5000, 645, 50]), 645).tolist() == [2]


def test_cifar_10_lt_tails_of_the_specification():
    counts = [5000, 2997, 1796, 1077, 645, 387, 232, 139, 83, 50]
    assert len(tail_classes_from_counts(counts, 200)) == 3
    assert len(tail_classes_from_counts(counts, 1000)) == 6


@pytest.mark.parametrize(("eta", "words"), [(1, "no tail class"), (9999, "every class")])
def test_thresholds_that_miss_warn(eta, words):
    with pytest.warns(UserWarning, match=words):
        tail_classes_from_counts([10, 20], eta)


@pytest.mark.parametrize(("counts", "eta"), [([], 3), ([1.5, 2], 3), ([-1, 2], 3), ([[1, 2]], 3),
                                             ([1, 2], -1),
                                             ([1, 2], float("nan"))])  # fmt: skip
def test_bad_counts(counts, eta):
    with pytest.raises(ValueError, match=r"class_counts|tail_threshold"):
        tail_classes_from_counts(counts, eta)


def test_labels_look_up():
    tail = Membership([1, 3], n_classes=5, ignore_index=-1)
    labels = torch.tensor([[0, 1], [3, -1]])
    assert tail.of_labels(labels).tolist() == [[False, True], [True, False]]
    assert tail.of_labels(torch.tensor([255, 3]), ignore_index=255).tolist() == [False, True]
    assert Membership([1]).of_labels(torch.tensor([7, 1], dtype=torch.uint8)).tolist() == [False, True]
    assert Membership([0]).of_labels(torch.tensor([7, 0])).tolist() == [False, True]  # 7 is of no tail
    for bad in ([5], [-2]):
        with pytest.raises(ValueError, match="targets"):
            tail.of_labels(torch.tensor(bad))


def test_soft_targets_give_their_mass():
    share = Membership([2]).of_soft_targets(torch.tensor([[0.5, 0.0, 0.5], [0.0, 0.0, 0.0], [0.2, 0.2, 0.6]]))
    torch.testing.assert_close(share, torch.tensor([0.5, 0.0, 0.6]))
    # Labels that do not add up to 1, such as several of one sample, count by their share of the sum.
    assert Membership([2]).of_soft_targets(torch.tensor([[1.0, 0.0, 1.0]])).tolist() == [0.5]


@pytest.mark.parametrize("shape", [(3,), (3, 1), (3, 1, 1, 1)])
def test_one_column_is_the_probability_of_class_1(shape):
    targets, flat = torch.tensor([1.0, 0.0, 0.25]).reshape(shape), (3, *shape[2:])
    for tail, expected in (([1], [1.0, 0.0, 0.25]), ([0], [0.0, 1.0, 0.75]), ([], [0.0, 0.0, 0.0])):
        share = Membership(tail).of_soft_targets(targets)
        torch.testing.assert_close(share, torch.tensor(expected).reshape(flat))


@pytest.mark.parametrize("shape", [(3, 4), (3, 1), (3,)])
def test_a_tail_class_without_a_column_is_not_taken_for_no_tail(shape):
    with pytest.raises(ValueError, match="targets: expected a column for class 7"):
        Membership([0, 7]).of_soft_targets(torch.zeros(shape))


def test_spreading_over_outputs():
    assert spread_over(torch.ones(2), torch.zeros(2, 3)).shape == (2, 1)
    assert spread_over(torch.ones(2, 5, 6), torch.zeros(2, 3, 5, 6)).shape == (2, 1, 5, 6)
    assert spread_over(torch.ones(2, 7), torch.zeros(2, 7, 3)).shape == (2, 7, 1)
    assert spread_over(torch.ones(2, 3), torch.zeros(2, 3)).shape == (2, 3)
    assert spread_over(torch.ones(2, 3), torch.zeros(2, 3, 3)).shape == (2, 1, 3)
    assert spread_over(torch.ones(2, 3), torch.zeros(2, 3, 3), classes_last=True).shape == (2, 3, 1)
    assert spread_over(torch.ones(2, 7), torch.zeros(2, 3, 7), classes_last=True).shape == (2, 1, 7)
    with pytest.raises(ValueError, match="targets"):
        spread_over(torch.ones(3), torch.zeros(2, 3))
    with pytest.raises(ValueError, match="targets"):
        spread_over(torch.ones(2, 4), torch.zeros(2, 3, 5, 6))


def test_coarser_scores_take_each_cells_share():
    fine = torch.zeros(1, 4, 4)
    fine[0, 0, 0] = fine[0, 0, 1] = 1
    assert on_the_grid_of(fine, torch.zeros(1, 3, 2, 2)).tolist() == [[[0.5, 0.0], [0.0, 0.0]]]
    assert on_the_grid_of(fine, torch.zeros(1, 3, 4, 4)) is fine
