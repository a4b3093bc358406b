"""Gradients are worked on in place, so each must have memory of its own, as backward() gives it."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from graftkit.methods.sse_sam.gradients import differentiate
from graftkit.torch import SSESAM
from tests.plugins.sse_sam import reference as ref
from tests.plugins.sse_sam.loops import by_closure, by_explicit, by_loop, mixed_batches, weights


class Added(nn.Module):
    """Two parameters that are only ever added: autograd hands out one gradient tensor for both."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.first = nn.Parameter(torch.randn(4, generator=generator, dtype=torch.float64))
        self.second = nn.Parameter(torch.randn(4, generator=generator, dtype=torch.float64))
        self.weight = nn.Parameter(torch.randn(4, 5, generator=generator, dtype=torch.float64))

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.weight.T + (self.first + self.second)


def test_shared_and_repeated_gradients_get_memory_of_their_own():
    a, b, c = (nn.Parameter(torch.ones(3)) for _ in range(3))
    loss = ((a + b) * torch.arange(3.0)).sum() + c.sum()
    raw = torch.autograd.grad(loss, [a, b, c], retain_graph=True)
    assert raw[0].data_ptr() == raw[1].data_ptr()  # what torch gives, and why this is needed
    assert raw[2].stride() == (0,)
    first, second, third = differentiate([loss], [None], [a, b, c])
    first.mul_(2)
    third.add_(torch.arange(3.0))
    assert second.tolist() == [0, 1, 2]
    assert third.tolist() == [1, 2, 3]


@pytest.mark.parametrize("form", ["closure", "subset", "known", "explicit", "loop"])
@pytest.mark.parametrize("stage", [1, 2])
def test_parameters_that_share_a_gradient_step_as_the_reference_does(form, stage):
    model, expected = Added(), Added()
    each, mean = nn.CrossEntropyLoss(reduction="none"), nn.CrossEntropyLoss()
    optimizer = SSESAM(
        model.parameters(),
        lr=1.0,
        tail_classes=[3],
        switch_step=9 if stage == 1 else 0,
        tail_pass="subset" if form in ("subset", "known") else "auto",
    )
    (x, y) = mixed_batches(n=4)[3]
    if form == "loop":
        optimizer.watch(model, mean)
        by_loop(optimizer, model, mean, [(x, y)])
    elif form == "explicit":
        by_explicit(optimizer, model, each, [(x, y)])
    else:
        by_closure(optimizer, model, each, [(x, y)], targets=form == "known")
    params = list(expected.parameters())
    grads = ref.sharpened(
        params,
        lambda: ref.part_losses(expected, x, y, [3])[0],
        lambda: ref.part_losses(expected, x, y, [3])[1],
        rho_head=0.05 if stage == 1 else 0.0,
        rho_tail=0.1,
    )
    for p, g in zip(params, grads, strict=True):
        p.data -= g
    torch.testing.assert_close(weights(model), weights(expected), rtol=0, atol=1e-12)


def test_half_precision_losses_are_summed_in_float32():
    # 3000 losses of 30 each add up to 90,000, beyond fp16.
    w = nn.Parameter(torch.ones(()))
    optimizer = SSESAM([w], lr=0.1, tail_classes=[1], switch_step=0)
    y = torch.zeros(3000, dtype=torch.long)
    y[0] = 1
    loss = optimizer.step(lambda: ((w * torch.full((3000,), 30.0)).half(), y))
    assert loss.item() == pytest.approx(30.0, rel=1e-3)
    assert w.grad.item() == pytest.approx(30.0, rel=1e-3)


def test_losses_of_one_shape_and_unused_outputs():
    w = nn.Parameter(torch.ones(2))
    assert differentiate([torch.ones(())], [None], [w]) == [None]
    assert differentiate([F.relu(w).sum()], [None], []) == []
