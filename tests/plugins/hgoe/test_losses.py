"""The boundary-aware loss: golden values, closed-form gradient, limits, calibration, errors."""

import math

import pytest
import torch
from torch.autograd import gradcheck
from torch.nn import functional

from graftkit.methods.hgoe.losses import BoundaryAwareOELoss, boundary_aware_loss
from tests.plugins.hgoe import reference

GRID = torch.linspace(-30, 30, 241, dtype=torch.float64)


def float64(*values):
    return torch.tensor(values, dtype=torch.float64)


@pytest.mark.parametrize(("s", "expected"), reference.LOSS_AT_GAMMA_2.items())
def test_golden_values_at_gamma_2(s, expected):
    assert float(boundary_aware_loss(float64(s), 2.0)) == pytest.approx(expected, abs=1e-5)
    assert reference.loss(s, 2) == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize(("gamma", "expected"), reference.LOSS_AT_ZERO.items())
def test_golden_values_at_the_boundary(gamma, expected):
    assert float(boundary_aware_loss(float64(0), gamma)) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("gamma", [0.0, 1.0, 2.0, 3.5])
def test_value_and_gradient_equal_the_closed_form(gamma):
    s = GRID.clone().requires_grad_()
    value = boundary_aware_loss(s, gamma)
    (gradient,) = torch.autograd.grad(value.sum(), s)
    for k, x in enumerate(GRID.tolist()):
        assert value[k].item() == pytest.approx(reference.loss(x, gamma), rel=1e-10)
        assert gradient[k].item() == pytest.approx(reference.loss_gradient(x, gamma), rel=1e-9)
    assert (gradient < 0).all()


def test_gradcheck():
    s = float64(-7.0, -0.3, 0.0, 2.0).requires_grad_()
    assert gradcheck(lambda v: boundary_aware_loss(v, 2.0), s)


@pytest.mark.parametrize(("gamma", "bound"), reference.STEEPEST.items())
def test_the_steepest_gradient_is_bounded(gamma, bound):
    s = torch.linspace(-30, 30, 6001, dtype=torch.float64).requires_grad_()
    (gradient,) = torch.autograd.grad(boundary_aware_loss(s, gamma).sum(), s)
    assert gradient.abs().max().item() == pytest.approx(bound, rel=3e-4)


def test_gradient_at_the_ends():
    s = float64(-30.0, 5.0).requires_grad_()
    (gradient,) = torch.autograd.grad(boundary_aware_loss(s, 2.0).sum(), s)
    assert gradient[0].item() == pytest.approx(-4, abs=1e-3)
    assert abs(gradient[1].item()) < 0.007


def test_float32_is_finite_far_out():
    s = torch.tensor([-1e4, 1e4, -88.0, 88.0]).requires_grad_()
    value = boundary_aware_loss(s, 2.0)
    (gradient,) = torch.autograd.grad(value.sum(), s)
    assert torch.isfinite(value).all()
    assert torch.isfinite(gradient).all()
    assert gradient[0].item() == pytest.approx(-4)  # the published epsilon would make this 0


def test_gamma_0_is_softplus():
    torch.testing.assert_close(boundary_aware_loss(GRID, 0.0), functional.softplus(-GRID))


def test_the_weight_falls_from_2_to_the_gamma_to_1():
    weight = boundary_aware_loss(GRID, 2.0) / functional.softplus(-GRID)
    assert (weight.diff() <= 1e-12).all()
    assert weight.max().item() == pytest.approx(4, abs=1e-9)
    assert weight.min().item() == pytest.approx(1, abs=1e-9)
    assert (boundary_aware_loss(GRID, 3.0) >= boundary_aware_loss(GRID, 2.0)).all()


def test_agrees_with_the_published_epsilon_where_that_does_no_harm():
    s = torch.linspace(-10, 10, 41, dtype=torch.float64)
    p = torch.sigmoid(s)
    published = -1 * ((2 - p) ** 2 * torch.log(p + 1e-10))
    torch.testing.assert_close(boundary_aware_loss(s, 2.0), published, rtol=0, atol=1e-5)


def test_detached_weight_changes_the_gradient_only():
    s = float64(-1.0, 0.5).requires_grad_()
    plain, detached = BoundaryAwareOELoss(), BoundaryAwareOELoss(detach_weight=True)
    assert plain(s).item() == detached(s).item()
    (gradient,) = torch.autograd.grad(detached(s), s)
    # weight held: d/ds = -(2 - p)^2 (1 - p), averaged over two
    p = torch.sigmoid(s.detach())
    torch.testing.assert_close(gradient, -((2 - p) ** 2) * (1 - p) / 2)


@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
def test_reductions(reduction):
    s = float64(-1.0, 0.0, 2.0)
    each = boundary_aware_loss(s)
    expected = {"none": each, "mean": each.mean(), "sum": each.sum()}[reduction]
    torch.testing.assert_close(BoundaryAwareOELoss(reduction=reduction)(s), expected)


def test_mirrored_scores_and_weight():
    s = float64(-1.0, 2.0)
    assert BoundaryAwareOELoss(higher_is_ood=False)(-s).item() == BoundaryAwareOELoss()(s).item()
    assert BoundaryAwareOELoss(weight=0.3)(s).item() == pytest.approx(0.3 * BoundaryAwareOELoss()(s).item())


@pytest.mark.parametrize("case", ["empty", "weight 0"])
def test_nothing_to_expose_is_zero_with_zero_gradient(case):
    s = (torch.zeros(0) if case == "empty" else torch.ones(3)).requires_grad_()
    value = BoundaryAwareOELoss(weight=1.0 if case == "empty" else 0.0)(s)
    (gradient,) = torch.autograd.grad(value, s)
    assert value.item() == 0
    assert not gradient.any()


def test_parts_are_added_with_their_weights():
    parts = {"graph": float64(-1.0, 0.0), "node": float64(2.0, 0.5)}
    value = BoundaryAwareOELoss()(parts, part_weights={"graph": 0.7, "node": 1.3})
    expected = (
        0.7 * boundary_aware_loss(parts["graph"]).mean() + 1.3 * boundary_aware_loss(parts["node"]).mean()
    )
    assert value.item() == pytest.approx(expected.item(), rel=1e-12)


def test_standardize_uses_running_id_statistics():
    criterion = BoundaryAwareOELoss(calibration="standardize")
    s = float64(3.0)
    # mean 2, standard deviation 1: s becomes 1
    assert criterion(s, float64(1.0, 3.0)).item() == pytest.approx(reference.loss(1.0, 2), rel=1e-12)
    # second batch: mean 0.9*2 + 0.1*12 = 3, deviation 0.9*1 + 0.1*2 = 1.1, so s becomes 0
    assert criterion(s, float64(10.0, 14.0)).item() == pytest.approx(reference.loss(0.0, 2), rel=1e-12)


def test_the_scale_has_a_floor_at_a_tenth_of_its_first_value():
    criterion = BoundaryAwareOELoss(calibration="standardize")
    criterion(float64(0.0), float64(-1.0, 1.0))
    for _ in range(100):
        criterion(float64(0.0), float64(0.0, 0.0))
    assert criterion.get_extra_state()["score"][1].item() == pytest.approx(0.1)


def test_quantile_calibration_puts_the_boundary_at_95_percent():
    criterion = BoundaryAwareOELoss(calibration="quantile")
    reference_scores = torch.arange(101, dtype=torch.float64)
    assert criterion(float64(95.0), reference_scores).item() == pytest.approx(reference.loss(0, 2), rel=1e-9)


def test_calibration_never_differentiates_the_id_scores():
    s, known = float64(1.0).requires_grad_(), float64(0.0, 2.0).requires_grad_()
    BoundaryAwareOELoss(calibration="standardize")(s, known).backward()
    assert s.grad is not None
    assert known.grad is None


def test_gate_takes_weight_from_intruders_only():
    known = float64(*range(11))
    plain = BoundaryAwareOELoss(reduction="none")(float64(-20.0, 30.0))
    gated = BoundaryAwareOELoss(reduction="none", gate=(0.1, 1.0))(float64(-20.0, 30.0), known)
    # Q_0.1 of 0..10 is 1: sigma(-21) and sigma(29)
    torch.testing.assert_close(gated, plain * float64(reference.sigmoid(-21), reference.sigmoid(29)))


def test_statistics_travel_by_state_dict(tmp_path):
    first = BoundaryAwareOELoss(calibration="standardize")
    first(float64(0.0), float64(1.0, 5.0))
    torch.save(first.state_dict(), tmp_path / "state.pt")
    second = BoundaryAwareOELoss(calibration="standardize").eval()
    second.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    assert second(float64(3.0)).item() == pytest.approx(reference.loss(0, 2))


def test_evaluation_mode_keeps_the_statistics():
    criterion = BoundaryAwareOELoss(calibration="standardize")
    criterion(float64(0.0), float64(1.0, 5.0))
    before = criterion.get_extra_state()["score"]
    criterion.eval()(float64(0.0), float64(100.0, 500.0))
    torch.testing.assert_close(criterion.get_extra_state()["score"], before)


def test_repr_shows_the_arguments():
    assert "gamma=1.5" in repr(BoundaryAwareOELoss(gamma=1.5))
    assert "calibration=None" in repr(BoundaryAwareOELoss())


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ({"gamma": -1}, ValueError, r"gamma: expected a finite number >= 0, got -1"),
        ({"gamma": math.nan}, ValueError, "gamma: expected a finite number"),
        ({"weight": -0.5}, ValueError, "weight: expected a finite number >= 0"),
        ({"weight": "1"}, TypeError, "weight: expected a finite number"),
        ({"calibration": "standardise"}, ValueError, "Did you mean 'standardize'"),
        ({"reduction": "avg"}, ValueError, "reduction: expected one of 'mean', 'sum', 'none'"),
        ({"higher_is_ood": 1}, TypeError, "higher_is_ood: expected True or False"),
        ({"detach_weight": None}, TypeError, "detach_weight: expected True or False"),
        ({"gate": 0.1}, TypeError, "gate: expected None or a pair"),
        ({"gate": (2, 1)}, ValueError, r"gate: expected a finite number in \[0, 1\]"),
        ({"gate": (0.1, 0)}, ValueError, "gate: expected a finite number > 0"),
    ],
)
def test_bad_arguments(arguments, error, words):
    with pytest.raises(error, match=words):
        BoundaryAwareOELoss(**arguments)


@pytest.mark.parametrize(
    ("scores", "error", "words"),
    [
        (torch.zeros(3, 1), ValueError, r"scores: expected shape \(B,\).*got Tensor of shape \(3, 1\)"),
        (torch.tensor(1.0), ValueError, r"scores: expected shape \(B,\)"),
        (torch.tensor([1, 2]), TypeError, "scores: expected a floating-point tensor"),
        ([1.0], TypeError, "scores: expected a floating-point tensor"),
        (torch.tensor([0.0, math.nan]), ValueError, "scores: expected finite scores, got nan at 1"),
        ({"a": torch.zeros(1), "b": torch.tensor([math.inf])}, ValueError, r"scores\['b'\]: expected finite"),
        ({}, ValueError, "scores: expected at least one part"),
    ],
)
def test_bad_scores(scores, error, words):
    with pytest.raises(error, match=words):
        BoundaryAwareOELoss()(scores)


def test_other_call_errors():
    one = {"a": torch.zeros(2)}
    with pytest.raises(ValueError, match=r"id_scores: expected the parts \['a'\]"):
        BoundaryAwareOELoss()(one, {"b": torch.zeros(2)})
    with pytest.raises(ValueError, match=r"part_weights: expected parts among \['a'\]"):
        BoundaryAwareOELoss()(one, part_weights={"c": 1.0})
    with pytest.raises(ValueError, match="id_scores: expected the scores of an ID batch"):
        BoundaryAwareOELoss(calibration="standardize")(torch.zeros(2))
    with pytest.raises(ValueError, match="id_scores: expected the scores of an ID batch, for gate"):
        BoundaryAwareOELoss(gate=(0.1, 1.0))(torch.zeros(2))
