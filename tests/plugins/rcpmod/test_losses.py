"""The losses against loops, hand-worked values, and what must not change them."""

import math
from itertools import pairwise

import pytest
import torch
from torch.autograd import gradcheck
from torch.nn import functional

from graftkit.methods.rcpmod.losses import (
    contrastive_loss,
    nearest_distance_loss,
    neighbor_alignment_loss,
    rank_loss,
    reconstruction_loss,
    spread_weight,
)
from tests.plugins.rcpmod import reference

SHAPES = [(7, 5, 4), (2, 3, 1), (3, 1, 2), (5, 8, 0), (6, 2, 9)]  # rows, width, bank


def randn(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def units(*shape, seed=0):
    return functional.normalize(randn(*shape, seed=seed), dim=-1)


def assert_same(actual, expected, leaves):
    """Value and gradient of a loss equal those of the loops to 1e-10."""
    assert actual.item() == pytest.approx(expected.item(), abs=1e-10, rel=1e-10)
    got = torch.autograd.grad(actual, leaves, allow_unused=True)
    wanted = torch.autograd.grad(expected, leaves, allow_unused=True)
    for g, w in zip(got, wanted, strict=True):
        torch.testing.assert_close(g, w, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(("n", "d", "m"), SHAPES)
@pytest.mark.parametrize("temperature", [0.5, 0.1])
def test_contrast_equals_the_loops(n, d, m, temperature):
    u, w, q = (units(k, d, seed=s).requires_grad_() for s, k in enumerate((n, n, max(m, 1))))
    bank = q if m else None
    expected = reference.nce(u, w, q if m else (), temperature)
    assert_same(contrastive_loss(u, w, bank, temperature=temperature), expected, [u, w, *([q] if m else [])])


def test_contrast_of_two_orthogonal_rows_by_hand():
    # u = w = {e1, e2}, tau = 0.5. Anchor e1: positive e^2; the rest of H holds e2 twice, e^0 each.
    # l = -log(e^2 / (e^2 + 2)) = log(1 + 2 e^-2) for all four anchors.
    eye = torch.eye(2, dtype=torch.float64)
    assert contrastive_loss(eye, eye).item() == pytest.approx(math.log(1 + 2 * math.exp(-2)), abs=1e-15)
    # Bank {e1, e2} adds e^2 + e^0: l = -log(e^2 / (2 e^2 + 3)) = log(2 + 3 e^-2).
    assert contrastive_loss(eye, eye, eye).item() == pytest.approx(math.log(2 + 3 * math.exp(-2)), abs=1e-15)
    assert math.log(1 + 2 * math.exp(-2)) == pytest.approx(0.239544766, abs=1e-9)
    assert math.log(2 + 3 * math.exp(-2)) == pytest.approx(0.877968048, abs=1e-9)


def test_contrast_of_one_row_without_negatives_is_zero():
    u, w = units(1, 4, seed=1).requires_grad_(), units(1, 4, seed=2).requires_grad_()
    loss = contrastive_loss(u, w)  # the denominator is the positive alone
    loss.backward()
    assert loss.item() == pytest.approx(0.0, abs=1e-14)
    assert u.grad.abs().max() < 1e-14


def test_contrast_passes_gradcheck():
    u, w, q = (units(k, 3, seed=s).requires_grad_() for s, k in ((0, 4), (1, 4), (2, 2)))
    assert gradcheck(lambda *args: contrastive_loss(*args, temperature=0.5), (u, w, q))


def test_contrast_ignores_order_and_side():
    u, w, q = units(6, 4, seed=0), units(6, 4, seed=1), units(5, 4, seed=2)
    rows, bank = torch.tensor([3, 0, 5, 1, 4, 2]), torch.tensor([4, 1, 0, 3, 2])
    value = contrastive_loss(u, w, q)
    torch.testing.assert_close(contrastive_loss(w, u, q), value, rtol=0, atol=1e-13)
    torch.testing.assert_close(contrastive_loss(u[rows], w[rows], q), value, rtol=0, atol=1e-13)
    torch.testing.assert_close(contrastive_loss(u, w, q[bank]), value, rtol=0, atol=1e-13)
    twice, reordered = torch.cat((q, q)), torch.cat((q[bank], q))
    torch.testing.assert_close(
        contrastive_loss(u, w, reordered), contrastive_loss(u, w, twice), rtol=0, atol=1e-13
    )
    assert not torch.isclose(contrastive_loss(u[rows], w, q), value)  # the pairing itself does matter


def test_contrast_rises_with_every_bank_row():
    u, w, q = units(6, 4, seed=0), units(6, 4, seed=1), units(5, 4, seed=2)
    values = [contrastive_loss(u, w, q[:m]).item() for m in range(6)]
    assert all(later > earlier for earlier, later in pairwise(values))


@pytest.mark.parametrize(("n", "k", "d"), [(7, 3, 5), (4, 1, 2), (3, 6, 4)])
def test_alignment_is_the_mean_of_k_contrasts(n, k, d):
    z_a, z_b = randn(n + 3, d, seed=1).requires_grad_(), randn(n + 3, d, seed=2).requires_grad_()
    table_a = torch.randint(n + 3, (n + 3, k), generator=torch.Generator().manual_seed(3))
    table_b = torch.randint(n + 3, (n + 3, k), generator=torch.Generator().manual_seed(4))
    rows = list(range(n))
    u = functional.normalize(z_a[table_a[:n].T], dim=-1)
    w = functional.normalize(z_b[table_b[:n].T], dim=-1)
    expected = reference.neighbor_alignment(z_a, z_b, table_a.tolist(), table_b.tolist(), rows, 0.3)
    assert_same(neighbor_alignment_loss(u, w, temperature=0.3), expected, [z_a, z_b])


def test_alignment_passes_gradcheck_against_its_readable_form():
    u, w = units(2, 3, 4, seed=5).requires_grad_(), units(2, 3, 4, seed=6).requires_grad_()
    assert gradcheck(lambda *args: neighbor_alignment_loss(*args, temperature=0.5), (u, w))


@pytest.mark.parametrize(("n", "p"), [(7, 5), (1, 3), (4, 1)])
def test_reconstruction_equals_the_loops(n, p):
    out, x = randn(n, p, seed=1).requires_grad_(), randn(n, p, seed=2)
    assert_same(reconstruction_loss(out, x), reference.reconstruction(out, x, range(n)), [out])
    assert gradcheck(lambda value: reconstruction_loss(value, x), (out,))


def test_reconstruction_of_no_row_is_zero_on_the_graph():
    out = torch.zeros(0, 3, dtype=torch.float64, requires_grad=True)
    loss = reconstruction_loss(out, torch.zeros(0, 3, dtype=torch.float64))
    loss.backward()
    assert loss.item() == 0.0
    assert out.grad.shape == (0, 3)


@pytest.mark.parametrize(("n", "d"), [(7, 5), (1, 2), (5, 1)])
def test_rank_equals_the_loops(n, d):
    z, p, q = (randn(n, d, seed=s).requires_grad_() for s in range(3))
    assert_same(rank_loss(z, p, q), reference.rank(z, p, q) + 0 * (z.sum() + p.sum() + q.sum()), [z, p, q])


def test_rank_by_hand_and_gradcheck():
    # |0 - 3| - |0 - 1| = 2 for row 0; row 1 is satisfied (0.5 < 4) and adds 0: mean 1 (up to 1e-6).
    z = torch.zeros(2, 1, dtype=torch.float64)
    near = torch.tensor([[3.0], [0.5]], dtype=torch.float64)
    far = torch.tensor([[1.0], [4.0]], dtype=torch.float64)
    assert rank_loss(z, near, far).item() == pytest.approx(1.0, abs=3e-6)
    assert gradcheck(rank_loss, tuple(randn(5, 3, seed=s).requires_grad_() for s in range(3)))


def test_rank_of_no_row_is_zero():
    empty = torch.zeros(0, 3, dtype=torch.float64, requires_grad=True)
    assert rank_loss(empty, empty, empty).item() == 0.0


@pytest.mark.parametrize(("n", "d"), [(7, 5), (2, 3), (6, 1)])
def test_nearest_distance_equals_the_loops(n, d):
    z = randn(n, d, seed=n).requires_grad_()
    assert_same(nearest_distance_loss(z), reference.nearest_distance(z), [z])
    assert gradcheck(nearest_distance_loss, (z,))


def test_nearest_distance_by_hand():
    # Rows 1, 2, 4 on a line: largest inner products 1->4, 2->4, 4->2; distances 3, 2, 2; N = 3.
    z = torch.tensor([[1.0], [2.0], [4.0]], dtype=torch.float64)
    expected = -(math.log(9) + 2 * math.log(6)) / 3
    assert nearest_distance_loss(z).item() == pytest.approx(expected, abs=2e-6)


def test_nearest_distance_stays_finite_for_duplicates():
    z = torch.cat((randn(3, 4, seed=9), randn(3, 4, seed=9)[:1])).requires_grad_()
    loss = nearest_distance_loss(z)
    assert_same(loss, reference.nearest_distance(z), [z])
    assert torch.isfinite(torch.autograd.grad(nearest_distance_loss(z), z)[0]).all()


def test_nearest_row_is_never_the_row_itself():
    # On the axes in opposite directions every inner product of two rows is far below -1, and a diagonal
    # of -1 would win: the distance would be |1e-6 (1, 1)|, the loss large and positive.
    z = torch.tensor([[5.0, 0.0], [-5.0, 0.0]], dtype=torch.float64)
    assert nearest_distance_loss(z).item() == pytest.approx(-math.log(2 * 10.0), abs=1e-6)


@pytest.mark.parametrize("n", [0, 1])
def test_nearest_distance_needs_two_rows(n):
    z = torch.ones(n, 3, dtype=torch.float64, requires_grad=True)
    loss = nearest_distance_loss(z)
    loss.backward()
    assert loss.item() == 0.0
    assert z.grad.abs().sum() == 0


@pytest.mark.parametrize(("warm", "end", "length"), [(0.02, 0.2, 1000), (0.02, 0.4, 400), (0.05, 0.4, 700)])
def test_spread_weight_follows_the_schedule(warm, end, length):
    values = [spread_weight(t, warm=warm, end=end, schedule=length) for t in range(length)]
    expected = [reference.spread_weight(t, warm, end, length) for t in range(length)]
    assert values == pytest.approx(expected, abs=1e-15)
    assert values[0] == 0
    assert values[99] == values[100] == pytest.approx(warm, abs=1e-15)
    assert values[-1] == pytest.approx(end, abs=1e-15)
    assert all(later >= earlier for earlier, later in pairwise(values))
    assert spread_weight(length + 50, warm=warm, end=end, schedule=length) == pytest.approx(end)


def test_published_configurations_never_reach_the_target():
    # Largest weights in use, specification 1.6 (e): epochs, w_warm, w_end, T.
    largest = {
        "scene": (90, 0.02, 0.4, 400, 0.018),
        "landuse": (115, 0.02, 0.2, 1000, 0.023),
        "bdgp": (130, 0.01, 0.2, 1000, 0.016),
        "handwritten": (50, 0.02, 0.2, 1000, 0.0099),
        "fashion": (400, 0.05, 0.4, 700, 0.225),
    }
    for epochs, warm, end, length, expected in largest.values():
        top = max(spread_weight(t, warm=warm, end=end, schedule=length) for t in range(epochs))
        assert top == pytest.approx(expected, rel=0.03)
