"""The loss's bad inputs (specification section 5.5): type and words."""

import pytest
import torch

from graftkit.torch import PixelAUCLoss, pixel_auc_loss
from tests.plugins.aucseg import reference as ref
from tests.plugins.aucseg.cases import golden

X = torch.zeros(2, 4, 3, 4)
Y = golden()[1]


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"margin": 0}, ValueError, "margin"),
        ({"margin": -1.0}, ValueError, "margin"),
        ({"margin": float("nan")}, ValueError, "margin"),
        ({"margin": "1"}, TypeError, "margin"),
        ({"margin": 0.5, "surrogate": "hinge"}, ValueError, "margin: expected at least 1"),
        ({"margin": 81, "surrogate": "exp"}, ValueError, "margin: expected at most 80"),
        ({"surrogate": "sqare"}, ValueError, r"surrogate.*'square', 'hinge', 'exp', got 'sqare'.*'square'"),
        ({"scheme": "all"}, ValueError, "scheme.*'ovo', 'ova'.*'all'"),
        ({"activation": "relu"}, ValueError, "activation.*'sigmoid', 'softmax'.*'relu'"),
        ({"validate": True}, ValueError, "validate.*'auto'"),
        ({"min_pixels": 0}, ValueError, "min_pixels"),
        ({"min_pixels": 1.5}, TypeError, "min_pixels"),
        ({"sync": 1}, TypeError, "sync"),
        ({"ignore_index": None}, TypeError, "ignore_index"),
        ({"ignore_index": 2**70}, ValueError, "ignore_index"),
        ({"min_pixels": 2**70}, ValueError, "min_pixels"),
    ],
)
def test_arguments(options, error, words):
    with pytest.raises(error, match=words):
        PixelAUCLoss(**options)
    with pytest.raises(error, match=words):
        pixel_auc_loss(X, Y, **options)


def test_unknown_arguments():
    with pytest.raises(TypeError, match="gamma"):
        PixelAUCLoss(gamma=1.0)


@pytest.mark.parametrize(
    ("logits", "target", "options", "error", "words"),
    [
        (X, Y[:, None], {}, ValueError, r"target shape: expected \(2, 3, 4\).*got \(2, 1, 3, 4\)"),
        (X, Y[:1], {}, ValueError, "target shape"),
        (X, Y.float(), {}, TypeError, "target.*integer"),
        (X, Y == 1, {}, TypeError, "target.*integer.*long"),
        (X, Y.numpy(), {}, TypeError, "target.*integer"),
        (X.long(), Y, {}, TypeError, "logits.*floating"),
        (X.numpy(), Y, {}, TypeError, "logits.*floating"),
        (torch.zeros(4), torch.zeros(4).long(), {}, ValueError, "logits"),
        (X[:, :0], Y, {}, ValueError, "logits.*C >= 1"),
        (X, Y.masked_fill(Y == 1, 7), {}, ValueError, r"num_classes=4.*label 7"),
        (X, Y.masked_fill(Y == 1, 4), {}, ValueError, r"num_classes=4.*label 4"),
        (X, Y.masked_fill(Y == 1, -1), {}, ValueError, r"num_classes.*label -1"),
        (X[:, :1], Y, {}, ValueError, r"binary.*label 2"),
        (X[:, :1], Y.clamp(max=1), {"activation": "softmax"}, ValueError, "activation.*one channel"),
        (X, Y, {"weight": -torch.ones(2, 3, 4)}, ValueError, "weight.*negative"),
        (X, Y, {"weight": torch.full((2, 3, 4), float("nan"))}, ValueError, "weight.*finite"),
        (X, Y, {"weight": torch.full((2, 3, 4), float("inf"))}, ValueError, "weight.*finite"),
        (X, Y, {"weight": torch.ones(2, 3)}, ValueError, r"weight.*\(2, 3, 4\)"),
        (X, Y, {"weight": [1.0]}, TypeError, "weight"),
        (X, torch.zeros(2, 3, 4, dtype=torch.long, device="meta"), {}, ValueError, "target.*device cpu"),
        (X, Y, {"weight": torch.ones(2, 3, 4, device="meta")}, ValueError, "weight.*device cpu"),
    ],
)
def test_inputs(logits, target, options, error, words):
    with pytest.raises(error, match=words):
        pixel_auc_loss(logits, target, **options)


def test_label_and_number_of_classes_are_both_named():
    with pytest.raises(ValueError, match=r"num_classes=4.*label 7") as caught:
        pixel_auc_loss(X, Y.masked_fill(Y == 1, 7))
    assert "reduce_zero_label" in str(caught.value)


def test_checks_can_be_switched_off():
    seven = Y.masked_fill(Y == 1, 7)
    assert pixel_auc_loss(X, seven, validate="never").item() == 0.5  # such pixels then do not count
    with pytest.raises(ValueError, match="label 7"):
        pixel_auc_loss(X, seven, validate="always")
    negative = torch.ones(2, 3, 4)
    negative[0, 0, 1] = -1
    assert torch.isfinite(pixel_auc_loss(X, Y, weight=negative, validate="never"))


def test_ignore_index_of_a_call():
    criterion = PixelAUCLoss()
    with pytest.raises(TypeError, match="ignore_index"):
        criterion(X, Y, ignore_index=1.5)
    with pytest.raises(ValueError, match="ignore_index"):
        criterion(X, Y, ignore_index=-(2**70))
    with pytest.raises(ValueError, match="label 255"):
        criterion(X, Y, ignore_index=3)


@pytest.mark.parametrize("ignore_index", [-100, 256 + 3])
def test_labels_of_a_byte_do_not_wrap(ignore_index):
    """As bytes -100 is 156 and 259 is 3: classes like others."""
    y = torch.tensor([[0, 3, 156, 1]], dtype=torch.uint8)
    x = torch.randn(1, 200, 4, generator=torch.Generator().manual_seed(0))
    found = pixel_auc_loss(x, y, ignore_index=ignore_index)
    assert found.item() == pytest.approx(ref.pixel_auc_loss(x, y).item(), rel=1e-5)
    with pytest.raises(ValueError, match="label 156"):
        pixel_auc_loss(x[:, :100], y, ignore_index=ignore_index)


def test_a_wrong_label_is_seen_beside_ignored_pixels_of_no_weight():
    y = torch.tensor([[0, 1, 9, 255, 255]])
    x = torch.zeros(1, 3, 5)
    with pytest.raises(ValueError, match="label 9"):
        pixel_auc_loss(x, y, weight=torch.tensor([[1.0, 1, 1, 0, 0]]))
    assert pixel_auc_loss(x, y, weight=torch.tensor([[1.0, 1, 0, 0, 1]])).item() == 0.5


def test_weights_below_zero_that_nobody_checked_count_as_none():
    weight = torch.ones(2, 3, 4)
    weight[0] = -5
    x = golden()[0]
    found = pixel_auc_loss(x, Y, weight=weight, validate="never")
    assert found.item() == pixel_auc_loss(x, Y, weight=weight.clamp(min=0)).item()
