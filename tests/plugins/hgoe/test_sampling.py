"""The sampler against the probabilities it was given, and its bounds."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from graftkit.methods.hgoe import bernoulli, sampling
from graftkit.methods.hgoe.graphons import mix
from graftkit.methods.hgoe.mixup import Mixtures
from graftkit.methods.hgoe.sampling import sample_mixtures
from tests.plugins.hgoe.cases import generator
from tests.plugins.hgoe.test_graphons import symmetric
from tests.plugins.hgoe.test_graphs import unpack


def dense(n, seed):
    """Entries between 0.3 and 1: hardly ever an empty draw."""
    return (0.3 + 0.7 * symmetric(n, seed)).fill_diagonal_(0)


def plan(count, first, second, lam, low, high):
    def full(value, dtype=torch.int64):
        return torch.full((count,), value, dtype=dtype)

    return Mixtures(full(first), full(second), full(lam, torch.float64), full(low), full(high))


@pytest.mark.parametrize("mode", ["crop_pad", "interpolate"])
@pytest.mark.parametrize("n", [5, 7])
def test_frequencies_are_the_mixture(mode, n):
    a, b, count = dense(5, 0), dense(8, 1), 4000
    graphs = sample_mixtures(
        [a, b], plan(count, 0, 1, 0.3, n, n), generator(), mode=mode, drop_isolated=False
    )
    assert (graphs.num_nodes == n).all()
    local = graphs.edge_index - graphs.ptr[graphs.batch[graphs.edge_index[0]]]
    hits = torch.bincount(local[0] * n + local[1], minlength=n * n).reshape(n, n).double() / count
    p = mix(a, b, 0.3, n, mode)
    assert torch.equal(hits, hits.T)
    error = (p * (1 - p) / count).sqrt()
    assert ((hits - p).abs() <= 5 * error + 1e-9).all()
    upper = torch.triu(p, 1)
    expected, spread = upper.sum(), (upper * (1 - upper)).sum().sqrt() / count**0.5
    assert abs(graphs.edge_index.shape[1] / 2 / count - expected) < 3 * spread


@given(seed=st.integers(0, 10**6))
def test_graphs_are_simple_undirected_sorted_and_without_isolated_nodes(seed):
    w = [symmetric(6, seed) * 0.5, symmetric(9, seed + 1) * 0.5]
    graphs = sample_mixtures(w, plan(20, 0, 1, 0.6, 2, 9), generator(seed))
    for edges, n in unpack(graphs):
        assert edges == sorted(edges)
        assert len({tuple(e) for e in edges}) == len(edges)
        assert all([v, u] in edges and u != v for u, v in edges)
        assert {u for u, _ in edges} == set(range(n))
        assert 2 <= n <= 9


def test_sizes_are_uniform_in_their_range():
    full = torch.ones(9, 9, dtype=torch.float64).fill_diagonal_(0)
    graphs = sample_mixtures([full], plan(4000, 0, 0, 1.0, 3, 7), generator())
    counts = torch.bincount(graphs.num_nodes, minlength=8)
    assert counts[:3].sum() == 0
    assert counts.sum() == 4000
    # five sizes, 800 each; five standard errors are 5 * sqrt(4000 * 0.2 * 0.8) = 126
    assert ((counts[3:8] - 800).abs() < 126).all()


def test_order_follows_the_plan():
    """Entry k asks for k + 2 nodes of a full graphon."""
    full = torch.ones(9, 9, dtype=torch.float64).fill_diagonal_(0)
    n = torch.tensor([5, 2, 9, 3])
    zero = torch.zeros(4, dtype=torch.int64)
    entries = Mixtures(zero, zero, torch.ones(4, dtype=torch.float64), n, n)
    assert sample_mixtures([full], entries, generator()).num_nodes.tolist() == [5, 2, 9, 3]


def test_an_empty_draw_is_repeated_with_a_new_size():
    """Edges exist only beyond the first two nodes: size 2 fails always, sizes 3 and 4 succeed."""
    w = torch.zeros(4, 4, dtype=torch.float64)
    w[1, 2] = w[2, 1] = w[2, 3] = w[3, 2] = 1
    graphs = sample_mixtures([w], plan(200, 0, 0, 1.0, 2, 4), generator())
    assert len(graphs) == 200
    assert set(graphs.num_nodes.tolist()) == {2, 3}


def test_tries_are_bounded():
    w = torch.zeros(3, 3, dtype=torch.float64)
    w[0, 1] = w[1, 0] = 1e-9
    with pytest.raises(
        ValueError, match=r"max_tries: graphons 0 and 0, lam=1, gave no edge in 7 draws of up to 3"
    ):
        sample_mixtures([w], Mixtures.of_one(2, 3), generator(), max_tries=7)


@pytest.mark.parametrize(("first", "second", "lam"), [(0, 0, 0.5), (1, 0, 0.0), (0, 1, 1.0)])
def test_a_mixture_without_any_edge_is_refused_at_once(first, second, lam):
    w = [torch.zeros(3, 3, dtype=torch.float64), dense(3, 0)]
    with pytest.raises(ValueError, match=f"graphons {first} and {second} are zero"):
        sample_mixtures(w, plan(2, first, second, lam, 2, 3), generator(), max_tries=10**9)
    assert len(sample_mixtures(w, plan(2, 0, 1, 0.5, 3, 3), generator())) == 2


def test_chunks_do_not_change_what_is_drawn(monkeypatch):
    w, entries = [dense(6, 0), dense(9, 1)], plan(50, 0, 1, 0.4, 4, 9)
    whole = sample_mixtures(w, entries, generator(3))
    monkeypatch.setattr(sampling, "SLICE", 7)
    monkeypatch.setattr(bernoulli, "BLOCK", 10)
    monkeypatch.setattr(sampling, "TABLE", 0)  # and nodes are searched instead of looked up
    pieces = sample_mixtures(w, entries, generator(3))
    assert torch.equal(whole.edge_index, pieces.edge_index)
    assert torch.equal(whole.num_nodes, pieces.num_nodes)


def test_one_seed_one_result():
    w, entries = [dense(6, 0) * 0.4], Mixtures.of_one(30, 6)
    same = [sample_mixtures(w, entries, generator(s)).edge_index.tolist() for s in (1, 1, 2)]
    assert same[0] == same[1] != same[2]


def test_errors_and_nothing_to_do():
    assert len(sample_mixtures([dense(3, 0)], plan(0, 0, 0, 1.0, 2, 3), generator())) == 0
    with pytest.raises(ValueError, match="low: expected at least 2 nodes a graph, got 1"):
        sample_mixtures([dense(3, 0)], plan(1, 0, 0, 1.0, 1, 3), generator())
    with pytest.raises(ValueError, match="mode: expected one of"):
        sample_mixtures([dense(3, 0)], plan(1, 0, 0, 1.0, 2, 3), generator(), mode="crop")
    with pytest.raises(ValueError, match="max_tries: expected an integer >= 1"):
        sample_mixtures([dense(3, 0)], plan(1, 0, 0, 1.0, 2, 3), generator(), max_tries=0)


def test_chances_finer_than_a_byte_are_exact():
    """0 and 1 are certain; 0.001 is below 1/256, 0.5 is whole in bytes, 0.3 lies between."""
    w = torch.zeros(5, 5, dtype=torch.float64)
    for (a, b), p in {(0, 1): 1.0, (2, 3): 0.001, (1, 2): 0.5, (3, 4): 1 / 256, (0, 2): 0.3}.items():
        w[a, b] = w[b, a] = p
    count = 100_000
    graphs = sample_mixtures([w], Mixtures.of_one(count, 5), generator(), drop_isolated=False)
    hits = torch.bincount(graphs.edge_index[0] % 5 * 5 + graphs.edge_index[1] % 5, minlength=25) / count
    hits = hits.reshape(5, 5).double()
    assert ((hits - w).abs() <= 5 * (w * (1 - w) / count).sqrt()).all()  # exact where p is 0 or 1


@pytest.mark.parametrize("drop", [True, False])
def test_many_nodes_take_the_wider_key(monkeypatch, drop):
    """20 graphs of up to 2**14 possible nodes do not fit into 32 bits; few edges, so it is quick."""
    w = torch.zeros(70, 70, dtype=torch.float64)
    w[:3, :3] = 1
    w.fill_diagonal_(0)
    entries = plan(20, 0, 0, 1.0, 70, 70)
    entries.high[0] = 2**14
    monkeypatch.setattr(sampling, "_uniform_integers", lambda low, *_: low)
    graphs = sample_mixtures([w], entries, generator(), drop_isolated=drop)
    assert graphs.num_nodes.tolist() == [3 if drop else 70] * 20
    assert all(edges == [[0, 1], [0, 2], [1, 0], [1, 2], [2, 0], [2, 1]] for edges, _ in unpack(graphs))


def test_mixtures_drawn_together_keep_their_own_chances():
    """Entries in turn of 0.5 and of 0.001, far apart in their first eight digits and in the rest."""
    first, second = torch.zeros(2, 3, 3, dtype=torch.float64)
    for w, p in ((first, 0.5), (second, 0.001)):
        w[0, 1] = w[1, 0] = 1
        w[0, 2] = w[2, 0] = p
    count = 100_000
    entries = plan(count, 0, 1, 1.0, 3, 3)
    entries.lam[1::2] = 0
    graphs = sample_mixtures([first, second], entries, generator(), drop_isolated=False)
    graph = graphs.batch[graphs.edge_index[0]]
    hit = (graphs.edge_index[0] % 3 == 0) & (graphs.edge_index[1] % 3 == 2)
    shares = torch.bincount(graph[hit] % 2, minlength=2) / (count / 2)
    for share, p in zip(shares.tolist(), (0.5, 0.001), strict=True):
        assert abs(share - p) <= 5 * (p * (1 - p) / (count / 2)) ** 0.5
