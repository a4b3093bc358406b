"""Numbers of any kind in EDGELoss: huge and narrow logits, dtypes of targets, rows known and not."""

import pytest
import torch
from torch import nn

from graftkit.methods.edge import EDGELoss
from graftkit.methods.edge.rows import known_first
from tests.plugins.edge.cases import draw, joined, tensor, worked


@pytest.mark.parametrize("size", [1e4, -1e4])
def test_huge_logits_are_finite(size):
    z, y, u = draw(13, 6, 6, 5, torch.float32)
    z, u = (z * 0 + size).requires_grad_(), (u * 0 - size).requires_grad_()
    loss = EDGELoss(k=2, margin=1.0).split(z, y, u)
    loss.backward()
    assert bool(torch.isfinite(loss))
    assert bool(torch.isfinite(z.grad).all())
    assert bool(torch.isfinite(u.grad).all())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_narrow_logits_are_widened(dtype):
    z, y, u = draw(14, 6, 6, 1000, torch.float32)
    z, u = (z * 50).to(dtype), (u * 50).to(dtype)
    loss = EDGELoss(k=2, margin=1.0).split(z, y, u)
    assert loss.dtype == torch.float32
    wide = EDGELoss(k=2, margin=1.0).split(z.float(), y, u.float())
    assert loss.item() == wide.item()


@pytest.mark.parametrize("dtype", [torch.int64, torch.bool, torch.float32])
def test_targets_of_any_real_dtype(dtype):
    z, y, u = worked()
    assert EDGELoss(k=2, margin=1.0).split(z, y.to(dtype), u).item() == pytest.approx(
        1.223224199972648, abs=1e-12
    )
    if dtype != torch.bool:
        logits, targets = joined(z, y, u)
        loss = EDGELoss(k=2, margin=1.0)(logits, targets.to(dtype))
        assert loss.item() == pytest.approx(1.223224199972648, abs=1e-12)


@pytest.mark.parametrize("fused", [True, False])
def test_targets_that_want_a_gradient_get_it(fused):
    z, y, u = draw(18, 6, 4, 3)
    y = (y * 0.8 + 0.1).requires_grad_()
    EDGELoss(k=2, margin=1.0, fused=fused).split(z, y, u).backward()
    torch.testing.assert_close(y.grad, -z / z.numel())  # of softplus(z) - y z, averaged


@pytest.mark.parametrize("order", [[0, 1, 2, 3], [2, 0, 3, 1]])
def test_known_rows_in_front_or_not(order):
    targets = tensor([[1, 0], [0, 0], [-1, -1], [-1, -1]])[order]
    found, n_id = known_first(targets)
    assert n_id == 2
    assert found is None if order == [0, 1, 2, 3] else order[found[0]] == 0
    assert found is None or [order[i] for i in found] == [0, 1, 2, 3]


def test_a_row_of_zeros_is_known_background():
    criterion = EDGELoss(k=1)
    criterion(torch.zeros(3, 2), torch.tensor([[0.0, 0.0], [1.0, 0.0], [-1.0, -1.0]]))
    assert (criterion.last.n_id, criterion.last.n_oe) == (2, 1)


def test_rows_of_minus_one_count_neither_as_labels_nor_in_the_mean():
    """Each side has its own mean: more outliers do not weigh down the classification term."""
    z, y, u = draw(15, 4, 40, 3)
    criterion = EDGELoss(k=2)
    criterion(*joined(z, y, u))
    assert criterion.last.id.item() == pytest.approx(
        nn.functional.binary_cross_entropy_with_logits(z, y).item()
    )
