"""What EDGELoss keeps: its epoch and warm-up, the last parts, reports of an idle gap term, copies."""

import copy
import math
import pickle
import warnings

import pytest
import torch

from graftkit.methods.edge import EDGELoss
from tests.plugins.edge.cases import U, Y, Z, draw, tensor, worked


def test_warm_up_switches_the_gap_term_on_at_its_epoch():
    z, y, u = draw(3, 6, 6, 3)
    criterion, without = EDGELoss(k=2, margin=5.0, warmup_epochs=2), EDGELoss(k=2, margin=5.0, beta=0.0)
    whole = EDGELoss(k=2, margin=5.0).split(z, y, u).item()
    values = []
    for epoch in range(4):
        criterion.set_epoch(epoch)
        values.append(criterion.split(z, y, u).item())
        assert criterion.last.beta.item() == (0.1 if epoch >= 2 else 0.0)
    assert values[:2] == [without.split(z, y, u).item()] * 2
    assert values[2:] == pytest.approx([whole] * 2, rel=1e-14)
    assert whole > values[0]


def test_epoch_survives_the_checkpoint():
    criterion = EDGELoss(warmup_epochs=3)
    criterion.set_epoch(2)
    fresh = EDGELoss(warmup_epochs=3)
    fresh.load_state_dict(criterion.state_dict())
    assert fresh.epoch.item() == 2
    assert set(criterion.state_dict()) == {"epoch"}


def test_an_idle_gap_term_is_reported_once_when_the_epoch_ends():
    z, y, u = draw(16, 6, 4, 3)
    criterion = EDGELoss(k=2)
    criterion.set_epoch(0)
    criterion.split(z + 20, y, u - 20)
    assert criterion.last.active_fraction.item() == 0.0
    with pytest.warns(UserWarning, match=r"gap term was 0 for a whole epoch.*Raise margin above 0"):
        criterion.set_epoch(1)
    criterion.split(z + 20, y, u - 20)
    criterion.set_epoch(2)  # said once


def test_an_epoch_is_judged_by_itself():
    z, y, u = draw(16, 6, 4, 3)
    criterion = EDGELoss(k=2)
    criterion.split(z, y, u + 20)
    criterion.set_epoch(1)  # it worked
    criterion.split(z + 20, y, u - 20)
    with pytest.warns(UserWarning, match="gap term was 0 for a whole epoch"):
        criterion.set_epoch(2)


@pytest.mark.parametrize("case", ["working", "warm-up", "no outliers", "beta of 0", "no calls"])
def test_no_report_where_the_gap_term_worked_or_could_not(case):
    z, y, u = draw(16, 6, 4, 3)
    options = {"warm-up": {"warmup_epochs": 5}, "beta of 0": {"beta": 0.0}}.get(case, {})
    criterion = EDGELoss(k=2, **options)
    if case != "no calls":
        criterion.split(z + 20, y, u[:0] if case == "no outliers" else u - 20)
    if case == "working":
        criterion.split(z, y, u + 20)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        criterion.set_epoch(1)


def test_copies_keep_the_state():
    criterion = EDGELoss(0.5, 0.2, 0.5, 1.0, warmup_epochs=1)
    criterion.set_epoch(3)
    criterion.split(*draw(17, 6, 4, 3))
    for other in (copy.deepcopy(criterion), pickle.loads(pickle.dumps(criterion))):
        assert other.epoch.item() == 3
        assert other.split(*draw(17, 6, 4, 3)).item() == criterion.split(*draw(17, 6, 4, 3)).item()
    assert "alpha=0.5, beta=0.2, k=0.5, margin=1, warmup_epochs=1" in repr(criterion)


def test_last_is_detached():
    z, y, u = worked(grad=True)
    criterion = EDGELoss(k=2)
    assert criterion.last is None
    criterion.split(z, y, u)
    assert not any(part.requires_grad for part in criterion.last if isinstance(part, torch.Tensor))


def test_a_failed_call_leaves_the_loss_as_it_was():
    criterion = EDGELoss(k=2, validate=True)
    criterion.split(*worked())
    before = criterion.last
    with pytest.raises(ValueError, match="ID logits"):
        criterion.split(tensor(Z) * math.nan, tensor(Y), tensor(U))
    with pytest.raises(ValueError, match="epoch"):
        criterion.set_epoch(-1)
    assert all(now is then for now, then in zip(criterion.last[3:7], before[3:7], strict=True))
    assert [float(part) for part in criterion.last] == [float(part) for part in before]
    assert criterion.epoch.item() == 0


def test_a_weight_that_is_set_later_counts_as_do_type_and_device():
    criterion = EDGELoss(k=1, beta=0.1, margin=1.0)
    logits, targets = torch.zeros(2, 3), torch.tensor([[1.0, 0, 0], [-1, -1, -1]])
    small = float(criterion(logits, targets))
    criterion.beta = 0.3
    assert float(criterion(logits, targets)) == pytest.approx(small + 0.2)  # the gap is the margin, 1
    assert criterion(logits.double(), targets).dtype == criterion.last.beta.dtype == torch.float64
