"""JointEnergy: exact over the whole range, ordered as the probability of no label, in any dtype."""

import math
from decimal import Decimal, getcontext

import pytest
import torch

from graftkit.methods.edge import joint_energy, none_probability, suggest_margin
from graftkit.methods.edge.energies import tail_size
from tests.plugins.edge import reference

getcontext().prec = 420  # 1 + exp(-800) needs 348 digits to be more than 1


def exact(z: float) -> Decimal:
    return (1 + Decimal(z).exp()).ln()


def test_worked_value():
    # Three zeros: 3 ln 2, and no label with probability (1/2)^3.
    zeros = torch.zeros(3, dtype=torch.float64)
    assert joint_energy(zeros).item() == pytest.approx(2.0794415416798357, abs=1e-12)
    assert none_probability(zeros).item() == pytest.approx(0.125, abs=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_against_many_digits(dtype):
    # 20.001 to 40: where softplus with torch's default threshold is off by up to 1.9e-9 in float64.
    points = [-800, -120, -60, -37.5, -18, -17, -1, 0, 1e-3, 5, 19.9, 20.001, 20.5, 30, 37, 40, 89, 710, 800]
    points = torch.tensor(points, dtype=dtype)
    wide = torch.finfo(dtype)
    for z in points:
        value = joint_energy(z[None]).item()
        truth = float(exact(z.item()))
        # Below the smallest normal number digits go, not before.
        assert abs(value - truth) <= 4 * wide.eps * truth + wide.tiny, z


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_narrow_logits_give_finite_float32(dtype):
    logits = torch.full((2, 1000), 100.0, dtype=dtype)  # the sum is beyond float16's 65504
    energy = joint_energy(logits)
    assert energy.dtype == torch.float32
    assert energy.tolist() == [100_000.0, 100_000.0]


def test_any_axis_and_batch_shape():
    logits = torch.randn(2, 5, 3, 4, dtype=torch.float64)
    moved = joint_energy(logits, dim=1)
    assert moved.shape == (2, 3, 4)
    for b, h, w in ((0, 0, 0), (1, 2, 3)):
        assert moved[b, h, w].item() == pytest.approx(
            reference.energy(logits[b, :, h, w].tolist()), rel=1e-14
        )
    torch.testing.assert_close(moved, joint_energy(logits.movedim(1, -1)), rtol=1e-14, atol=0)


def test_gradient_is_the_sigmoid():
    logits = torch.randn(4, 6, dtype=torch.float64, requires_grad=True)
    joint_energy(logits).sum().backward()
    torch.testing.assert_close(logits.grad, logits.detach().sigmoid(), rtol=1e-12, atol=0)


def test_bounds_and_order():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(50, 7, generator=generator, dtype=torch.float64) * 3
    energy, top = joint_energy(logits), logits.amax(1)
    assert bool((reference_softplus(top) <= energy).all())
    assert bool((energy <= 7 * reference_softplus(top)).all())
    # Strictly increasing in each logit; the probability of no label turns the order round.
    for c in range(7):
        raised = logits.clone()
        raised[:, c] += 0.1
        assert bool((joint_energy(raised) > energy).all())
    assert torch.equal(none_probability(logits).argsort(), energy.argsort(descending=True))
    torch.testing.assert_close(none_probability(logits), (1 - logits.sigmoid()).prod(1), rtol=1e-10, atol=0)


def reference_softplus(values):
    return torch.tensor([reference.softplus(v) for v in values.tolist()], dtype=torch.float64)


def test_a_label_that_is_surely_off_changes_nothing():
    logits = torch.randn(3, 4, dtype=torch.float64)
    wider = torch.cat([logits, torch.full((3, 1), -1e4, dtype=torch.float64)], 1)
    assert torch.equal(joint_energy(wider), joint_energy(logits))


@pytest.mark.parametrize("bad", [torch.zeros(3, dtype=torch.int64), [0.0, 1.0], None])
def test_logits_of_the_wrong_type(bad):
    with pytest.raises(TypeError, match="logits: expected a floating-point tensor"):
        joint_energy(bad)


def test_axis_and_validation():
    with pytest.raises(ValueError, match=r"dim: expected an axis of logits of shape \(2, 3\), got 2"):
        joint_energy(torch.zeros(2, 3), dim=2)
    with pytest.raises(ValueError, match="dim: expected an axis"):
        joint_energy(torch.zeros(()))
    for bad in (math.nan, math.inf):
        with pytest.raises(ValueError, match="logits: expected finite values, without NaN or infinity"):
            joint_energy(torch.tensor([0.0, bad]), validate=True)
        assert not bool(torch.isfinite(joint_energy(torch.tensor([0.0, bad]))))
    with pytest.warns(UserWarning, match="expected logits"):
        joint_energy(torch.tensor([0.2, 0.9]), validate=True)
    joint_energy(torch.tensor([0.2, 1.1]), validate=True)  # no warning: they may be logits
    with pytest.raises(TypeError, match="validate"):
        joint_energy(torch.zeros(2), validate=1)


def test_tail_size():
    assert [tail_size(k, 10) for k in (1, 10, 11)] == [1, 10, 10]
    # ceil(0.25 * 10) = 3; a tenth of 30 is 3 although 0.1 * 30 rounds up in floats; at least one row.
    assert [tail_size(0.25, 10), tail_size(0.1, 30), tail_size(0.01, 10), tail_size(1.0, 10)] == [3, 3, 1, 10]


def test_margin_is_the_smallest_that_moves_the_share():
    # Tail of two rows (5, 6), outliers 1, 2: gaps 3, 4, 4, 5. A pair is inside where its gap is below the
    # margin, so just above 3 a quarter is, just above 4 three quarters, just above 5 all of them.
    sides = torch.tensor([9.0, 6.0, 5.0, 8.0]), torch.tensor([1.0, 2.0])
    for active, edge, share in (
        (0.25, 3, 0.25),
        (0.5, 4, 0.75),
        (0.6, 4, 0.75),
        (0.75, 4, 0.75),
        (0.8, 5, 1),
    ):
        advice = suggest_margin(*sides, k=2, active=active)
        assert edge < advice.margin < edge + 1e-3
        assert advice.active == share
    assert advice.oe_quantiles == pytest.approx((1.05, 1.25, 1.5, 1.75, 1.95))
    # Outliers above the tail: no margin is needed.
    high = suggest_margin(torch.tensor([1.0, 2.0]), torch.tensor([3.0]), k=1)
    assert high.margin == 0.0
    assert high.active == 1.0


def test_margin_for_many_rows_makes_no_matrix_of_pairs():
    """50,000 rows and 12,500 in the tail would be 5 GB."""
    known, outliers = torch.linspace(10, 50, 50_000), torch.linspace(0, 10, 50_000)
    advice = suggest_margin(known, outliers)
    # Tail uniform on [10, 20], outliers on [0, 10]: the difference is symmetric about 10.
    assert advice.margin == pytest.approx(10, abs=0.01)
    assert advice.active == pytest.approx(0.5, abs=1e-3)
    assert advice.active >= 0.5


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"id_energy": torch.zeros(0)}, "id_energy: expected a vector of finite energies"),
        ({"oe_energy": torch.tensor([math.nan])}, "oe_energy: expected a vector of finite energies"),
        ({"oe_energy": torch.zeros(2, 2)}, "oe_energy: expected a vector"),
        ({"active": 1.0}, "active: expected a finite number"),
        ({"k": 0}, "k: expected an integer >= 1"),
        ({"k": 1.5}, r"k: expected a finite number in \(0, 1\]"),
    ],
)
def test_margin_refuses(change, words):
    with pytest.raises(ValueError, match=words):
        suggest_margin(**{"id_energy": torch.ones(3), "oe_energy": torch.ones(3), **change})
