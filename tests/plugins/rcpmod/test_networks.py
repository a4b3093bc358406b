"""Networks that leave out units which no row switches on equal plain layers, and do less work."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from torch.autograd import gradcheck
from torch.nn import functional
from torch.utils.flop_counter import FlopCounterMode

from graftkit.methods.rcpmod import networks
from graftkit.methods.rcpmod.networks import ReluNetwork


@pytest.fixture(autouse=True)
def at_any_price(monkeypatch):
    """Leave units out of networks too small for that to pay."""
    monkeypatch.setattr(networks, "COPY_COST", 0)


def layers(widths, seed=0, *, off=()):
    """Random weights; the units named in `off`, as (layer, unit), get a bias that nothing overcomes."""
    rng = np.random.default_rng(seed)
    drawn = [(rng.normal(size=(n, m)), rng.normal(size=n)) for m, n in pairwise(widths)]
    for depth, unit in off:
        drawn[depth][1][unit] = -1e3
    return drawn


def both(drawn, x, dtype=torch.float64):
    """Value and all gradients of a network, and of torch's own layers one after another."""
    results = []
    for plain in (False, True):
        net = ReluNetwork(drawn, dtype=dtype)
        rows = torch.as_tensor(x).to(dtype).requires_grad_()
        if plain:
            out = rows
            for depth, (weight, bias) in enumerate(zip(net.weights, net.biases, strict=True)):
                out = functional.linear(out if depth == 0 else functional.relu(out), weight, bias)
        else:
            out = net(rows)
        (out * torch.arange(1.0, 1 + out.numel(), dtype=dtype).view_as(out)).sum().backward()
        results.append([out.detach(), rows.grad, *(p.grad for p in net.parameters())])
    return results


def assert_equal(drawn, x, **tolerance):
    got, wanted = both(drawn, x)
    for g, w in zip(got, wanted, strict=True):
        torch.testing.assert_close(g, w, **{"rtol": 1e-12, "atol": 1e-10, **tolerance})


@pytest.mark.parametrize(
    "off",
    [
        [],
        [(0, 1)],
        [(1, 0), (1, 2)],
        [(0, 0), (0, 3), (1, 1)],
        [(1, unit) for unit in range(4)],
        [(0, unit) for unit in range(5)],
        [(depth, unit) for depth in (0, 1) for unit in range(4)],
    ],
)
def test_equals_the_layers_whichever_units_are_off(off):
    assert_equal(layers((3, 5, 4, 2), off=off), np.random.default_rng(1).random((7, 3)))


@pytest.mark.parametrize("widths", [(3, 2), (3, 6, 2), (3, 6, 5, 4, 2)])
def test_any_depth(widths):
    assert_equal(layers(widths, seed=2), np.random.default_rng(2).normal(size=(9, 3)))


@pytest.mark.parametrize("n", [0, 1])
def test_no_row_and_one_row(n):
    assert_equal(layers((3, 5, 4, 2), off=[(0, 0)]), np.ones((n, 3)))


def test_units_off_for_some_rows_only_are_kept():
    x = np.array([[1.0], [-1.0]])
    drawn = [
        (np.array([[1.0], [-1.0], [1.0]]), np.array([0.0, 0.0, -9.0])),
        (np.array([[2.0, 3.0, 5.0]]), np.zeros(1)),
    ]
    (value, *_), _ = both(drawn, x)
    assert value.tolist() == [[2.0], [3.0]]
    assert_equal(drawn, x)


def test_passes_gradcheck():
    net = ReluNetwork(layers((3, 5, 4, 2), off=[(0, 2), (1, 1)]), dtype=torch.float64)
    x = torch.rand(6, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).requires_grad_()
    assert gradcheck(lambda rows, *_: net(rows), (x, *net.parameters()))


def test_work_shrinks_with_the_units_that_are_off():
    """First layer 10 of 16 live, second 4 of 16: all products run over these only."""
    n, off = 32, [(0, unit) for unit in range(6)] + [(1, unit) for unit in range(12)]
    drawn = layers((3, 16, 16, 2))
    for weight, bias in drawn[:2]:  # every other unit is on for some row
        np.abs(weight, out=weight)
        np.abs(bias, out=bias)
    for depth, unit in off:
        drawn[depth][1][unit] = -1e3
    net = ReluNetwork(drawn, dtype=torch.float64)
    with FlopCounterMode(display=False) as counter:
        net(torch.rand(n, 3, dtype=torch.float64)).sum().backward()
    forward = 3 * 16 + 10 * 16 + 4 * 2
    backward = 4 * 2 * 2 + 10 * 4 * 2 + 3 * 10
    assert counter.get_total_flops() == 2 * n * (forward + backward)


def test_units_are_left_out_only_where_that_pays(monkeypatch):
    monkeypatch.undo()
    few, many = torch.ones(9, 200), torch.ones(9, 200)
    few[:, :10] = many[:, :190] = 0
    assert networks._live_units(few, saved=320) is None
    assert networks._live_units(few, saved=3200).tolist() == list(range(10, 200))
    assert networks._live_units(many, saved=320).tolist() == list(range(190, 200))
    assert networks._live_units(torch.ones(9, 200), saved=10**9) is None


def test_what_is_not_finite_stays_so():
    net = ReluNetwork(layers((3, 5, 2)), dtype=torch.float64)
    x = torch.rand(4, 3, dtype=torch.float64)
    x[2] = torch.nan
    out = net(x)
    assert out[2].isnan().all()
    assert out[[0, 1, 3]].isfinite().all()
    out.sum().backward()
    assert all(p.grad.isnan().any() for p in net.weights)


def test_weights_are_copied_and_no_generator_is_drawn_from():
    drawn = layers((3, 5, 2))
    before = torch.get_rng_state()
    net = ReluNetwork(drawn, dtype=torch.float64)
    assert torch.equal(torch.get_rng_state(), before)
    with torch.no_grad():
        net.weights[0].zero_()
    assert np.all(drawn[0][0] != 0)
    assert ReluNetwork(drawn, dtype=torch.float32).biases[1].dtype == torch.float32


def test_other_devices_take_the_plain_layers():
    net = ReluNetwork(layers((3, 5, 2)), dtype=torch.float32, device="meta")
    assert net(torch.empty(7, 3, device="meta")).shape == (7, 2)
