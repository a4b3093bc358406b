"""Scores of one pair against O(n^2) loops; streaming, constants, symmetry, relation transfer."""

from dataclasses import replace

import numpy as np
import pytest
from scipy.special import logsumexp

from graftkit.methods.rcpmod import scores
from graftkit.methods.rcpmod.autoencoder import Autoencoder, unit_rows
from graftkit.methods.rcpmod.fitting import freeze_pair
from graftkit.methods.rcpmod.scores import (
    PairScorer,
    encode_pair,
    log_sum_exp_against,
    min_max,
    scale_errors,
    transductive_consistency,
)
from graftkit.methods.rcpmod.settings import Settings
from tests.plugins.rcpmod import reference

SETTINGS = Settings(n_neighbors=3, latent_dim=4, temperature=0.4, recon_weight=0.7)


def problem(n=25, rate=0.4, seed=0, dims=(3, 5)):
    rng = np.random.default_rng(seed)
    networks = tuple(Autoencoder.initial(d, (6,), 4, rng) for d in dims)
    xs = tuple(rng.random((n, d)) for d in dims)
    observed = np.ones((n, 2), dtype=bool)
    rows = rng.permutation(n)[: int(rate * n)]
    observed[rows, rng.integers(2, size=len(rows))] = False
    return networks, xs, observed


def freeze(networks, xs, observed, settings=SETTINGS, seed=0):
    return freeze_pair(networks, xs, observed, settings, np.random.default_rng(seed))


def frozen_score(scorer, xs, observed):
    return scorer.score(*scorer.components(xs, observed))


@pytest.mark.parametrize("rate", [0.0, 0.4, 0.8])
@pytest.mark.parametrize("seed", [0, 1])
def test_transductive_score_equals_the_loops(rate, seed):
    networks, xs, observed = problem(rate=rate, seed=seed)
    expected, _ = reference.transductive_scores(networks, xs, observed, 3, 0.4, 0.7)
    np.testing.assert_allclose(freeze(networks, xs, observed)[1], expected, rtol=0, atol=1e-10)


@pytest.mark.parametrize("n_reference", ["auto", 25, 9])
def test_frozen_score_equals_the_loops(n_reference):
    networks, xs, observed = problem(seed=2)
    settings = replace(SETTINGS, n_reference=n_reference)
    scorer, _ = freeze(networks, xs, observed, settings)
    _, new_xs, new_observed = problem(n=12, seed=3)
    n_kept = 25 if n_reference == "auto" else n_reference
    kept = np.sort(np.random.default_rng(0).choice(25, size=n_kept, replace=False))
    expected = reference.inductive_scores(networks, xs, observed, new_xs, new_observed, 3, 0.4, 0.7, kept)
    np.testing.assert_allclose(frozen_score(scorer, new_xs, new_observed), expected, rtol=0, atol=1e-10)


def test_all_references_equal_the_full_formula():
    networks, xs, observed = problem(seed=4)
    automatic = frozen_score(freeze(networks, xs, observed)[0], xs, observed)
    for n_reference in (25, 1000):
        settings = replace(SETTINGS, n_reference=n_reference)
        scorer = freeze(networks, xs, observed, settings)[0]
        assert scorer.n_references == 25
        np.testing.assert_allclose(frozen_score(scorer, xs, observed), automatic, rtol=0, atol=1e-12)


def test_training_rows_span_the_unit_interval_of_each_part():
    networks, xs, observed = problem(seed=5)
    scorer, _ = freeze(networks, xs, observed)
    by_view, by_pair = scorer.parts(*scorer.components(xs, observed))
    assert by_pair.min() == pytest.approx(0, abs=1e-12)
    assert by_pair.max() == pytest.approx(1, abs=1e-12)
    assert by_view.sum(axis=1).min() == pytest.approx(0, abs=1e-12)
    assert by_view.sum(axis=1).max() == pytest.approx(0.7, abs=1e-12)


def test_new_values_are_not_clipped():
    networks, xs, observed = problem(seed=6)
    scorer, _ = freeze(networks, xs, observed)
    far = tuple(x[:4] + 30.0 for x in xs)
    by_view, _ = scorer.parts(*scorer.components(far, np.ones((4, 2), bool)))
    assert (by_view.sum(axis=1) > 10).all()


@pytest.mark.parametrize("n", [1, 5, 1024, 2100])
def test_streamed_sum_equals_the_dense_one(n):
    rng = np.random.default_rng(n)
    h, references = unit_rows(rng.normal(size=(n, 6))), unit_rows(rng.normal(size=(50, 6)))
    dense = logsumexp(h @ references.T / 0.1, axis=1)
    np.testing.assert_allclose(log_sum_exp_against(h, references, 0.1), dense, rtol=0, atol=1e-12)


def test_streamed_consistency_equals_the_dense_one(monkeypatch):
    rng = np.random.default_rng(0)
    a, b = unit_rows(rng.normal(size=(37, 5))), unit_rows(rng.normal(size=(37, 5)))
    whole = transductive_consistency(a, b, 0.3)
    monkeypatch.setattr(scores, "BLOCK", 8)
    np.testing.assert_allclose(transductive_consistency(a, b, 0.3), whole, rtol=0, atol=1e-12)


def test_sum_survives_a_tiny_temperature():
    h = unit_rows(np.random.default_rng(0).normal(size=(4, 3)))
    result = log_sum_exp_against(h, h, 1e-4)
    np.testing.assert_allclose(result, 1e4, rtol=1e-3)


def test_consistency_of_two_orthogonal_rows_by_hand():
    # As the loss's fixture, tau = 0.5: sigma = 1, D = e^2 + 2 for either anchor: c = log(1 + 2 e^-2).
    eye = np.eye(2)
    expected = np.log(1 + 2 * np.exp(-2))
    np.testing.assert_allclose(transductive_consistency(eye, eye, 0.5), expected, rtol=0, atol=1e-14)


def test_scores_follow_a_permutation_of_rows():
    networks, xs, observed = problem(seed=7)
    order = np.random.default_rng(1).permutation(25)
    scorer, published = freeze(networks, xs, observed)
    other, shuffled = freeze(networks, tuple(x[order] for x in xs), observed[order])
    np.testing.assert_allclose(shuffled, published[order], rtol=0, atol=1e-12)
    np.testing.assert_allclose(
        frozen_score(other, xs, observed), frozen_score(scorer, xs, observed), rtol=0, atol=1e-12
    )


def test_scores_do_not_know_which_view_is_first():
    networks, xs, observed = problem(seed=8)
    scorer, published = freeze(networks, xs, observed)
    other, swapped = freeze(networks[::-1], xs[::-1], observed[:, ::-1])
    np.testing.assert_allclose(swapped, published, rtol=0, atol=1e-12)
    np.testing.assert_allclose(
        frozen_score(other, xs[::-1], observed[:, ::-1]),
        frozen_score(scorer, xs, observed),
        rtol=0,
        atol=1e-12,
    )


def test_rows_are_scored_one_by_one():
    networks, xs, observed = problem(seed=9)
    scorer, _ = freeze(networks, xs, observed)
    whole = frozen_score(scorer, xs, observed)
    alone = [frozen_score(scorer, tuple(x[[i]] for x in xs), observed[[i]])[0] for i in range(25)]
    np.testing.assert_allclose(alone, whole, rtol=0, atol=1e-9)


def test_missing_view_counts_the_observed_error_twice():
    errors = np.array([[1.0, np.nan], [np.nan, 30.0], [3.0, 20.0]])
    observed = ~np.isnan(errors)
    bounds = np.array([[0.0, 4.0], [10.0, 30.0]])  # (minimum, maximum) of the two views
    expected = [[0.25, 0.25], [1.0, 1.0], [0.75, 0.5]]
    np.testing.assert_allclose(scale_errors(errors, observed, bounds), expected)


def test_constant_parts_count_nothing():
    assert min_max(np.full(5, 3.7)).tolist() == [0.0] * 5
    assert min_max(np.array([1.0, 1.0 + 1e-15])).tolist() == [0.0, 0.0]
    assert min_max(np.array([-2.0, 0.0, 2.0])).tolist() == [0.0, 0.5, 1.0]
    networks, xs, _ = problem(n=6)
    same = tuple(np.repeat(x[:1], 6, axis=0) for x in xs)
    scorer, published = freeze(networks, same, np.ones((6, 2), bool))
    assert published.tolist() == [0.0] * 6
    assert frozen_score(scorer, xs, np.ones((6, 2), bool)).tolist() == [0.0] * 6


def test_constant_reconstruction_leaves_consistency():
    networks, xs, observed = problem(n=10, rate=0)
    dead = tuple(
        replace(net, decoder=tuple((0 * w, np.zeros_like(b)) for w, b in net.decoder)) for net in networks
    )
    half = tuple(np.where(x > 0.5, 1.0, 0.0) for x in xs)  # every entry 1/2 from sigmoid(0)
    scorer, published = freeze(dead, half, observed)
    by_view, by_pair = scorer.parts(*scorer.components(half, observed))
    assert (by_view == 0).all()
    assert published.max() == pytest.approx(1.0)
    np.testing.assert_allclose(by_pair.max(), 1.0)


def test_encoding_reads_observed_rows_only():
    networks, xs, observed = problem(seed=3)
    latents, errors = encode_pair(networks, xs, observed)
    spoiled = tuple(np.where(observed[:, [v]], x, np.nan) for v, x in enumerate(xs))
    again, errors_again = encode_pair(networks, spoiled, observed)
    assert np.array_equal(np.isnan(errors), ~observed)
    np.testing.assert_array_equal(errors, errors_again)
    for before, after in zip(latents, again, strict=True):
        np.testing.assert_array_equal(before, after)


def identity(d):
    return Autoencoder(((np.eye(d), np.zeros(d)),), ((np.eye(d), np.zeros(d)),))


def scorer_with(networks, xs, observed, k):
    return freeze(networks, xs, observed, replace(SETTINGS, n_neighbors=k, latent_dim=xs[0].shape[1]))[0]


def test_transfer_recovers_a_view_that_is_constant_per_cluster():
    rng = np.random.default_rng(0)
    group = np.repeat(np.arange(4), 12)
    a = 10.0 * np.eye(4)[group] + 0.1 * rng.normal(size=(48, 4))
    b = rng.normal(size=(4, 4))[group]
    networks = (Autoencoder.initial(4, (6,), 4, rng), Autoencoder.initial(4, (6,), 4, rng))
    observed = np.ones((48, 2), dtype=bool)
    observed[::12, 1] = False  # one hidden row a cluster
    xs = (a, np.where(observed[:, [1]], b, 0.0))
    scorer = scorer_with((identity(4), networks[1]), xs, observed, 6)
    latents, _ = encode_pair(scorer.networks, xs, observed)
    filled = scorer.impute(latents, observed)
    np.testing.assert_allclose(filled[1], networks[1].encode(b), rtol=0, atol=1e-12)
    np.testing.assert_array_equal(filled[0], latents[0])


def test_transfer_is_exact_on_a_grid_seen_through_an_affine_map():
    # Interior points hidden in b, k = 2: the neighbours of x in a are x - 1 and x + 1, whose images
    # average to the image of x. Hidden points are never adjacent.
    a = np.arange(21.0)[:, None] @ np.ones((1, 2))
    b = a @ np.array([[2.0, -1.0], [0.5, 3.0]]) + np.array([4.0, 7.0])
    observed = np.ones((21, 2), dtype=bool)
    observed[1:-1:2, 1] = False
    xs = (a, np.where(observed[:, [1]], b, 0.0))
    scorer = scorer_with((identity(2), identity(2)), xs, observed, 2)
    filled = scorer.impute(encode_pair(scorer.networks, xs, observed)[0], observed)
    np.testing.assert_allclose(filled[1], b, rtol=0, atol=1e-12)


def test_donors_are_the_rows_with_both_views():
    networks, xs, observed = problem(rate=0.8, seed=5)
    scorer, _ = freeze(networks, xs, observed)
    both = observed.all(axis=1)
    for v in (0, 1):
        np.testing.assert_allclose(scorer.donors[v], networks[v].encode(xs[v][both]), rtol=0, atol=1e-14)
    assert isinstance(scorer, PairScorer)
