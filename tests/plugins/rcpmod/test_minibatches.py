"""Mini-batches of `train_pair` against the naive trainer, to 1e-10; what a step encodes; determinism."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from graftkit.methods.rcpmod import networks, training
from graftkit.methods.rcpmod.autoencoder import Autoencoder
from graftkit.methods.rcpmod.losses import neighbor_alignment_loss
from graftkit.methods.rcpmod.settings import Settings
from graftkit.methods.rcpmod.training import TERMS, train_pair
from tests.plugins.rcpmod import reference
from tests.plugins.rcpmod.reference_minibatches import Chance, Naive

BASE = Settings(
    n_neighbors=3,
    hidden_layer_sizes=(4,),
    latent_dim=3,
    n_epochs=3,
    batch_size=4,
    learning_rate=0.01,
    memory_size=2,
    memory_fraction=0.7,
    neighbor_refresh=2,
    negative_refresh=1,
    negative_rank=4,
    impute_from=1,
    spread_warm=20.0,
    spread_weight=30.0,
    dtype="float64",
)


def problem(n=11, rate=0.4, seed=0):
    rng = np.random.default_rng(seed)
    networks = tuple(Autoencoder.initial(d, (4,), 3, rng) for d in (3, 4))
    observed = np.ones((n, 2), dtype=bool)
    rows = rng.permutation(n)[: int(rate * n)]
    observed[rows, rng.integers(2, size=len(rows))] = False
    return tuple(rng.random((n, d)) for d in (3, 4)), observed, networks


def never(*_):
    return False


def flat(networks):
    """Arrays of two networks: both encoders, then both decoders."""
    nets = [network.encoder for network in networks] + [network.decoder for network in networks]
    return [array for net in nets for layer in net for array in layer]


def assert_follows(data, settings, orders=()):
    """Weights and every loss term equal the naive trainer's; return that trainer."""
    chance = Chance(7, orders)
    trained, curve = train_pair(*data, settings, chance, never)
    naive = Naive(*data, settings)
    expected = naive.run(chance)
    for epoch, (entry, terms) in enumerate(zip(curve, expected, strict=True)):
        assert [entry[name] for name in TERMS] == pytest.approx(terms, abs=1e-10, rel=1e-10), epoch
        w = reference.spread_weight(
            epoch, settings.spread_warm, settings.spread_weight, settings.spread_schedule
        )
        weights = 1.0, settings.outlier_weight, settings.neighbor_weight, w
        assert entry["total"] == pytest.approx(reference.inner(weights, terms), abs=1e-10, rel=1e-10)
    moved = 0.0
    for got, wanted, start in zip(flat(trained), naive.weights(), flat(data[2]), strict=True):
        np.testing.assert_allclose(got, wanted, rtol=0, atol=1e-10)
        moved = max(moved, np.abs(wanted - start).max())
    assert moved > 1e-3
    return naive, chance


CASES = {
    "published": BASE,
    "one order": replace(BASE, reshuffle=False),
    "imputed at once": replace(BASE, impute_from=0, n_epochs=2),
    "no contrast": replace(BASE, outlier_weight=0.0),
    "no alignment": replace(BASE, neighbor_weight=0.0, n_epochs=2),
    "no spreading": replace(BASE, spread_warm=0.0, spread_weight=0.0, n_epochs=2),
    "uneven weights": replace(BASE, outlier_weight=0.3, neighbor_weight=2.5, temperature=0.2),
    "two ranks a step": replace(BASE, alignment_ranks=2),
    "one rank a step": replace(BASE, alignment_ranks=1, neighbor_weight=2.5),
    "more ranks than neighbours": replace(BASE, alignment_ranks=5, n_epochs=2),
    "one batch": replace(BASE, batch_size=256, n_epochs=2),
}


@pytest.mark.parametrize("case", CASES)
def test_every_minibatch_equals_the_naive_step(case):
    settings = CASES[case]
    naive, chance = assert_follows(problem(), settings)
    spreads = settings.spread_warm > 0
    # p(i) is one of k, drawn once an epoch and view; w(0) = 0 needs none.
    assert chance.widths == [3] * (2 * (settings.n_epochs - 1) * spreads)
    if settings.outlier_weight:
        assert naive.bank_sizes[0] == 0
        assert naive.bank_sizes[1] > 0  # the second step sees what the first one chose
        assert len(naive.blocks) == 2  # more than M were pushed: the oldest has left


@pytest.mark.parametrize("rate", [0.0, 0.75])
def test_complete_and_mostly_incomplete_data(rate):
    assert_follows(problem(rate=rate, seed=1), replace(BASE, n_epochs=2))


def test_a_batch_that_lacks_a_view_before_and_after_imputation():
    # Batch 1 is complete, batch 2 has only view a, batch 3 only view b: no reconstruction, no entropy and,
    # until imputed rows join, no contrast there; the bank keeps its block.
    # No two latents are equal with this seed: the order of equal distances is scikit-learn's own.
    xs, observed, networks = problem(n=12, rate=0.0, seed=4)
    observed[4:8, 1] = observed[8:, 0] = False
    settings = replace(BASE, reshuffle=False)
    naive, _ = assert_follows((xs, observed, networks), settings, [np.arange(12)])
    # Epoch 0 has one contrast, the other two have three each, of which one pushes: max 2 blocks of 2.
    assert naive.bank_sizes == [0, 2, 4, 4, 4, 4, 4]


@pytest.mark.parametrize("one_sided", [False, True])
def test_fewer_neighbours_than_asked_are_all_used(one_sided):
    # Two complete rows: who lacks a view can borrow from two only, and both views use two. One-sided: the
    # three rows of view a have two neighbours each, while view b could offer three.
    xs, observed, networks = problem(rate=0.0, seed=3)
    if one_sided:
        observed[3:, 0] = False
    else:
        observed[2:7, 1] = observed[7:, 0] = False
    naive, chance = assert_follows((xs, observed, networks), replace(BASE, n_epochs=2))
    assert {len(row) for view in naive.table for row in view} == {2}
    assert chance.widths == [2, 2]


def test_without_a_farther_row_only_entropy_spreads():
    _, chance = assert_follows(problem(n=4, rate=0.0), replace(BASE, n_epochs=2))  # n - 1 = k
    assert chance.picks == []


def test_ranks_are_drawn_anew_every_step_without_repeats_and_all_come_up():
    _, chance = assert_follows(problem(), replace(BASE, alignment_ranks=2, n_epochs=6))
    drawn = {tuple(sorted(ranks.tolist())) for ranks in chance.ranks}
    assert drawn == {(0, 1), (0, 2), (1, 2)}
    assert len(chance.ranks) == 3 * 6  # every step of six epochs


def test_a_draw_of_ranks_is_unbiased_for_the_mean_over_all():
    rng = np.random.default_rng(0)
    u, w = (torch.nn.functional.normalize(torch.as_tensor(rng.normal(size=(3, 5, 4))), dim=2) for _ in "uw")
    pairs = [[0, 1], [0, 2], [1, 2]]
    drawn = [neighbor_alignment_loss(u[p], w[p], temperature=0.5).item() for p in pairs]
    assert np.mean(drawn) == pytest.approx(neighbor_alignment_loss(u, w, temperature=0.5).item(), abs=1e-12)


def test_last_batch_of_one_row_takes_no_part():
    naive, _ = assert_follows(problem(n=9, rate=0.0), replace(BASE, n_epochs=2))
    assert naive.adam.steps == 4  # of 4, 4 and 1 rows, twice


def test_no_row_is_encoded_twice_in_a_step(monkeypatch):
    calls = []
    build = training.ReluNetwork

    def watched(layers, **options):
        net = build(layers, **options)
        if layers[0][0].shape[1] == 4:  # the second view's encoder; decoders of width 3 start from latents
            net.register_forward_pre_hook(lambda _, inputs: calls.append(inputs[0]))
        return net

    monkeypatch.setattr(training, "ReluNetwork", watched)
    xs, observed, networks = problem(n=30)
    train_pair(xs, observed, networks, replace(BASE, batch_size=10), Chance(0), never)
    steps = [x for x in calls if len(x) < 30]  # a table's refresh encodes all 30
    assert len(steps) >= 3
    for x in calls:
        assert len(torch.unique(x, dim=0)) == len(x)
    lacking = torch.as_tensor(xs[1][~observed[:, 1]])
    for x in steps:
        assert not (x[:, None] == lacking).all(dim=-1).any()  # nor is the filler of a missing view encoded


@pytest.mark.parametrize("unit", [0, 3])
def test_steps_that_leave_a_unit_out_equal_the_naive_ones(unit, monkeypatch):
    left_out = []
    find = networks._live_units

    def watched(h, saved):
        live = find(h, saved)
        left_out.append(live is not None and unit not in live.tolist())
        return live

    monkeypatch.setattr(networks, "COPY_COST", 0)
    monkeypatch.setattr(networks, "_live_units", watched)
    xs, observed, nets = problem()
    for net in nets:
        net.encoder[0][1][unit] = net.decoder[0][1][unit] = -50.0  # a bias that nothing overcomes
    assert_follows((xs, observed, nets), replace(BASE, n_epochs=2))
    assert sum(left_out) >= 4 * 6  # two encoders, two decoders, six steps


def test_same_seed_same_weights_and_global_state_is_left_alone():
    settings = replace(BASE, dtype="float32", n_epochs=4)
    torch.manual_seed(1)
    before = torch.get_rng_state(), np.random.get_state()[1].copy(), torch.get_num_threads()  # noqa: NPY002
    data = problem(n=40)
    runs = [flat(train_pair(*data, settings, np.random.default_rng(seed), never)[0]) for seed in (3, 3, 4)]
    assert torch.equal(torch.get_rng_state(), before[0])
    np.testing.assert_array_equal(np.random.get_state()[1], before[1])  # noqa: NPY002
    assert torch.get_num_threads() == before[2]
    for a, b in zip(runs[0], runs[1], strict=True):
        np.testing.assert_array_equal(a, b)
    assert any((a != b).any() for a, b in zip(runs[0], runs[2], strict=True))
