"""The fused contrastive loss is the readable one, only faster."""

import pytest
import torch
from torch.autograd import gradcheck
from torch.nn import functional

from graftkit.methods.rcpmod.losses import contrastive_loss, fused_contrastive_loss


def leaves(n, d, m, *, lead=(), dtype=torch.float64, seed=0):
    generator = torch.Generator().manual_seed(seed)

    def unit(*shape):
        z = functional.normalize(torch.randn(*shape, dtype=torch.float64, generator=generator), dim=-1)
        return z.to(dtype).requires_grad_()

    return unit(*lead, n, d), unit(*lead, n, d), unit(m, d) if m else None


def assert_same(u, w, q, temperature, *, scale=1.0, rtol=1e-12, atol=1e-12):
    wanted_leaves = [x for x in (u, w, q) if x is not None]
    fast = fused_contrastive_loss(u, w, q, temperature=temperature)
    slow = contrastive_loss(u, w, q, temperature=temperature)
    assert fast.dtype == slow.dtype
    torch.testing.assert_close(fast, slow, rtol=rtol, atol=atol)
    got = torch.autograd.grad(scale * fast, wanted_leaves)
    wanted = torch.autograd.grad(scale * slow, wanted_leaves)
    for g, e in zip(got, wanted, strict=True):
        torch.testing.assert_close(g, e, rtol=rtol, atol=atol)


@pytest.mark.parametrize(
    ("n", "d", "m"), [(7, 5, 4), (7, 5, 0), (2, 3, 1), (1, 4, 0), (1, 4, 3), (40, 16, 12)]
)
@pytest.mark.parametrize("temperature", [0.5, 0.07, 1.0])
def test_equals_the_readable_form(n, d, m, temperature):
    assert_same(*leaves(n, d, m), temperature)


@pytest.mark.parametrize("m", [0, 4])
def test_leading_dimensions_are_independent_problems(m):
    u, w, q = leaves(6, 4, m, lead=(3,))
    assert_same(u, w, q, 0.5)
    each = torch.stack([contrastive_loss(u[r], w[r], q) for r in range(3)]).mean()
    torch.testing.assert_close(fused_contrastive_loss(u, w, q), each, rtol=0, atol=1e-13)


@pytest.mark.parametrize("scale", [2.5, -1.0, 0.0])
def test_upstream_gradient_scales(scale):
    assert_same(*leaves(5, 3, 2), 0.5, scale=scale)


def test_float32_is_close():
    assert_same(*leaves(64, 16, 24, dtype=torch.float32), 0.5, rtol=2e-5, atol=2e-6)
    assert_same(*leaves(64, 16, 24, dtype=torch.float32), 0.05, rtol=2e-4, atol=2e-5)


def test_non_contiguous_input():
    u, w, q = leaves(5, 6, 4)
    strided = [x.detach().T.contiguous().T.requires_grad_() for x in (u, w, q)]
    assert not any(x.is_contiguous() for x in strided)
    assert_same(*strided, 0.5)
    assert_same(*(x.detach()[:, ::2].requires_grad_() for x in (u, w, q)), 0.5)


def test_small_temperature_falls_back_and_stays_finite():
    # Opposite unit vectors at tau = 0.01: the shifted exponentials are exp(-200), which float32 loses.
    u = torch.eye(3)[:2].requires_grad_()
    w = (-torch.eye(3)[:2]).requires_grad_()
    assert_same(u, w, None, 0.01, rtol=1e-6, atol=1e-6)
    loss = fused_contrastive_loss(u, w, temperature=0.01)
    assert loss.item() == pytest.approx(100.0, abs=2.0)  # positive e^-100, two negatives e^0: 100 + log 2


def test_float32_survives_just_above_the_fallback():
    u = torch.eye(2)[:1].requires_grad_()
    loss = fused_contrastive_loss(u, -u, temperature=0.04)
    loss.backward()
    assert loss.item() == pytest.approx(0.0, abs=1e-4)
    assert torch.isfinite(u.grad).all()


def test_passes_gradcheck():
    u, w, q = leaves(4, 3, 2)
    assert gradcheck(lambda *args: fused_contrastive_loss(*args, temperature=0.5), (u, w, q))
    assert gradcheck(lambda *args: fused_contrastive_loss(*args, None, temperature=0.5), (u, w))


def test_inputs_are_left_alone():
    u, w, q = leaves(5, 3, 2)
    before = [x.detach().clone() for x in (u, w, q)]
    fused_contrastive_loss(u, w, q).backward()
    for x, y in zip((u, w, q), before, strict=True):
        assert torch.equal(x.detach(), y)
