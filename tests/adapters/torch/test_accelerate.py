"""SSE-SAM under accelerate: prepare, its accumulation context, mixed precision; the loop stays as it is."""

import pytest
import torch
from torch import nn

pytest.importorskip("accelerate", reason="needs the accelerate extra")

from accelerate import Accelerator
from accelerate.state import AcceleratorState, GradientState, PartialState

from graftkit.torch import SSESAM
from tests.plugins.sse_sam.loops import counted, mixed_batches, weights


@pytest.fixture(autouse=True)
def fresh_state():
    reset_state()  # a Trainer in another file's test leaves its own
    yield
    reset_state()


def reset_state() -> None:
    for state in (AcceleratorState, GradientState, PartialState):
        state._reset_state()


def net() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(5, 8), nn.LayerNorm(8), nn.Tanh(), nn.Linear(8, 4))


DATA = [(x.float(), y) for x, y in mixed_batches(n=6)]


def trained(
    accumulation: int = 1, precision: str = "no", *, watch_first: bool = False, clip: float | None = None
):
    accelerator = Accelerator(cpu=True, mixed_precision=precision, gradient_accumulation_steps=accumulation)
    model, criterion = net(), nn.CrossEntropyLoss()
    sharp = SSESAM(model.parameters(), lr=0.1, momentum=0.9, tail_classes=[3], switch_step=2)
    if watch_first:
        sharp.watch(model, criterion)
    model, optimizer = accelerator.prepare(model, sharp)
    if not watch_first:
        sharp.watch(model, criterion)
    units = []
    for x, y in DATA:
        with counted(model[0], len(x)) as work, accelerator.accumulate(model):
            accelerator.backward(criterion(model(x), y))
            if clip is not None and accelerator.sync_gradients:
                accelerator.clip_grad_norm_(model.parameters(), clip)
            optimizer.step()
            optimizer.zero_grad()
        units.append(work.units)
    return model, sharp, units


def plain(accumulation: int = 1):
    model, criterion = net(), nn.CrossEntropyLoss()
    optimizer = SSESAM(model.parameters(), lr=0.1, momentum=0.9, tail_classes=[3], switch_step=2)
    optimizer.watch(model, criterion)
    for k in range(0, 6, accumulation):
        optimizer.zero_grad()
        for x, y in DATA[k : k + accumulation]:
            (criterion(model(x), y) / accumulation).backward()
        optimizer.step()
    return model


@pytest.mark.parametrize("watch_first", [False, True])
@pytest.mark.parametrize("accumulation", [1, 3])
def test_prepared_loop_equals_the_plain_one(accumulation, watch_first):
    model, optimizer, units = trained(accumulation, watch_first=watch_first)
    assert optimizer.completed_steps == 6 // accumulation
    torch.testing.assert_close(weights(model), weights(plain(accumulation)), rtol=0, atol=1e-6)
    if accumulation == 3:
        # Nothing is repeated before the step; then all three micro-batches are.
        assert units[3:5] == pytest.approx([1.0, 1.0])
        assert units[5] > 2


@pytest.mark.parametrize("clip", [None, 1e6])
def test_bf16(clip):
    model, optimizer, _ = trained(precision="bf16", clip=clip)
    assert optimizer.completed_steps == 6
    start = weights(net())
    assert (weights(model) - weights(plain())).norm() < 0.15 * (weights(plain()) - start).norm()


def test_the_closure_form_reaches_the_optimizer():
    accelerator = Accelerator(cpu=True)
    model = net()
    optimizer = accelerator.prepare(SSESAM(model.parameters(), lr=0.1, tail_classes=[3], switch_step=2))
    x, y = DATA[0]
    optimizer.step(lambda: (nn.functional.cross_entropy(model(x), y, reduction="none"), y))
    assert optimizer.optimizer.completed_steps == 1


def test_unwatched_loops_raise():
    accelerator = Accelerator(cpu=True)
    model = net()
    model, optimizer = accelerator.prepare(
        model, SSESAM(model.parameters(), lr=0.1, tail_classes=[3], switch_step=2)
    )
    accelerator.backward(nn.functional.cross_entropy(model(DATA[0][0]), DATA[0][1]))
    with pytest.raises(RuntimeError, match="three ways"):
        optimizer.step()
