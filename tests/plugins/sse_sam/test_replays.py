"""Passes that repeat recorded calls: their random numbers, picked samples, and what clipping does to them."""

from collections import OrderedDict, UserDict
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.plugins.sse_sam.loops import by_loop, weights
from tests.plugins.sse_sam.watch_cases import BATCHES, net, optimizer_for, watching


@pytest.mark.parametrize("factor", [0.05, 1.0])
def test_clipping_by_norm_scales_the_final_gradient_alike(factor):
    x, y = BATCHES[0]
    grads = []
    for clip in (False, True):
        model = net()
        optimizer = optimizer_for(model, switch_step=9)
        criterion = nn.CrossEntropyLoss()
        optimizer.watch(model, criterion)
        criterion(model(x), y).backward()
        if clip:
            total = torch.nn.utils.get_total_norm([p.grad for p in model.parameters()])
            torch.nn.utils.clip_grad_norm_(model.parameters(), float(total) * factor)
        optimizer.step()
        grads.append(torch.cat([p.grad.flatten() for p in model.parameters()]))
    # clip_grad_norm_ adds 1e-6 to the norm that it divides by.
    torch.testing.assert_close(grads[1], factor * grads[0], rtol=1e-5, atol=1e-9)


def test_clipping_by_value_is_refused_with_the_place_where_it_belongs():
    model = net()
    optimizer = optimizer_for(model)
    criterion = nn.CrossEntropyLoss()
    optimizer.watch(model, criterion, verify=False)  # which would notice too, once
    x, y = BATCHES[0]
    criterion(model(x), y).backward()
    torch.nn.utils.clip_grad_value_(model.parameters(), 1e-3)
    with pytest.raises(RuntimeError, match=r"more than a common factor.*register_step_pre_hook"):
        optimizer.step()


def test_replays_use_the_recorded_random_numbers_and_leave_the_stream_alone():
    x, y = BATCHES[0]
    streams = []
    for sharp in (True, False):
        model = net(dropout=0.5)
        optimizer = (
            optimizer_for(model, switch_step=0) if sharp else torch.optim.SGD(model.parameters(), lr=0.5)
        )
        criterion = nn.CrossEntropyLoss()
        if sharp:
            optimizer.watch(model, criterion)
        torch.manual_seed(5)
        by_loop(optimizer, model, criterion, [(x, y)])
        streams.append(torch.rand(3))
    assert torch.equal(*streams)


def test_stage_2_with_dropout_is_unbiased_and_less_noisy_than_fresh_masks():
    # The mean of g + [g_T(w + eps) - g_T(w)] over masks is that of g_H(w) + g_T(w + eps); with one set of
    # random numbers the difference adds little noise to g's own.
    x, y = BATCHES[0][0][:6], BATCHES[0][1][:6]
    n = 250
    samples = {"watched": [], "plain": [], "fresh": []}
    torch.manual_seed(0)
    for _ in range(n):
        model = net(dropout=0.3)
        optimizer = optimizer_for(model, switch_step=0, rho=(0.0, 0.02))
        criterion = nn.CrossEntropyLoss()
        optimizer.watch(model, criterion)
        criterion(model(x), y).backward()
        samples["plain"].append(torch.cat([p.grad.flatten().clone() for p in model.parameters()]))
        optimizer.step()
        samples["watched"].append(torch.cat([p.grad.flatten() for p in model.parameters()]))
        model = net(dropout=0.3)
        optimizer = optimizer_for(model, switch_step=0, rho=(0.0, 0.02))
        optimizer.step(lambda model=model: (F.cross_entropy(model(x), y, reduction="none"), y))
        samples["fresh"].append(torch.cat([p.grad.flatten() for p in model.parameters()]))
    stacked = {key: torch.stack(value) for key, value in samples.items()}
    gap = stacked["watched"].mean(0) - stacked["fresh"].mean(0)
    error = ((stacked["watched"].var(0) + stacked["fresh"].var(0)) / n).sqrt()
    used = error > 0
    assert ((gap / error)[used].square().mean()) < 2.0  # a chi-square mean of 1 if unbiased
    noise = (stacked["watched"] - stacked["plain"]).var(0).sum() / stacked["plain"].var(0).sum()
    assert noise < 0.05


def test_full_replay_with_dropout_repeats_the_users_gradient():
    # Full passes draw exactly the user's masks: verification, which compares gradients, passes.
    model = net(dropout=0.5)
    optimizer = optimizer_for(model, tail_pass="full")
    criterion = nn.CrossEntropyLoss()
    optimizer.watch(model, criterion)
    by_loop(optimizer, model, criterion, BATCHES)
    assert optimizer.completed_steps == 3


class Unpacking(nn.Module):
    """Takes its tensor out of what a loader made."""

    def __init__(self) -> None:
        super().__init__()
        self.body = net()

    def forward(self, batch: object) -> Tensor:
        return self.body(batch.x if isinstance(batch, SimpleNamespace) else batch["x"])


@pytest.mark.parametrize("kind", [dict, OrderedDict, UserDict])
def test_samples_are_picked_inside_mappings_of_any_kind(kind):
    x, y = BATCHES[0]
    model, expected = Unpacking(), Unpacking()
    criterion = nn.CrossEntropyLoss()
    for m, tail_pass in ((model, "subset"), (expected, "full")):
        optimizer = optimizer_for(m, switch_step=0, tail_pass=tail_pass)
        optimizer.watch(m, criterion)
        batch = kind({"x": x, "id": "a"})
        criterion(m(batch), y).backward()
        optimizer.step()
        optimizer.unwatch()
        assert batch["x"] is x
    torch.testing.assert_close(weights(model), weights(expected), rtol=0, atol=1e-12)


def test_arguments_whose_samples_cannot_be_picked_are_told_about_full_passes():
    model, optimizer, criterion = watching(Unpacking())
    x, y = BATCHES[0]
    before = weights(model)
    criterion(model(SimpleNamespace(x=x)), y).backward()
    with pytest.raises(RuntimeError, match=r"tail_pass: on \d of 12 samples .*tail_pass='full'"):
        optimizer.step()
    assert torch.equal(weights(model), before)


def test_a_pass_that_raises_leaves_the_weights_bitwise():
    model = net()
    optimizer = optimizer_for(model)
    criterion = nn.CrossEntropyLoss()
    optimizer.watch(model, criterion, verify=False)
    before = weights(model)
    calls = []

    def explode(module, args):
        del module
        calls.append(len(args[0]))
        if len(calls) == 3:
            raise ZeroDivisionError("in the pass away from the weights")

    model[0].register_forward_pre_hook(explode)
    criterion(model(BATCHES[0][0]), BATCHES[0][1]).backward()
    with pytest.raises(ZeroDivisionError, match="away from the weights"):
        optimizer.step()
    assert torch.equal(weights(model), before)
    assert optimizer.completed_steps == 0


class PartlyUsed(nn.Module):
    """Modules behind the used ones, as a decoder that only the pre-training needs."""

    def __init__(self) -> None:
        super().__init__()
        self.body = net()
        self.unused = nn.ModuleList(nn.Linear(2, 2).double() for _ in range(7))

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x)


def clipped_step(model, optimizer, criterion, *, set_to_none: bool = True) -> Tensor:
    x, y = BATCHES[0]
    optimizer.zero_grad(set_to_none)
    criterion(model(x), y).backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1e-3)
    optimizer.step()
    return torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])


@pytest.mark.parametrize("stage", [1, 2])
def test_clipping_is_seen_where_the_last_modules_have_no_part_in_the_loss(stage):
    model, optimizer, criterion = watching(PartlyUsed())
    optimizer.stage = stage
    # The sharpness-aware gradient is longer than the user's own, which was cut to 1e-3.
    assert clipped_step(model, optimizer, criterion).norm() < 2e-3


@pytest.mark.parametrize("set_to_none", [True, False])
def test_clipping_is_seen_after_the_followed_parameters_were_frozen(set_to_none):
    model, optimizer, criterion = watching(net())
    optimizer.stage = 2
    followed = list(optimizer._watch.probes._probes)
    clipped_step(model, optimizer, criterion)
    for p in followed:
        p.requires_grad_(False)
    clipped_step(model, optimizer, criterion, set_to_none=set_to_none)  # in which others are found
    assert clipped_step(model, optimizer, criterion, set_to_none=set_to_none).norm() < 2e-3
    assert not {id(p) for p in followed} & {id(p) for p in optimizer._watch.probes._probes}
