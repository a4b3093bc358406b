"""The quantitative score: golden values, loops, blind spots, errors."""

import numpy as np
import pytest
import torch

from graftkit.methods.content_shift import (
    cosine_difference,
    laplacian_difference,
    laplacian_norm,
    shift_score,
)
from tests.plugins.content_shift.reference import contour, difference

CC, II, JJ = torch.meshgrid(*(torch.arange(n, dtype=torch.float64) for n in (3, 5, 6)), indexing="ij")
R = torch.sin(0.3 * CC + 0.5 * II + 0.7 * JJ)
P = torch.cos(II * JJ + CC)


def test_golden_norms():
    norms = laplacian_norm(R)
    assert norms.sum().item() == pytest.approx(25.58547148638138, abs=1e-12)
    assert norms[2, 3].item() == pytest.approx(0.4217305888537292, abs=1e-12)
    assert laplacian_norm(R, padding="zeros").sum().item() == pytest.approx(46.60292285225195, abs=1e-12)


@pytest.mark.parametrize(
    ("amount", "expected", "score"),
    [
        (0.0, 0.0, 1.0),
        (0.05, 4.494092473325873, 0.9036072640664183),
        (0.1, 8.744625562141616, 0.8124385762748315),
        (0.5, 46.62272970882866, 0.0),
    ],
)
def test_golden_differences_and_scores(amount, expected, score):
    feature = R + amount * P
    assert laplacian_difference(R, feature).item() == pytest.approx(expected, abs=1e-12)
    assert shift_score(R, feature, R + 0.5 * P).item() == pytest.approx(score, abs=1e-12)


def test_blind_spots_that_the_docstring_names():
    assert laplacian_difference(R, R[[2, 0, 1]]).item() == pytest.approx(0, abs=1e-12)
    assert laplacian_difference(R, -R).item() == 0
    assert laplacian_difference(R, R + 7).item() == pytest.approx(0, abs=1e-12)
    A = R + 0.1 * P
    assert (laplacian_difference(2 * R, 2 * A) / laplacian_difference(R, A)).item() == pytest.approx(2)
    assert laplacian_norm(torch.full((2, 3, 4), 5.0)).abs().max() == 0


def test_normalising_takes_the_scale_away():
    A, B = R + 0.1 * P, R + 0.5 * P
    plain = shift_score(R, A, B, normalize=True)
    assert shift_score(R, 3 * A, 0.2 * B, normalize=True).item() == pytest.approx(plain.item(), abs=1e-12)
    assert shift_score(R, 3 * A, 0.2 * B).item() != pytest.approx(plain.item(), abs=1e-3)


def test_random_features_against_loops():
    rng = np.random.default_rng(0)
    for shape in ((1, 1, 1), (1, 1, 4), (4, 3, 1), (2, 5, 7)):
        r, a = rng.normal(size=shape), rng.normal(size=shape)
        assert laplacian_difference(torch.tensor(r), torch.tensor(a)).item() == pytest.approx(
            difference(r, a), abs=1e-12
        )
        assert laplacian_norm(torch.tensor(r))[0, 0].item() == pytest.approx(contour(r, 0, 0), abs=1e-12)


def test_a_batch_is_its_members():
    batch = torch.stack([R, R + P, 2 * R]).reshape(3, 1, 3, 5, 6)
    scores = shift_score(batch, batch + 0.1 * P, batch + P)
    single = [shift_score(one, one + 0.1 * P, one + P) for one in batch[:, 0]]
    torch.testing.assert_close(scores[:, 0], torch.stack(single), rtol=0, atol=1e-14)


def test_score_falls_as_the_feature_leaves():
    scores = [shift_score(R, R + a * P, R + 0.5 * P).item() for a in (0.0, 0.05, 0.1, 0.2, 0.5, 1.0)]
    assert scores == sorted(scores, reverse=True)
    assert scores[-1] < 0


def test_cosine_by_hand():
    """Vectors (1, 0) and (1, 1) at two positions: 1 - 1/sqrt 2 and 0; their mean."""
    r = torch.tensor([[[1.0, 2.0]], [[0.0, 2.0]]])
    a = torch.tensor([[[1.0, 5.0]], [[1.0, 5.0]]])
    assert cosine_difference(r, a).item() == pytest.approx((1 - 0.5**0.5) / 2, abs=1e-6)
    b = torch.tensor([[[0.0, 2.0]], [[1.0, 2.0]]])  # orthogonal, then equal: 0.5
    expected = (0.5 - (1 - 0.5**0.5) / 2) / 0.5
    assert shift_score(r, a, b, metric="cosine").item() == pytest.approx(expected, abs=1e-6)


def test_gradient_is_finite_where_norms_vanish():
    feature = torch.zeros(2, 4, 4, requires_grad=True)
    laplacian_difference(torch.ones(2, 4, 4), feature).backward()
    assert torch.equal(feature.grad, torch.zeros(2, 4, 4))
    free = (R + 0.1 * P).requires_grad_()
    shift_score(R, free, R + P).backward()
    assert torch.isfinite(free.grad).all()
    assert free.grad.abs().sum() > 0


def test_half_precision_does_not_overflow():
    big = torch.full((64, 32, 32), 60.0).half()
    big[:, ::2] = -60
    value = laplacian_difference(torch.zeros_like(big), big)
    assert value.dtype == torch.float32
    assert torch.isfinite(value)


def test_anchor_equal_to_the_reference_has_no_score():
    batch = torch.stack([R, R])
    with pytest.warns(UserWarning, match="anchor"):
        scores = shift_score(batch, batch + P, torch.stack([R, R + 0.5 * P]))
    assert torch.isnan(scores[0])
    assert scores[1] < 0


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"feature": R[:2]}, ValueError, r"\(3, 5, 6\), feature \(2, 5, 6\), anchor \(3, 5, 6\)"),
        ({"feature": R.clone().fill_(torch.nan)}, ValueError, "feature: expected finite values"),
        ({"anchor": R + torch.inf}, ValueError, "anchor: expected finite values"),
        ({"reference": R.long()}, TypeError, "reference: expected a floating-point tensor"),
        ({"reference": R.numpy()}, TypeError, "reference: expected a floating-point tensor"),
        ({"feature": R[0]}, ValueError, "feature: expected shape"),
        ({"feature": R[:, :0]}, ValueError, "no empty dimension"),
        ({"metric": "mse"}, ValueError, "metric"),
        ({"padding": "reflect"}, ValueError, "padding"),
        ({"normalize": 1}, TypeError, "normalize"),
    ],
)
def test_errors(change, error, words):
    arguments = {"reference": R, "feature": R + P, "anchor": R + 2 * P, **change}
    with pytest.raises(error, match=words):
        shift_score(**arguments)


def test_difference_refuses_features_of_two_shapes():
    with pytest.raises(ValueError, match="one shape"):
        laplacian_difference(R, R[:, :4])
    with pytest.raises(ValueError, match="one shape"):
        cosine_difference(R, R[:2])
