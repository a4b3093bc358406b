"""Structural encodings and feature alignment against loops."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from graftkit.methods.hgoe import encodings
from graftkit.methods.hgoe.alignment import cap_pool, nearest_features
from graftkit.methods.hgoe.encodings import clipped_degree, random_walk, structural_encoding
from tests.plugins.hgoe import reference
from tests.plugins.hgoe.cases import generator, pack, random_lists


@given(seed=st.integers(0, 10**6), length=st.integers(1, 9))
def test_return_probabilities_equal_dense_powers(seed, length):
    lists = random_lists(5, seed)
    expected = np.concatenate([reference.random_walk(e, n, length) for e, n in lists])
    np.testing.assert_allclose(random_walk(pack(lists), length).numpy(), expected, atol=1e-6)


def test_large_graphs_take_the_sparse_way(monkeypatch):
    lists = random_lists(3, 0, low=20, high=30)
    dense = random_walk(pack(lists), 6)
    monkeypatch.setattr(encodings, "DENSE_LIMIT", 5)
    torch.testing.assert_close(random_walk(pack(lists), 6), dense)


def test_chunks_change_nothing(monkeypatch):
    graphs = pack(random_lists(30, 4))
    whole = random_walk(graphs, 8)
    monkeypatch.setattr(encodings, "CELLS", 300)
    assert torch.equal(random_walk(graphs, 8), whole)


def test_star_and_isolated_nodes():
    """A hub with 40 leaves and a node on its own: degree 40 is clipped, the lone node has degree 0."""
    edges = [(0, k) for k in range(1, 41)] + [(k, 0) for k in range(1, 41)]
    x = structural_encoding(pack([(edges, 42)]))
    assert x.shape == (42, 32)
    # from the hub every second step returns; from a leaf with probability 1/40
    torch.testing.assert_close(x[0, :4], torch.tensor([0, 1.0, 0, 1.0]))
    torch.testing.assert_close(x[1, :4], torch.tensor([0, 1 / 40, 0, 1 / 40]))
    assert not x[41, :16].any()
    assert x[[0, 1, 41], 16:].argmax(1).tolist() == [15, 1, 0]
    assert (x[:, 16:].sum(1) == 1).all()


def test_edgeless_and_empty_graphs():
    graphs = pack([([], 1), ([], 3)])
    assert not random_walk(graphs, 4).any()
    assert random_walk(pack([]), 4).shape == (0, 4)
    with pytest.raises(ValueError, match="rw_dim: expected an integer >= 1"):
        random_walk(graphs, 0)
    with pytest.raises(ValueError, match="degree_dim: expected an integer >= 1"):
        clipped_degree(graphs, 0)


@given(seed=st.integers(0, 10**6), k=st.integers(1, 3))
def test_nearest_features_equal_loops(seed, k):
    rng = np.random.default_rng(seed)
    pool, query = rng.integers(0, 4, (12, 3)) / 2, rng.integers(0, 4, (6, 3)) / 2
    features = rng.normal(size=(12, 2))
    number = torch.arange(12)[:, None]
    got = nearest_features(torch.from_numpy(query), torch.from_numpy(pool), number)[:, 0].tolist()
    for chosen, q in zip(got, query, strict=True):
        distance = ((pool - q) ** 2).sum(1)
        assert distance[chosen] == pytest.approx(distance.min())
        # of nodes with one encoding, the first lends
        assert chosen == np.flatnonzero((pool == pool[chosen]).all(1))[0]
    # several neighbours: ties may fall either way, the distances may not
    distinct = np.unique(rng.normal(size=(12, 3)), axis=0)
    got = nearest_features(torch.from_numpy(query), torch.from_numpy(distinct), torch.from_numpy(features), k)
    for row, q in zip(got.tolist(), query, strict=True):
        assert row == pytest.approx(reference.nearest(q, distinct, features, k))


def test_a_pool_graph_gets_the_features_of_its_own_surroundings():
    """The encoding tells hub from leaf; features are copied from a node with the same encoding."""
    star = pack([([(0, 1), (1, 0), (0, 2), (2, 0)], 3)])
    x = structural_encoding(star)
    assert nearest_features(x, x, torch.tensor([[7], [8], [9]])).tolist() == [[7], [8], [8]]


def test_a_constant_pool_gives_the_constant():
    got = nearest_features(torch.rand(4, 3), torch.rand(5, 3), torch.full((5, 2), 3.0))
    assert (got == 3).all()
    assert got.shape == (4, 2)


def test_chunked_search_is_the_whole_search(monkeypatch):
    from graftkit.methods.hgoe import alignment

    q, p, f = (torch.rand(n, 4, generator=generator(n)) for n in (50, 30, 31))
    f = f[:30]
    whole = nearest_features(q, p, f), nearest_features(q, p, f, 3)
    monkeypatch.setattr(alignment, "CELLS", 60)
    assert torch.equal(nearest_features(q, p, f), whole[0])
    torch.testing.assert_close(nearest_features(q, p, f, 3), whole[1])


def test_cap_keeps_a_seeded_subset():
    assert cap_pool(5, 9, generator()).tolist() == [0, 1, 2, 3, 4]
    kept = cap_pool(100, 10, generator()).tolist()
    assert kept == sorted(set(kept)) == cap_pool(100, 10, generator()).tolist()
    assert len(kept) == 10


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (
            (torch.rand(2, 3), torch.rand(4, 3), torch.tensor([[1], [2], [1], [1]]), 2),
            "close_k: expected 1 for integer features",
        ),
        (
            (torch.rand(2, 3), torch.rand(1, 3), torch.rand(1, 1), 2),
            "pool: expected at least close_k=2 nodes",
        ),
        ((torch.rand(2, 3), torch.rand(4, 5), torch.rand(4, 1), 1), "queries: expected encodings of width 5"),
        ((torch.rand(2, 3), torch.rand(4, 3), torch.rand(4, 1), 0), "close_k: expected an integer >= 1"),
    ],
)
def test_alignment_errors(arguments, words):
    with pytest.raises(ValueError, match=words):
        nearest_features(*arguments)
