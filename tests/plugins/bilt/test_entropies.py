"""The sum of cross-entropies with its closed-form gradient, against torch's own."""

import pytest
import torch
from torch.nn.functional import cross_entropy
from torch.utils.checkpoint import checkpoint

from graftkit.methods.bilt import BiLTLoss
from graftkit.methods.bilt.entropies import weighted_cross_entropies
from tests.plugins.bilt.cases import SMALL, batch, generator, head_of


def terms():
    g = generator(0)
    values = [
        (4 * torch.randn(6, n, generator=g, dtype=torch.float64)).requires_grad_() for n in (3, 5, 1, 4)
    ]
    targets = [torch.randint(0, 3, (6,), generator=g),
               torch.randn(6, 5, generator=g, dtype=torch.float64).softmax(1),
               torch.zeros(6, dtype=torch.int64),
               torch.randn(6, 4, generator=g, dtype=torch.float64).softmax(1)]  # fmt: skip
    return values, targets, [1.0, 0.25, 2.0, 0.0]


def test_value_and_gradient_against_torch():
    values, targets, weights = terms()
    total, parts = weighted_cross_entropies(values, targets, weights)
    means = [cross_entropy(v, t) for v, t in zip(values, targets, strict=True)]
    expected = sum(w * m for w, m in zip(weights, means, strict=True))
    torch.testing.assert_close(total, expected, rtol=0, atol=1e-13)
    torch.testing.assert_close(parts, torch.stack(means).detach(), rtol=0, atol=1e-13)
    assert not parts.requires_grad
    ours = torch.autograd.grad(3.0 * total, values, retain_graph=True)
    for one, two in zip(ours, torch.autograd.grad(3.0 * expected, values), strict=True):
        torch.testing.assert_close(one, two, rtol=0, atol=1e-13)
    for one, two in zip(ours, torch.autograd.grad(3.0 * total, values), strict=True):  # the graph was kept
        assert torch.equal(one, two)


def test_gradcheck_of_both_orders():
    values, targets, weights = terms()
    ours = torch.autograd.grad(weighted_cross_entropies(values, targets, weights)[0], values)
    kept = torch.autograd.grad(
        weighted_cross_entropies(values, targets, weights)[0], values, create_graph=True
    )
    for one, two in zip(ours, kept, strict=True):
        torch.testing.assert_close(one, two, rtol=0, atol=1e-13)
    assert torch.autograd.gradcheck(lambda *v: weighted_cross_entropies(v, targets, weights)[0], values)
    assert torch.autograd.gradgradcheck(lambda *v: weighted_cross_entropies(v, targets, weights)[0], values)


def test_extreme_values_stay_finite():
    value = torch.tensor([[1e4, -1e4, 0.0], [-1e4, 1e4, 1e4]], requires_grad=True)
    for target in (torch.tensor([0, 0]), torch.full((2, 3), 1 / 3)):
        total, _ = weighted_cross_entropies([value], [target], [1.0])
        (gradient,) = torch.autograd.grad(total, value)
        assert torch.isfinite(total)
        assert torch.isfinite(gradient).all()
        torch.testing.assert_close(total, cross_entropy(value, target))


@pytest.mark.parametrize("options", [{}, {"epsilon": 0.0}, {"smooth_logits": True, "gamma": 2.0}], ids=str)
def test_finest_labels_and_a_label_a_level_take_two_ways_to_one_loss(options):
    """Labels of the finest level take the closed form, labels a level torch's own functions."""
    head, criterion = head_of(SMALL), BiLTLoss(SMALL, **options)
    x, y = batch(6, 5)
    found = []
    for target in (y, SMALL.ancestors[:, y].T):
        loss = criterion(head(x), target)
        found.append([loss, *criterion.last_components, *torch.autograd.grad(loss, list(head.parameters()))])
    for one, two in zip(*found, strict=True):
        torch.testing.assert_close(one, two, rtol=0, atol=1e-12)
    assert found[0][0].grad_fn.name() == "_WeightedBackward"
    assert found[1][0].grad_fn.name() != "_WeightedBackward"


def test_without_aigdl_functional_transforms_go_through():
    """torch.func takes no function with a gradient of its own; without AIGDL there is none."""
    head, criterion = head_of(SMALL, aigdl=False).eval(), BiLTLoss(SMALL)
    x, y = batch(6, 5)
    found = torch.func.grad(lambda features: criterion(head(features), y))(x)
    x.requires_grad_()
    torch.testing.assert_close(found, torch.autograd.grad(criterion(head(x), y), x)[0])


@pytest.mark.parametrize("reentrant", [False, True])
def test_activations_may_be_recomputed_on_the_way_back(reentrant):
    head, criterion = head_of(SMALL).eval(), BiLTLoss(SMALL)
    x, y = batch(6, 5)
    x.requires_grad_()
    free = [x, *head.parameters()]
    expected = torch.autograd.grad(criterion(head(x), y), free)
    checkpoint(lambda features: criterion(head(features), y), x, use_reentrant=reentrant).backward()
    for one, two in zip(free, expected, strict=True):
        torch.testing.assert_close(one.grad, two)
