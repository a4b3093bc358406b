"""Nothing that a step has looked up survives into the next one: changes between steps take effect at once."""

import copy
import inspect
import pickle

import pytest
import torch
from torch import nn
from torch.optim.optimizer import register_optimizer_step_post_hook

from graftkit.methods.sse_sam.classes import Membership
from graftkit.methods.sse_sam.coupling import coupled_modules, has_statistics, modules_of
from graftkit.methods.sse_sam.gradients import differentiate
from graftkit.methods.sse_sam.parts import OnePart
from graftkit.methods.sse_sam.perturbation import all_finite, gradient_norm, norm_value
from graftkit.methods.sse_sam.structures import Versions
from graftkit.torch import SSESAM
from tests.plugins.sse_sam.forms_cases import OPTIONS, data, fresh
from tests.plugins.sse_sam.loops import by_closure, by_loop

EACH = nn.CrossEntropyLoss(reduction="none")


def run(optimizer, model, form, batches):
    if form == "loop":
        if optimizer._watch is None:
            optimizer.watch(model, nn.CrossEntropyLoss(), verify=False)
        by_loop(optimizer, model, optimizer._watch.criterion, batches)
    else:
        by_closure(optimizer, model, EACH, batches, targets=True)


def add_group(optimizer, model):
    optimizer.add_param_group({"params": model.late.parameters(), "rho_tail": 0.3, "lr": 0.02})


def other_radii(optimizer, _model):
    optimizer.param_groups[0].update(rho_head=0.3, rho_tail=0.01, adaptive=True)


def freeze(_optimizer, model):
    model[0].weight.requires_grad_(False)
    model[0].weight.grad = None


def thaw_after_freeze(optimizer, model):
    freeze(optimizer, model)
    run(optimizer, model, "closure", data("mlp")[:1])
    model[0].weight.requires_grad_(True)


def other_data(_optimizer, model):
    model[0].weight.data = model[0].weight.data * 0.5


def other_dtype(optimizer, model):
    model.float()
    for state in optimizer.state.values():
        state["momentum_buffer"] = state["momentum_buffer"].float()


def other_layout(_optimizer, model):
    model[0].weight.data = model[0].weight.data.t().contiguous().t()


def other_shape(optimizer, model):
    model[2].weight.data = torch.cat([model[2].weight.data, torch.ones(2, 8, dtype=torch.float64)])
    model[2].bias.data = torch.cat([model[2].bias.data, torch.ones(2, dtype=torch.float64)])
    for p in (model[2].weight, model[2].bias):
        p.grad = None
        del optimizer.state[p]


def loaded(optimizer, _model):
    state = copy.deepcopy(optimizer.state_dict())
    state["param_groups"][0].update(rho_head=0.2, lr=0.03, completed_steps=0, switch_step=1)
    optimizer.load_state_dict(state)


def with_batch_norm(_optimizer, model):
    model[1] = nn.BatchNorm1d(8, affine=False).double()


CHANGES = [
    add_group, other_radii, freeze, thaw_after_freeze, other_data, other_dtype, other_layout, other_shape,
    loaded, with_batch_norm,
]  # fmt: skip


@pytest.mark.parametrize("form", ["closure", "loop"])
@pytest.mark.parametrize("change", CHANGES)
def test_a_change_between_steps_equals_an_optimizer_built_after_it(change, form):
    model = fresh("mlp")
    if change is add_group:
        model.late = nn.Linear(4, 4).double()
    batches = data("mlp", n=6)
    first = [p for name, p in model.named_parameters() if not name.startswith("late")]
    optimizer = SSESAM(first, **{**OPTIONS, "switch_step": 4}, model=model)
    run(optimizer, model, form, batches[:3])
    change(optimizer, model)
    twin = copy.deepcopy(model)
    for module in twin.modules():  # the watch's hooks stay behind, inert
        module._forward_hooks.clear()
        module._forward_pre_hooks.clear()
    groups, state = copy.deepcopy(optimizer.state_dict()["param_groups"]), optimizer.state_dict()
    parameters = iter(twin.parameters())
    news = [{"params": [next(parameters) for _ in group["params"]]} for group in groups]
    other = SSESAM(news, **{**OPTIONS, "switch_step": 4}, model=twin)
    other.load_state_dict(copy.deepcopy(state))
    rest = [(x.to(model[0].weight.dtype), y) for x, y in batches[3:]]
    if form == "loop" and change in (other_dtype, add_group):
        optimizer.unwatch()  # a watch follows the parameters that it was started with
    run(optimizer, model, form, rest)
    run(other, twin, form, rest)
    before = [p.detach().clone() for p in fresh("mlp").parameters()]
    assert any(not torch.equal(a, b.to(a.dtype)) for a, b in zip(model.parameters(), before, strict=False)
               if a.shape == b.shape)  # fmt: skip
    for a, b in zip(model.parameters(), twin.parameters(), strict=True):
        assert a.dtype == b.dtype
        assert torch.equal(a, b)


@pytest.mark.parametrize("form", ["closure", "loop"])
@pytest.mark.parametrize("copier", [copy.deepcopy, lambda pair: pickle.loads(pickle.dumps(pair))])
def test_a_copy_after_steps_goes_on_as_the_original_does(copier, form):
    model, batches = fresh("mlp"), data("mlp")
    optimizer = SSESAM(model.parameters(), **OPTIONS, model=model)
    run(optimizer, model, "closure", batches[:2])
    twin, other = copier((model, optimizer))
    run(optimizer, model, form, batches[2:])
    run(other, twin, form, batches[2:])
    for a, b in zip(model.parameters(), twin.parameters(), strict=True):
        assert torch.equal(a, b)


def test_a_layer_that_couples_samples_is_noticed_in_the_step_after():
    model, (batch, *_) = fresh("mlp"), data("mlp")
    optimizer = SSESAM(model.parameters(), **OPTIONS, model=model, tail_pass="subset")
    run(optimizer, model, "closure", [batch])
    with_batch_norm(optimizer, model)
    with pytest.raises(ValueError, match="samples meet: 1"):
        run(optimizer, model, "closure", [batch])


@pytest.mark.parametrize("tail_weight", [1.0, 2.0])
@pytest.mark.parametrize("as_announced", [True, False])
def test_targets_are_trusted_only_where_they_are_those_announced(as_announced, tail_weight, monkeypatch):
    x, y = data("mlp")[0]
    returned = y if as_announced else (y + 1) % 4

    def stepped():
        model = fresh("mlp")
        options = {**OPTIONS, "tail_pass": "subset", "tail_weight": tail_weight}
        optimizer = SSESAM(model.parameters(), **options, model=model)

        def closure(index):
            return EACH(model(x[index]), returned[index]), returned[index]

        loss = optimizer.step(closure, targets=y)
        return [loss, *(p.detach().clone() for p in model.parameters())]

    found = stepped()
    monkeypatch.setattr(OnePart, "are", lambda *_: False)
    for a, b in zip(found, stepped(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-14)


def test_the_users_hooks_run_in_repeated_passes_too():
    seen = {"model": 0, "criterion": 0}
    model, criterion = fresh("mlp"), nn.CrossEntropyLoss()
    optimizer = SSESAM(model.parameters(), **OPTIONS)
    optimizer.watch(model, criterion, verify=False)
    by_loop(optimizer, model, criterion, data("mlp")[:1])
    model.register_forward_hook(lambda *_: seen.update(model=seen["model"] + 1))
    criterion.register_forward_pre_hook(lambda *_: seen.update(criterion=seen["criterion"] + 1))
    by_loop(optimizer, model, criterion, data("mlp")[:1])
    assert seen["model"] == 4  # the loop's own; the tail's, twice; the head's
    assert seen["criterion"] == 4


def test_a_global_hook_sees_repeated_passes():
    seen = []
    model, criterion = fresh("mlp"), nn.CrossEntropyLoss()
    optimizer = SSESAM(model.parameters(), **OPTIONS)
    optimizer.watch(model, criterion, verify=False)
    handle = nn.modules.module.register_module_forward_hook(lambda module, *_: seen.append(module))
    try:
        by_loop(optimizer, model, criterion, data("mlp")[:1])
    finally:
        handle.remove()
    assert seen.count(model) == 4


def test_the_profiler_sees_the_step_and_hooks_may_change_its_arguments():
    model, batches = fresh("mlp"), data("mlp")
    optimizer = SSESAM(model.parameters(), **OPTIONS, model=model)
    with torch.profiler.profile() as profile:
        run(optimizer, model, "closure", batches[:1])
    assert "Optimizer.step#SSESAM.step" in {event.key for event in profile.key_averages()}
    ran = []
    handle = optimizer.register_step_pre_hook(lambda _, args, kwargs: ((args[0], args[1][0]), kwargs))
    x, y = batches[0]
    assert optimizer.step([lambda: (EACH(model(x), y), y)]) is not None  # the hook unpacks the list
    handle.remove()
    handle = register_optimizer_step_post_hook(lambda *_: ran.append("global"))
    try:
        run(optimizer, model, "closure", batches[:1])
    finally:
        handle.remove()
    run(optimizer, model, "closure", batches[:1])
    assert ran == ["global", "global"]  # this optimizer's step and its base's, while it was registered


def test_hooks_see_the_arguments_as_they_were_given():
    model, (batch, *_) = fresh("mlp"), data("mlp")
    optimizer = SSESAM(model.parameters(), **OPTIONS, model=model)
    seen = []
    for register in (optimizer.register_step_pre_hook, optimizer.register_step_post_hook):
        register(lambda me, args, kwargs: seen.append((me is args[0], len(args), sorted(kwargs))))

    def closure():
        return EACH(model(batch[0]), batch[1]), batch[1]

    optimizer.step(closure)
    optimizer.step(closure=closure, targets=None)
    optimizer.watch(model, nn.CrossEntropyLoss(), verify=False)
    by_loop(optimizer, model, optimizer._watch.criterion, [batch])
    assert seen == [(True, 2, [])] * 2 + [(True, 1, ["closure", "targets"])] * 2 + [(True, 1, [])] * 2
    assert list(inspect.signature(optimizer.step).parameters) == ["closure", "targets", "scaler"]


def test_a_mode_that_overrides_torchs_functions_sees_gradients():
    seen = []

    class Mode(torch.overrides.TorchFunctionMode):
        def __torch_function__(self, function, types, args=(), kwargs=None):
            seen.append(function)
            return function(*args, **(kwargs or {}))

    w, seed = torch.ones(2, requires_grad=True), torch.ones(2)
    out = w * 3
    with Mode():
        (found,) = differentiate([out], [seed], [w])
    assert torch.autograd.grad in seen
    assert found.tolist() == [3.0, 3.0]


def test_the_check_for_finite_gradients_changes_no_bit():
    values = torch.tensor([1e-42, -0.0, 3e18, 1e-20, -5.0])
    params = [torch.zeros(5), torch.zeros(5)]
    for dtype in (torch.float32, torch.float64, torch.bfloat16):
        grads = [values.to(dtype), values.flip(0).to(dtype)]
        before = [g.clone() for g in grads]
        assert all_finite(params, grads)
        for a, b in zip(grads, before, strict=True):
            assert torch.equal(a.signbit(), b.signbit())
            assert torch.equal(a, b)
    for bad in (float("nan"), float("inf"), -float("inf")):
        for foreach in (None, False):
            assert not all_finite(params, [values, torch.tensor([0.0, bad])], foreach)
            assert not all_finite(params, [torch.tensor([bad, 1.0]), None], foreach)
    assert not all_finite(params, [torch.ones(2), torch.full((2,), float("nan"), dtype=torch.float64)])
    assert all_finite(params, [torch.ones(2, dtype=torch.complex64)])
    assert all_finite(params, [None, None])


def test_a_norm_as_a_number_is_the_norm():
    params = [torch.zeros(3, dtype=torch.float64) for _ in range(20)]
    grads = [torch.full((3,), float(i), dtype=torch.float64) for i in range(20)]
    for n in (1, 5, 20):
        for foreach in (None, False):
            expected = sum(3 * i**2 for i in range(n)) ** 0.5
            arguments = params[:n], grads[:n], (), foreach
            assert norm_value(*arguments) == pytest.approx(expected, rel=1e-14)
            assert float(gradient_norm(*arguments)) == pytest.approx(expected, rel=1e-14)
    assert norm_value(params[:1], [None], ()) == 0.0


class Marked(torch.Tensor):
    """A tensor type that overrides torch's functions, by inheriting how."""


def test_gradients_by_the_engine_are_autograds():
    w = torch.randn(3, dtype=torch.float64, requires_grad=True)
    unused = torch.ones(2, requires_grad=True)
    seed = torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64)
    found = differentiate([w.exp()], [seed], [w, unused])
    assert torch.equal(found[0], torch.autograd.grad(w.exp(), w, seed)[0])
    assert found[1] is None
    assert torch.equal(differentiate([w.exp().sum()], [None], [w])[0], w.exp())
    marked = torch.ones(3, dtype=torch.float64).as_subclass(Marked).requires_grad_()
    assert torch.equal(differentiate([(marked * 2).sum()], [None], [marked])[0], torch.full_like(w, 2.0))
    loss = w.square()
    differentiate([loss], [seed], [w], retain_graph=True)
    differentiate([loss], [seed], [w])
    with pytest.raises(RuntimeError, match="second time"):
        differentiate([loss], [seed], [w])


def test_modules_are_all_listed_once():
    shared = nn.Linear(2, 2)
    model = nn.Sequential(shared, nn.Sequential(shared, nn.BatchNorm1d(2)), nn.ModuleList([nn.Tanh()]))
    model.register_module("none", None)
    found = modules_of(model)
    assert found[0] is model
    assert set(found) == set(model.modules())
    assert len(found) == len(set(found))
    assert has_statistics(model)
    assert not has_statistics(shared)


def test_marks_of_coupled_modules_are_found_wherever_they_are():
    class ByClass(nn.Module):
        couples_samples = True

    class ByProperty(nn.Module):
        @property
        def couples_samples(self):
            return True

    class ByLookup(nn.Module):
        def __getattr__(self, name):
            return True if name == "couples_samples" else super().__getattr__(name)

    by_instance, plain = nn.Linear(1, 1), nn.Linear(1, 1)
    by_instance.couples_samples = True
    model = nn.Sequential(ByClass(), ByProperty(), ByLookup(), by_instance, plain)
    assert coupled_modules(model) == ["0", "1", "2", "3"]
    by_instance.couples_samples = False
    assert coupled_modules(model) == ["0", "1", "2"]


@pytest.mark.parametrize("dtype", [torch.int64, torch.int32, torch.uint8, torch.int16])
def test_labels_are_looked_up_alike_with_and_without_ignored_ones(dtype):
    tail = Membership([1, 3])
    labels = torch.tensor([[0, 1], [3, 7]], dtype=dtype)
    expected = torch.tensor([[False, True], [True, False]])
    assert torch.equal(tail.of_labels(labels), expected)
    assert torch.equal(tail.of_labels(labels, 7), expected)
    assert torch.equal(tail.of_labels(labels, 3), torch.tensor([[False, True], [False, False]]))
    assert tail.of_labels(labels).dtype == torch.bool
    with pytest.raises(ValueError, match="labels from 0 to 7"):
        Membership([1, 3], n_classes=7).of_labels(labels)
    if dtype != torch.uint8:
        with pytest.raises(ValueError, match="labels from -1 to 3"):
            tail.of_labels(torch.tensor([-1, 3], dtype=dtype))
    assert torch.equal(tail.of_labels(torch.tensor([2**40, 3])), torch.tensor([False, True]))


def test_what_changed_is_spelled_out_only_then():
    a, b = torch.zeros(1), torch.zeros(1)
    versions = Versions({"args": ({"image": a, "name": "x", "none": None}, [b]), "mask": b})
    assert versions.changed() == []
    a += 1
    assert versions.changed() == ["args[0]['image']"]
