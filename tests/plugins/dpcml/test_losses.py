"""The closed-form gradient against autograd and loops, in every form of sampling."""

import numpy as np
import pytest
import torch

from graftkit.methods.dpcml.diversity import diversity_penalty
from graftkit.methods.dpcml.losses import triplet_gradients
from graftkit.methods.dpcml.settings import Settings
from graftkit.methods.dpcml.vectors import padded_rows, pointers
from tests.plugins.dpcml import reference

FORMS = ["uniform", "popular", "hard", "dihars", "threshold"]


def batch(seed, *, n_users=6, n_items=9, d=4, size=12, n_candidates=5, ragged=True):
    """A batch with repeated users and items, and repeated candidates."""
    rng = np.random.default_rng(seed)
    ptr = pointers(rng.integers(1, 5, n_users) if ragged else np.full(n_users, 3))
    users = rng.integers(n_users, size=size)
    return {
        "P": torch.tensor(rng.normal(size=(ptr[-1], d)) * 0.6, dtype=torch.float64),
        "Q": torch.tensor(rng.normal(size=(n_items, d)) * 0.6, dtype=torch.float64),
        "ptr": ptr,
        "users": users,
        "rows": torch.from_numpy(padded_rows(ptr)[users]),
        "items": torch.from_numpy(rng.integers(n_items, size=size)),
        "negatives": torch.from_numpy(rng.integers(n_items, size=(size, n_candidates))),
        "g": torch.tensor(rng.uniform(0, 1, n_users), dtype=torch.float64),
    }


def autograd_loss(b, P, Q, g, form, margin, k):
    """The same loss out of plain differences, for autograd; the loops of the reference are slower."""
    own = P[b["rows"]].unsqueeze(2)
    near = (own - Q[b["items"]][:, None, None]).square().sum(3).amin(1)
    far = (own - Q[b["negatives"]].unsqueeze(1)).square().sum(3).amin(1)
    losses = torch.relu(margin + near - far)
    if form in ("uniform", "popular"):
        return losses.sum(1).mean()
    if form == "hard":
        return losses.amax(1).mean()
    if form == "dihars":
        return losses.topk(k, dim=1).values.sum(1).mean() / k
    threshold = g[torch.from_numpy(b["users"])]
    excess = 0.1 * torch.log(1 + torch.exp((losses - threshold.unsqueeze(1)) / 0.1))
    return (threshold + excess.sum(1) / k).mean()


@pytest.mark.parametrize("form", FORMS)
def test_gradient_equals_autograd(form):
    worst = 0.0
    for seed in range(200):
        b = batch(seed)
        P, Q, g = (b[name].clone().requires_grad_() for name in ("P", "Q", "g"))
        margin = (0.2, 1.0, 2.0)[seed % 3]
        loss = autograd_loss(b, P, Q, g, form, margin, 2)
        loss.backward()
        step = triplet_gradients(
            b["P"],
            b["Q"],
            b["rows"],
            b["items"],
            b["negatives"],
            margin=margin,
            sampling="dihars" if form == "threshold" else form,
            n_selected=2,
            thresholds=b["g"][torch.from_numpy(b["users"])] if form == "threshold" else None,
        )
        gP = torch.zeros_like(b["P"]).index_add_(0, step.user_rows, step.user_gradients)
        gQ = torch.zeros_like(b["Q"]).index_add_(0, step.item_rows, step.item_gradients)
        errors = [gP - P.grad, gQ - Q.grad, (step.losses.mean() - loss).detach()]
        if form == "threshold":
            gg = torch.zeros_like(b["g"]).index_add_(0, torch.from_numpy(b["users"]), step.thresholds)
            errors.append(gg - g.grad)
        worst = max(worst, *(float(error.abs().max()) for error in errors))
        assert P.grad.abs().max() > 0
    assert worst < 1e-10


@pytest.mark.parametrize("form", ["uniform", "hard", "dihars"])
def test_loss_equals_loops(form):
    for seed in range(20):
        b = batch(seed)
        step = triplet_gradients(
            b["P"], b["Q"], b["rows"], b["items"], b["negatives"], margin=0.7, sampling=form, n_selected=2
        )
        expected = reference.batch_loss(
            b["P"].numpy(),
            b["ptr"],
            b["Q"].numpy(),
            b["users"],
            b["items"].tolist(),
            b["negatives"].tolist(),
            margin=0.7,
            sampling=form,
            beta=0.4,
        )
        assert float(step.losses.mean()) == pytest.approx(expected, abs=1e-12)


def gradients(b, **options):
    step = triplet_gradients(
        b["P"], b["Q"], b["rows"], b["items"], b["negatives"], **{"margin": 1.0, **options}
    )
    P = torch.zeros_like(b["P"]).index_add_(0, step.user_rows, step.user_gradients)
    Q = torch.zeros_like(b["Q"]).index_add_(0, step.item_rows, step.item_gradients)
    return step.losses, P, Q


def test_dihars_lies_between_hard_and_uniform():
    b = batch(3)
    hard, uniform = gradients(b, sampling="hard"), gradients(b, sampling="uniform")
    one = gradients(
        b, sampling="dihars", n_selected=Settings(sampling="dihars", n_negatives=5, beta=0.2).n_selected
    )
    all_of_them = gradients(b, sampling="dihars", n_selected=5)
    for found, expected in zip(one, hard, strict=True):
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-14)
    for found, expected in zip(all_of_them, uniform, strict=True):
        torch.testing.assert_close(found * 5, expected, rtol=0, atol=1e-13)


@pytest.mark.parametrize(
    ("beta", "n", "k"),
    [(0.3, 10, 3), (0.1, 10, 1), (0.01, 10, 1), (1.0, 10, 10), (0.31, 10, 4), (0.5, 3, 2), (0.07, 100, 7)],
)
def test_share_of_candidates_rounds_up(beta, n, k):
    assert Settings(sampling="dihars", beta=beta, n_negatives=n).n_selected == k
    assert Settings(sampling="hard", n_negatives=n).n_selected == 1
    assert Settings(sampling="uniform", n_negatives=n).n_selected == n


@pytest.mark.parametrize("sampling", ["uniform", "hard", "dihars"])
def test_outside_the_margin_nothing_moves(sampling):
    far = batch(0)
    far["Q"] = torch.cat(
        (torch.zeros(1, 4, dtype=torch.float64), torch.full((8, 4), 50.0, dtype=torch.float64))
    )
    far["items"], far["negatives"] = torch.zeros_like(far["items"]), far["negatives"].clamp(min=1)
    losses, P, Q = gradients(far, sampling=sampling, n_selected=2)
    assert losses.abs().max() == P.abs().max() == Q.abs().max() == 0


@pytest.mark.parametrize("form", ["pairwise", "mean"])
def test_penalty_gradient_equals_autograd(form):
    moved = 0
    for seed in range(200):
        rng = np.random.default_rng(seed)
        counts = rng.integers(1, 6, size=7)
        width = counts.max()
        vectors = torch.tensor(rng.normal(size=(7, width, 3)) * 0.5, dtype=torch.float64, requires_grad=True)
        low, high = 0.3, 0.6
        expected = torch.zeros(7, dtype=torch.float64)
        for u, count in enumerate(counts):
            own = vectors[u, :count]
            pairs = [(a, b) for a in range(count) for b in range(count) if a != b]
            distances = [(own[a] - own[b]).square().sum() for a, b in pairs]
            if not pairs:
                continue
            if form == "mean":
                delta = sum(distances) / (2 * count * (count - 1))
                expected[u] = torch.relu(low - delta) + torch.relu(delta - high)
            else:
                expected[u] = sum(torch.relu(low - x) + torch.relu(x - high) for x in distances) / count**2
        expected.sum().backward()
        found, slope = diversity_penalty(
            vectors.detach(), torch.from_numpy(counts), form=form, delta_min=low, delta_max=high
        )
        torch.testing.assert_close(found, expected.detach(), rtol=0, atol=1e-12)
        torch.testing.assert_close(slope, vectors.grad, rtol=0, atol=1e-11)
        moved += int((slope != 0).any())
        for u, count in enumerate(counts):
            own = vectors[u, :count].detach().tolist()
            assert float(found[u]) == pytest.approx(reference.dcrs(own, form, low, high), abs=1e-12)
    assert moved > 150


def test_one_vector_has_no_penalty():
    alone = torch.randn(3, 1, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    for form in ("pairwise", "mean"):
        value, slope = diversity_penalty(
            alone, torch.ones(3, dtype=torch.int64), form=form, delta_min=0.5, delta_max=0.6
        )
        assert (value == 0).all()
        assert (slope == 0).all()


def test_penalty_is_blind_to_order_rotation_and_padding():
    rng = np.random.default_rng(0)
    vectors = torch.tensor(rng.normal(size=(5, 4, 3)), dtype=torch.float64)
    counts = torch.tensor([4, 4, 3, 2, 1])
    turn = torch.linalg.qr(torch.tensor(rng.normal(size=(3, 3)), dtype=torch.float64))[0]
    for form in ("pairwise", "mean"):
        options = {"form": form, "delta_min": 0.5, "delta_max": 2.0}
        value, slope = diversity_penalty(vectors, counts, **options)
        rotated, rotated_slope = diversity_penalty(vectors @ turn, counts, **options)
        torch.testing.assert_close(rotated, value, rtol=0, atol=1e-12)
        torch.testing.assert_close(rotated_slope, slope @ turn, rtol=0, atol=1e-12)
        flipped, _ = diversity_penalty(vectors[:2].flip(1), counts[:2], **options)
        torch.testing.assert_close(flipped, value[:2], rtol=0, atol=1e-12)
        wide = torch.cat((vectors, vectors[:, -1:] + 7), dim=1)
        padded, padded_slope = diversity_penalty(wide, counts, **options)
        torch.testing.assert_close(padded, value, rtol=0, atol=1e-12)
        assert (padded_slope[:, 4] == 0).all()
