"""Plans of mixtures, official counts, quotas and the named streams."""

import math
from collections import Counter

import pytest
import torch

from graftkit.methods.hgoe.mixup import (
    draw_lambdas,
    official_cross_count,
    official_internal_count,
    plan_cross,
    plan_internal,
)
from graftkit.methods.hgoe.quotas import balanced_quotas, choose
from graftkit.methods.hgoe.streams import stream
from tests.plugins.hgoe import reference


@pytest.mark.parametrize(
    ("sizes", "budget", "expected"),
    [
        ([5, 100, 1000], 30, [5, 12, 13]),
        ([1000, 5, 100], 30, [13, 5, 12]),
        ([5, 7], 100, [5, 7]),
        ([5, 7], 0, [0, 0]),
        ([], 4, []),
        ([3, 3, 3], 7, [2, 2, 3]),
    ],
)
def test_quotas(sizes, budget, expected):
    assert balanced_quotas(sizes, budget) == expected == reference.quotas(sizes, budget)


def test_quotas_refuse_a_negative_budget():
    with pytest.raises(ValueError, match="budget: expected an integer >= 0, got -1"):
        balanced_quotas([3], -1)


def test_choice_is_a_seeded_subset_or_the_first():
    assert choose(9, 3, selection="first", seed=0, name="a").tolist() == [0, 1, 2]
    a, again, b = (choose(100, 10, selection="random", seed=0, name=n).tolist() for n in "aab")
    assert a == again == sorted(set(a))
    assert a != b
    assert len(a) == 10
    with pytest.raises(ValueError, match="selection: expected one of 'random', 'first'"):
        choose(9, 3, selection="last", seed=0, name="a")


def test_lambdas_lie_in_their_range():
    lam = draw_lambdas(1000, (0.2, 0.6), 0)
    assert lam.min() >= 0.2
    assert lam.max() <= 0.6
    assert abs(lam.mean() - 0.4) < 0.02
    assert torch.equal(lam, draw_lambdas(1000, (0.2, 0.6), 0))
    assert draw_lambdas(3, (0.5, 0.5), 1).tolist() == [0.5] * 3


def test_internal_plan_has_distinct_pairs_each_as_often():
    lam = draw_lambdas(10, (0, 1), 0)
    plan = plan_internal([6, 9, 20], 6000, lam, pairing="distinct", seed=0)
    pairs = Counter(zip(plan.first.tolist(), plan.second.tolist(), strict=True))
    assert set(pairs) == {(i, j) for i in range(3) for j in range(3) if i != j}
    assert max(abs(count - 1000) for count in pairs.values()) < 150  # five standard errors: 144
    assert torch.equal(plan.lam, lam.repeat(600))
    for i, j, low, high in zip(
        *(t.tolist() for t in (plan.first, plan.second, plan.low, plan.high)), strict=True
    ):
        n = ([6, 9, 20][i], [6, 9, 20][j])
        assert (low, high) == (max(min(n) // 2, 2), max(n))


def test_pairs_with_replacement_hit_one_subgroup_twice_a_third_of_the_time():
    plan = plan_internal([6, 9, 20], 6000, torch.ones(1), pairing="with_replacement", seed=0)
    assert abs((plan.first == plan.second).double().mean() - 1 / 3) < 0.03


def test_one_subgroup_cannot_make_distinct_pairs():
    with pytest.raises(
        ValueError, match=r"num_subgroups: expected at least 2 subgroups for pairing='distinct', got 1"
    ):
        plan_internal([6], 3, torch.ones(1), pairing="distinct", seed=0)
    assert len(plan_internal([6], 3, torch.ones(1), pairing="with_replacement", seed=0)) == 3


def test_cross_plan_takes_every_triple_in_turn():
    lam = torch.tensor([0.1, 0.9], dtype=torch.float64)
    plan = plan_cross([6, 9], [4, 5, 30], 12, lam)
    triples = {(int(i), int(j), float(v)) for i, j, v in zip(plan.first, plan.second, plan.lam, strict=True)}
    assert triples == {(i, 2 + j, v) for i in range(2) for j in range(3) for v in (0.1, 0.9)}
    square = plan_cross([6, 9], [4, 5], 4, lam)  # as many sets as subgroups: still every pair
    assert len({*zip(square.first.tolist(), square.second.tolist(), strict=True)}) == 4
    assert (plan.low == 2).all()
    assert plan.high[(plan.first == 1) & (plan.second == 2)].unique().tolist() == [9]


@pytest.mark.parametrize(("k", "expected"), [(2, 20), (3, 60), (4, 30)])
def test_official_internal_counts(k, expected):
    """k = 2: q = 3, 10 * 1 * ceil(50 / 30) = 20; k = 3: q = 2, 10 * 2 * 3; k = 4: q = 5, 10 * 3 * 1."""
    assert official_internal_count(0.5, 100, 10, k) == expected


def test_official_cross_count_is_at_least_one_a_triple():
    assert official_cross_count(0.5, 100, 10, 13, 3) == 390
    assert official_cross_count(0.5, 100, 10, 8, 3) == 240
    assert official_cross_count(0.5, 2000, 10, 8, 3) == 240 * math.ceil(1000 / 240)


def test_streams_differ_by_every_word():
    seeds = {
        stream(*words).initial_seed() for words in [(0, "a"), (1, "a"), (0, "b"), (0, "a", 0), (0, "a", 1)]
    }
    assert len(seeds) == 5
    with pytest.raises(ValueError, match="seed: expected an integer >= 0"):
        stream(-1, "a")
    with pytest.raises(TypeError, match="seed: expected an integer"):
        stream(None, "a")
