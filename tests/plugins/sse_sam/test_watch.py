"""What is recorded of an unmodified loop, and when it is let go: resets, evaluation, copies, lifetimes."""

import copy
import gc
import pickle
import weakref

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from graftkit.methods.sse_sam.probes import GradientProbes
from graftkit.torch import SSESAM
from tests.plugins.sse_sam.loops import by_loop, weights
from tests.plugins.sse_sam.watch_cases import BATCHES, net, optimizer_for, watching


@pytest.mark.parametrize("stop", ["step", "exception", "zero_grad"])
def test_references_are_freed(stop):
    model = net()
    optimizer = optimizer_for(model)
    criterion = nn.CrossEntropyLoss()
    optimizer.watch(model, criterion, verify=False)
    x, y = BATCHES[0][0].clone(), BATCHES[0][1]
    alive = weakref.ref(x)
    criterion(model(x), y).backward()
    if stop == "exception":
        x.mul_(2)
        with pytest.raises(RuntimeError, match=r"args\[0\] changed in place"):
            optimizer.step()
    elif stop == "step":
        optimizer.step()
    else:
        optimizer.zero_grad()
    del x
    gc.collect()
    assert alive() is None


def test_forwards_without_backward_do_not_pile_up():
    model = net()
    optimizer = optimizer_for(model)
    optimizer.watch(model, nn.CrossEntropyLoss())
    for x, _ in BATCHES * 5:
        model(x)
    assert len(optimizer._watch.calls) <= 2


def test_zero_grad_between_forward_and_backward_keeps_the_call():
    x, y = BATCHES[0]
    results = []
    for late in (False, True):
        model = net()
        optimizer = optimizer_for(model)
        criterion = nn.CrossEntropyLoss()
        optimizer.watch(model, criterion)
        if not late:
            optimizer.zero_grad()
        loss = criterion(model(x), y)
        if late:
            optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        results.append(weights(model))
    assert torch.equal(*results)


@pytest.mark.parametrize("reset", ["model", "zeros", "parameters"])
@pytest.mark.parametrize("losses", [1, 2])
def test_gradients_that_others_reset_take_their_calls_with_them(reset, losses):
    (x, y), (x2, y2) = BATCHES[0], BATCHES[1]
    model, expected = net(), net()
    criterion = nn.CrossEntropyLoss()
    optimizer, other = (optimizer_for(m, switch_step=9) for m in (model, expected))
    optimizer.watch(model, criterion, verify=False)
    criterion(model(x), y).backward()
    if reset == "parameters":
        for p in model.parameters():
            p.grad = None
    else:
        model.zero_grad(set_to_none=reset == "model")
    sum(criterion(model(x2[k::losses]), y2[k::losses]) for k in range(losses)).backward()
    optimizer.step()
    other.watch(expected, criterion := nn.CrossEntropyLoss(), verify=False)
    sum(criterion(expected(x2[k::losses]), y2[k::losses]) for k in range(losses)).backward()
    other.step()
    assert torch.equal(weights(model), weights(expected))


def test_micro_batches_whose_gradients_are_scaled_in_between_are_all_repeated():
    # Writing to a gradient, or giving up that of one layer, is no reset.
    model = net()
    criterion = nn.CrossEntropyLoss()
    optimizer = optimizer_for(model, switch_step=9)
    optimizer.watch(model, criterion, verify=False)
    forwards = []
    model[0].register_forward_hook(lambda *_: forwards.append(1))
    criterion(model(BATCHES[0][0]), BATCHES[0][1]).backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1e6)
    model[4].bias.grad = None
    criterion(model(BATCHES[1][0]), BATCHES[1][1]).backward()
    optimizer.step()
    assert len(forwards) == 2 + 2 * 3


def test_gradients_that_are_zero_by_themselves_are_not_taken_for_reset_ones():
    p = nn.Parameter(torch.ones(3))
    probes = GradientProbes([p])
    (p * 0).sum().backward()
    p.grad.mul_(1.0)
    assert not probes.reset
    probes.clear()
    p.sum().backward()
    p.grad.mul_(2.0)
    assert not probes.reset
    p.grad.zero_()
    assert probes.reset


def test_evaluation_between_steps_is_not_recorded():
    model = net()
    optimizer = optimizer_for(model)
    criterion = nn.CrossEntropyLoss()
    optimizer.watch(model, criterion)
    x, y = BATCHES[0]
    criterion(model(x), y).backward()
    model.eval()
    criterion(model(x), y)
    model.train()
    with torch.no_grad():
        criterion(model(x), y)
    assert len(optimizer._watch.calls) == 1
    optimizer.step()


def test_copies_and_pickles_of_a_watched_model_carry_no_hook():
    model = net()
    optimizer = optimizer_for(model)
    criterion = nn.CrossEntropyLoss()
    optimizer.watch(model, criterion)
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        other.train()
        criterion(other(BATCHES[0][0]), BATCHES[0][1]).backward()
        assert optimizer._watch.calls == []
    by_loop(optimizer, model, criterion, BATCHES[:1])


@pytest.mark.parametrize("required", [False, True])
def test_a_closure_of_per_sample_losses_runs_as_often_as_without_a_watched_model(required):
    x, y = BATCHES[0]
    forwards = []
    model = nn.Sequential(nn.Linear(5, 8), nn.BatchNorm1d(8), nn.Linear(8, 4)).double()
    model[0].register_forward_hook(lambda *_: forwards.append(1))
    optimizer = SSESAM(model.parameters(), lr=0.5, tail_classes=[3], switch_step=1, model=model)
    optimizer.watch(model, nn.CrossEntropyLoss())
    before = weights(model)

    def losses(index=None):
        rows = slice(None) if index is None else index
        return F.cross_entropy(model(x[rows]), y[rows], reduction="none"), y[rows]

    optimizer.step((lambda index: losses(index)) if required else losses)
    assert len(forwards) == 3
    assert model[1].num_batches_tracked == 1
    assert optimizer.completed_steps == 1
    assert not torch.equal(weights(model), before)


def test_unwatch_removes_every_hook_and_allows_another_optimizer():
    model = net()
    first, second = optimizer_for(model), optimizer_for(model)
    criterion = nn.CrossEntropyLoss()
    first.watch(model, criterion)
    with pytest.raises(RuntimeError, match="watches a model already"):
        first.watch(model, criterion)
    with pytest.raises(RuntimeError, match="already watched by another optimizer"):
        second.watch(model, criterion)
    first.unwatch()
    assert not model._forward_hooks
    assert not criterion._forward_hooks
    second.watch(model, criterion)
    by_loop(second, model, criterion, BATCHES[:1])


@pytest.mark.parametrize("name", ["", "model"])
def test_the_model_itself_as_output_module_is_what_it_returns(name):
    x, y = BATCHES[0]
    results = []
    for given in (False, True):
        model = net()
        optimizer = optimizer_for(model)
        criterion = nn.CrossEntropyLoss()
        optimizer.watch(model, criterion, **({"output_module": name and model} if given else {}))
        for _ in range(2):  # both stages
            optimizer.zero_grad()
            criterion(model(x), y).backward()
            optimizer.step()
        results.append(weights(model))
    assert torch.equal(*results)


def test_a_torch_closure_without_loss_and_gradient_leaves_the_batch_out():
    # Lightning's way: training_step returned None, and torch's optimizers find no gradient to step along.
    model, optimizer, criterion = watching()
    x, y = BATCHES[0]
    before = weights(model)
    assert optimizer.step(lambda: None) is None
    assert optimizer.step(lambda: model(x).sum() and None) is None  # a forward, and then None
    assert optimizer.completed_steps == 0
    assert torch.equal(weights(model), before)

    def forgot_to_return() -> None:
        criterion(model(x), y).backward()

    optimizer.step(forgot_to_return)
    assert optimizer.completed_steps == 1
    with pytest.raises(RuntimeError, match="the model was not called"):
        optimizer.step(lambda: None)  # yesterday's gradients are still there
