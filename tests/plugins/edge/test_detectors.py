"""Detectors: signs, thresholds at the promised share, modes restored, state saved, errors."""

import numpy as np
import pytest
import torch
from torch import nn

from graftkit.methods.edge import JointEnergy, JointEnergyPostprocessor, joint_energy
from graftkit.methods.edge.detectors import evaluating


def net():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.5), nn.Linear(8, 3))


INPUTS = torch.randn(64, 4, generator=torch.Generator().manual_seed(1))
LOGITS = torch.randn(200, 3, generator=torch.Generator().manual_seed(2))


def test_score_is_minus_the_joint_energy_also_for_maps():
    assert torch.equal(JointEnergy.score(LOGITS), -joint_energy(LOGITS))
    assert torch.equal(JointEnergy().predict_logits(LOGITS), -joint_energy(LOGITS))
    maps = torch.randn(2, 3, 4, 5)
    assert torch.equal(JointEnergy.score(maps), -joint_energy(maps.movedim(1, -1)))


@pytest.mark.parametrize(
    ("keep", "n", "kept"), [(0.95, 200, 190), (0.95, 20, 19), (0.9, 7, 7), (0.5, 4, 2), (0.01, 3, 1)]
)
def test_threshold_keeps_at_least_the_share(keep, n, kept):
    detector = JointEnergy(keep=keep).fit_logits(LOGITS[:n])
    assert int((~detector.detect_logits(LOGITS[:n])).sum()) == kept


def test_fit_uses_eval_mode_and_puts_modes_back():
    model = net()
    model.train()
    model[1].eval()
    detector = JointEnergy(model).fit([(INPUTS[:40], None), INPUTS[40:]])
    assert [m.training for m in model] == [True, False, True, True, True]
    model.eval()
    expected = JointEnergy().fit_logits(model(INPUTS).detach())
    assert torch.equal(detector.threshold, expected.threshold)
    assert torch.equal(detector.predict(INPUTS), -joint_energy(model(INPUTS).detach()))
    assert torch.equal(detector(INPUTS), detector.predict(INPUTS))
    assert not detector(INPUTS).requires_grad
    assert torch.equal(detector.detect(INPUTS), expected.detect_logits(model(INPUTS)))


def test_modes_come_back_after_an_error():
    model = net()
    with pytest.raises(RuntimeError, match="shapes"):
        JointEnergy(model).fit([torch.zeros(2, 5)])
    assert model.training
    with evaluating(lambda x: x):
        pass


def test_threshold_travels_with_the_state():
    detector = JointEnergy(keep=0.8).fit_logits(LOGITS)
    other = JointEnergy(keep=0.8)
    other.load_state_dict(detector.state_dict())
    assert torch.equal(other.detect_logits(LOGITS), detector.detect_logits(LOGITS))


def test_a_planted_outlier_is_detected():
    detector = JointEnergy().fit_logits(LOGITS + 3)
    flat = torch.full((1, 3), -5.0)
    assert detector.detect_logits(flat).tolist() == [True]


def test_a_row_of_nan_does_not_pass_as_known():
    detector = JointEnergy(lambda x: x).fit_logits(LOGITS)
    broken = torch.tensor([[torch.nan, 9.0, 9.0], [9.0, 9.0, 9.0], [torch.inf, 0.0, 0.0]])
    assert detector.detect_logits(broken).tolist() == [True, False, False]
    assert detector.detect(broken).tolist() == [True, False, False]


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda: JointEnergy().detect_logits(LOGITS), ValueError, "Call fit or fit_logits first"),
        (lambda: JointEnergy(net()).detect(INPUTS), ValueError, "Call fit or fit_logits first"),
        (lambda: JointEnergy().predict(INPUTS), ValueError, "model: expected a model, got None"),
        (lambda: JointEnergy().fit([INPUTS]), ValueError, "model: expected a model, got None"),
        (lambda: JointEnergy(net()).fit([]), ValueError, "data_loader: expected at least one batch"),
        (lambda: JointEnergy().fit_logits(LOGITS[:0]), ValueError, "logits: expected at least one row"),
        (lambda: JointEnergy().fit_logits(LOGITS * torch.nan), ValueError, "finite, without NaN or infinity"),
        (lambda: JointEnergy().fit_logits(LOGITS[0]), ValueError, r"logits: expected shape \(n, C\)"),
        (
            lambda: JointEnergy().fit_logits(LOGITS.long()),
            TypeError,
            "logits: expected a floating-point tensor",
        ),
        (lambda: JointEnergy("resnet"), TypeError, "model: expected a callable"),
        (lambda: JointEnergy(keep=1.0), ValueError, "keep: expected a finite number"),
        (lambda: JointEnergyPostprocessor().inference(net(), [], False), ValueError, "at least one batch"),
        (lambda: JointEnergyPostprocessor().inference(net(), [], 1), TypeError, "progress"),
    ],
)
def test_errors(call, error, words):
    with pytest.raises(error, match=words):
        call()


def test_a_failed_fit_keeps_the_threshold():
    detector = JointEnergy().fit_logits(LOGITS)
    before = detector.threshold.clone()
    with pytest.raises(ValueError, match="finite"):
        detector.fit_logits(LOGITS * torch.inf)
    assert torch.equal(detector.threshold, before)


def test_openood_form():
    model = net().eval()
    processor = JointEnergyPostprocessor()
    processor.setup(model, {}, {})
    batches = [
        {"data": INPUTS[:40], "label": torch.zeros(40)},
        {"data": INPUTS[40:], "label": -torch.ones(24)},
    ]
    pred, conf, label = processor.inference(model, batches, progress=False)
    logits = model(INPUTS).detach()
    np.testing.assert_allclose(conf, joint_energy(logits).numpy(), rtol=1e-6)  # larger = in-distribution
    np.testing.assert_array_equal(pred, (logits > 0).numpy())
    assert label.sum() == -24
    assert not processor.APS_mode
