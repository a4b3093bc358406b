"""Scores over several pairs of views: the mean over the pairs a row belongs to, against loops."""

from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest

from graftkit.methods.rcpmod.fitting import fit_pairs
from graftkit.methods.rcpmod.settings import Settings
from tests.plugins.rcpmod import reference

K, TAU, RECON = 2, 0.4, 0.7
SETTINGS = Settings(
    n_neighbors=K,
    hidden_layer_sizes=(4,),
    latent_dim=3,
    n_epochs=2,
    temperature=TAU,
    recon_weight=RECON,
    dtype="float64",
    knn_backend="sklearn",
)
NAMES = ("a", "b", "c")
PAIRS = [(0, 1), (0, 2), (1, 2)]


def problem(n=16, seed=0):
    """Three views; rows 0-2 have one view only and so are absent from one pair each."""
    rng = np.random.default_rng(seed)
    views = [rng.random((n, d)) * 5 - 1 for d in (3, 2, 4)]
    mask = np.ones((n, 3), dtype=bool)
    mask[0], mask[1], mask[2] = [True, False, False], [False, True, False], [False, False, True]
    mask[3, 1] = mask[4, 0] = mask[5, 2] = False
    return views, mask


def fit(views, mask, settings=SETTINGS, names=NAMES, seed=0, **options):
    return fit_pairs(views, mask, names, settings, np.random.default_rng(seed), **options)


def scaled(views, mask):
    """Section 1.3, per column over observed rows; missing rows are filled with zeros."""
    filled = []
    for v, view in enumerate(views):
        rows = [view[i] for i in range(len(view)) if mask[i, v]]
        low, high = [min(c) for c in zip(*rows, strict=True)], [max(c) for c in zip(*rows, strict=True)]
        span = [(h - l) if h > l else 1.0 for l, h in zip(low, high, strict=True)]  # noqa: E741
        filled.append(np.array([(row - low) / span if mask[i, v] else 0 * row for i, row in enumerate(view)]))
    return filled


def mean_over_pairs(n, score_of_pair, mask):
    total, count = [0.0] * n, [0] * n
    for p, (a, b) in enumerate(PAIRS):
        rows = [i for i in range(n) if mask[i, a] or mask[i, b]]
        for i, value in zip(rows, score_of_pair(p, a, b, rows), strict=True):
            total[i] += value
            count[i] += 1
    return [t / c for t, c in zip(total, count, strict=True)], count


@pytest.mark.parametrize("pairing", ["sequential", "independent"])
def test_training_scores_are_the_mean_over_the_pairs_of_a_row(pairing):
    views, mask = problem()
    model, published, _ = fit(views, mask, replace(SETTINGS, pairing=pairing))
    assert list(model.pairs) == PAIRS
    xs = scaled(views, mask)

    def of_pair(p, a, b, rows):
        data = (xs[a][rows], xs[b][rows]), mask[np.ix_(rows, [a, b])]
        return reference.transductive_scores(model.scorers[p].networks, *data, K, TAU, RECON)[0]

    expected, count = mean_over_pairs(len(mask), of_pair, mask)
    assert count == [2, 2, 2] + [3] * 13
    np.testing.assert_allclose(published, expected, rtol=0, atol=1e-10)


def test_new_scores_are_the_mean_over_the_pairs_of_a_row():
    views, mask = problem()
    new_views, new_mask = problem(n=9, seed=5)
    model, *_ = fit(views, mask)
    low = [[min(view[mask[:, v], j]) for j in range(view.shape[1])] for v, view in enumerate(views)]
    high = [[max(view[mask[:, v], j]) for j in range(view.shape[1])] for v, view in enumerate(views)]
    xs = scaled(views, mask)
    new_xs = [(view - low[v]) / np.subtract(high[v], low[v]) for v, view in enumerate(new_views)]

    def of_pair(p, a, b, rows):
        member = [i for i in range(len(mask)) if mask[i, a] or mask[i, b]]
        train = (xs[a][member], xs[b][member]), mask[np.ix_(member, [a, b])]
        fresh = (new_xs[a][rows], new_xs[b][rows]), new_mask[np.ix_(rows, [a, b])]
        return reference.inductive_scores(model.scorers[p].networks, *train, *fresh, K, TAU, RECON)

    expected, _ = mean_over_pairs(len(new_mask), of_pair, new_mask)
    np.testing.assert_allclose(model.score(new_views, new_mask), expected, rtol=0, atol=1e-10)


def test_a_pair_score_of_zero_counts_in_the_mean():
    # Views a and b are constant, so their pair scores every row exactly 0; it still is one of three pairs.
    views, mask = problem()
    mask[:] = True
    views[0][:], views[1][:] = 3.0, -2.0
    model, published, _ = fit(views, mask)
    xs = scaled(views, mask)
    others = [
        reference.transductive_scores(
            model.scorers[p].networks, (xs[a], xs[2]), mask[:, [a, 2]], K, TAU, RECON
        )[0]
        for p, a in ((1, 0), (2, 1))
    ]
    assert max(others[0]) > 0.1
    np.testing.assert_allclose(published, (0 + others[0] + others[1]) / 3, rtol=0, atol=1e-10)


def test_sequential_pairs_hand_their_weights_on_and_keep_a_snapshot():
    views, mask = problem()
    sequential, independent = (
        fit(views, mask, replace(SETTINGS, pairing=pairing))[0] for pairing in ("sequential", "independent")
    )

    def first_layer(model, pair, side):
        return model.scorers[pair].networks[side].encoder[0][0]

    # The first pair is the same; (0, 2) starts from the view-0 weights that (0, 1) left.
    np.testing.assert_array_equal(first_layer(sequential, 0, 0), first_layer(independent, 0, 0))
    handed = np.abs(first_layer(sequential, 1, 0) - first_layer(sequential, 0, 0)).max()
    assert 0 < handed < 0.01  # two epochs of Adam at 1e-3: a few steps from where it began
    assert (first_layer(sequential, 1, 0) != first_layer(independent, 1, 0)).any()
    assert (first_layer(sequential, 2, 1) != first_layer(sequential, 1, 1)).any()


def test_independent_pairs_do_not_depend_on_the_order_of_views_or_on_workers():
    views, mask = problem()
    settings = replace(SETTINGS, pairing="independent")
    _, published, _ = fit(views, mask, settings)
    _, threaded, _ = fit(views, mask, settings, n_jobs=2)
    np.testing.assert_array_equal(threaded, published)
    _, reversed_, _ = fit(views[::-1], mask[:, ::-1], settings, names=NAMES[::-1])
    np.testing.assert_allclose(reversed_, published, rtol=0, atol=1e-6)


def test_an_explanation_adds_up():
    views, mask = problem()
    model, *_ = fit(views, mask)
    parts = model.explain(views, mask)
    np.testing.assert_array_equal(np.isnan(parts.reconstruction), ~mask)
    absent = [[not (mask[i, a] or mask[i, b]) for a, b in PAIRS] for i in range(len(mask))]
    np.testing.assert_array_equal(np.isnan(parts.consistency), absent)
    total = np.nansum(parts.reconstruction, axis=1) + np.nansum(parts.consistency, axis=1)
    np.testing.assert_allclose(total, model.score(views, mask), rtol=0, atol=1e-12)
    assert parts.pair_names == tuple(combinations(NAMES, 2))


def test_one_row_alone_scores_as_among_others():
    views, mask = problem()
    model, *_ = fit(views, mask)
    whole = model.score(views, mask)
    alone = [model.score([view[[i]] for view in views], mask[[i]])[0] for i in range(len(mask))]
    np.testing.assert_allclose(alone, whole, rtol=0, atol=1e-9)
    spoiled = [np.where(mask[:, [v]], view, np.nan) for v, view in enumerate(views)]
    np.testing.assert_array_equal(model.score(spoiled, mask), whole)


def test_a_pair_that_cannot_be_learnt_is_named():
    views, mask = problem()
    mask[:] = True
    mask[:8, 0] = mask[8:, 2] = False
    with pytest.raises(ValueError, match=r"views 'a' and 'c': expected rows observed in both .* got 0"):
        fit(views, mask)


def test_fewer_neighbours_than_asked_warns_once():
    views, mask = problem()
    with pytest.warns(UserWarning, match=r"n_neighbors=30 is more than the 11 neighbour") as caught:
        _, published, _ = fit(views, mask, replace(SETTINGS, n_neighbors=30, n_epochs=1))
    assert len(caught) == 1
    assert np.isfinite(published).all()


def test_inputs_outside_the_unit_interval_need_scaling():
    views, mask = problem()
    with pytest.raises(ValueError, match=r"view 'a': expected values in \[0, 1\] with scale=None"):
        fit(views, mask, replace(SETTINGS, scale=None))
