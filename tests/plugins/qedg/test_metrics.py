"""Agreement, kappa and their intervals against loops, scikit-learn and simulation."""

import math

import numpy as np
import pytest
import torch
from sklearn.metrics import cohen_kappa_score

from graftkit.methods.qedg.evaluation import transfer_examples
from graftkit.methods.qedg.metrics import (
    agreement,
    agreement_interval,
    cohen_kappa,
    entropy,
    kappa_interval,
    pair_entropy,
    queries_to_kappa,
)
from tests.plugins.qedg import reference


def pair(n, classes, seed, noise=0.4):
    rng = np.random.default_rng(seed)
    first = rng.integers(classes, size=n)
    second = np.where(rng.random(n) < noise, rng.integers(classes, size=n), first)
    return torch.from_numpy(first), torch.from_numpy(second)


@pytest.mark.parametrize(("n", "classes", "seed"), [(20, 2, 0), (100, 5, 1), (300, 10, 2), (50, 40, 3)])
def test_kappa_and_its_error_equal_the_loops_and_scikit_learn(n, classes, seed):
    a, b = pair(n, classes, seed)
    value = cohen_kappa(a, b, classes)
    assert value == pytest.approx(cohen_kappa_score(a, b), rel=1e-10)
    assert value == pytest.approx(reference.kappa(a.tolist(), b.tolist(), classes), rel=1e-10)
    low, high = kappa_interval(a, b, classes)
    error = reference.kappa_error(a.tolist(), b.tolist(), classes)
    assert (low, high) == pytest.approx(
        (value - 1.959964 * error, min(1, value + 1.959964 * error)), rel=1e-6
    )
    # Over more labels than occur, nothing changes.
    assert cohen_kappa(a, b, classes + 3) == pytest.approx(value, rel=1e-12)


def test_interval_of_kappa_covers_as_simulated():
    a, b = pair(400, 4, 0)
    rng = np.random.default_rng(1)
    drawn = [cohen_kappa(a[rows], b[rows], 4) for rows in rng.integers(400, size=(400, 400))]
    low, high = kappa_interval(a, b, 4)
    assert np.std(drawn) == pytest.approx((high - low) / (2 * 1.96), rel=0.15)


def test_kappa_worked_by_hand():
    # 10 rows: 4 (0,0), 1 (0,1), 2 (1,0), 3 (1,1). p_o = .7, p_e = .5*.6 + .5*.4 = .5, kappa = .4.
    a = torch.tensor([0] * 5 + [1] * 5)
    b = torch.tensor([0, 0, 0, 0, 1, 0, 0, 1, 1, 1])
    assert agreement(a, b) == pytest.approx(0.7)
    assert cohen_kappa(a, b, 2) == pytest.approx(0.4)


def test_one_class_everywhere_has_agreement_and_no_kappa():
    same = torch.full((5,), 2)
    assert agreement(same, same) == 1
    assert math.isnan(cohen_kappa(same, same, 3))
    assert all(math.isnan(bound) for bound in kappa_interval(same, same, 3))
    # One constant, the other not: chance is all there is.
    assert cohen_kappa(same, torch.tensor([2, 2, 2, 0, 1]), 3) == pytest.approx(0)


def test_wilson_interval_by_hand():
    # 8 of 10, z = 1.96: centre (.8 + .19208) / 1.38416 = .71674, reach .22659.
    assert agreement_interval(0.8, 10) == pytest.approx((0.49016, 0.94332), abs=1e-4)
    assert agreement_interval(1.0, 10)[1] == 1
    assert agreement_interval(0.0, 10)[0] == 0


def test_entropies():
    assert entropy(torch.tensor([3, 0, 1])) == pytest.approx(reference.entropy([3, 0, 1]), rel=1e-12)
    assert entropy(torch.tensor([4, 4])) == pytest.approx(math.log(2))
    assert math.isnan(entropy(torch.tensor([0, 0])))
    # Two rows at the pair (0, 1), whichever is first, one at (1, 2).
    logits = torch.tensor([[3.0, 2, 0], [2.0, 3, 0], [0.0, 5, 4]])
    assert pair_entropy(logits) == pytest.approx(reference.entropy([2, 1]), rel=1e-12)
    assert math.isnan(pair_entropy(torch.zeros(0, 3)))


def test_queries_to_kappa_takes_the_fewest():
    curve = [{"queries": q, "kappa": k} for q, k in ((10, math.nan), (20, 0.6), (30, 0.4), (40, 0.71))]
    assert queries_to_kappa(curve) == {"0.5": 20, "0.7": 40, "0.9": None}
    assert queries_to_kappa([{"queries": 5, "kappa": None}]) == {"0.5": None, "0.7": None, "0.9": None}


def test_fgsm_on_a_linear_model_flips_what_it_must():
    # Scores (x, -x) on one coordinate plus a useless one: the step lowers x by eps for class 0.
    net = torch.nn.Linear(2, 2)
    with torch.no_grad():
        net.weight.copy_(torch.tensor([[1.0, 0], [-1.0, 0]]))
        net.bias.copy_(torch.tensor([-0.5, 0.5]))
    x = torch.tensor([[0.55, 0.3], [0.9, 0.3], [0.45, 0.3], [0.05, 0.99]])
    y = torch.tensor([0, 0, 1, 1])
    moved = transfer_examples(net, x, y, 0.1)
    assert torch.allclose(moved[:, 0], torch.tensor([0.45, 0.8, 0.55, 0.15]))
    assert torch.equal(net(moved).argmax(1) != y, torch.tensor([True, False, True, False]))
    clipped = transfer_examples(net, x, y, 0.6)
    assert clipped.min() >= 0
    assert clipped.max() <= 1
    assert clipped[1, 0] == pytest.approx(0.3)


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda: agreement(torch.zeros(2), torch.zeros(3)), ValueError, "second: expected 2 labels"),
        (lambda: agreement(torch.zeros(0), torch.zeros(0)), ValueError, "at least one"),
        (
            lambda: cohen_kappa(torch.tensor([0, 3]), torch.tensor([0, 1]), 3),
            ValueError,
            r"first: .*\[0, 2\]",
        ),
        (lambda: cohen_kappa(torch.tensor([0]), torch.tensor([-1]), 3), ValueError, "second"),
        (lambda: cohen_kappa(torch.tensor([0]), torch.tensor([0]), 1.5), TypeError, "num_classes"),
        (lambda: kappa_interval(torch.tensor([0]), torch.tensor([0]), 2, level=1.0), ValueError, "level"),
        (lambda: agreement_interval(1.2, 5), ValueError, "share"),
        (lambda: agreement_interval(0.5, 0), ValueError, "rows"),
    ],
)
def test_errors(call, error, words):
    with pytest.raises(error, match=words):
        call()
