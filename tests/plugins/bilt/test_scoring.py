"""Scores with closed-form gradients, against autograd on the plain formula."""

import pytest
import torch

from graftkit.methods.bilt.cost import FullCost
from graftkit.methods.bilt.distances import lca_distance
from graftkit.methods.bilt.scoring import corrected_cost, difference, risk_scores
from tests.plugins.bilt.cases import SMALL, generator


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=generator(seed), dtype=torch.float64)


def case(n, b=4):
    closeness = -lca_distance(torch.stack([torch.arange(n) // 2, torch.arange(n)])).double()
    return draw(b, n, seed=1).softmax(1).requires_grad_(), draw(n, n).requires_grad_(), closeness


def plain(p, w, closeness, beta):
    cost = beta * difference(w) + closeness
    return p @ cost.T, cost


@pytest.mark.parametrize("n", [1, 2, 3, 7])
@pytest.mark.parametrize("beta", [0.0, 0.5, 2.0])
@pytest.mark.parametrize("used", ["scores", "matrix", "both"])
def test_values_and_gradients_against_the_plain_formula(n, beta, used):
    p, w, closeness = case(n)
    ours, theirs = risk_scores(p, w, closeness, beta), plain(p, w, closeness, beta)
    for one, two in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, two, rtol=0, atol=1e-13)
    kept = {"scores": [0], "matrix": [1], "both": [0, 1]}[used]
    given = [draw(*ours[k].shape, seed=3 + k) for k in kept]
    found = [
        torch.autograd.grad([side[k] for k in kept], [p, w], given, allow_unused=True)
        for side in (ours, theirs)
    ]
    for one, two in zip(*found, strict=True):
        assert (one is None) == (two is None)
        if one is not None:
            torch.testing.assert_close(one, two, rtol=0, atol=1e-12)
    assert torch.equal(found[0][1].diagonal(), torch.zeros(n, dtype=torch.float64))


def test_gradcheck_of_both_orders():
    p, w, closeness = case(4, b=3)
    assert torch.autograd.gradcheck(lambda a, b: risk_scores(a, b, closeness, 0.5), (p, w))
    assert torch.autograd.gradgradcheck(lambda a, b: risk_scores(a, b, closeness, 0.5), (p, w))
    assert torch.autograd.gradgradcheck(lambda b: risk_scores(p.detach(), b, closeness, 0.5), (w,))


@pytest.mark.parametrize("used", ["scores", "matrix", "both"])
def test_gradients_that_have_gradients_against_the_plain_formula(used):
    """gradgradcheck compares the way back with itself; this compares it with the plain one."""
    p, w, closeness = case(4)
    kept = {"scores": [0], "matrix": [1], "both": [0, 1]}[used]
    found = []
    for function in (risk_scores, plain):
        outputs = function(p, w, closeness, 0.5)
        loss = sum(outputs[k].pow(3).sum() for k in kept)
        first = torch.autograd.grad(loss, [p, w], create_graph=True, materialize_grads=True)
        second = torch.autograd.grad(first[0].pow(2).sum() + first[1].pow(2).sum(), [p, w],
                                     materialize_grads=True)  # fmt: skip
        found.append([*first, *second])
    for one, two in zip(*found, strict=True):
        torch.testing.assert_close(one, two, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("frozen", [0, 1])
def test_what_needs_no_gradient_gets_none(frozen):
    inputs = list(case(5)[:2])
    inputs[frozen] = inputs[frozen].detach()
    closeness = case(5)[2]
    g = draw(4, 5, seed=7)
    free = inputs[1 - frozen]
    (one,) = torch.autograd.grad(risk_scores(*inputs, closeness, 0.5)[0], free, g)
    (two,) = torch.autograd.grad(plain(*inputs, closeness, 0.5)[0], free, g)
    torch.testing.assert_close(one, two, rtol=0, atol=1e-12)


def test_a_frozen_weight_may_change_before_the_way_back_and_a_free_one_may_not():
    p, w, closeness = case(5)
    g = draw(4, 5, seed=7)
    (expected,) = torch.autograd.grad(plain(p, w.detach(), closeness, 0.5)[0], p, g)
    frozen = w.detach().clone()
    scores, cost = risk_scores(p, frozen, closeness, 0.5)
    assert not cost.requires_grad
    frozen.zero_()
    torch.testing.assert_close(torch.autograd.grad(scores, p, g)[0], expected, rtol=0, atol=1e-12)
    scores, cost = risk_scores(p, w, closeness, 0.5)
    assert cost.requires_grad
    with torch.no_grad():
        w.zero_()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        torch.autograd.grad(scores, p, g)


def test_a_penalty_on_the_gradient_of_the_probabilities_reaches_the_weight():
    p, w, closeness = case(4)
    found = []
    for function in (risk_scores, plain):
        (first,) = torch.autograd.grad(function(p, w, closeness, 0.5)[0].pow(3).sum(), p, create_graph=True)
        found.append(torch.autograd.grad(first.pow(2).sum(), [p, w]))
    for one, two in zip(*found, strict=True):
        torch.testing.assert_close(one, two, rtol=1e-11, atol=1e-11)


def test_second_order_through_a_frozen_weight():
    p, w, closeness = case(4)
    frozen = w.detach()
    assert torch.autograd.gradgradcheck(lambda a: risk_scores(a, frozen, closeness, 0.5)[0].pow(3), (p,))


def test_a_second_pass_over_the_same_graph_gives_the_same():
    p, w, closeness = case(5)
    s, _ = risk_scores(p, w, closeness, 0.5)
    first = torch.autograd.grad(s.square().sum(), [p, w], retain_graph=True)
    second = torch.autograd.grad(s.square().sum(), [p, w])
    for one, two in zip(first, second, strict=True):
        assert torch.equal(one, two)


def test_rows_of_zeros_get_no_correction_and_no_gradient():
    p, w, closeness = case(3)
    with torch.no_grad():
        w[1] = 0
        w[1, 1] = 5  # the diagonal does not count
    s, cost = risk_scores(p, w, closeness, 0.5)
    assert torch.equal(cost[1], closeness[1])
    s.square().sum().backward()
    assert torch.equal(w.grad[1], torch.zeros(3, dtype=torch.float64))
    assert w.grad[0].abs().max() > 0


def test_training_and_evaluation_give_the_same_scores():
    module = FullCost(SMALL.lineage(-1), 0.5).double()
    torch.nn.init.normal_(module.weight, generator=generator(2))
    p = draw(3, 5).softmax(1)
    trained = module(p)
    with torch.no_grad():
        kept = module.eval()(p)
    for one, two in zip(trained, kept, strict=True):
        torch.testing.assert_close(one, two, rtol=0, atol=1e-14)
    torch.testing.assert_close(kept[1], corrected_cost(module.weight, SMALL.distance().double(), 0.5))
    assert torch.equal(module.distance, SMALL.distance().double())
    wider = module.float()(p.double())  # another precision than the weight's takes the plain way
    torch.testing.assert_close(wider[0].float(), kept[0].float())
