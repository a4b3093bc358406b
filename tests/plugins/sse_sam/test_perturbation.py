"""The arithmetic: plain and multi-tensor forms are one, weights come home bit for bit."""

import math

import pytest
import torch
from torch import nn

from graftkit.methods.sse_sam.arithmetic import add_, scale_, subtract_, use_foreach
from graftkit.methods.sse_sam.perturbation import PerturbedWeights, _one, all_finite, gradient_norm


def some(dtype=torch.float64, seed=0):
    generator = torch.Generator().manual_seed(seed)
    shapes = [(3, 4), (5,), (), (0, 2), (2, 3)]
    params = [
        nn.Parameter(torch.randn(s, generator=generator, dtype=torch.float64).to(dtype)) for s in shapes
    ]
    grads = [torch.randn(s, generator=generator, dtype=torch.float64).to(dtype) for s in shapes]
    grads[1] = None
    return params, grads


@pytest.mark.parametrize("foreach", [True, False])
def test_ascent_from_its_formula(foreach):
    params, grads = some()
    before = [p.detach().clone() for p in params]
    adaptive, rho = [False, False, True, False, True], [0.5, 0.5, 2.0, 0.5, 2.0]
    square = 0.0
    for w, g, a in zip(before, grads, adaptive, strict=True):
        if g is not None:
            for wi, gi in zip(w.flatten().tolist(), g.flatten().tolist(), strict=True):
                square += (abs(wi) * gi if a else gi) ** 2
    norm = gradient_norm(params, grads, adaptive, foreach)
    assert norm.item() == pytest.approx(square**0.5, rel=1e-12)
    home = PerturbedWeights()
    home.ascend(params, grads, rho=rho, adaptive=adaptive, norm=norm.item(), eps=1e-12, foreach=foreach)
    for p, w, g, r, a in zip(params, before, grads, rho, adaptive, strict=True):
        step = 0 if g is None else r * (w * w if a else 1) * g / square**0.5
        torch.testing.assert_close(p.detach(), w + step, rtol=1e-12, atol=1e-14)
    home.restore()
    assert all(torch.equal(p.detach(), w) for p, w in zip(params, before, strict=True))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_weights_come_home_bitwise_where_subtraction_would_not(dtype):
    generator = torch.Generator().manual_seed(0)
    w = nn.Parameter((torch.randn(10_000, generator=generator) * 0.05).to(dtype))
    g = torch.randn(10_000, generator=generator).to(dtype)
    before = w.detach().clone()
    home = PerturbedWeights()
    norm = gradient_norm([w], [g], [False]).item()
    home.ascend([w], [g], rho=[0.3], adaptive=[False], norm=norm, eps=1e-12)
    moved = w.detach() - before
    home.restore()
    assert torch.equal(w.detach(), before)
    assert not torch.equal((before + moved) - moved, before)


def test_half_precision_norms_do_not_overflow():
    g = torch.full((100,), 300.0, dtype=torch.float16)
    assert gradient_norm([g], [g], [False]).item() == pytest.approx(3000.0)


def test_changed_shapes_get_new_buffers():
    w = nn.Parameter(torch.ones(3))
    home = PerturbedWeights()
    for n in (3, 5):
        w.data = torch.ones(n)
        home.ascend([w], [torch.ones(n)], rho=[1.0], adaptive=[False], norm=1.0, eps=0.0)
        home.restore()
        assert torch.equal(w.detach(), torch.ones(n))


@pytest.mark.parametrize("foreach", [True, False])
def test_sums_differences_and_scales_with_missing_gradients(foreach):
    a, b = torch.tensor([1.0, 2.0]), torch.tensor([3.0, 5.0])

    def pair():
        return [a.clone(), None, a.clone(), None], [b.clone(), b.clone(), None, None]

    total = add_(*pair(), foreach)
    assert [None if t is None else t.tolist() for t in total] == [[4, 7], [3, 5], [1, 2], None]
    gap = subtract_(*pair(), foreach)
    assert [None if t is None else t.tolist() for t in gap] == [[-2, -3], [-3, -5], [1, 2], None]
    assert [None if t is None else t.tolist() for t in scale_(pair()[0], 2.0, foreach)] == [
        [2, 4],
        None,
        [2, 4],
        None,
    ]


def test_when_the_multi_tensor_form_is_taken():
    dense = torch.ones(2)
    assert use_foreach([dense, None], None)
    assert not use_foreach([dense], False)
    assert not use_foreach([dense.half()], None)
    assert not use_foreach([dense.to_sparse()], None)
    assert not use_foreach([], None)


@pytest.mark.parametrize("default", [torch.float64, torch.bfloat16])
def test_the_check_for_finite_gradients_does_not_depend_on_the_default_type(default):
    before = torch.get_default_dtype()
    _one.cache_clear()
    torch.set_default_dtype(default)
    try:
        assert all_finite([], [torch.ones(2, dtype=torch.float64)])
        assert not all_finite([], [torch.full((2,), math.inf, dtype=torch.float32)])
    finally:
        torch.set_default_dtype(before)
        _one.cache_clear()
