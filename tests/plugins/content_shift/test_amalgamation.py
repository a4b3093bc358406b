"""The blend: golden values, loops, invariances, errors."""

import numpy as np
import pytest
import torch

from graftkit.methods.content_shift import (
    FeatureAmalgamation,
    amalgamate,
    amalgamation_penalty,
    assignment_weights,
)
from tests.plugins.content_shift import reference
from tests.plugins.content_shift.test_contours import P, R

W = torch.tensor([[0.7, 0.2, 0.1], [0.1, 0.3, 0.6]], dtype=torch.float64)


def test_golden_penalty():
    assert -amalgamation_penalty(W, sparsity=1).item() == pytest.approx(1.4130799211474803, abs=1e-12)
    assert -2 * amalgamation_penalty(W, diversity=1).item() == pytest.approx(1.5748015748023623, abs=1e-12)
    assert (1 + amalgamation_penalty(W, 0.1, 0.05)).item() == pytest.approx(0.8193219685151929, abs=1e-12)


def test_golden_blend_of_two_assigners():
    fused = amalgamate(torch.stack((R, R + P, P))[None], W)
    assert fused.shape == (1, 6, 5, 6)
    assert fused.mean().item() == pytest.approx(0.05180033084705731, abs=1e-12)
    assert fused[0, 4, 2, 3].item() == pytest.approx(0.5762955880982418, abs=1e-12)


LOGITS = torch.sin(0.9 * torch.arange(12, dtype=torch.float64)).reshape(3, 4)
MAPS = torch.cos(0.3 * torch.arange(48, dtype=torch.float64)).reshape(1, 3, 4, 2, 2)


@pytest.mark.parametrize(
    ("kind", "column", "total", "element"),
    [
        ("channel", (0.2594768583, 0.1666918798, 0.5738312619), -2.4789851744670957, 0.15491190006563665),
        ("scalar", (0.4492145543, 0.1510123665, 0.3997730792), 0.5788760669466865, 0.2244379567658053),
    ],
)
def test_golden_weights(kind, column, total, element):
    w = assignment_weights(LOGITS, kind)
    assert w[:, 0].tolist() == pytest.approx(column, abs=1e-9)
    fused = amalgamate(MAPS, w[None, None])
    assert fused.sum().item() == pytest.approx(total, abs=1e-10)
    assert fused[0, 1, 0, 1].item() == pytest.approx(element, abs=1e-12)


def test_random_blends_and_penalties_against_loops():
    rng = np.random.default_rng(0)
    for n, b, c in ((1, 1, 1), (1, 4, 3), (3, 2, 5)):
        maps, w = rng.normal(size=(b, c, 3, 2)), rng.random((n, b, c))
        fused = amalgamate(torch.tensor(maps)[None], torch.tensor(w)[None])
        np.testing.assert_allclose(fused[0].numpy(), reference.blend(maps, w), atol=1e-12)
        plain = w[..., 0]
        found = amalgamation_penalty(torch.tensor(plain), 0.3, 0.7).item()
        assert found == pytest.approx(reference.penalty(plain, 0.3, 0.7), abs=1e-12)


def test_penalty_averages_over_samples_and_channels():
    w = torch.stack((W, W.flip(1)))  # two channels
    batch = torch.stack((w, w)).permute(0, 2, 3, 1)  # (B, n, b, C)
    each = [amalgamation_penalty(one, 0.2, 0.4) for one in w]
    torch.testing.assert_close(amalgamation_penalty(batch, 0.2, 0.4), sum(each) / 2)


def test_choosing_is_rewarded_and_equal_assigners_are_not_diverse():
    one_hot, uniform = torch.tensor([[1.0, 0, 0]]), torch.full((1, 3), 1 / 3)
    assert amalgamation_penalty(one_hot, 1.0) == -1
    assert amalgamation_penalty(uniform, 1.0).item() == pytest.approx(-(3**-0.5))
    assert amalgamation_penalty(W[:1], diversity=1.0) == 0
    assert amalgamation_penalty(W[[0, 0]], diversity=1.0) == 0


def test_penalty_gradient():
    assert torch.autograd.gradcheck(lambda w: amalgamation_penalty(w, 0.3, 0.7), W.clone().requires_grad_())
    equal = W[[0, 0]].clone().requires_grad_()
    amalgamation_penalty(equal, 0.0, 1.0).backward()
    assert torch.isfinite(equal.grad).all()


@pytest.mark.parametrize("weights", ["channel", "scalar"])
@pytest.mark.parametrize("kind", ["conv", "pixel", "mean"])
def test_order_of_the_variants_does_not_matter(kind, weights):
    torch.manual_seed(0)
    blend = FeatureAmalgamation(5, 3, weights=weights, kind=kind).eval()
    maps = torch.randn(2, 3, 5, 4, 6)
    order = [2, 0, 1]
    torch.testing.assert_close(blend(maps[:, order])[0], blend(maps)[0], atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(blend.assign(maps[:, order]), blend.assign(maps)[:, :, order])


@pytest.mark.parametrize("weights", ["channel", "scalar"])
@pytest.mark.parametrize("kind", ["conv", "pixel"])
def test_module_is_the_sum_with_its_own_weights(kind, weights):
    torch.manual_seed(0)
    blend = FeatureAmalgamation(5, 3, 2, weights=weights, kind=kind).eval()
    maps = torch.randn(2, 3, 5, 4, 6)
    w = blend.assign(maps)
    torch.testing.assert_close(w.sum(2), torch.ones_like(w.sum(2)))
    assert (w.std(dim=3).max() < 1e-6) == (weights == "scalar")
    fused, _ = blend(maps)
    assert fused.shape == (2, 10, 4, 6)
    if kind == "conv":
        expected = torch.einsum("bnic,bichw->bnchw", w, maps).flatten(1, 2)
    else:
        by_place = w.reshape(2, 4, 6, 2, 3, 5)
        expected = torch.einsum("bhwnic,bichw->bnchw", by_place, maps).flatten(1, 2)
    torch.testing.assert_close(fused, expected)


def test_pixel_vectors_equal_pixels_of_maps():
    torch.manual_seed(0)
    blend = FeatureAmalgamation(5, 3, kind="pixel").eval()
    maps = torch.randn(2, 3, 5, 4, 6)
    vectors = maps.permute(0, 3, 4, 1, 2).reshape(-1, 3, 5)
    fused = blend(maps)[0].permute(0, 2, 3, 1).reshape(-1, 5)
    torch.testing.assert_close(blend(vectors)[0], fused)


def test_mean_is_training_free():
    blend = FeatureAmalgamation(5, 3, kind="mean")
    assert list(blend.parameters()) == []
    maps = torch.randn(2, 3, 5, 4, 6)
    torch.testing.assert_close(blend(maps)[0], maps.mean(1))


def test_attention_is_joined_behind():
    blend = FeatureAmalgamation(5, 3, kind="mean")
    maps, attention = torch.randn(2, 3, 5, 4, 6), torch.randn(2, 7, 4, 6)
    fused, _ = blend(maps, attention)
    assert fused.shape == (2, 12, 4, 6)
    assert torch.equal(fused[:, 5:], attention)


def test_assigners_are_separate_modules():
    """The public code repeats one convolution among its assigners."""
    first, second = FeatureAmalgamation(5, 3, 2).assigners
    assert {id(p) for p in first.parameters()}.isdisjoint(id(p) for p in second.parameters())
    assert not torch.equal(first[0].weight, second[0].weight)


def test_trains_towards_the_useful_variant():
    """Variant 1 carries the target, the others noise: its weight grows from 1/3."""
    torch.manual_seed(0)
    blend = FeatureAmalgamation(4, 3, sparsity=0.01, dropout=0.0)
    optimizer = torch.optim.Adam(blend.parameters(), lr=0.01)
    marks = 3 * torch.eye(3, 4).reshape(1, 3, 4, 1, 1)  # what tells variants apart
    for _ in range(60):
        maps = torch.randn(8, 3, 4, 4, 4) + marks
        fused, penalty = blend(maps)
        loss = (fused - maps[:, 1]).square().mean() + penalty
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    blend.eval()
    assert blend.assign(torch.randn(8, 3, 4, 4, 4) + marks)[:, 0, 1].mean() > 0.8


def test_diversity_term_reaches_the_assigners():
    """In the public code it is a constant 0."""
    torch.manual_seed(0)
    blend = FeatureAmalgamation(4, 3, 2, diversity=1.0).eval()
    _, penalty = blend(torch.randn(2, 3, 4, 4, 4))
    assert penalty < 0
    penalty.backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for a in blend.assigners for p in [a[-1].weight])


def test_state_comes_back_safely(tmp_path):
    torch.manual_seed(0)
    blend = FeatureAmalgamation(4, 3, 2).eval()
    torch.save(blend.state_dict(), tmp_path / "w.pt")
    again = FeatureAmalgamation(4, 3, 2).eval()
    again.load_state_dict(torch.load(tmp_path / "w.pt", weights_only=True))
    maps = torch.randn(1, 3, 4, 2, 2)
    assert torch.equal(again(maps)[0], blend(maps)[0])
    assert "num_features=3" in repr(blend)


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"channels": 0}, ValueError, "channels"),
        ({"num_features": 2.0}, TypeError, "num_features"),
        ({"num_assigners": 0}, ValueError, "num_assigners"),
        ({"num_assigners": 2, "kind": "mean"}, ValueError, "num_assigners: expected 1 with kind='mean'"),
        ({"weights": "each"}, ValueError, "weights"),
        ({"kind": "nn"}, ValueError, "kind"),
        ({"sparsity": -1.0}, ValueError, "sparsity"),
        ({"diversity": float("nan")}, ValueError, "diversity"),
        ({"dropout": 1.0}, ValueError, "dropout"),
    ],
)
def test_bad_arguments(options, error, words):
    with pytest.raises(error, match=words):
        FeatureAmalgamation(**{"channels": 4, "num_features": 3, **options})


@pytest.mark.parametrize(
    ("maps", "attention", "error", "words"),
    [
        (torch.zeros(2, 2, 4, 3, 3), None, ValueError, "num_features=3"),
        (torch.zeros(2, 3, 5, 3, 3), None, ValueError, "channels=4"),
        (torch.zeros(2, 3, 4), None, ValueError, "num_features=3, channels=4, H, W"),
        (torch.zeros(2, 3, 4, 3, 3).long(), None, TypeError, "maps"),
        (
            torch.zeros(2, 3, 4, 3, 3),
            torch.zeros(2, 7, 3, 4),
            ValueError,
            r"attention: expected shape \(2, A, 3, 3\)",
        ),
        (torch.zeros(2, 3, 4, 3, 3), torch.zeros(1, 7, 3, 3), ValueError, "attention"),
    ],
)
def test_bad_maps(maps, attention, error, words):
    with pytest.raises(error, match=words):
        FeatureAmalgamation(4, 3).eval()(maps, attention)


def test_weights_that_do_not_fit():
    with pytest.raises(ValueError, match="weights: expected shape"):
        amalgamate(torch.zeros(1, 3, 4, 2, 2), torch.zeros(2, 2))
    with pytest.raises(ValueError, match="weights: expected shape"):
        amalgamation_penalty(torch.zeros(3))
    with pytest.raises(ValueError, match="sparsity"):
        amalgamation_penalty(W, sparsity=-0.1)
    with pytest.raises(ValueError, match="weights"):
        assignment_weights(LOGITS, "both")
