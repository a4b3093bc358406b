"""A compiled model in an unmodified loop and in closures: its passes are compiled, the step is the same."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from graftkit.torch import SSESAM
from tests.plugins.sse_sam.loops import by_closure, by_loop, mixed_batches, weights

BATCHES = mixed_batches(n=6)[3:]
# The optimizer's part is the same whatever the backend; this one needs no compiler on the machine.
BACKEND = "aot_eager"
pytestmark = pytest.mark.filterwarnings("ignore:The .grad attribute:UserWarning")  # torch, at a graph break


def net(norm: bool) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        middle = nn.BatchNorm1d(8) if norm else nn.LayerNorm(8)
        return nn.Sequential(nn.Linear(5, 8), middle, nn.Tanh(), nn.Linear(8, 4)).double()


@pytest.fixture(autouse=True)
def fresh_compiler():
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def optimizer_for(model: nn.Module, **kwargs) -> SSESAM:
    return SSESAM(model.parameters(), lr=0.3, momentum=0.9, tail_classes=[3], switch_step=1, **kwargs)


@pytest.mark.parametrize("way", ["wrapper", "in place", "inner"])
@pytest.mark.parametrize("norm", [False, True], ids=["subset", "batch norm, full"])
def test_the_loop_on_a_compiled_model_equals_the_plain_one(way, norm):
    plain, model = net(norm), net(norm)
    criterion = nn.CrossEntropyLoss()
    expected = optimizer_for(plain)
    expected.watch(plain, criterion)
    by_loop(expected, plain, criterion, BATCHES)
    expected.unwatch()
    seen = []
    compiled = model
    if way == "in place":
        model.compile(backend=BACKEND, dynamic=True)
    else:
        compiled = torch.compile(model, backend=BACKEND, dynamic=True)
    optimizer = optimizer_for(model)
    watched = model if way == "inner" else compiled
    optimizer.watch(watched, criterion)
    watched.register_forward_pre_hook(lambda _m, args: seen.append(len(args[0])))
    by_loop(optimizer, compiled, criterion, BATCHES)
    assert len(seen) > 2 * len(BATCHES)
    torch.testing.assert_close(weights(model), weights(plain), rtol=0, atol=1e-10)


def test_closures_on_a_compiled_model_equal_the_plain_ones():
    plain, model = net(False), net(False)
    each = nn.CrossEntropyLoss(reduction="none")
    by_closure(optimizer_for(plain), plain, each, BATCHES)
    compiled = torch.compile(model, backend=BACKEND, dynamic=True)
    by_closure(optimizer_for(model, tail_pass="subset"), compiled, each, BATCHES, targets=True)
    torch.testing.assert_close(weights(model), weights(plain), rtol=0, atol=1e-10)
    assert torch.isfinite(F.cross_entropy(compiled(BATCHES[0][0]), BATCHES[0][1]))
