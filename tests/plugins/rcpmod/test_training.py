"""Training of a pair around its steps: batches, draws, precision, stopping, and refusals.

The steps themselves are held to a naive trainer in `test_minibatches`.
"""

from dataclasses import replace
from itertools import chain

import numpy as np
import pytest
import torch

from graftkit.methods.rcpmod import training
from graftkit.methods.rcpmod.autoencoder import Autoencoder
from graftkit.methods.rcpmod.settings import Settings
from graftkit.methods.rcpmod.training import train_pair

BASE = Settings(
    n_neighbors=2,
    hidden_layer_sizes=(5,),
    latent_dim=3,
    n_epochs=4,
    learning_rate=0.02,
    memory_size=2,
    memory_fraction=0.3,
    neighbor_refresh=2,
    negative_refresh=2,
    negative_rank=3,
    impute_from=2,
    spread_weight=0.0,
    spread_warm=0.0,
    dtype="float64",
)
SPREAD = replace(BASE, n_neighbors=1, spread_warm=8.0, spread_weight=9.0)


def problem(n=11, rate=0.4, seed=0, dims=(3, 4), hidden=(5,)):
    rng = np.random.default_rng(seed)
    networks = tuple(Autoencoder.initial(d, hidden, 3, rng) for d in dims)
    observed = np.ones((n, 2), dtype=bool)
    rows = rng.permutation(n)[: int(rate * n)]
    observed[rows, rng.integers(2, size=len(rows))] = False
    xs = tuple(np.where(observed[:, [v]], rng.random((n, d)), 0.0) for v, d in enumerate(dims))
    return xs, observed, networks


def run(data, settings, seed=0, on_epoch=lambda *_: False):
    xs, observed, networks = data
    return train_pair(xs, observed, networks, settings, np.random.default_rng(seed), on_epoch)


def arrays(networks):
    return [array for net in networks for layer in (*net.encoder, *net.decoder) for array in layer]


def test_filler_of_a_missing_view_changes_nothing():
    xs, observed, networks = problem()
    other = tuple(np.where(observed[:, [v]], x, 0.77) for v, x in enumerate(xs))
    for settings in (replace(BASE, impute_from=0), SPREAD):
        trained, losses = run((xs, observed, networks), settings)
        again, losses_again = run((other, observed, networks), settings)
        assert losses == losses_again
        for got, wanted in zip(arrays(again), arrays(trained), strict=True):
            np.testing.assert_array_equal(got, wanted)


def record_batches(monkeypatch, settings, n=11):
    batches = []
    step = training._PairTraining._step

    def recorded(self, batch, weight, *, impute):
        batches.append(batch.tolist())
        return step(self, batch, weight, impute=impute)

    monkeypatch.setattr(training._PairTraining, "_step", recorded)
    run(problem(n=n, rate=0.2), settings)
    return batches


def test_every_epoch_visits_every_row_once(monkeypatch):
    batches = record_batches(monkeypatch, replace(BASE, batch_size=4, n_epochs=3))
    assert [len(batch) for batch in batches] == [4, 4, 3] * 3
    epochs = [[*chain(*batches[e : e + 3])] for e in (0, 3, 6)]
    assert all(sorted(epoch) == list(range(11)) for epoch in epochs)
    assert epochs[0] != epochs[1]
    assert epochs[1] != epochs[2]


def test_batches_repeat_without_reshuffling(monkeypatch):
    batches = record_batches(monkeypatch, replace(BASE, batch_size=4, n_epochs=3, reshuffle=False))
    assert batches[:3] == batches[3:6] == batches[6:]
    assert [*chain(*batches[:3])] != list(range(11))  # shuffled once


def test_positives_are_drawn_anew_from_the_raw_lists():
    xs, observed, networks = problem(n=30, rate=0.3)
    settings = replace(SPREAD, n_neighbors=4)
    state = training._PairTraining(xs, observed, networks, settings, np.random.default_rng(0))
    drawn = []
    for epoch in range(1, 30):
        state._refresh_tables(epoch, spread=True)
        drawn.append(state.views[0].positive)
    raw = state.views[0].raw
    assert all((positive[:, None] == raw).any(axis=1).all() for positive in drawn)
    # 29 draws of 4 leave one of the four unseen in a row with probability 4 * 0.75^29 < 0.001.
    reached = [len(set(column)) for column in np.array(drawn).T]
    assert np.mean(np.array(reached) == [len(set(row)) for row in raw.tolist()]) > 0.9


def test_a_true_callback_stops_training():
    seen = []

    def stop(epoch, losses):
        seen.append((epoch, losses["total"]))
        return epoch == 1

    _, curve = run(problem(), BASE, on_epoch=stop)
    assert [epoch for epoch, _ in seen] == [0, 1]
    assert [entry["total"] for entry in curve] == [total for _, total in seen]


def test_divergence_is_reported():
    with pytest.raises(
        RuntimeError, match=r"diverged in epoch \d+ .*lower learning_rate \(now 1e\+30\).*temperature \(now"
    ):
        run(problem(), replace(BASE, learning_rate=1e30, dtype="float32", n_epochs=20))


def test_trains_inside_no_grad_and_inference_mode():
    expected = run(problem(), BASE)[1]
    with torch.no_grad():
        assert run(problem(), BASE)[1] == expected
    with torch.inference_mode():
        assert run(problem(), BASE)[1] == expected
    assert torch.is_grad_enabled()


def test_single_precision_follows_double():
    double, single = (run(problem(n=40), replace(BASE, dtype=dtype))[1] for dtype in ("float64", "float32"))
    for a, b in zip(double, single, strict=True):
        assert a["total"] == pytest.approx(b["total"], rel=1e-4)
    assert double != single


def test_starting_networks_are_left_alone():
    data = problem()
    before = [array.copy() for array in arrays(data[2])]
    trained, _ = run(data, BASE)
    for array, copy in zip(arrays(data[2]), before, strict=True):
        np.testing.assert_array_equal(array, copy)
    assert all(array.dtype == np.float64 for array in arrays(trained))


def test_no_hidden_layer():
    trained, losses = run(problem(hidden=()), replace(BASE, hidden_layer_sizes=(), n_epochs=30))
    assert len(trained[0].encoder) == 1
    assert losses[-1]["reconstruction"] < losses[0]["reconstruction"]


@pytest.mark.parametrize("change", [{"neighbor_refresh": 1}, {"n_epochs": 1}])
def test_destroyed_latents_are_reported_as_divergence(change):
    """Before the next table is built, and after the last step, which no loss follows."""
    settings = replace(BASE, learning_rate=1e30 if "neighbor_refresh" in change else 1e160, **change)
    settings = replace(settings, dtype="float32" if "neighbor_refresh" in change else "float64")
    xs = (np.random.default_rng(0).random((40, 4)), np.random.default_rng(1).random((40, 3)))
    rng = np.random.default_rng(0)
    nets = tuple(Autoencoder.initial(x.shape[1], (5,), 3, rng) for x in xs)
    with pytest.raises(RuntimeError, match="training diverged in epoch"):
        train_pair(xs, np.ones((40, 2), dtype=bool), nets, settings, rng, lambda *_: False)


def test_rows_go_through_what_wraps_the_encoders():
    """A wrapper that encodes in two parts, as two processes would, trains the same weights."""
    xs, observed, networks = problem(n=30, rate=0.3)
    settings = replace(SPREAD, n_neighbors=4, impute_from=1, n_epochs=3)
    lengths = []

    class InParts(torch.nn.Module):
        def __init__(self, encoder):
            super().__init__()
            self.encoder = encoder

        def forward(self, x):
            lengths.append(len(x))
            return torch.cat([self.encoder(part) for part in x.tensor_split(2)])

    trained = [
        training.train_pair(
            xs, observed, networks, settings, np.random.default_rng(0), lambda *_: False, wrap
        )[0]
        for wrap in (None, InParts)
    ]
    assert lengths
    assert max(lengths) == 30
    for plain, wrapped in zip(*trained, strict=True):
        for one, two in zip(plain.encoder + plain.decoder, wrapped.encoder + wrapped.decoder, strict=True):
            np.testing.assert_allclose(two[0], one[0], rtol=0, atol=1e-12)
    assert not np.allclose(trained[0][0].encoder[0][0], networks[0].encoder[0][0])
