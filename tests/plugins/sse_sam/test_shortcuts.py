"""Short cuts of a step are taken only where nobody could tell: hooks, modes, own calls, odd shares."""

import pytest
import torch
from torch import nn

from graftkit.methods.sse_sam.perturbation import PerturbedWeights
from graftkit.torch import SSESAM
from tests.plugins.sse_sam.forms_cases import OPTIONS, data, fresh
from tests.plugins.sse_sam.loops import by_loop

PASSES = 4  # the loop's own; the tail's, at the weights and away; the head's, away


def stepped(model, criterion, **options):
    optimizer = SSESAM(model.parameters(), **OPTIONS)
    optimizer.watch(model, criterion, verify=False, **options)
    by_loop(optimizer, model, criterion, data("mlp")[:1])
    return [p.detach().clone() for p in model.parameters()]


def test_a_hook_after_the_step_alone_is_run():
    ran, (model, batches) = [], (fresh("mlp"), data("mlp"))
    optimizer = SSESAM(model.parameters(), **OPTIONS)
    optimizer.watch(model, nn.CrossEntropyLoss(), verify=False)
    optimizer.register_step_post_hook(lambda *_: ran.append(1))
    by_loop(optimizer, model, optimizer._watch.criterion, batches[:2])
    assert len(ran) == 2


def test_a_model_with_a_call_of_its_own_is_called_by_it():
    ran = []

    class Own(nn.Sequential):
        def __call__(self, *args, **kwargs):
            ran.append(1)
            return super().__call__(*args, **kwargs)

    stepped(Own(*fresh("mlp")), nn.CrossEntropyLoss())
    assert len(ran) == PASSES


def test_a_compiled_call_is_repeated_compiled():
    model, ran = fresh("mlp"), []
    plain = model._call_impl
    model._compiled_call_impl = lambda *args, **kwargs: ran.append(1) or plain(*args, **kwargs)
    stepped(model, nn.CrossEntropyLoss())
    assert len(ran) == PASSES


def test_fractional_shares_of_labelled_samples_weigh_in_subset_passes():
    def stepped_by(tail_pass):
        model, criterion = fresh("mlp"), nn.CrossEntropyLoss()
        optimizer = SSESAM(model.parameters(), **OPTIONS, tail_pass=tail_pass)
        optimizer.watch(model, criterion, membership=lambda y: (y > 1) * 0.25 + (y == 3) * 0.75, verify=False)
        by_loop(optimizer, model, criterion, data("mlp")[:2])
        return list(model.parameters())

    for a, b in zip(stepped_by("subset"), stepped_by("full"), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("foreach", [None, False])
@pytest.mark.parametrize("radii", [(0.1, 0.3), (0.3, 0.1), (0.2, 0.0), (0.0, 0.2), (0.2, 0.2)])
def test_each_group_is_moved_by_its_own_radius(radii, foreach):
    weights, home = [torch.zeros(2), torch.zeros(2)], PerturbedWeights()
    grads = [torch.tensor([3.0, 0.0]), torch.tensor([0.0, 4.0])]
    home.ascend(weights, list(grads), rho=radii, adaptive=[False, False], norm=5.0, eps=0.0, foreach=foreach)
    for w, g, r in zip(weights, grads, radii, strict=True):
        torch.testing.assert_close(w, r * g / 5)
    home.restore()
    assert not any(bool(w.any()) for w in weights)
