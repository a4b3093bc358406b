"""Half precision, autocast, extreme and missing values, and what is kept for the backward pass."""

import pytest
import torch

from graftkit.torch import pixel_auc_loss
from tests.plugins.aucseg.cases import golden, gradient


def big_case(pixels=300_000, classes=5):
    rng = torch.Generator().manual_seed(0)
    x = torch.randn(1, classes, pixels, generator=rng) * 3
    y = torch.zeros(1, pixels, dtype=torch.long)
    y[:, -2000:] = torch.randint(1, classes, (1, 2000), generator=rng)  # one class is nearly everything
    return x, y


@pytest.mark.parametrize("scheme", ["ovo", "ova"])
def test_float32_on_a_million_pixels(scheme):
    x, y = big_case(1_000_000)
    exact = x.double().requires_grad_()
    rounded = x.requires_grad_()
    loss, truth = (pixel_auc_loss(z, y, scheme=scheme) for z in (rounded, exact))
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(truth.item(), rel=2e-5)
    expected = gradient(truth, exact)
    assert (gradient(loss, rounded) - expected).abs().max() < 2e-5 * expected.abs().max()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("activation", ["sigmoid", "softmax"])
def test_half_precision_logits(dtype, activation):
    x, y = big_case()
    low = x.to(dtype).requires_grad_()
    exact = low.detach().double().requires_grad_()
    loss, truth = (pixel_auc_loss(z, y, activation=activation) for z in (low, exact))
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(truth.item(), rel=2e-5)
    grad = gradient(1000 * loss, low)
    assert grad.dtype == dtype
    torch.testing.assert_close(grad.double(), 1000 * gradient(truth, exact), rtol=0.01, atol=1e-4)


def test_autocast_is_kept_out():
    x, y = big_case()
    plain = x.clone().requires_grad_()
    expected = pixel_auc_loss(plain, y)
    cast = x.clone().requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        loss = pixel_auc_loss(cast, y)
        assert loss.dtype == torch.float32
        grad = gradient(loss, cast)
    assert loss.item() == expected.item()
    assert torch.equal(grad, gradient(expected, plain))


def test_more_pixels_of_a_class_than_float16_can_count():
    y = torch.zeros(1, 1_500_000, dtype=torch.uint8)
    y[0, :1000] = 1
    x = torch.zeros(1, 2, 1_500_000, dtype=torch.float16)
    assert pixel_auc_loss(x, y).item() == pytest.approx(0.5, rel=2e-5)


@pytest.mark.parametrize("activation", ["sigmoid", "softmax"])
@pytest.mark.parametrize("surrogate", ["square", "hinge", "exp"])
def test_huge_logits(activation, surrogate):
    x, y = golden()
    huge = (x.detach() * 1e4).float().requires_grad_()
    loss = pixel_auc_loss(huge, y, activation=activation, surrogate=surrogate)
    assert torch.isfinite(loss)
    assert torch.isfinite(gradient(loss, huge)).all()


def test_largest_margin_of_exp_is_finite():
    _, y = golden()
    x = torch.full((2, 4, 3, 4), -40.0)
    x.scatter_(1, y.clamp(max=3)[:, None], 40.0)
    x = (-x).requires_grad_()  # inverted: the largest loss there is, exp(80)
    loss = pixel_auc_loss(x, y, surrogate="exp", margin=80.0)
    assert torch.isfinite(loss)
    assert torch.isfinite(gradient(loss, x)).all()


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("activation", ["sigmoid", "softmax"])
def test_nan_at_an_ignored_pixel_stays_there(bad, activation):
    x, y = golden()
    z = x.detach().clone()
    z[0, :, 0, 0] = bad
    z.requires_grad_()
    loss = pixel_auc_loss(z, y, activation=activation)
    assert loss.item() == pixel_auc_loss(x, y, activation=activation).item()
    grad = gradient(loss, z)
    assert torch.isfinite(grad).all()
    assert grad[0, :, 0, 0].abs().max() == 0
    weight = torch.ones(2, 3, 4)
    weight[0, 0, 0] = 0
    y = y.clone()
    y[0, 0, 0] = 1  # of no weight: the same
    assert torch.isfinite(pixel_auc_loss(z, y, weight=weight, activation=activation))


def test_nan_at_a_valid_pixel_is_not_hidden():
    x, y = golden()
    z = x.detach().clone()
    z[0, 0, 0, 1] = float("nan")
    assert torch.isnan(pixel_auc_loss(z, y))
    z = x.detach().clone()
    z[0, 3, 0, 1] = float("nan")  # of an absent class: its map compares nothing
    assert torch.isfinite(pixel_auc_loss(z, y))


@pytest.mark.parametrize("activation", ["sigmoid", "softmax"])
def test_nothing_of_the_logits_size_is_kept_beside_them(activation):
    x, y = golden()
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        loss = pixel_auc_loss(x, y, activation=activation)
    large = [t for t in kept if t.is_floating_point() and t.numel() >= x.numel()]
    assert [t.data_ptr() for t in large] == [x.data_ptr()]
    assert max(t.numel() for t in kept if t.is_floating_point() and t.data_ptr() != x.data_ptr()) <= 4
    loss.backward()


def test_second_derivatives_are_refused():
    x, y = golden()
    (grad,) = torch.autograd.grad(pixel_auc_loss(x, y), x, create_graph=True)
    with pytest.raises(RuntimeError, match="does not require grad"):
        grad.sum().backward()


def test_without_grad():
    x, y = golden()
    with torch.no_grad():
        assert not pixel_auc_loss(x, y).requires_grad
    with torch.inference_mode():
        assert pixel_auc_loss(x.detach(), y).item() == pytest.approx(0.624732064186708)


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize("activation", ["sigmoid", "softmax"])
def test_cuda_equals_cpu(dtype, activation):
    x, y = big_case()
    grads = []
    for device in ("cpu", "cuda"):
        z = x.to(device, dtype).requires_grad_()
        loss = pixel_auc_loss(z, y.to(device), activation=activation)
        grads.append((loss.detach().cpu(), gradient(1000 * loss, z).cpu()))
    torch.testing.assert_close(grads[0], grads[1], rtol=2e-3, atol=1e-5)
