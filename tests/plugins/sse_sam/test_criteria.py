"""The unmodified loop: whatever the criterion, the tail's part is found in the output's gradient."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from graftkit.torch import SSESAM
from tests.plugins.sse_sam import reference as ref
from tests.plugins.sse_sam.loops import by_loop, counted, weights
from tests.plugins.sse_sam.watch_cases import BATCHES, net, optimizer_for

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


@pytest.mark.parametrize("stage", [1, 2])
@pytest.mark.parametrize("tail", [0, 1])
@pytest.mark.parametrize("shape", [(-1,), (-1, 1)])
def test_binary_targets_of_one_score_a_sample(shape, tail, stage):
    x, y = BATCHES[0][0], (BATCHES[0][1] == 3).double().reshape(shape)
    models = []
    for _ in range(2):
        with torch.random.fork_rng():
            torch.manual_seed(0)
            body = nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, 1), nn.Flatten(len(shape) - 1))
        models.append(body.double())
    watched, expected = models
    optimizer = optimizer_for(
        watched, momentum=0.0, lr=1.0, tail_classes=[tail], switch_step=9 * (stage == 1)
    )
    criterion = nn.BCEWithLogitsLoss()
    optimizer.watch(watched, criterion)
    criterion(watched(x), y).backward()
    optimizer.step()
    params = list(expected.parameters())

    def part(label: int) -> Tensor:
        each = F.binary_cross_entropy_with_logits(expected(x), y, reduction="none")
        return (each * (y == label)).mean()

    rho_head = 0.05 * (stage == 1)
    for p, g in zip(params, ref.sharpened(
        params, lambda: part(1 - tail), lambda: part(tail), rho_head=rho_head, rho_tail=0.1), strict=True,
    ):  # fmt: skip
        p.data -= g
    torch.testing.assert_close(weights(watched), weights(expected), rtol=0, atol=1e-12)
