"""EDGELoss: golden values, loops, limits, the tail, invariances."""

import pytest
import torch
from torch import nn

from graftkit.methods.edge import EDGELoss, joint_energy
from tests.plugins.edge import reference
from tests.plugins.edge.cases import U, Y, Z, draw, joined, tensor, worked


def test_golden_values_and_gradients():
    z, y, u = worked(grad=True)
    criterion = EDGELoss(k=2, margin=1.0)
    loss = criterion.split(z, y, u)
    loss.backward()
    assert loss.item() == pytest.approx(1.223224199972648, abs=1e-12)
    last = criterion.last
    assert last.id.item() == pytest.approx(0.638088894247101, abs=1e-12)
    assert last.conf.item() == pytest.approx(0.497093103532103, abs=1e-12)
    assert last.gap.item() == pytest.approx(0.880422021934443, abs=1e-12)
    assert (last.n_id, last.n_oe, last.k_used, last.beta.item()) == (3, 2, 2, 0.1)
    dZ = [
        [-0.019867153670353, 0.044823570228333],
        [-0.078484928079737, -0.078484928079737],
        [0.031376499159833, -0.152759659097420],
    ]
    dU = [[0.073958890876749, 0.073958890876749], [0.219317573589001, 0.014227761953270]]
    torch.testing.assert_close(z.grad, tensor(dZ), rtol=0, atol=1e-12)
    torch.testing.assert_close(u.grad, tensor(dU), rtol=0, atol=1e-12)
    energies = [2.4401896985611957, 1.9481539683602134, 0.4401896985611954]
    assert joint_energy(tensor(Z)).tolist() == pytest.approx(energies, abs=1e-12)
    assert joint_energy(tensor(U)).tolist() == pytest.approx(
        [0.6265233750364457, 1.3618490390919649], abs=1e-12
    )


def test_golden_gap_without_margin():
    criterion = EDGELoss(k=2)
    criterion.split(*worked())
    assert criterion.last.gap.item() == pytest.approx(0.276998254251505, abs=1e-12)
    # Pairs O - E for E in {0.44, 1.95}: 0.19, -1.32, 0.92, -0.59; two of four are inside.
    assert criterion.last.active_fraction.item() == 0.5


@pytest.mark.parametrize("method", ["pairwise", "sorted"])
@pytest.mark.parametrize("margin", [0.0, 1.0, 100.0])
@pytest.mark.parametrize(("n", "n_o", "C"), [(1, 1, 1), (4, 3, 2), (6, 9, 5), (9, 2, 3)])
def test_equals_the_loops(n, n_o, C, margin, method):
    for k in {1, min(4, n), n}:
        z, y, u = draw(n + 10 * n_o, n, n_o, C)
        z.requires_grad_()
        u.requires_grad_()
        loss = EDGELoss(0.7, 0.3, k, margin, gap_method=method).split(z, y, u)
        loss.backward()
        arguments = (z.tolist(), y.tolist(), u.tolist(), k, margin, 0.7, 0.3)
        assert loss.item() == pytest.approx(reference.loss(*arguments), abs=1e-12)
        dZ, dU = reference.gradients(*arguments)
        torch.testing.assert_close(z.grad, tensor(dZ), rtol=0, atol=1e-13)
        torch.testing.assert_close(u.grad, tensor(dU), rtol=0, atol=1e-13)


def test_gradcheck():
    z, y, u = worked(grad=True)
    criterion = EDGELoss(k=2, margin=1.0)
    assert torch.autograd.gradcheck(lambda a, b: criterion.split(a, y, b), (z, u))


@pytest.mark.parametrize("fused", [True, False])
def test_second_derivatives(fused):
    z, y, u = worked(grad=True)
    criterion = EDGELoss(k=2, margin=1.0, fused=fused)
    assert torch.autograd.gradgradcheck(lambda a, b: criterion.split(a, y, b), (z, u))


def test_plain_form_takes_functional_transforms():
    z, y, u = worked()
    gradient = torch.func.grad(lambda a: EDGELoss(k=2, margin=1.0, fused=False).split(a, y, u))(z)
    expected = tensor(reference.gradients(Z, Y, U, 2, 1.0)[0])
    torch.testing.assert_close(gradient, expected, rtol=0, atol=1e-13)


@pytest.mark.parametrize("margin", [0.0, 2.0, 30.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_both_forms_agree(margin, dtype):
    z, y, u = draw(30, 20, 15, 6, dtype)
    results = []
    for fused in (True, False):
        a, b = z.clone().requires_grad_(), u.clone().requires_grad_()
        criterion = EDGELoss(0.6, 0.4, 7, margin, fused=fused)
        (3 * criterion.split(a, y, b)).backward()
        results.append((a.grad, b.grad, *(part for part in criterion.last if isinstance(part, torch.Tensor))))
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one, other)


def test_concatenated_form_equals_the_split_form_in_any_order():
    z, y, u = draw(5, 8, 6, 4)
    criterion = EDGELoss(k=3, margin=1.0)
    apart = criterion.split(z, y, u)
    logits, targets = joined(z, y, u)
    for seed in range(4):
        order = torch.randperm(14, generator=torch.Generator().manual_seed(seed))
        order = torch.arange(14) if seed == 0 else order
        rows = logits[order].clone().requires_grad_()
        loss = criterion(rows, targets[order])
        assert loss.item() == pytest.approx(apart.item(), rel=1e-14)
        loss.backward()
        dZ, dU = reference.gradients(z.tolist(), y.tolist(), u.tolist(), 3, 1.0)
        torch.testing.assert_close(rows.grad, tensor([*dZ, *dU])[order], rtol=0, atol=1e-13)


# Limits.


@pytest.mark.parametrize("options", [{"alpha": 0.0, "beta": 0.0}, {}])
def test_without_weights_or_outliers_it_is_binary_cross_entropy_bit_for_bit(options):
    z, y, u = draw(1, 9, 4 if options else 0, 5, torch.float32)
    ours, plain = z.clone().requires_grad_(), z.clone().requires_grad_()
    loss = EDGELoss(k=2, margin=1.0, **options)(*joined(ours, y, u))
    other = nn.BCEWithLogitsLoss()(plain, y)
    loss.backward()
    other.backward()
    assert torch.equal(loss, other)
    assert torch.equal(ours.grad, plain.grad)


def test_confidence_is_the_mean_energy_over_labels_and_cross_entropy_with_no_label():
    z, y, u = draw(2, 3, 7, 5)
    criterion = EDGELoss(k=1)
    criterion.split(z, y, u)
    assert criterion.last.conf.item() == pytest.approx(joint_energy(u).mean().item() / 5, rel=1e-14)
    assert criterion.last.conf.item() == pytest.approx(
        nn.functional.binary_cross_entropy_with_logits(u, torch.zeros_like(u)).item(), rel=1e-13
    )


def test_tail_is_the_lowest_energies_only():
    z, y, u = draw(4, 10, 5, 3)
    z.requires_grad_()
    EDGELoss(alpha=0.0, beta=1.0, k=3, margin=50.0, id_loss=lambda logits, _: logits.sum() * 0).split(
        z, y, u
    ).backward()
    lowest = set(joint_energy(z.detach()).argsort()[:3].tolist())
    assert {i for i in range(10) if z.grad[i].any()} == lowest
    assert bool((z.grad[list(lowest)] < 0).all())  # descent lifts them


@pytest.mark.parametrize(("k", "expected"), [(0.25, 3), (1.0, 10), (0.01, 1), (4, 4)])
def test_tail_as_a_share(k, expected):
    criterion = EDGELoss(k=k)
    criterion.split(*draw(4, 10, 5, 3))
    assert criterion.last.k_used == expected


def test_k_beyond_the_batch_is_all_rows_with_one_warning():
    z, y, u = draw(6, 5, 4, 3)
    criterion = EDGELoss(k=6, margin=1.0)
    with pytest.warns(UserWarning, match="k=6 is more than the 5 known rows"):
        loss = criterion.split(z, y, u)
    assert loss.item() == EDGELoss(k=5, margin=1.0).split(z, y, u).item()
    criterion.split(z, y, u)  # warnings are errors here: there is no second


def test_tail_mask_names_the_tail():
    z, y, u = draw(7, 6, 4, 3)
    criterion = EDGELoss(k=2, margin=1.0)
    all_rows, none = torch.ones(6, dtype=torch.bool), torch.zeros(6, dtype=torch.bool)
    assert criterion.split(z, y, u, tail_mask=all_rows).item() == pytest.approx(
        EDGELoss(k=6, margin=1.0).split(z, y, u).item(), rel=1e-14
    )
    z.requires_grad_()
    loss = criterion.split(z, y, u, tail_mask=none)
    loss.backward()
    assert criterion.last.gap.item() == 0.0
    assert criterion.last.k_used == 0
    assert bool(torch.isfinite(z.grad).all())
    some = torch.tensor([True, False, False, True, False, False])
    criterion.split(z, y, u, tail_mask=some)
    E, O = joint_energy(z), joint_energy(u)  # noqa: E741
    expected = sum(max(0.0, (o - E[t] + 1).item()) for o in O for t in (0, 3)) / 8
    assert criterion.last.gap.item() == pytest.approx(expected, rel=1e-12)
    # In the concatenated form outliers' entries do not count.
    logits, targets = joined(z.detach(), y, u)
    criterion(logits, targets, tail_mask=torch.cat([some, torch.ones(4, dtype=torch.bool)]))
    assert criterion.last.gap.item() == pytest.approx(expected, rel=1e-12)
    assert criterion.last.k_used == 2
    order = torch.tensor([9, 3, 0, 8, 5, 2, 7, 1, 6, 4])
    mask = torch.cat([some, torch.ones(4, dtype=torch.bool)])
    criterion(logits[order], targets[order], tail_mask=mask[order])
    assert criterion.last.gap.item() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("empty", ["id", "oe", "both"])
def test_empty_sides_stay_on_the_graph(empty):
    z, y, u = draw(8, 0 if empty != "oe" else 4, 0 if empty != "id" else 4, 3)
    logits, targets = joined(z, y, u)
    logits.requires_grad_()
    criterion = EDGELoss(k=1, margin=1.0)
    loss = criterion(logits, targets)
    loss.backward()
    assert bool(torch.isfinite(loss))
    assert logits.grad.shape == logits.shape
    last = criterion.last
    assert last.gap.item() == last.active_fraction.item() == 0.0
    if empty != "oe":
        assert last.id.item() == 0.0
    if empty != "id":
        assert last.conf.item() == 0.0
    else:
        assert loss.item() == pytest.approx(joint_energy(u).mean().item() / 3)


# Invariances.


def test_order_of_labels_and_rows_and_copies_of_outliers_change_nothing():
    z, y, u = draw(9, 7, 5, 4)
    criterion = EDGELoss(k=3, margin=2.0)
    value = criterion.split(z, y, u).item()
    labels = torch.tensor([2, 0, 3, 1])
    assert criterion.split(z[:, labels], y[:, labels], u[:, labels]).item() == pytest.approx(value, rel=1e-13)
    assert criterion.split(z.flip(0), y.flip(0), u.flip(0)).item() == pytest.approx(value, rel=1e-13)
    assert criterion.split(z, y, torch.cat([u, u])).item() == pytest.approx(value, rel=1e-13)


def test_a_label_that_is_surely_off_only_changes_the_means_over_labels():
    z, y, u = draw(10, 7, 5, 4)
    criterion = EDGELoss(k=3, margin=2.0)
    criterion.split(z, y, u)
    before = criterion.last
    off = torch.full((7, 1), -1e4, dtype=torch.float64)
    criterion.split(torch.cat([z, off], 1), torch.cat([y, off * 0], 1), torch.cat([u, off[:5]], 1))
    after = criterion.last
    assert after.gap.item() == before.gap.item()
    assert after.id.item() == pytest.approx(before.id.item() * 4 / 5, rel=1e-13)
    assert after.conf.item() == pytest.approx(before.conf.item() * 4 / 5, rel=1e-13)


def test_per_class_energy_divides_the_energies_but_not_the_margin():
    z, y, u = draw(11, 7, 5, 4)
    criterion = EDGELoss(k=3, margin=2.0, per_class_energy=True)
    criterion.split(z, y, u)
    wide = EDGELoss(k=3, margin=8.0)  # 4 labels: 2 a label is 8 in sum
    wide.split(z, y, u)
    assert criterion.last.gap.item() == pytest.approx(wide.last.gap.item() / 4, rel=1e-13)


def test_any_classification_loss_of_known_rows():
    z, y, u = draw(12, 7, 5, 4)
    seen = []

    def id_loss(logits, targets):
        seen.append((logits.shape, targets.dtype))
        return logits.square().mean()

    criterion = EDGELoss(k=3, id_loss=id_loss)
    criterion(*joined(z, y, u))
    assert seen == [((7, 4), torch.float64)]
    assert criterion.last.id.item() == pytest.approx(z.square().mean().item())
    module = nn.MultiLabelSoftMarginLoss()
    assert module in list(EDGELoss(id_loss=module).modules())
