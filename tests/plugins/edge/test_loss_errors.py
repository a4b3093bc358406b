"""What EDGELoss and the row convention refuse: type and words."""

import math

import pytest
import torch

from graftkit.methods.edge import EDGELoss, EnergyBoundedLoss, ood_labels
from graftkit.methods.edge.rows import outlier_rows

LOGITS = torch.zeros(3, 2)
TARGETS = torch.tensor([[1.0, 0.0], [0.0, 0.0], [-1.0, -1.0]])


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"alpha": -0.1}, ValueError, r"alpha: expected a finite number >= 0, got -0\.1"),
        ({"beta": math.nan}, ValueError, "beta: expected a finite number >= 0, got nan"),
        ({"beta": "1"}, TypeError, "beta: expected a finite number"),
        ({"k": 0}, ValueError, "k: expected an integer >= 1, got 0"),
        ({"k": -3}, ValueError, "k: expected an integer >= 1, got -3"),
        ({"k": 1.5}, ValueError, r"k: expected a finite number in \(0, 1\], got 1\.5"),
        ({"k": 0.0}, ValueError, r"k: expected a finite number in \(0, 1\], got 0\.0"),
        ({"k": "all"}, TypeError, r"k: expected an integer >= 1 or a share in \(0, 1\], got 'all'"),
        ({"k": True}, TypeError, "k: expected an integer"),
        ({"margin": -1.0}, ValueError, r"margin: expected a finite number >= 0, got -1\.0"),
        ({"margin": math.inf}, ValueError, "margin: expected a finite number >= 0, got inf"),
        ({"warmup_epochs": -1}, ValueError, "warmup_epochs: expected an integer >= 0, got -1"),
        ({"warmup_epochs": 1.0}, TypeError, "warmup_epochs: expected an integer"),
        ({"id_loss": "bce"}, TypeError, "id_loss: expected a callable"),
        ({"per_class_energy": 1}, TypeError, "per_class_energy: expected True or False"),
        ({"gap_method": "loop"}, ValueError, "gap_method: expected one of 'auto', 'pairwise', 'sorted'"),
        ({"validate": None}, TypeError, "validate: expected True or False"),
    ],
)
def test_arguments(options, error, words):
    with pytest.raises(error, match=words):
        EDGELoss(**options)


@pytest.mark.parametrize("criterion", [EDGELoss(k=1), EnergyBoundedLoss()], ids=["EDGE", "bounded"])
@pytest.mark.parametrize(
    ("logits", "targets", "error", "words"),
    [
        (LOGITS.long(), TARGETS, TypeError, "logits: expected a floating-point tensor"),
        (LOGITS, TARGETS.tolist(), TypeError, "targets: expected a tensor"),
        (LOGITS, torch.tensor([0, 1, -1]), ValueError, r"multi-hot targets of shape \(3, 2\).*one_hot"),
        (LOGITS[0], TARGETS[0], ValueError, r"logits: expected shape \(n, C\), with targets of shape \(2,\)"),
        (LOGITS, TARGETS[:2], ValueError, r"targets: expected .*\(3, 2\), got Tensor of shape \(2, 2\)"),
        (LOGITS, TARGETS[:, :1], ValueError, r"targets: .*\(3, 2\), got Tensor of shape \(3, 1\)"),
        (
            LOGITS,
            TARGETS * 2,
            ValueError,
            r"targets: expected values in \[0, 1\], or rows of -1.* row 0, got 2\.0",
        ),
        (LOGITS, TARGETS * 0.5, ValueError, r"targets: expected values in \[0, 1\].* row 2, got -0\.5"),
        (LOGITS, TARGETS * math.nan, ValueError, "targets: expected values in .* row 0, got nan"),
        (
            LOGITS,
            torch.tensor([[1.0, 0.0], [-1.0, 1.0], [-1.0, -1.0]]),
            ValueError,
            r"in row 1, got \[-1\.0, 1\.0\]\. Partially labelled rows are not outliers",
        ),
    ],
)
def test_batches(criterion, logits, targets, error, words):
    with pytest.raises(error, match=words):
        criterion(logits, targets)


def test_targets_on_another_device():
    with pytest.raises(ValueError, match="targets: expected targets on the logits' device meta, got device"):
        EDGELoss(k=1)(LOGITS.to("meta"), TARGETS)


@pytest.mark.parametrize("row", [0, 2])
def test_unsigned_targets_have_no_rows_of_minus_one(row):
    """255 is what -1 becomes in uint8; torch calls the two equal."""
    targets = TARGETS.abs().to(torch.uint8)
    EDGELoss(k=1)(LOGITS, targets)
    targets[row] = 255
    with pytest.raises(ValueError, match=rf"targets: expected values in \[0, 1\].* row {row}, got 255"):
        EDGELoss(k=1)(LOGITS, targets)


def test_sides_on_different_devices():
    away = LOGITS.to("meta")
    with pytest.raises(ValueError, match="oe_logits: expected logits on the device of id_logits, cpu, got"):
        EDGELoss(k=1).split(LOGITS, TARGETS.abs(), away)
    with pytest.raises(ValueError, match="tail_mask: expected a mask on the logits' device cpu, got"):
        EDGELoss(k=1).split(LOGITS, TARGETS.abs(), LOGITS, tail_mask=torch.ones(3, device="meta").bool())


def test_split_form_reads_targets_when_asked():
    logits = torch.zeros(3, 2)
    with pytest.raises(ValueError, match="id_targets: expected known rows only, without rows of -1"):
        EDGELoss(k=1, validate=True).split(logits, TARGETS, logits)
    with pytest.raises(ValueError, match=r"targets: expected values in \[0, 1\]"):
        EDGELoss(k=1, validate=True).split(logits, TARGETS * 2, logits)
    EDGELoss(k=1, validate=True).split(logits, TARGETS.abs(), logits)


def test_split_form():
    with pytest.raises(
        ValueError, match=r"oe_logits: expected shape \(n_o, 2\).*got Tensor of shape \(4, 3\)"
    ):
        EDGELoss(k=1).split(LOGITS, TARGETS.abs(), torch.zeros(4, 3))
    with pytest.raises(TypeError, match="oe_logits: expected a floating-point tensor"):
        EDGELoss(k=1).split(LOGITS, TARGETS.abs(), None)
    with pytest.raises(TypeError, match="id_logits: expected a floating-point tensor"):
        EDGELoss(k=1).split(LOGITS.int(), TARGETS.abs(), LOGITS)


@pytest.mark.parametrize(("side", "words"), [(0, "ID logits"), (1, "OE logits")])
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_values_that_are_not_finite(side, words, bad):
    sides = [torch.zeros(2, 2), torch.zeros(2, 2)]
    sides[side][1, 0] = bad
    y = torch.ones(2, 2)
    with pytest.raises(
        ValueError, match=f"{words}: expected finite values, without NaN or infinity, in row 1"
    ):
        EDGELoss(k=1, validate=True).split(sides[0], y, sides[1])
    EDGELoss(k=1).split(sides[0], y, sides[1])  # not looked at unless asked


@pytest.mark.parametrize(
    ("mask", "error", "words"),
    [
        (torch.ones(3), TypeError, "tail_mask: expected a tensor of bool"),
        ([True, True, False], TypeError, "tail_mask: expected a tensor of bool"),
        (torch.ones(2, dtype=torch.bool), ValueError, r"tail_mask: expected shape \(3,\), one entry a row"),
    ],
)
def test_tail_masks(mask, error, words):
    with pytest.raises(error, match=words):
        EDGELoss(k=1)(LOGITS, TARGETS, tail_mask=mask)


@pytest.mark.parametrize("result", [torch.zeros(3), 0.5])
def test_classification_loss_must_be_a_scalar(result):
    with pytest.raises(ValueError, match="id_loss: expected a callable that returns a scalar tensor"):
        EDGELoss(k=1, id_loss=lambda *_: result)(LOGITS, TARGETS)


@pytest.mark.parametrize("epoch", [1.0, True, "1"])
def test_epochs(epoch):
    with pytest.raises(TypeError, match="epoch: expected an integer >= 0"):
        EDGELoss().set_epoch(epoch)


def test_labels_for_metrics():
    assert ood_labels(TARGETS).tolist() == [0, 0, -1]
    assert outlier_rows(torch.zeros(0, 2)).tolist() == []
    with pytest.raises(ValueError, match="one_hot"):
        ood_labels(torch.tensor([0, 1]))
    with pytest.raises(ValueError, match="multi-hot"):
        ood_labels(torch.zeros(3, 0))
    with pytest.raises(TypeError, match="targets: expected a tensor"):
        ood_labels([[1.0]])


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"weight": -1}, "weight: expected a finite number >= 0"),
        ({"margin_id": 1.0, "margin_oe": 1.0}, "margin_id: expected more than margin_oe=1"),
        ({"margin_oe": math.inf}, "margin_oe: expected a finite number"),
    ],
)
def test_bounded_loss(options, words):
    with pytest.raises(ValueError, match=words):
        EnergyBoundedLoss(**options)
