"""The specification's golden values (section 5.1), against the reference and against the plugin."""

import numpy as np
import pytest
import scipy.sparse as sp
import torch

from graftkit.methods.dpcml.constraints import project
from graftkit.methods.dpcml.diversity import diversity, diversity_penalty
from graftkit.methods.dpcml.losses import smooth_excess, triplet_gradients
from graftkit.methods.dpcml.metrics import evaluate
from graftkit.methods.dpcml.optimizers import RowOptimizer
from graftkit.methods.dpcml.ranking import Ranker
from graftkit.methods.dpcml.vectors import assign_vectors
from tests.plugins.dpcml import reference
from tests.plugins.dpcml.reference import P, Q

TABLE = np.array(P).reshape(4, 2)
PTR = np.array([0, 2, 4])
ITEMS = np.array(Q)
THREE = [(0.5, 0.1), (-0.2, 0.4), (0.3, -0.6)]


def tensor(values):
    return torch.tensor(np.asarray(values), dtype=torch.float64)


def close(found, expected, tolerance=1e-12):
    np.testing.assert_allclose(np.asarray(found), np.asarray(expected), rtol=0, atol=tolerance)


SCORES = [[0.01, 0.04, 0.32, 0.40, 0.74], [1.09, 0.50, 0.02, 0.34, 0.08]]
WINNERS = [[0, 1, 1, 0, 0], [1, 0, 0, 1, 1]]
RANKINGS = [[0, 1, 2, 3, 4], [2, 4, 3, 1, 0]]


def test_scores_winners_and_rankings():
    ranker = Ranker(TABLE, PTR, ITEMS)
    for u in (0, 1):
        by_hand = [reference.score(P[u], q) for q in Q]
        close([s for s, _ in by_hand], SCORES[u])
        assert [w for _, w in by_hand] == WINNERS[u]
        assert reference.ranking(P[u], Q) == RANKINGS[u]
        scores, winners = ranker.pairs(np.full(5, u), np.arange(5))
        close(-scores, SCORES[u])
        assert winners.tolist() == WINNERS[u]
    close(-ranker.score(np.array([0, 1])), SCORES)
    assert ranker.top(np.array([0, 1]), 5)[0].tolist() == RANKINGS


# user, positive, negatives: losses, then what uniform, hard and dihars (beta .5, so k = 2 of 3) make of them
HINGES = [
    (0, 0, [2, 3, 4], [0.69, 0.61, 0.27], {"uniform": 1.57, "hard": 0.69, "dihars": 0.65}),
    (1, 4, [0, 1, 3], [0.0, 0.58, 0.74], {"uniform": 1.32, "hard": 0.74, "dihars": 0.66}),
]


@pytest.mark.parametrize(("user", "positive", "negatives", "losses", "expected"), HINGES)
@pytest.mark.parametrize("sampling", ["uniform", "hard", "dihars"])
def test_losses_of_one_positive(user, positive, negatives, losses, expected, sampling):
    found = reference.hinges(P[user], Q, positive, negatives, 1.0)
    close(found, losses)
    close(reference.positive_loss(found, sampling, beta=0.5), expected[sampling])
    step = triplet_gradients(
        tensor(TABLE),
        tensor(ITEMS),
        torch.tensor([[2 * user, 2 * user + 1]]),
        torch.tensor([positive]),
        torch.tensor([negatives]),
        margin=1.0,
        sampling=sampling,
        n_selected=2,
    )
    close(step.losses, [expected[sampling]])


def test_threshold_form():
    expected = 0.6761133773998177
    close(reference.threshold_loss((0.69, 0.61, 0.27), 0.5, 2), expected)
    value, _ = smooth_excess(tensor((0.69, 0.61, 0.27)) - 0.5)
    close(0.5 + value.sum() / 2, expected)


def test_gradient_of_the_hard_loss():
    step = triplet_gradients(
        tensor(TABLE),
        tensor(ITEMS),
        torch.tensor([[0, 1]]),
        torch.tensor([0]),
        torch.tensor([[2, 3, 4]]),
        margin=1.0,
    )
    users, items = torch.zeros(4, 2, dtype=torch.float64), torch.zeros(5, 2, dtype=torch.float64)
    users.index_add_(0, step.user_rows, step.user_gradients)
    items.index_add_(0, step.item_rows, step.item_gradients)
    close(users, [(0, -0.2), (-0.8, -0.8), (0, 0), (0, 0)])
    close(items, [(0, 0.2), (0, 0), (0.8, 0.8), (0, 0), (0, 0)])


def test_diversity_and_its_penalties():
    counts = torch.tensor([2, 2])
    close([reference.diversity(p) for p in P], [0.5, 1.3])
    close(diversity(tensor(P), counts), [0.5, 1.3])
    for form, each in (("mean", [0.1, 0.4]), ("pairwise", [0.05, 0.85])):
        close([reference.dcrs(p, form, 0.6, 0.9) for p in P], each)
        found, _ = diversity_penalty(tensor(P), counts, form=form, delta_min=0.6, delta_max=0.9)
        close(found, each)
        close(found.mean(), {"mean": 0.25, "pairwise": 0.45}[form])


GRADIENTS = [
    ("mean", 0.1, 0.3, 0.0933333333333333, [(0.3, 0.1333333333), (-0.4, 0.4333333333), (0.1, -0.5666666667)]),
    (
        "pairwise",
        0.2,
        0.55,
        0.1622222222222222,
        [(0.3111111111, -0.1333333333), (-0.5333333333, 0.5777777778), (0.2222222222, -0.4444444444)],
    ),
    ("pairwise", 0.2, 0.4, 0.2577777777777778, None),
]


@pytest.mark.parametrize(("form", "low", "high", "value", "gradient"), GRADIENTS)
def test_penalty_of_three_vectors(form, low, high, value, gradient):
    pairs = [reference.squared_distance(THREE[a], THREE[b]) for a, b in ((0, 1), (0, 2), (1, 2))]
    close(pairs, [0.58, 0.53, 1.25])
    close(reference.diversity(THREE), 0.3933333333333333)
    close(reference.dcrs(THREE, form, low, high), value)
    found, slope = diversity_penalty(
        tensor([THREE]), torch.tensor([3]), form=form, delta_min=low, delta_max=high
    )
    close(found, [value])
    if gradient is not None:
        close(slope[0], gradient, 1e-10)


def test_adaptive_assignment():
    counts = [1, 3, 4, 7, 8, 15, 16, 31, 32, 1000]
    expected = [1, 1, 2, 2, 3, 3, 4, 4, 5, 5]
    assert [reference.apa(n, 5) for n in counts] == expected
    assert assign_vectors(np.array(counts), "apa", 5).tolist() == expected


def test_law_of_the_selected_rank():
    """Hard sampling picks rank r of n with probability ((n-r+1)^S - (n-r)^S) / n^S; here n = 4, S = 2."""
    expected = [0.4375, 0.3125, 0.1875, 0.0625]
    close([((4 - r + 1) ** 2 - (4 - r) ** 2) / 16 for r in (1, 2, 3, 4)], expected)
    # All 16 ordered draws of two of the items 1 to 4, at distances 1, 4, 9, 16 from the user: which is hit?
    user, items = tensor([[0.0]]), tensor([[0.0], [1.0], [2.0], [3.0], [4.0]])
    draws = torch.cartesian_prod(torch.arange(1, 5), torch.arange(1, 5))
    step = triplet_gradients(
        user,
        items,
        torch.zeros(16, 1, dtype=torch.int64),
        torch.zeros(16, dtype=torch.int64),
        draws,
        margin=100.0,
    )
    hit = step.item_rows[16:]  # the positives come first
    close(torch.bincount(hit, minlength=5)[1:] / 16, expected)


def test_mean_of_the_largest_is_the_smallest_of_a_threshold_form():
    losses, k = np.array([0.9, 0.2, 0.5, 0.7, 0.1]), 2
    assert reference.positive_loss(losses.tolist(), "dihars", beta=0.4) == pytest.approx(0.8, abs=1e-12)
    grid = np.linspace(0, 1, 1001)
    values = grid + np.maximum(losses[:, None] - grid, 0).sum(axis=0) / k
    assert values.min() == pytest.approx(0.8, abs=1e-12)
    lowest = grid[values < 0.8 + 1e-9]
    close([lowest.min(), lowest.max()], [0.5, 0.7], 1e-3)


def test_projection_on_the_ball():
    rows = [(3.0, 4.0), (0.3, 0.4), (0.0, 0.0)]
    expected = [(0.6, 0.8), (0.3, 0.4), (0.0, 0.0)]
    close([reference.project(row, "ball", 1.0) for row in rows], expected)
    close(project(tensor(rows), "ball", 1.0), expected)


@pytest.mark.parametrize(
    ("steps", "expected"),
    [((1, 2), (0.16543941811651, -0.06543941666263)), ((1, 3), (0.17033103500553, -0.07033103352844))],
)
def test_lazy_adam(steps, expected):
    gradients = [(0.5, -1.0), (-0.2, 0.4)]
    by_hand = reference.Adam((0.3, -0.2), 0.1)
    table = tensor([(0.3, -0.2), (1.0, 1.0)])
    optimizer = RowOptimizer(table, "lazy_adam", learning_rate=0.1)
    for step in range(1, max(steps) + 1):
        if step in steps:
            gradient = gradients[steps.index(step)]
            by_hand.touch(gradient, step)
            optimizer.step(torch.tensor([0]), tensor([gradient]))
        else:
            optimizer.step(torch.tensor([1]), tensor([(1.0, 1.0)]))
    close(by_hand.row, expected, 1e-13)
    close(table[0], expected, 1e-13)


def test_metrics_of_one_list():
    scores = np.array([[0.3, 0.1, 0.5, 0.2, 0.9, 0.4]])  # distances: smaller is better
    assert reference.ranking([[0.0]], [[np.sqrt(s)] for s in scores[0]], banned={1}) == [3, 0, 5, 2, 4]
    expected = {
        "precision@3": 0.6666666667,
        "recall@3": 0.6666666667,
        "ndcg@3": 0.5307212739772434,
        "map": 0.5888888888888889,
        "mrr": 0.5,
        "ndcg": 0.7122630665145961,
        "auc": 0.3333333333333333,
    }
    by_hand = reference.libcml_metrics(scores, [{1}], [{0, 5, 4}], [3])
    seen, held = sp.csr_matrix(([1.0], ([0], [1])), (1, 6)), sp.csr_matrix([[1.0, 0, 0, 0, 1, 1]])
    found = evaluate(lambda users: -scores[users], seen, held, list(expected), protocol="libcml")
    for name, value in expected.items():
        tolerance = 1e-10 if "@3" in name and "ndcg" not in name else 1e-12
        assert by_hand[name] == pytest.approx(value, abs=tolerance)
        assert found[name] == pytest.approx(value, abs=tolerance)
