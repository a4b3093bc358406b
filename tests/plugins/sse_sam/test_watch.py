"""The unmodified loop: whatever the criterion, the tail's part is found in the output's gradient."""

import copy
import gc
import pickle
import weakref
from collections import OrderedDict, UserDict, namedtuple
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from graftkit.methods.sse_sam.probes import GradientProbes
from graftkit.torch import SSESAM
from tests.plugins.sse_sam import reference as ref
from tests.plugins.sse_sam.loops import by_loop, counted, mixed_batches, weights

COUNTS = torch.tensor([60.0, 30.0, 9.0, 3.0], dtype=torch.float64)


class LDAM(nn.Module):
    """Margins by class frequency (Cao et al. 2019), from its formula."""

    def __init__(self, reduction: str = "mean") -> None:
        super().__init__()
        self.margins, self.reduction = 0.5 * (COUNTS.min() / COUNTS) ** 0.25, reduction

    def forward(self, logits: Tensor, y: Tensor) -> Tensor:
        return F.cross_entropy(5 * (logits - F.one_hot(y, 4) * self.margins), y, reduction=self.reduction)


class LogitAdjustment(nn.Module):
    def __init__(self, reduction: str = "mean") -> None:
        super().__init__()
        self.shift, self.reduction = 0.75 * torch.log(COUNTS / COUNTS.sum()), reduction

    def forward(self, logits: Tensor, y: Tensor) -> Tensor:
        return F.cross_entropy(logits + self.shift, y, reduction=self.reduction)


def net(dropout: float = 0.0) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(
            nn.Linear(5, 8), nn.LayerNorm(8), nn.Tanh(), nn.Dropout(dropout), nn.Linear(8, 4)
        ).double()


def optimizer_for(model: nn.Module, **kwargs) -> SSESAM:
    return SSESAM(
        model.parameters(), **{"lr": 0.5, "tail_classes": [3], "switch_step": 1, "momentum": 0.9, **kwargs}
    )


BATCHES = mixed_batches(n=6)[3:]

NONE = {"reduction": "none"}
PAIRS = {
    "weighted": (
        nn.CrossEntropyLoss(weight=1 / COUNTS),
        lambda z, y: F.cross_entropy(z, y, 1 / COUNTS, **NONE) / (1 / COUNTS)[y].sum() * len(y),
    ),
    "smoothed": (nn.CrossEntropyLoss(label_smoothing=0.1), nn.CrossEntropyLoss(label_smoothing=0.1, **NONE)),
    "sum": (nn.CrossEntropyLoss(reduction="sum"), lambda z, y: len(y) * F.cross_entropy(z, y, **NONE)),
    "ldam": (LDAM(), LDAM("none")),
    "logit adjustment": (LogitAdjustment(), LogitAdjustment("none")),
    "function": (F.cross_entropy, nn.CrossEntropyLoss(reduction="none")),
}  # fmt: skip


@pytest.mark.parametrize("tail_pass", ["subset", "full"])
@pytest.mark.parametrize("name", PAIRS)
def test_criteria_equal_the_closure_with_their_per_sample_form(name, tail_pass):
    whole, each = PAIRS[name]
    watched, closed = net(), net()
    optimizer = optimizer_for(watched, tail_pass=tail_pass)
    criterion = optimizer.watch(watched, whole)
    by_loop(optimizer, watched, criterion, BATCHES)
    other = optimizer_for(closed)
    for x, y in BATCHES:
        other.step(lambda x=x, y=y: (each(closed(x), y), y))
    torch.testing.assert_close(weights(watched), weights(closed), rtol=0, atol=1e-12)


def dense_net() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(
            nn.Conv2d(2, 6, 3, padding=1), nn.GroupNorm(2, 6), nn.ReLU(), nn.Conv2d(6, 4, 1)
        ).double()


@pytest.mark.parametrize("by", ["pixel", "sample"])
@pytest.mark.parametrize("tail_pass", ["subset", "full"])
def test_dense_losses_by_pixel_and_by_sample(tail_pass, by):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(5, 2, 4, 4, generator=generator, dtype=torch.float64)
    y = torch.randint(0, 3, (5, 4, 4), generator=generator)
    y[1, :2], y[3, 1], y[0, 0] = 3, 3, 255
    membership = (lambda t: (t == 3).flatten(1).any(1)) if by == "sample" else None
    share = (y == 3) if by == "pixel" else (y == 3).flatten(1).any(1)[:, None, None].expand_as(y)
    watched, expected = dense_net(), dense_net()
    optimizer = optimizer_for(watched, tail_pass=tail_pass, momentum=0.0, switch_step=9, lr=1.0)
    criterion = nn.CrossEntropyLoss(ignore_index=255)
    optimizer.watch(watched, criterion, membership=membership)
    with counted(watched[0], 5) as work:
        by_loop(optimizer, watched, criterion, [(x, y)])
    if tail_pass == "subset":
        # Verified once (1), its own pass (1), the tail's samples twice, and those with anything of the head.
        head_rows = 5 if by == "pixel" else 3
        assert work.units == pytest.approx(2 + (2 * 2 + head_rows) / 5)
    params = list(expected.parameters())

    def loss(part: Tensor) -> Tensor:
        each = F.cross_entropy(expected(x), y, ignore_index=255, reduction="none")
        return (each * part).sum() / (y != 255).sum()

    for p, g in zip(params, ref.sharpened(
        params, lambda: loss(~share), lambda: loss(share), rho_head=0.05, rho_tail=0.1), strict=True,
    ):  # fmt: skip
        p.data -= g
    torch.testing.assert_close(weights(watched), weights(expected), rtol=0, atol=1e-12)


@pytest.mark.parametrize("tail_pass", ["subset", "full"])
@pytest.mark.parametrize("form", ["two calls", "soft targets"])
def test_mixup_splits_label_by_label_or_by_the_mass_of_soft_targets(form, tail_pass):
    (x, y), (_, y2) = BATCHES[0], BATCHES[1]
    lam = 0.7
    watched, expected = net(), net()
    optimizer = optimizer_for(watched, momentum=0.0, switch_step=9, tail_pass=tail_pass)
    criterion = nn.CrossEntropyLoss()
    optimizer.watch(watched, criterion)
    out = watched(x)
    soft = lam * F.one_hot(y, 4).double() + (1 - lam) * F.one_hot(y2, 4).double()
    loss = (
        lam * criterion(out, y) + (1 - lam) * criterion(out, y2)
        if form == "two calls"
        else criterion(out, soft)
    )
    loss.backward()
    optimizer.step()
    params = list(expected.parameters())

    def part(tail: bool) -> Tensor:
        logits = expected(x)
        if form == "soft targets":
            share = soft[:, 3] if tail else 1 - soft[:, 3]
            return (F.cross_entropy(logits, soft, reduction="none") * share).mean()
        each = [F.cross_entropy(logits, t, reduction="none") * ((t == 3) == tail) for t in (y, y2)]
        return (lam * each[0] + (1 - lam) * each[1]).mean()

    for p, g in zip(params, ref.sharpened(
        params, lambda: part(False), lambda: part(True), rho_head=0.05, rho_tail=0.1), strict=True,
    ):  # fmt: skip
        p.data -= 0.5 * g
    torch.testing.assert_close(weights(watched), weights(expected), rtol=0, atol=1e-12)


Output = namedtuple("Output", ["loss", "logits"])


class OwnLoss(nn.Module):
    def __init__(self, kind: str = "tuple") -> None:
        super().__init__()
        self.body, self.kind = net(), kind

    def forward(self, x: Tensor, labels: Tensor | None = None) -> object:
        logits = self.body(x)
        loss = F.cross_entropy(logits, labels)
        if self.kind == "losses":
            return {
                "loss_cls": 0.75 * loss,
                "loss_aux": 0.25 * loss,
                "acc": (logits.argmax(1) == labels).double().mean(),
            }
        return {"loss": loss, "logits": logits} if self.kind == "dict" else Output(loss, logits)


@pytest.mark.parametrize("kind", ["tuple", "dict", "losses"])
def test_models_that_return_their_own_loss(kind):
    model, closed = OwnLoss(kind), net()
    optimizer = optimizer_for(model)
    extra = {"output_module": "body.4", "targets_from": "labels"} if kind == "losses" else {}
    assert optimizer.watch(model, None, **extra) is None
    for x, y in BATCHES:
        optimizer.zero_grad()
        out = model(x, labels=y)
        loss = (
            out.loss
            if kind == "tuple"
            else out["loss"]
            if kind == "dict"
            else out["loss_cls"] + out["loss_aux"]
        )
        loss.backward()
        optimizer.step()
    other = optimizer_for(closed)
    for x, y in BATCHES:
        other.step(lambda x=x, y=y: (F.cross_entropy(closed(x), y, reduction="none"), y))
    torch.testing.assert_close(weights(model), weights(closed), rtol=0, atol=1e-12)


class WithAuxiliary(nn.Module):
    """A second head's loss inside the model's own, which the class scores know nothing of."""

    def __init__(self) -> None:
        super().__init__()
        self.body = net()[:3]
        with torch.random.fork_rng():
            torch.manual_seed(1)
            self.top, self.aux = nn.Linear(8, 4).double(), nn.Linear(8, 4).double()

    def forward(self, x: Tensor, labels: Tensor) -> dict[str, Tensor]:
        features = self.body(x)
        logits = self.top(features)
        loss = F.cross_entropy(logits, labels) + 0.4 * F.cross_entropy(self.aux(features), labels)
        return {"loss": loss, "logits": logits}


@pytest.mark.parametrize("stage", [1, 2])
@pytest.mark.parametrize("kind", ["mixed", "no tail", "tail only"])
@pytest.mark.parametrize("tail_weight", [1.0, 2.0])
def test_a_models_auxiliary_loss_goes_with_the_head(stage, kind, tail_weight):
    x, y = BATCHES[0]
    y = {"mixed": y, "no tail": y.clamp(max=2), "tail only": torch.full_like(y, 3)}[kind]
    model, expected = WithAuxiliary(), WithAuxiliary()
    optimizer = SSESAM(
        model.parameters(),
        lr=1.0,
        tail_classes=[3],
        switch_step=9 if stage == 1 else 0,
        tail_weight=tail_weight,
    )
    optimizer.watch(model, None)
    model(x, labels=y)["loss"].backward()
    optimizer.step()
    params = list(expected.parameters())

    def tail() -> Tensor:
        each = F.cross_entropy(expected(x, y)["logits"], y, reduction="none")
        return (each * (y == 3)).mean()

    def head() -> Tensor:
        return expected(x, y)["loss"] - tail()

    rho_head = 0.05 if stage == 1 else 0.0
    for p, g in zip(params, ref.sharpened(
        params, head, tail, rho_head=rho_head, rho_tail=0.1, tail_weight=tail_weight), strict=True,
    ):  # fmt: skip
        p.data -= g
    torch.testing.assert_close(weights(model), weights(expected), rtol=0, atol=1e-12)


@pytest.mark.parametrize("tokens", [4, 6])
def test_token_labels_split_token_by_token_also_with_as_many_tokens_as_classes(tokens):
    class Tagger(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = net()

        def forward(self, x: Tensor, labels: Tensor) -> dict[str, Tensor]:
            logits = self.body(x)
            return {"loss": F.cross_entropy(logits.flatten(0, 1), labels.flatten()), "logits": logits}

    generator = torch.Generator().manual_seed(0)
    x = torch.randn(5, tokens, 5, generator=generator, dtype=torch.float64)
    y = torch.randint(0, 4, (5, tokens), generator=generator)
    model, closed = Tagger(), net()
    optimizer, other = (optimizer_for(m, switch_step=9) for m in (model, closed))
    optimizer.watch(model, None)
    model(x, labels=y)["loss"].backward()
    optimizer.step()
    other.step(lambda: (F.cross_entropy(closed(x).flatten(0, 1), y.flatten(), reduction="none"), y.flatten()))
    torch.testing.assert_close(weights(model), weights(closed), rtol=0, atol=1e-12)


@pytest.mark.parametrize("tail_pass", ["subset", "full"])
def test_a_batch_of_tail_samples_only_loses_no_other_term_in_stage_2(tail_pass):
    x, y = BATCHES[0][0], torch.full_like(BATCHES[0][1], 3)
    model, expected = net(), net()
    optimizer = optimizer_for(model, switch_step=0, momentum=0.0, lr=1.0, tail_pass=tail_pass)
    criterion = nn.CrossEntropyLoss()
    optimizer.watch(model, criterion)
    (criterion(model(x), y) + model[0].weight.square().sum()).backward()
    optimizer.step()
    params = list(expected.parameters())
    for p, g in zip(params, ref.sharpened(
        params, lambda: expected[0].weight.square().sum(), lambda: F.cross_entropy(expected(x), y),
        rho_head=0.0, rho_tail=0.1), strict=True,
    ):  # fmt: skip
        p.data -= g
    torch.testing.assert_close(weights(model), weights(expected), rtol=0, atol=1e-12)


def test_criterion_parameters_and_auxiliary_losses_keep_their_gradient_in_stage_2():
    model, plain = net(), net()
    optimizer = optimizer_for(model, switch_step=0, rho=0.0, momentum=0.0)
    criterion = nn.CrossEntropyLoss()
    optimizer.watch(model, criterion)
    base = torch.optim.SGD(plain.parameters(), lr=0.5)
    for m, o in ((model, optimizer), (plain, base)):
        x, y = BATCHES[0]
        o.zero_grad()
        (criterion(m(x), y) + m[0].weight.square().sum()).backward()
        o.step()
    torch.testing.assert_close(weights(model), weights(plain), rtol=0, atol=1e-13)


def test_an_extra_loss_term_is_noticed_before_stage_1_would_drop_it():
    model = net()
    optimizer = optimizer_for(model)
    criterion = nn.CrossEntropyLoss()
    optimizer.watch(model, criterion)
    x, y = BATCHES[0]
    before = weights(model)
    (criterion(model(x), y) + model[0].weight.square().sum()).backward()
    with pytest.raises(RuntimeError, match="another loss term"):
        optimizer.step()
    assert torch.equal(weights(model), before)
    assert optimizer.completed_steps == 0


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


def test_a_criterions_own_parameters_take_the_users_gradient_in_stage_1():
    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.tensor(1.5, dtype=torch.float64))

        def forward(self, logits: Tensor, y: Tensor) -> Tensor:
            return F.cross_entropy(self.scale * logits, y)

    model, criterion = net(), Scaled()
    optimizer = SSESAM([*model.parameters(), criterion.scale], lr=0.5, tail_classes=[3], switch_step=9)
    optimizer.watch(model, criterion)
    x, y = BATCHES[0]
    criterion(model(x), y).backward()
    own = criterion.scale.grad.clone()
    optimizer.step()
    torch.testing.assert_close(criterion.scale.detach(), 1.5 - 0.5 * own, rtol=0, atol=1e-12)


# -- bad input --------------------------------------------------------------------------------


def watching(model: nn.Module | None = None, criterion=None, **kwargs):
    model = net() if model is None else model
    optimizer = optimizer_for(model)
    criterion = nn.CrossEntropyLoss() if criterion is None else criterion
    optimizer.watch(model, criterion, **kwargs)
    return model, optimizer, criterion


def test_step_without_forward_backward_or_criterion():
    model, optimizer, criterion = watching()
    x, y = BATCHES[0]
    with pytest.raises(RuntimeError, match="the model was not called"):
        optimizer.step()
    model.eval()
    criterion(model(x), y).backward()
    with pytest.raises(RuntimeError, match="not called in train mode"):
        optimizer.step()
    model.train()
    loss = criterion(model(x), y)
    with pytest.raises(RuntimeError, match=r"backward\(\) was not called"):
        optimizer.step()
    F.cross_entropy(model(x), y).backward()
    with pytest.raises(RuntimeError, match="criterion was never called"):
        optimizer.step()
    del loss


def test_criterion_on_something_else_than_the_output():
    model, optimizer, criterion = watching()
    x, y = BATCHES[0]
    criterion(model(x) * 2, y).backward()
    with pytest.raises(RuntimeError, match="not the watched model's output itself"):
        optimizer.step()


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


def test_targets_that_cannot_be_found():
    class Entropy(nn.Module):
        def forward(self, logits: Tensor) -> Tensor:
            return -(logits.softmax(1) * logits.log_softmax(1)).sum(1).mean()

    model, _, criterion = watching(criterion=Entropy())
    with pytest.raises(ValueError, match=r"targets: expected a tensor beside .*targets_from="):
        criterion(model(BATCHES[0][0]))


def test_outputs_changed_in_place_before_the_criterion():
    model, _, criterion = watching()
    out = model(BATCHES[0][0])
    out.mul_(2)
    with pytest.raises(RuntimeError, match="model output was changed in place"):
        criterion(out, BATCHES[0][1])


def test_targets_changed_in_place_are_named():
    model, optimizer, criterion = watching()
    x, y = BATCHES[0][0], BATCHES[0][1].clone()
    criterion(model(x), y).backward()
    y[0] = 1
    with pytest.raises(RuntimeError, match=r"criterion args\[1\] changed in place"):
        optimizer.step()


@pytest.mark.parametrize("output", [lambda z: (z, z), lambda z: {"features": z}], ids=["tuple", "mapping"])
def test_outputs_that_are_no_scores(output):
    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = net()

        def forward(self, x: Tensor) -> object:
            return output(self.body(x))

    model, optimizer, _ = watching(Odd())
    assert optimizer.completed_steps == 0  # and held: the hooks of a forgotten optimizer are inert
    with pytest.raises(TypeError, match="output_module"):
        model(BATCHES[0][0])


def test_own_loss_models_must_show_scores_and_labels():
    model = OwnLoss("losses")
    optimizer = optimizer_for(model)
    optimizer.watch(model, None)
    with pytest.raises(TypeError, match=r"output_module=.*targets_from="):
        model(BATCHES[0][0], labels=BATCHES[0][1])
    model = OwnLoss("dict")
    optimizer = optimizer_for(model)
    optimizer.watch(model, None)
    with pytest.raises(ValueError, match=r"targets: .*labels.*targets_from="):
        model(*BATCHES[0])


def test_watch_arguments():
    model = net()
    optimizer = optimizer_for(model)
    with pytest.raises(TypeError, match=r"model: expected a torch\.nn\.Module"):
        optimizer.watch("model", nn.CrossEntropyLoss())
    with pytest.raises(TypeError, match="criterion: expected"):
        optimizer.watch(model, 3)
    with pytest.raises(ValueError, match="the model whose parameters this optimizer holds"):
        optimizer.watch(net(), nn.CrossEntropyLoss())
    with pytest.raises(ValueError, match="output_module: expected the name of a submodule"):
        optimizer.watch(model, None, output_module="head")
    with pytest.raises(TypeError, match="targets_from"):
        optimizer.watch(model, None, targets_from=3)
    optimizer.watch(model, nn.CrossEntropyLoss())


def test_labels_beyond_the_counts_are_refused_with_weights_untouched():
    model = net()
    optimizer = SSESAM(model.parameters(), lr=0.5, class_counts=[50, 3], tail_threshold=10, switch_step=9)
    criterion = nn.CrossEntropyLoss()
    optimizer.watch(model, criterion)
    before = weights(model)
    criterion(model(BATCHES[0][0]), BATCHES[0][1]).backward()
    with pytest.raises(ValueError, match="targets"):
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
