"""Ranking metrics against loops, protocols, groups, partial AUC, list diversity."""

import numpy as np
import pytest
import scipy.sparse as sp

from graftkit.methods.dpcml import metrics
from graftkit.methods.dpcml.metrics import evaluate, parse_metric, user_metric
from graftkit.methods.dpcml.ranks import rank_held_out
from tests.plugins.dpcml import reference

NAMES = [
    "precision@3",
    "recall@3",
    "ndcg@3",
    "precision@5",
    "recall@5",
    "ndcg@5",
    "map",
    "mrr",
    "ndcg",
    "auc",
]


def case(seed, n_users=25, n_items=20, ties=False):
    """Scores, seen and held-out items; users 0 to 2 hold out 0 to 2 items, user 3 has seen all but one."""
    rng = np.random.default_rng(seed)
    scores = rng.normal(size=(n_users, n_items))
    if ties:
        scores = np.round(scores)
    part = rng.choice(3, size=(n_users, n_items), p=[0.5, 0.2, 0.3])
    for user in (0, 1, 2):
        part[user] = np.minimum(part[user], 1)
        part[user, :user] = 2
    part[3], part[3, 7] = 1, 2
    return scores, *(sp.csr_matrix((part == code).astype(np.float32)) for code in (1, 2))


def sets(matrix):
    return [set(matrix[row].indices.tolist()) for row in range(matrix.shape[0])]


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("batch_size", [1, 7, None])
def test_public_protocol_equals_loops(seed, ties, batch_size, monkeypatch):
    from graftkit.methods.dpcml import ranks

    monkeypatch.setattr(
        ranks.rank_held_out, "__kwdefaults__", {"n_top": 0, "users": None, "batch_size": batch_size}
    )
    scores, seen, held = case(seed, ties=ties)
    expected = reference.libcml_metrics(-scores, sets(seen), sets(held), [3, 5])
    found = evaluate(lambda users: scores[users], seen, held, NAMES, protocol="libcml")
    assert found.keys() == expected.keys()
    for name in NAMES:
        assert found[name] == pytest.approx(expected[name], abs=1e-12), name


def test_standard_protocol_counts_every_user_with_a_held_out_item():
    scores, seen, held = case(0)
    ranks = rank_held_out(lambda users: scores[users], seen, held)
    assert 0 not in ranks.users
    assert {1, 2, 3} <= set(ranks.users)
    by_user = [
        user_metric("ndcg@5", positions, int(total), protocol="standard", beta=0.1)
        for positions, total in zip(ranks.positions, ranks.n_ranked, strict=True)
    ]
    found = evaluate(lambda users: scores[users], seen, held, ["ndcg@5"])
    assert found["ndcg@5"] == pytest.approx(np.mean(by_user))
    # User 3 has seen all but the held-out item: it is first, and there is nothing to be ahead of.
    three = list(ranks.users).index(3)
    assert ranks.positions[three].tolist() == [0]
    for name in ("ndcg@5", "map", "mrr", "auc", "opauc", "recall@3"):
        value = user_metric(name, ranks.positions[three], 1, protocol="standard", beta=0.1)
        assert value == 1.0


def test_ideal_gain_has_as_many_terms_as_there_are_hits():
    perfect = np.array([0, 1])
    assert user_metric("ndcg@10", perfect, 50, protocol="standard", beta=0.1) == pytest.approx(1.0)
    assert np.isnan(user_metric("ndcg@10", perfect, 50, protocol="libcml", beta=0.1))
    assert np.isnan(user_metric("map", perfect, 50, protocol="libcml", beta=0.1))
    assert user_metric("precision@2", perfect, 50, protocol="libcml", beta=0.1) == 1.0


@pytest.mark.parametrize("beta", [0.05, 0.2, 0.5, 1.0])
def test_partial_auc_equals_pairs(beta):
    rng = np.random.default_rng(0)
    for _ in range(30):
        positions = np.sort(rng.choice(40, size=rng.integers(1, 8), replace=False))
        expected = reference.pairwise_auc(positions.tolist(), 40, beta)
        found = user_metric("opauc", positions, 40, protocol="standard", beta=beta)
        assert found == pytest.approx(expected, abs=1e-12)
        if beta == 1.0:
            assert found == user_metric("auc", positions, 40, protocol="standard", beta=0.3)


def test_partial_auc_looks_at_the_top_only():
    # 4 others in 5 ranked items: half of them, the two hardest, are ahead of the held-out item or one is not.
    assert user_metric("opauc", np.array([2]), 5, protocol="standard", beta=0.5) == 0.0
    assert user_metric("opauc", np.array([1]), 5, protocol="standard", beta=0.5) == 0.5
    assert user_metric("auc", np.array([2]), 5, protocol="standard", beta=0.5) == 0.5


def test_list_diversity_is_a_sum_over_ordered_pairs():
    scores, seen, held = case(1)
    vectors = np.random.default_rng(0).normal(size=(20, 3))
    found = evaluate(lambda users: scores[users], seen, held, ["maxdiv@3", "maxdiv@5"], item_vectors=vectors)
    for k in (3, 5):
        sums = []
        for user in np.flatnonzero(np.diff(held.indptr)):
            order = [i for i in np.argsort(-scores[user], kind="stable") if i not in sets(seen)[user]][:k]
            sums.append(sum(reference.squared_distance(vectors[a], vectors[b]) for a in order for b in order))
        assert found[f"maxdiv@{k}"] == pytest.approx(np.mean(sums), rel=1e-10)


def test_groups_by_hand():
    # One user; items 0..5; groups a a a b b b; seen 0, 1 (a) and 3 (b): b is the minority.
    scores = np.array([[9.0, 8.0, 5.0, 7.0, 4.0, 6.0]])  # unseen, best first: 5 (b), 2 (a), 4 (b)
    seen = sp.csr_matrix([[1.0, 1, 0, 1, 0, 0]])
    held = sp.csr_matrix([[0.0, 0, 1, 0, 1, 0]])
    groups = np.array(list("aaabbb"))
    found = evaluate(lambda users: scores[users], seen, held, ["mrr", "auc"], groups=groups)
    assert found["all"] == {"mrr": 0.5, "auc": 0.0}
    # Only item 4 counts for b, item 2 leaves the list: 5, 4.
    assert found["minority"] == found["b"] == {"mrr": 0.5, "auc": 0.0}
    # Only item 2 counts for a: 5, 2.
    assert found["majority"] == found["a"] == {"mrr": 0.5, "auc": 0.0}
    scores[0, 4] = 10.0
    found = evaluate(lambda users: scores[users], seen, held, ["mrr", "auc"], groups=groups)
    assert found["minority"] == {"mrr": 1.0, "auc": 1.0}
    assert found["majority"] == {"mrr": 0.5, "auc": 0.0}


def test_equal_groups_are_told_apart():
    # Two items seen of each group: the first is taken for the rarest, the last for the commonest.
    scores = np.array([[0.0, 0, 1, 0, 0, 2]])
    seen, held = sp.csr_matrix([[1.0, 1, 0, 1, 1, 0]]), sp.csr_matrix([[0.0, 0, 1, 0, 0, 1]])
    labels = np.array(list("aaabbb"))
    found = evaluate(lambda users: scores[users], seen, held, ["recall@1"], groups=labels)
    assert (found["minority"], found["majority"]) == (found["a"], found["b"])
    ranks = rank_held_out(lambda users: scores[users], seen, held)
    assert ranks.items[0].tolist() == [5, 2]
    extremes = metrics._extreme_groups(np.array([0, 0, 1, 1]))
    assert extremes == (0, 1)


def test_users_of_one_group_have_no_minority():
    scores = np.arange(4.0)[None]
    seen, held = sp.csr_matrix([[1.0, 0, 0, 0]]), sp.csr_matrix([[0.0, 1, 0, 0]])
    found = evaluate(lambda users: scores[users], seen, held, ["mrr"], groups=np.array([0, 0, 0, 1]))
    assert np.isnan(found["minority"]["mrr"])
    assert np.isnan(found["majority"]["mrr"])
    assert np.isnan(found["1"]["mrr"])
    assert found["0"]["mrr"] == pytest.approx(1 / 3)


def test_seen_items_are_no_hits():
    scores = np.array([[3.0, 2.0, 1.0]])
    both = sp.csr_matrix([[1.0, 0, 0]])
    names = ["mrr", "recall@1", "recall@2"]
    found = evaluate(lambda users: scores[users], both, sp.csr_matrix([[1.0, 0, 1]]), names)
    assert found == {"mrr": 0.5, "recall@1": 0.0, "recall@2": 1.0}  # one item to find, not two


def test_only_chosen_users():
    scores, seen, held = case(2)
    chosen = np.array([0, 5, 9])
    found = evaluate(lambda users: scores[users], seen, held, ["mrr"], users=chosen)
    rows = evaluate(lambda users: scores[chosen][users], seen[chosen], held[chosen], ["mrr"])
    assert found == rows


def test_nobody_to_count_is_nan():
    empty = sp.csr_matrix((2, 3))
    assert np.isnan(evaluate(lambda users: np.zeros((len(users), 3)), empty, empty, ["mrr"])["mrr"])


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("ndgc@10", "scoring: expected one of .*'ndcg@K'"),
        ("ndcg@0", "K >= 1"),
        ("map@3", "'map'"),
        ("precision", "'precision@K'"),
    ],
)
def test_unknown_metrics(name, words):
    with pytest.raises(ValueError, match=words):
        parse_metric(name)


def test_bad_arguments():
    scores, seen, held = case(0)
    with pytest.raises(ValueError, match="protocol: expected one of 'standard', 'libcml'"):
        evaluate(lambda users: scores[users], seen, held, ["mrr"], protocol="paper")
    with pytest.raises(ValueError, match="maxdiv"):
        evaluate(lambda users: scores[users], seen, held, ["maxdiv@3"])
    with pytest.raises(ValueError, match="groups: expected one label for each of the 20 items"):
        evaluate(lambda users: scores[users], seen, held, ["mrr"], groups=np.zeros(3))
