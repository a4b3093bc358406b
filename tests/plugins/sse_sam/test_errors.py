"""Bad input: specification section 5.4. After any error the weights are bitwise what they were."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from graftkit.torch import SSESAM
from tests.plugins.sse_sam.loops import mixed_batches, weights

X, Y = mixed_batches(n=1)[0]


def net() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, 4)).double()


def build(module: nn.Module, **kwargs) -> SSESAM:
    return SSESAM(module.parameters(), **{"lr": 0.1, "tail_classes": [3], "switch_step": 3, **kwargs})


@pytest.mark.parametrize(
    ("kwargs", "error", "words"),
    [
        ({"rho": -0.1}, ValueError, "rho"),
        ({"rho": float("nan")}, ValueError, "rho"),
        ({"rho": (0.1, float("inf"))}, ValueError, "rho"),
        ({"rho": (0.1, 0.1, 0.1)}, ValueError, "rho"),
        ({"rho": "0.1"}, TypeError, "rho"),
        ({"tail_classes": None}, ValueError, "tail_classes.*class_counts.*tail_threshold"),
        ({"class_counts": [9, 1, 1, 1], "tail_threshold": 3}, ValueError, "tail_classes.*tail_threshold"),
        ({"tail_classes": None, "class_counts": [9, 1]}, ValueError, "tail_threshold"),
        ({"tail_classes": None, "tail_threshold": 3}, ValueError, "class_counts"),
        ({"tail_classes": [-1]}, ValueError, "tail_classes"),
        ({"tail_classes": [1.5]}, ValueError, "tail_classes"),
        ({"tail_classes": [2, 2]}, ValueError, "tail_classes"),
        ({"tail_classes": [5], "class_counts": [3, 2]}, ValueError, "tail_classes"),
        ({"tail_classes": None, "class_counts": [3, -2], "tail_threshold": 3}, ValueError, "class_counts"),
        ({"gamma": 1.5, "switch_step": None}, ValueError, "gamma"),
        ({"gamma": -0.1, "switch_step": None}, ValueError, "gamma"),
        ({"switch_step": None}, ValueError, "total_steps"),
        ({"switch_step": -1}, ValueError, "switch_step"),
        ({"stage1": "spilt"}, ValueError, "Did you mean 'split'"),
        ({"tail_pass": "half"}, ValueError, "tail_pass"),
        ({"tail_weight": -1.0}, ValueError, "tail_weight"),
        ({"perturb_eps": float("nan")}, ValueError, "perturb_eps"),
        ({"adaptive": 1}, TypeError, "adaptive"),
        ({"foreach": "yes"}, TypeError, "foreach"),
        ({"lr": -1.0}, ValueError, "learning rate"),
        ({"base_optimizer": torch.optim.SGD(net().parameters())}, TypeError, "from_optimizer"),
        ({"base_optimizer": torch.optim.LBFGS}, ValueError, "LBFGS"),
        ({"base_optimizer": 3}, TypeError, "base_optimizer"),
        ({"nesterof": True}, TypeError, "nesterof"),
    ],
)  # fmt: skip
def test_constructor(kwargs, error, words):
    with pytest.raises(error, match=words):
        build(net(), **kwargs)


@pytest.mark.parametrize(("tail", "words"), [([], "no tail class"), ([0, 1], "every class")])
def test_degenerate_tails_warn(tail, words):
    with pytest.warns(UserWarning, match=words):
        build(net(), tail_classes=tail, class_counts=[5, 5])


def test_step_alone_shows_the_three_ways():
    with pytest.raises(RuntimeError, match=r"(?s)closure.*watch.*first_step"):
        build(net()).step()


def test_backward_without_watch_never_becomes_a_base_step():
    model = net()
    optimizer = build(model)
    before = weights(model)
    F.cross_entropy(model(X), Y).backward()
    with pytest.raises(RuntimeError, match="three ways"):
        optimizer.step()
    assert torch.equal(weights(model), before)


def losses(model):
    return F.cross_entropy(model(X), Y, reduction="none")


@pytest.mark.parametrize(
    ("closure", "error", "words"),
    [
        (lambda m: (losses(m).mean(), Y), TypeError, r"per-sample losses.*reduction='none'"),
        (lambda m: losses(m).mean(), TypeError, "per-sample losses"),
        (lambda m: (losses(m).detach(), Y), RuntimeError, "does not require grad"),
        (lambda m: (losses(m), Y[:3]), ValueError, r"\(3,\).*\(12,\)"),
        (lambda m: (losses(m), Y.double()), ValueError, "membership"),
        (lambda m: (losses(m), Y - 1), ValueError, "targets"),
        (lambda m: (losses(m), Y.tolist()), TypeError, "targets"),
        (lambda m: (losses(m)[:0], Y[:0]), ValueError, "empty batch"),
        (lambda m: (losses(m).long(), Y), TypeError, "floating"),
        (lambda m: (losses(m) * float("nan"), Y), RuntimeError, "non-finite gradient"),
    ],
)
def test_closures(closure, error, words):
    model = net()
    optimizer = build(model)
    before = weights(model)
    with pytest.raises(error, match=words):
        optimizer.step(lambda: closure(model))
    assert torch.equal(weights(model), before)
    assert optimizer.completed_steps == 0
    optimizer.step(lambda: (losses(model), Y))


@pytest.mark.parametrize("at_call", [1, 2, 3])
def test_an_exception_in_any_pass_leaves_the_weights_bitwise(at_call):
    model = net()
    optimizer = build(model)
    before = weights(model)
    calls = []

    def closure():
        calls.append(1)
        if len(calls) == at_call:
            raise KeyError("loader")
        return losses(model), Y

    with pytest.raises(KeyError, match="loader"):
        optimizer.step(closure)
    assert torch.equal(weights(model), before)
    assert not optimizer.is_perturbed


def test_arguments_that_bind_a_loops_batch_are_no_index():
    model, expected = net(), net()
    optimizer = build(model, model=model)
    optimizer.step(lambda x=X, y=Y: (F.cross_entropy(model(x), y, reduction="none"), y))
    build(expected).step(lambda: (losses(expected), Y))
    assert torch.equal(weights(model), weights(expected))
    with pytest.raises(ValueError, match=r"closure\(index=None\)"):
        build(model, tail_pass="subset").step(lambda x=X: (F.cross_entropy(model(x), Y, reduction="none"), Y))


def test_zero_gradient_is_no_error():
    model = net()
    optimizer = build(model, weight_decay=0.5)
    optimizer.step(lambda: (losses(model) * 0, Y))
    assert optimizer.completed_steps == 1


def test_labels_beyond_class_counts():
    model = net()
    optimizer = build(model, tail_classes=None, class_counts=[9, 1], tail_threshold=3)
    with pytest.raises(ValueError, match=r"targets: .*\[0, 2\)"):
        optimizer.step(lambda: (losses(model), Y))


def test_subset_needs_an_index_and_uncoupled_modules():
    model = net()
    with pytest.raises(ValueError, match="index"):
        build(model, tail_pass="subset").step(lambda: (losses(model), Y))
    coupled = nn.Sequential(nn.Linear(5, 4), nn.BatchNorm1d(4)).double()
    optimizer = build(coupled, tail_pass="subset", model=coupled)
    with pytest.raises(ValueError, match="samples meet: 1"):
        optimizer.step(lambda index=None: (losses(coupled), Y))  # noqa: ARG005
    optimizer.watch(coupled, criterion := nn.CrossEntropyLoss())
    criterion(coupled(X), Y).backward()
    with pytest.raises(ValueError, match="samples meet: 1"):
        optimizer.step()


def test_explicit_form_misused():
    model = net()
    optimizer = build(model)
    with pytest.raises(TypeError, match=r"first_step\(losses, targets\)"):
        optimizer.first_step(zero_grad=True)
    with pytest.raises(TypeError, match="per-sample"):
        optimizer.first_step(losses(model).mean(), Y)
    with pytest.raises(RuntimeError, match=r"perturbed\('tail'\): first_step has not been called"):
        optimizer.perturbed("tail").__enter__()
    with pytest.raises(RuntimeError, match="second_step"):
        optimizer.second_step(losses(model), Y)
    before = weights(model)
    optimizer.first_step(losses(model), Y)
    with pytest.raises(RuntimeError, match=r"perturbed\('all'\)"):
        optimizer.perturbed("all").__enter__()
    with optimizer.perturbed("head"):
        assert optimizer.is_perturbed
        assert not torch.equal(weights(model), before)
        with pytest.raises(RuntimeError, match="perturbed already"):
            optimizer.perturbed("tail").__enter__()
        with pytest.raises(RuntimeError, match="perturbed"):
            optimizer.step()
        optimizer.second_step(losses(model), Y)
    assert torch.equal(weights(model), before)
    with pytest.raises(RuntimeError, match=r"perturbed\('head'\)"):
        optimizer.perturbed("head").__enter__()
    with pytest.raises(RuntimeError, match="second_step is missing for tail"):
        optimizer.step()
    with pytest.raises(RuntimeError, match="non-finite"):
        optimizer.first_step(losses(model) * float("inf"), Y)
    assert optimizer.parts == ()


@pytest.mark.parametrize("waiting", ["explicit", "accumulated"])
def test_a_batch_that_waits_for_its_step_is_not_lost(waiting):
    model = net()
    optimizer = build(model)
    if waiting == "explicit":
        optimizer.first_step(losses(model), Y)
        optimizer.first_step(losses(model), Y)  # its passes were not run: given up
        for part in optimizer.parts:
            with optimizer.perturbed(part):
                optimizer.second_step(losses(model), Y)
    else:
        optimizer.accumulate(lambda: (losses(model), Y))
    with pytest.raises(RuntimeError, match=r"first_step: another batch waits.*accumulate\(closure"):
        optimizer.first_step(losses(model), Y)
    optimizer.step()
    assert optimizer.completed_steps == 1
    optimizer.first_step(losses(model), Y)
    with pytest.raises(RuntimeError, match="accumulate: a first_step is pending"):
        optimizer.accumulate(lambda: (losses(model), Y))
    with pytest.raises(RuntimeError, match="first_step or accumulate is pending"):
        optimizer.step(lambda: (losses(model), Y))


def test_an_exception_inside_perturbed_brings_the_weights_home():
    model = net()
    optimizer = build(model)
    before = weights(model)
    optimizer.first_step(losses(model), Y)
    with pytest.raises(ZeroDivisionError, match="inside"), optimizer.perturbed("tail"):
        raise ZeroDivisionError("inside")
    assert torch.equal(weights(model), before)


@pytest.mark.parametrize("part", ["head", "tail"])
def test_an_explicit_pass_that_is_not_finite_never_reaches_the_weights(part):
    model = net()
    optimizer = build(model)
    before = weights(model)
    optimizer.first_step(losses(model), Y)
    for moved in optimizer.parts:
        with optimizer.perturbed(moved):
            optimizer.second_step(losses(model) * (float("inf") if moved == part else 1.0), Y)
    with pytest.raises(RuntimeError, match="non-finite gradient"):
        optimizer.step()
    assert torch.equal(weights(model), before)
    assert optimizer.completed_steps == 0


def test_backward_through_a_graph_from_before_the_perturbation_is_noticed():
    model = net()
    optimizer = build(model)
    old = losses(model)
    optimizer.first_step(losses(model), Y)
    with optimizer.perturbed("tail"), pytest.raises(RuntimeError, match="modified by an inplace operation"):
        optimizer.second_step(old, Y)


@pytest.mark.parametrize("rho", [0.0, 0.1])
def test_a_gradient_that_is_not_finite_stops_before_any_repeat_and_without_any_radius(rho):
    model = net()
    optimizer = build(model, rho=rho)
    before = weights(model)
    calls = []

    def closure():
        calls.append(1)
        return losses(model) * float("nan"), Y

    with pytest.raises(RuntimeError, match="non-finite gradient"):
        optimizer.step(closure)
    assert len(calls) == 1
    assert torch.equal(weights(model), before)


def test_radii_of_the_stage():
    optimizer = build(net(), switch_step=9)
    assert optimizer.radius("head") == [0.05] * 4
    assert optimizer.radius("tail") == [0.10] * 4
    optimizer.stage = 2
    assert optimizer.radius("head") == [0.0] * 4
    assert optimizer.radius("tail") == [0.10] * 4
