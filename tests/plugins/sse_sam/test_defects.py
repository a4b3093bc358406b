"""Defects of the published code and of peers (specification sections 1.6, 3.1): none of them here.

Tested elsewhere: restoring by copy and what a skipped branch leaves behind (test_perturbation, test_state:
items 5, 6), frozen and unused parameters (test_state: 7), statistics once a step (test_coupling: 8), state
and resume (test_state: 9), passes that change nothing (test_forms: 3), misuse of stale graphs (test_errors).
"""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from graftkit.torch import SSESAM
from tests.plugins.sse_sam import reference as ref


def test_gamma_zero_is_stage_two_from_the_start_and_outlives_an_epoch():
    # Item 4: the published default crashes after its first epoch.
    model = ref.golden_net()
    optimizer = SSESAM(model.parameters(), lr=0.1, tail_classes=[2], gamma=0.0)
    for _ in range(3):
        assert optimizer.stage == 2
        optimizer.step(lambda: (ref.per_sample(model), ref.Y))


def test_both_parts_are_divided_by_the_whole_batch():
    # Item 2: group means would re-weight the tail; their golden gradient norm is another one.
    def norm(tail_weight: float) -> float:
        model = ref.golden_net()
        optimizer = SSESAM(model.parameters(), lr=0.1, tail_classes=[2], gamma=0.0, tail_weight=tail_weight)
        optimizer.step(lambda: (ref.per_sample(model), ref.Y))
        return torch.cat([p.grad.flatten() for p in model.parameters()]).norm().item()

    assert norm(1.0) == pytest.approx(0.278975960336824, abs=1e-10)
    assert abs(norm(1.0) - 0.796849791370140) > 0.5


@pytest.mark.parametrize("labels", [[0, 1, 0], [2, 2, 2]])
def test_a_batch_without_tail_or_without_head_has_a_finite_loss(labels):
    # Item 11: 0/0 in the published loss.
    model, y = ref.golden_net(), torch.tensor(labels)
    optimizer = SSESAM(model.parameters(), lr=0.1, tail_classes=[2], switch_step=1)
    for _ in range(2):
        loss = optimizer.step(lambda: (ref.per_sample(model, ref.X[:3], y), y))
        assert torch.isfinite(loss)
        assert all(torch.isfinite(p).all() for p in model.parameters())


def test_graphs_are_freed_after_their_last_backward():
    # Item 10: retain_graph everywhere keeps four dead graphs alive.
    model = ref.golden_net()
    optimizer = SSESAM(model.parameters(), lr=0.1, tail_classes=[2], switch_step=9)
    kept = []

    def closure():
        kept.append(ref.per_sample(model))
        return kept[-1], ref.Y

    optimizer.step(closure)
    assert len(kept) == 3
    for losses in kept:
        with pytest.raises(RuntimeError, match="second time"):
            losses.sum().backward()


def test_the_loss_is_returned_and_parameters_are_never_rebound():
    # Peers drop the closure's loss and swap p.data.
    model = ref.golden_net()
    pointers = [p.data_ptr() for p in model.parameters()]
    optimizer = SSESAM(model.parameters(), lr=0.1, tail_classes=[2], switch_step=9)
    loss = optimizer.step(lambda: (ref.per_sample(model), ref.Y))
    assert loss.item() == pytest.approx(1.0586364549253593, abs=1e-12)
    assert [p.data_ptr() for p in model.parameters()] == pointers


def test_a_plain_scaler_step_never_trains_as_the_base_optimizer():
    model = nn.Linear(2, 3)
    optimizer = SSESAM(model.parameters(), lr=0.1, tail_classes=[2], switch_step=9)
    scaler = torch.amp.GradScaler("cpu")
    before = model.weight.detach().clone()
    scaler.scale(F.cross_entropy(model(ref.X.float()), ref.Y)).backward()
    with pytest.raises(RuntimeError, match=r"GradScaler\.step"):
        scaler.step(optimizer)
    assert torch.equal(model.weight.detach(), before)
