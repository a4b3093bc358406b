"""The gap term: both forms equal loops over pairs, in value and gradient, at the edges too."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from graftkit.methods.edge import energy_gap_loss
from graftkit.methods.edge.gap import PAIRS, gap_terms

METHODS = ("pairwise", "sorted")


def by_loops(oe, tail, margin):
    """Mean hinge, gradients and share of pairs inside, one pair at a time."""
    pairs = len(oe) * len(tail)
    value, inside = 0.0, 0
    d_oe, d_tail = [0.0] * len(oe), [0.0] * len(tail)
    for j, o in enumerate(oe):
        for t, e in enumerate(tail):
            if o + margin - e > 0:
                value += (o + margin - e) / pairs
                inside += 1
                d_oe[j] += 1 / pairs
                d_tail[t] -= 1 / pairs
    return value, d_oe, d_tail, inside / pairs


def test_worked_case():
    # Pairs (1, 2), (3, 2) with m = 0.5: max(0, -0.5) and 1.5, mean 0.75; gradient 1/2 on the second alone.
    for method in METHODS:
        oe = torch.tensor([1.0, 3.0], requires_grad=True)
        tail = torch.tensor([2.0], requires_grad=True)
        loss = energy_gap_loss(oe, tail, 0.5, method=method)
        loss.backward()
        assert loss.item() == 0.75
        assert oe.grad.tolist() == [0.0, 0.5]
        assert tail.grad.tolist() == [-0.5]


@given(
    seed=st.integers(0, 10_000),
    n_o=st.integers(1, 9),
    k=st.integers(1, 9),
    margin=st.sampled_from([-2.0, 0.0, 1.0, 100.0]),
)
def test_both_forms_equal_the_loops(seed, n_o, k, margin):
    generator = torch.Generator().manual_seed(seed)
    oe = torch.randn(n_o, generator=generator, dtype=torch.float64) * 3
    tail = torch.randn(k, generator=generator, dtype=torch.float64) * 3
    value, d_oe, d_tail, inside = by_loops(oe.tolist(), tail.tolist(), margin)
    for method in METHODS:
        a, b = oe.clone().requires_grad_(), tail.clone().requires_grad_()
        loss, active = gap_terms(a, b, margin, method)
        loss.backward()
        assert loss.item() == pytest.approx(value, abs=1e-12)
        assert a.grad.tolist() == pytest.approx(d_oe, abs=1e-15)
        assert b.grad.tolist() == pytest.approx(d_tail, abs=1e-15)
        assert active.item() == pytest.approx(inside, abs=1e-15)


@pytest.mark.parametrize("method", METHODS)
def test_gradcheck(method):
    generator = torch.Generator().manual_seed(1)
    oe, tail = (torch.randn(n, generator=generator, dtype=torch.float64, requires_grad=True) for n in (6, 4))
    assert torch.autograd.gradcheck(lambda a, b: energy_gap_loss(a, b, 0.3, method=method), (oe, tail))


def test_many_pairs_without_cancellation():
    """Energies around 50 that differ in the fifth digit: both forms agree in float32 too."""
    generator = torch.Generator().manual_seed(2)
    oe = 50 + torch.randn(3000, generator=generator) * 1e-2
    tail = 50 + torch.randn(2000, generator=generator) * 1e-2
    wide = energy_gap_loss(oe.double(), tail.double(), method="pairwise").item()
    assert energy_gap_loss(oe.double(), tail.double(), method="sorted").item() == pytest.approx(
        wide, rel=1e-12
    )
    assert energy_gap_loss(oe, tail, method="sorted").item() == pytest.approx(wide, rel=1e-6)


def test_energies_far_from_zero_do_not_cancel():
    generator = torch.Generator().manual_seed(4)
    oe, tail = (1e6 + torch.randn(n, generator=generator, dtype=torch.float64) * 1e-3 for n in (300, 200))
    exact = energy_gap_loss(oe, tail, method="pairwise").item()  # each difference is exact
    assert energy_gap_loss(oe, tail, method="sorted").item() == pytest.approx(exact, rel=1e-10)


@pytest.mark.parametrize("method", METHODS)
def test_ties_lie_outside_the_hinge(method):
    oe = torch.tensor([2.0, 2.0], requires_grad=True)
    tail = torch.tensor([2.0, 2.0, 2.0], requires_grad=True)
    loss, active = gap_terms(oe, tail, 0.0, method)
    loss.backward()
    assert loss.item() == active.item() == 0.0
    assert oe.grad.tolist() == [0.0, 0.0]
    assert tail.grad.tolist() == [0.0, 0.0, 0.0]


@pytest.mark.parametrize("method", METHODS)
def test_all_active_and_none_active(method):
    generator = torch.Generator().manual_seed(3)
    oe, tail = (torch.randn(n, generator=generator, dtype=torch.float64) for n in (7, 5))
    # All pairs inside: the mean of the differences.
    assert energy_gap_loss(oe, tail, 1e3, method=method).item() == pytest.approx(
        (oe.mean() - tail.mean() + 1e3).item(), rel=1e-13
    )
    a = oe.clone().requires_grad_()
    loss = energy_gap_loss(a, tail, -1e3, method=method)
    loss.backward()
    assert loss.item() == 0.0
    assert not a.grad.any()


@pytest.mark.parametrize("sizes", [(0, 3), (3, 0), (0, 0)])
@pytest.mark.parametrize("method", METHODS)
def test_an_empty_side_is_zero_on_the_graph(sizes, method):
    oe, tail = (torch.ones(n, requires_grad=True) for n in sizes)
    loss = energy_gap_loss(oe, tail, 1.0, method=method)
    loss.backward()
    assert loss.item() == 0.0
    assert not oe.grad.any()
    assert not tail.grad.any()


def test_nan_is_not_hidden():
    for method in METHODS:
        loss = energy_gap_loss(torch.tensor([math.nan, 0.0]), torch.tensor([0.0]), method=method)
        assert math.isnan(loss.item())


def test_auto_changes_form_above_the_limit(monkeypatch):
    import graftkit.methods.edge.gap as module

    calls = []
    form = module.pair_counts
    monkeypatch.setattr(module, "pair_counts", lambda *a: calls.append(1) or form(*a))
    energy_gap_loss(torch.zeros(128), torch.zeros(PAIRS // 128))
    assert not calls
    energy_gap_loss(torch.zeros(129), torch.zeros(PAIRS // 128))
    assert calls == [1]


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"oe_energy": torch.zeros(2, 2)}, ValueError, "oe_energy: expected a vector"),
        ({"tail_energy": torch.zeros(())}, ValueError, "tail_energy: expected a vector"),
        ({"tail_energy": torch.zeros(2, dtype=torch.int64)}, TypeError, "tail_energy: expected a floating"),
        ({"margin": math.inf}, ValueError, "margin: expected a finite number, got inf"),
        ({"margin": "1"}, TypeError, "margin: expected a finite number"),
        ({"method": "sort"}, ValueError, r"method: expected one of .*Did you mean 'sorted'"),
    ],
)
def test_bad_input(change, error, words):
    with pytest.raises(error, match=words):
        energy_gap_loss(**{"oe_energy": torch.zeros(2), "tail_energy": torch.zeros(2), **change})
