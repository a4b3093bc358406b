"""Models that return their own loss, and terms of a loss that the class scores know nothing of."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from graftkit.torch import SSESAM
from tests.plugins.sse_sam import reference as ref
from tests.plugins.sse_sam.loops import weights
from tests.plugins.sse_sam.watch_cases import BATCHES, OwnLoss, net, optimizer_for


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


class WithTotal(nn.Module):
    """A total beside the terms that it is made of, as detectors and mixtures of experts return them."""

    def __init__(self) -> None:
        super().__init__()
        self.body = net()

    def forward(self, x: Tensor, labels: Tensor) -> dict[str, object]:
        logits = self.body(x)
        a, b = F.cross_entropy(logits, labels), 0.3 * F.multi_margin_loss(logits, labels)
        # Terms before and after the total, nested, and one twice.
        return {"loss_a": a, "loss": a + b, "losses": [b], "loss_again": b, "logits": logits}


@pytest.mark.parametrize("taken", ["total", "terms"])
@pytest.mark.parametrize("stage", [1, 2])
def test_a_total_beside_its_terms_counts_once(stage, taken):
    x, y = BATCHES[0]
    model, expected = WithTotal(), net()
    optimizer = optimizer_for(model, momentum=0.0, lr=1.0, switch_step=9 * (stage == 1))
    optimizer.watch(model, None)
    out = model(x, labels=y)
    (out["loss"] if taken == "total" else out["loss_a"] + out["losses"][0]).backward()
    optimizer.step()
    params = list(expected.parameters())

    def part(tail: bool) -> Tensor:
        z = expected(x)
        each = F.cross_entropy(z, y, reduction="none") + 0.3 * F.multi_margin_loss(z, y, reduction="none")
        return (each * ((y == 3) == tail)).mean()

    rho_head = 0.05 * (stage == 1)
    for p, g in zip(params, ref.sharpened(
        params, lambda: part(False), lambda: part(True), rho_head=rho_head, rho_tail=0.1), strict=True,
    ):  # fmt: skip
        p.data -= g
    torch.testing.assert_close(weights(model), weights(expected), rtol=0, atol=1e-12)


class Sink(torch.autograd.Function):
    """What DistributedDataParallel puts behind a model's outputs where parameters may be unused."""

    @staticmethod
    def forward(ctx, *values):
        ctx.set_materialize_grads(False)
        return tuple(value.clone() for value in values)

    @staticmethod
    def backward(ctx, *grads):
        del ctx
        return grads


class Sunk(OwnLoss):
    def forward(self, x: Tensor, labels: Tensor) -> dict[str, Tensor]:
        out = super().forward(x, labels)
        total, logits, left_out = Sink.apply(out["loss"], out["logits"], out["logits"].square().mean())
        return {"loss": total, "loss_left_out": left_out, "logits": logits}


def test_a_loss_that_backward_hands_nothing_is_left_out():
    # Without a tail in stage 2 the step is the base's, whatever lies between the losses and the scores.
    (x, y), model, plain = BATCHES[0], Sunk("dict"), net()
    optimizer = optimizer_for(model, switch_step=0, momentum=0.0, tail_pass="full")
    optimizer.watch(model, None)
    model(x, labels=y.clamp(max=2))["loss"].backward()
    optimizer.step()
    F.cross_entropy(plain(x), y.clamp(max=2)).backward()
    for p in plain.parameters():
        p.data -= 0.5 * p.grad
    torch.testing.assert_close(weights(model), weights(plain), rtol=0, atol=1e-13)
