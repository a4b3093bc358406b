"""The summary's lines: the hardest rival, paired differences, interval and verdict."""

import pytest

from tests.benchmarks.headline import HEADER, Headline


def line(ours, **rivals):
    return Headline("t", "AUC", dict(enumerate(ours)), {k: dict(enumerate(v)) for k, v in rivals.items()})


def test_rival_is_the_one_with_the_best_mean_also_where_it_wins():
    cells = line([0.5, 0.5, 0.5], weak=[0.1, 0.1, 0.1], strong=[0.6, 0.7, 0.8]).cells()
    assert cells[3] == "strong 0.700"
    assert len(cells) + 1 == len(HEADER)


def test_interval_by_hand():
    """Differences 1, 2, 3: mean 2, sd 1, t(0.975, 2) = 4.3027, half width 4.3027 / sqrt(3) = 2.4841."""
    low, high = line([2, 4, 6], r=[1, 2, 3]).interval()
    assert (low, high) == pytest.approx((2 - 2.48414, 2 + 2.48414), abs=1e-4)


@pytest.mark.parametrize(
    ("ours", "theirs", "verdict"),
    [
        ([2.0, 2.1, 2.05], [1.0, 1.1, 1.0], "ahead"),
        ([1.0, 1.1, 1.05], [2.0, 2.1, 2.0], "**behind**"),
        ([2, 4, 6], [1, 2, 3], "no clear difference"),
        ([2.0, 2.0], [1.0, 1.0], "too few seeds to say"),
    ],
)
def test_verdict_comes_from_the_interval(ours, theirs, verdict):
    assert line(ours, r=theirs).verdict() == verdict


def test_differences_are_paired_by_seed_and_one_run_faces_all():
    ragged = Headline("t", "m", {0: 1.0, 1: 2.0, 2: 3.0}, {"r": {1: 1.5, 2: 1.0, 7: 9.0}})
    assert ragged.differences() == [0.5, 2.0]
    assert line([1.0, 2.0, 3.0], fixed=[1.0]).differences() == [0.0, 1.0, 2.0]


def test_beaten_is_not_good_and_costs_say_which_way_they_go():
    near = Headline("t", "AUROC, near", {0: 0.4, 1: 0.42, 2: 0.41}, {"r": {0: 0.3, 1: 0.31, 2: 0.32}})
    assert near.sentence() == "t: AUROC, near 0.410 against 0.310 (r): ahead, but worse than chance"
    assert near.cells()[5] == "ahead, but worse than chance"
    assert near.verdict() == "ahead"  # what is counted
    lost = Headline("t", "AUROC", {0: 0.4, 1: 0.4, 2: 0.4}, {"r": {0: 0.6, 1: 0.61, 2: 0.6}})
    assert lost.cells()[5] == "**behind**, and worse than chance"
    cost = Headline("t", "-HD@3", {0: -0.7}, {"r": {0: -0.8}})
    assert cost.sentence() == "t: HD@3 0.700 against 0.800 (r, lower is better): too few seeds to say"
    assert line([0.3, 0.3, 0.3], r=[0.2, 0.2, 0.2]).remark() == ""  # not every figure has a chance level
