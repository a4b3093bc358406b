"""The baselines: the bounded loss against loops, scores by hand."""

import pytest
import torch

from graftkit.methods.edge.baselines import SCORES, EnergyBoundedLoss, max_logit, max_softmax, probability_sum
from tests.plugins.edge import reference
from tests.plugins.edge.cases import draw, joined


@pytest.mark.parametrize("margins", [(8.0, 1.0), (2.0, 0.5)])
def test_bounded_loss_equals_the_loops(margins):
    z, y, u = draw(1, 6, 5, 4)
    loss = EnergyBoundedLoss(0.3, *margins)(*joined(z, y, u))
    expected = reference.bounded(z.tolist(), y.tolist(), u.tolist(), 0.3, *margins)
    assert loss.item() == pytest.approx(expected, rel=1e-13)
    order = torch.randperm(11, generator=torch.Generator().manual_seed(0))
    logits, targets = joined(z, y, u)
    assert EnergyBoundedLoss(0.3, *margins)(logits[order], targets[order]).item() == pytest.approx(expected)


def test_bounded_loss_gradcheck():
    z, y, u = draw(2, 3, 3, 2)
    logits, targets = joined(z, y, u)
    criterion = EnergyBoundedLoss(0.3, 2.0, 0.5)
    assert torch.autograd.gradcheck(lambda a: criterion(a, targets), (logits.requires_grad_(),))


@pytest.mark.parametrize(("n", "n_o"), [(0, 4), (4, 0)])
def test_bounded_loss_with_one_side(n, n_o):
    z, y, u = draw(3, n, n_o, 3)
    logits, targets = joined(z, y, u)
    logits.requires_grad_()
    loss = EnergyBoundedLoss()(logits, targets)
    loss.backward()
    assert bool(torch.isfinite(loss))
    assert bool(torch.isfinite(logits.grad).all())
    if n == 0:
        expected = sum(0.01 * max(0.0, reference.energy(row) - 1) ** 2 for row in u.tolist()) / 4
        assert loss.item() == pytest.approx(expected)


def test_scores_by_hand():
    # Logits 0 and ln 3: sigmoids 1/2 and 3/4, softmax 1/4 and 3/4.
    logits = torch.tensor([[0.0, 1.0986122886681098]], dtype=torch.float64)
    assert max_logit(logits).item() == pytest.approx(1.0986122886681098)
    assert probability_sum(logits).item() == pytest.approx(1.25)
    assert max_softmax(logits).item() == pytest.approx(0.75)
    assert SCORES["JointEnergy"](logits).item() == pytest.approx(2.0794415416798357)  # ln 2 + ln 4


@pytest.mark.parametrize("name", list(SCORES))
def test_scores_take_batches_and_refuse_integers(name):
    logits = torch.randn(2, 3, 4)
    assert SCORES[name](logits).shape == (2, 3)
    with pytest.raises(TypeError, match="logits: expected a floating-point tensor"):
        SCORES[name](logits.long())
