"""One optimizer to the outside: shared groups and state, resume in mid-stage, copies, groups, schedulers."""

import copy
import pickle
import warnings

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from graftkit.torch import SSESAM
from tests.plugins.sse_sam.loops import by_loop, mixed_batches, weights

BATCHES = mixed_batches(n=6)
BASES = {
    "sgd": (torch.optim.SGD, {"lr": 0.1, "momentum": 0.9}),
    "adamw": (torch.optim.AdamW, {"lr": 0.01, "weight_decay": 0.1}),
    "plain": (torch.optim.Adam, {"lr": 0.01, "foreach": False}),
}


def net(seed: int = 0) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, 4)).double()


def build(model: nn.Module, base: str = "sgd", **kwargs) -> SSESAM:
    cls, options = BASES[base]
    return SSESAM(model.parameters(), cls, **{**options, "tail_classes": [3], "switch_step": 3, **kwargs})


def steps(optimizer: SSESAM, model: nn.Module, batches) -> None:
    for x, y in batches:
        optimizer.step(lambda x=x, y=y: (F.cross_entropy(model(x), y, reduction="none"), y))


@pytest.mark.parametrize("base", BASES)
@pytest.mark.parametrize("saved_at", [1, 3, 5])
@pytest.mark.parametrize("way", ["state_dict", "torch.save"])
def test_resume_is_bit_equal_before_at_and_after_the_switch(base, saved_at, way, tmp_path):
    model = net()
    optimizer = build(model, base)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 2, 0.5)
    for k, batch in enumerate(BATCHES):
        if k == saved_at:
            state = {"m": model.state_dict(), "o": optimizer.state_dict(), "s": scheduler.state_dict()}
            if way == "state_dict":
                state = copy.deepcopy(state)
            else:
                torch.save(state, tmp_path / "state.pt")
        steps(optimizer, model, [batch])
        scheduler.step()
    if way == "torch.save":
        state = torch.load(tmp_path / "state.pt", weights_only=True)
    again = net(seed=1)
    resumed = build(again, base, rho=0.7, lr=5.0)
    new_scheduler = torch.optim.lr_scheduler.StepLR(resumed, 2, 0.5)
    again.load_state_dict(state["m"])
    resumed.load_state_dict(state["o"])
    new_scheduler.load_state_dict(state["s"])
    assert resumed.stage == (1 if saved_at < 3 else 2)
    assert resumed.base_optimizer.param_groups is resumed.param_groups
    assert resumed.base_optimizer.state is resumed.state
    for batch in BATCHES[saved_at:]:
        steps(resumed, again, [batch])
        new_scheduler.step()
    assert torch.equal(weights(again), weights(model))


@pytest.mark.parametrize("saved_at", [1, 3, 5])
def test_a_watched_loop_resumes_bit_equal(saved_at):
    model, criterion = net(), nn.CrossEntropyLoss()
    optimizer = build(model)
    optimizer.watch(model, criterion)
    by_loop(optimizer, model, criterion, BATCHES[:saved_at])
    state = copy.deepcopy((model.state_dict(), optimizer.state_dict()))
    by_loop(optimizer, model, criterion, BATCHES[saved_at:])
    again, criterion = net(seed=1), nn.CrossEntropyLoss()
    resumed = build(again)
    resumed.watch(again, criterion)
    again.load_state_dict(state[0])
    resumed.load_state_dict(state[1])
    by_loop(resumed, again, criterion, BATCHES[saved_at:])
    assert torch.equal(weights(again), weights(model))
    assert resumed.completed_steps == 6


@pytest.mark.parametrize("copier", [copy.deepcopy, lambda pair: pickle.loads(pickle.dumps(pair))])
def test_copies_work_on_their_own(copier):
    model = net()
    optimizer = build(model)
    optimizer.watch(model, nn.CrossEntropyLoss())
    optimizer.unwatch()
    steps(optimizer, model, BATCHES[:2])
    other_model, other = copier((model, optimizer))
    assert other.base_optimizer.state is other.state
    assert other.base_optimizer.param_groups is other.param_groups
    steps(other, other_model, BATCHES[2:])
    frozen = weights(model).clone()
    steps(optimizer, model, BATCHES[2:])
    assert torch.equal(weights(other_model), weights(model))
    assert not torch.equal(frozen, weights(model))


@pytest.mark.parametrize("copier", [copy.deepcopy, lambda pair: pickle.loads(pickle.dumps(pair))])
def test_copies_keep_their_model_still_in_repeated_passes(copier):
    model = nn.Sequential(nn.Linear(5, 8), nn.BatchNorm1d(8), nn.Linear(8, 4)).double()
    optimizer = SSESAM(model.parameters(), lr=0.1, tail_classes=[3], switch_step=3, model=model)
    other_model, other = copier((model, optimizer))
    steps(other, other_model, BATCHES[:1])
    assert other_model[1].num_batches_tracked == 1
    assert model[1].num_batches_tracked == 0


def test_a_base_optimizers_state_loads_with_a_warning_that_names_the_radii():
    model = net()
    base = torch.optim.SGD(model.parameters(), lr=0.3, momentum=0.9)
    by_loop(base, model, nn.CrossEntropyLoss(), BATCHES[:2])
    optimizer = build(model)
    with pytest.warns(UserWarning, match="rho_head"):
        optimizer.load_state_dict(base.state_dict())
    assert optimizer.param_groups[0]["rho_tail"] == 0.10
    assert optimizer.param_groups[0]["lr"] == 0.3
    buffers = [optimizer.state[p]["momentum_buffer"] for p in model.parameters()]
    assert all(
        torch.equal(b, base.state[p]["momentum_buffer"])
        for b, p in zip(buffers, model.parameters(), strict=True)
    )
    steps(optimizer, model, BATCHES[2:3])


def test_keys_that_an_older_checkpoint_lacks_are_filled_in_by_the_base():
    model = net()
    optimizer = build(model)
    steps(optimizer, model, BATCHES[:1])
    state = optimizer.state_dict()
    for group in state["param_groups"]:
        del group["maximize"], group["fused"]
    optimizer.load_state_dict(state)
    assert optimizer.param_groups[0]["maximize"] is False
    assert optimizer.base_optimizer.param_groups is optimizer.param_groups
    steps(optimizer, model, BATCHES[1:2])


def test_foreach_reaches_a_base_that_knows_it_and_no_other():
    class Plain(torch.optim.Optimizer):
        def __init__(self, params, lr):
            super().__init__(params, {"lr": lr})

        def step(self):
            for p in self.param_groups[0]["params"]:
                p.data -= self.param_groups[0]["lr"] * p.grad

    model = net()
    assert build(model, foreach=False).param_groups[0]["foreach"] is False
    options = {"lr": 0.1, "tail_classes": [3], "switch_step": 3}
    optimizer = SSESAM(model.parameters(), Plain, foreach=False, **options)
    assert "foreach" not in optimizer.param_groups[0]
    steps(optimizer, model, BATCHES[:1])


def test_momentum_is_in_the_state_dict_and_no_weights_are():
    model = net()
    optimizer = build(model)
    steps(optimizer, model, BATCHES[:1])
    assert [set(entry) for entry in optimizer.state_dict()["state"].values()] == [{"momentum_buffer"}] * 4
    assert optimizer.state_dict()["param_groups"][0]["completed_steps"] == 1


def test_from_optimizer_adopts_groups_and_state():
    model, expected = net(), net()
    base = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    by_loop(base, model, nn.CrossEntropyLoss(), BATCHES[:1])
    by_loop(
        torch.optim.SGD(expected.parameters(), lr=0.1, momentum=0.9),
        expected,
        nn.CrossEntropyLoss(),
        BATCHES[:1],
    )
    optimizer = SSESAM.from_optimizer(base, tail_classes=[3], switch_step=3)
    assert optimizer.base_optimizer is base
    assert optimizer.param_groups[0]["momentum"] == 0.9
    before = base.state[model[0].weight]["momentum_buffer"].clone()
    steps(optimizer, model, BATCHES[1:2])
    assert not torch.equal(base.state[model[0].weight]["momentum_buffer"], before)
    assert base.param_groups is optimizer.param_groups
    with pytest.raises(TypeError, match="optimizer: expected"):
        SSESAM.from_optimizer(model)
    with pytest.raises(TypeError, match="lr"):
        SSESAM.from_optimizer(base, lr=0.1, tail_classes=[3], switch_step=3)


def test_groups_have_their_own_radii_under_one_global_norm():
    model = net()
    groups = [
        {"params": [model[0].weight, model[0].bias], "rho_head": 0.0, "rho_tail": 0.0},
        {"params": [model[2].weight, model[2].bias], "lr": 0.0, "rho_head": 0.2},
    ]
    optimizer = SSESAM(groups, lr=0.1, tail_classes=[3], switch_step=9)
    x, y = BATCHES[3]
    each = F.cross_entropy(model(x), y, reduction="none")
    head = (each * (y != 3)).sum() / len(y)
    grads = torch.autograd.grad(head, list(model.parameters()))
    norm = torch.cat([g.flatten() for g in grads]).norm()
    before = [p.detach().clone() for p in model.parameters()]
    optimizer.first_step(F.cross_entropy(model(x), y, reduction="none"), y)
    with optimizer.perturbed("head"):
        moved = [p.detach() - b for p, b in zip(model.parameters(), before, strict=True)]
        optimizer.second_step(F.cross_entropy(model(x), y, reduction="none"), y)
    assert torch.equal(moved[0], torch.zeros_like(moved[0]))
    torch.testing.assert_close(moved[2], 0.2 * grads[2] / norm, rtol=0, atol=1e-12)
    with optimizer.perturbed("tail"):
        optimizer.second_step(F.cross_entropy(model(x), y, reduction="none"), y)
    optimizer.step()
    assert torch.equal(model[2].weight.detach(), before[2])
    assert not torch.equal(model[0].weight.detach(), before[0])


def test_add_param_group_later_steps_with_the_same_counter():
    model = net()
    optimizer = SSESAM(model[0].parameters(), lr=0.1, tail_classes=[3], switch_step=2, momentum=0.9)
    steps(optimizer, model, BATCHES[:2])
    optimizer.add_param_group({"params": list(model[2].parameters()), "lr": 0.5, "rho_tail": 0.3})
    before = model[2].weight.detach().clone()
    steps(optimizer, model, BATCHES[2:3])
    assert not torch.equal(before, model[2].weight.detach())
    assert [g["completed_steps"] for g in optimizer.param_groups] == [3, 3]
    assert [g["rho_tail"] for g in optimizer.param_groups] == [0.10, 0.3]
    assert optimizer.param_groups[1]["momentum"] == 0.9
    with pytest.raises(ValueError, match="rho"):
        optimizer.add_param_group({"params": [nn.Parameter(torch.ones(1))], "rho_head": -1.0})


def test_scheduler_on_the_wrapper_is_silent_and_reaches_the_base():
    model = net()
    optimizer = build(model)
    scheduler = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.5)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        steps(optimizer, model, BATCHES[:1])
        scheduler.step()
    assert optimizer.base_optimizer.param_groups[0]["lr"] == pytest.approx(0.05)


def test_hooks_see_the_final_gradient_and_run_once():
    model = net()
    optimizer = build(model)
    seen, around = [], []
    optimizer.base_optimizer.register_step_pre_hook(lambda *_: seen.append(model[0].weight.grad.clone()))
    optimizer.register_step_post_hook(lambda *_: around.append(1))
    steps(optimizer, model, BATCHES[:1])
    assert len(seen) == len(around) == 1
    assert torch.equal(seen[0], model[0].weight.grad)


def test_stage_can_be_set_by_hand_and_survives_a_checkpoint():
    model = net()
    optimizer = build(model, switch_step=100)
    assert (optimizer.stage, optimizer.steps_until_switch) == (1, 100)
    steps(optimizer, model, BATCHES[:1])
    optimizer.stage = 2
    assert (optimizer.stage, optimizer.steps_until_switch) == (2, 0)
    other = build(net(), switch_step=100)
    other.load_state_dict(optimizer.state_dict())
    assert other.stage == 2
    other.stage = 1
    assert (other.stage, other.steps_until_switch) == (1, None)
    with pytest.raises(ValueError, match="stage"):
        other.stage = 3


@pytest.mark.parametrize(
    ("gamma", "total", "expected"),
    [
        (0.7, 200, 140),
        (0.7, 10, 7),
        (0.0, None, 0),
        (None, None, None),
        (1.0, None, None),
        (0.55, 10, 6),
        (0.55, 100, 55),
    ],
)
def test_switch_from_gamma(gamma, total, expected):
    optimizer = build(net(), switch_step=None, gamma=gamma, total_steps=total)
    assert optimizer.param_groups[0]["switch_step"] == expected


def test_odd_parameters_tied_frozen_unused_zero_dim_and_empty():
    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Linear(5, 5), nn.Linear(5, 5)
            self.second.weight = self.first.weight
            self.scale = nn.Parameter(torch.tensor(1.5))
            self.unused, self.empty = nn.Parameter(torch.ones(3)), nn.Parameter(torch.zeros(0, 4))
            self.frozen = nn.Linear(5, 4)
            self.frozen.weight.requires_grad_(False)

        def forward(self, x):
            return self.frozen(torch.tanh(self.second(self.first(x)))) * self.scale + self.empty.sum()

    results = []
    for foreach in (True, False, None):
        torch.manual_seed(0)
        model = Odd().double()
        kept = model.frozen.weight.clone()
        optimizer = build(model, foreach=foreach)
        steps(optimizer, model, BATCHES)
        assert model.unused.grad is None
        assert torch.equal(model.frozen.weight, kept)
        assert torch.equal(model.unused, torch.ones(3, dtype=torch.float64))
        results.append(weights(model))
    torch.testing.assert_close(results[0], results[1], rtol=0, atol=1e-12)
    assert torch.equal(results[0], results[2])


def test_a_parameter_unused_in_one_step_only():
    class Branch(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.calls = nn.Linear(5, 4), nn.Linear(5, 4), 0

        def forward(self, x):
            self.calls += 1
            return self.a(x) + (self.b(x) if self.calls % 2 else 0)

    torch.manual_seed(0)
    model = Branch().double()
    home = model.b.weight.detach().clone()
    optimizer = build(model, lr=0.0, momentum=0.0)
    # The second pass skips the branch that the first one perturbed: it must come home all the same.
    steps(optimizer, model, BATCHES[:3])
    assert torch.equal(model.b.weight.detach(), home)


def test_sparse_gradients():
    results = []
    for sparse in (True, False):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Embedding(7, 5, sparse=sparse), nn.Flatten(), nn.Linear(15, 4)).double()
        optimizer = SSESAM(model.parameters(), lr=0.1, tail_classes=[3], switch_step=1)
        x = torch.randint(0, 7, (8, 3), generator=torch.Generator().manual_seed(1))
        y = torch.tensor([0, 1, 2, 3, 0, 1, 2, 3])
        for _ in range(3):
            optimizer.step(lambda m=model, x=x, y=y: (F.cross_entropy(m(x), y, reduction="none"), y))
        results.append(weights(model))
    torch.testing.assert_close(results[0], results[1], rtol=0, atol=1e-13)


def test_sparse_gradients_cannot_be_adaptive():
    model = nn.Sequential(nn.Embedding(7, 5, sparse=True), nn.Flatten(), nn.Linear(15, 4)).double()
    optimizer = SSESAM(model.parameters(), lr=0.1, tail_classes=[3], switch_step=1, adaptive=True)
    y = torch.tensor([0, 3])
    with pytest.raises(ValueError, match="sparse"):
        optimizer.step(
            lambda: (F.cross_entropy(model(torch.ones(2, 3, dtype=torch.long)), y, reduction="none"), y)
        )


def test_tensor_lr_non_contiguous_and_complex_parameters():
    w = nn.Parameter(torch.randn(4, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).t())
    z = nn.Parameter(torch.randn(4, dtype=torch.complex128, generator=torch.Generator().manual_seed(0)))
    assert not w.is_contiguous()
    optimizer = SSESAM([w, z], lr=torch.tensor(0.1), foreach=False, tail_classes=[3], switch_step=9)
    x, y = BATCHES[3]
    before = w.detach().clone(), z.detach().clone()
    optimizer.step(lambda: (F.cross_entropy(x @ w + (z * z.conj()).real, y, reduction="none"), y))
    assert not torch.equal(before[0], w.detach())
    assert not torch.equal(before[1], z.detach())


def test_repr_shows_radii_and_stage():
    text = repr(build(net()))
    assert "rho_head: 0.05" in text
    assert "switch_step: 3" in text


def test_at_most_three_copies_of_the_parameters_are_held_after_a_step():
    model = net()
    optimizer = build(model)
    steps(optimizer, model, BATCHES[:2])
    held = sum(t.numel() for t in optimizer._weights._buffers.values())
    assert held == sum(p.numel() for p in model.parameters())
