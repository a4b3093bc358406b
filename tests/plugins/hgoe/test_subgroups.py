"""Subgroups: planted families are found, small ones are merged, GraphCL learns."""

import random

import numpy as np
import pytest
import torch

from graftkit.methods.hgoe import subgroups
from graftkit.methods.hgoe.graphcl import alter, embed, info_nce
from graftkit.methods.hgoe.graphs import PackedGraphs
from graftkit.methods.hgoe.settings import HGOEConfig
from graftkit.methods.hgoe.subgroups import divide, kmeans_labels, node_count_labels, structural_features
from tests.plugins.hgoe.cases import generator, pack, random_lists
from tests.plugins.hgoe.test_graphs import unpack


def ring(n):
    return [(k, (k + 1) % n) for k in range(n)] + [((k + 1) % n, k) for k in range(n)], n


def star(n):
    return [(0, k) for k in range(1, n)] + [(k, 0) for k in range(1, n)], n


def clique(n):
    return [(a, b) for a in range(n) for b in range(n) if a != b], n


FAMILIES = [ring, star, clique]
MIXED = [FAMILIES[k % 3](8 + k % 4) for k in range(36)]
PLANTED = torch.arange(36) % 3


def same_partition(a, b):
    return len({*zip(a.tolist(), b.tolist(), strict=True)}) == len(set(a.tolist())) == len(set(b.tolist()))


def test_planted_families_are_found():
    assert same_partition(divide(pack(MIXED), HGOEConfig(), seed=0), PLANTED)


def test_graphcl_tells_rings_from_cliques():
    """Sums over nodes see size and density first; families of like density it may join."""
    two = [FAMILIES[2 * (k % 2)](10) for k in range(24)]
    labels = divide(pack(two), HGOEConfig(subgroups="graphcl", num_subgroups=2, ssl_epochs=4), seed=0)
    assert same_partition(labels, torch.arange(24) % 2)


def test_node_count_cuts_the_sorted_sizes():
    assert node_count_labels(torch.tensor([5, 1, 4, 2, 3, 6]), 3).tolist() == [2, 0, 1, 0, 1, 2]
    labels = divide(
        pack([ring(n) for n in (9, 3, 8, 4)]), HGOEConfig(subgroups="node_count", num_subgroups=2), 0
    )
    assert labels.tolist() == [1, 0, 1, 0]


def test_given_labels_and_callables_are_taken():
    config = HGOEConfig(subgroups=PLANTED * 5 - 3)
    assert torch.equal(divide(pack(MIXED), config, 0), PLANTED)
    seen = []
    config = HGOEConfig(subgroups=lambda graphs: seen.append(len(graphs)) or PLANTED)
    assert torch.equal(divide(pack(MIXED), config, 0), PLANTED)
    assert seen == [36]


def test_features_are_not_computed_where_labels_need_none(monkeypatch):
    """They cost more than all the rest; a subgroup of one still asks for them."""
    monkeypatch.setattr(subgroups, "structural_encoding", lambda *_: pytest.fail("encoded"))
    divide(pack(MIXED), HGOEConfig(subgroups=PLANTED), 0)
    divide(pack(MIXED), HGOEConfig(subgroups="node_count"), 0)
    with pytest.raises(pytest.fail.Exception, match="encoded"):
        divide(pack(MIXED), HGOEConfig(subgroups=torch.arange(36).clamp(max=2)), 0)


def test_a_subgroup_of_one_joins_the_nearest():
    """Labels put one ring alone; rings are its nearest, not cliques."""
    lists = [ring(8)] + [ring(9)] * 3 + [clique(9)] * 3
    config = HGOEConfig(subgroups=torch.tensor([0, 1, 1, 1, 2, 2, 2]))
    with pytest.warns(
        UserWarning, match=r"num_subgroups: 1 subgroup\(s\) had fewer than two graphs.*2 remain"
    ):
        labels = divide(pack(lists), config, 0)
    assert labels.tolist() == [0, 0, 0, 0, 1, 1, 1]


def test_equal_graphs_leave_one_subgroup():
    labels = divide(pack([ring(6)] * 8), HGOEConfig(), 0)
    assert labels.unique().tolist() == [0]


def test_features_are_standardised_and_blind_to_node_order():
    graphs = pack(random_lists(12, 0, low=3))
    table = structural_features(graphs, 4, 4)
    assert table.shape == (12, 17)
    spread = table.std(0, correction=0)
    assert all(abs(s - 1) < 1e-6 or s == 0 for s in spread.tolist())
    assert table.mean(0).abs().max() < 1e-9
    flipped = [([(n - 1 - a, n - 1 - b) for a, b in e], n) for e, n in unpack(graphs)]
    torch.testing.assert_close(structural_features(pack(flipped), 4, 4), table, atol=1e-5, rtol=0)


def test_many_graphs_take_mini_batches(monkeypatch):
    monkeypatch.setattr(subgroups, "MINIBATCH_FROM", 10)
    assert same_partition(divide(pack(MIXED), HGOEConfig(), 0), PLANTED)


def test_one_seed_one_division_and_no_global_state():
    features = torch.rand(40, 3, generator=generator())
    state = torch.get_rng_state().tolist(), random.getstate(), np.random.get_state()[1].tolist()  # noqa: NPY002
    assert torch.equal(kmeans_labels(features, 3, 5), kmeans_labels(features, 3, 5))
    graphs = pack(MIXED)
    assert torch.equal(embed(graphs, seed=1, epochs=1), embed(graphs, seed=1, epochs=1))
    assert not torch.equal(embed(graphs, seed=1, epochs=1), embed(graphs, seed=2, epochs=1))
    assert state == (torch.get_rng_state().tolist(), random.getstate(), np.random.get_state()[1].tolist())  # noqa: NPY002


def test_altered_copies_are_subgraphs():
    lists = [clique(10)] * 40
    graphs = pack(lists, [torch.arange(10.0)[:, None].expand(-1, 30) + 1] * 40)
    nodes = alter(graphs, "nodes", generator())
    assert abs(nodes.num_nodes.double().mean() - 9) < 0.3
    for edges, n in unpack(nodes):
        assert len(edges) == n * (n - 1)  # what is left of a clique is a clique
    edges = alter(graphs, "edges", generator())
    assert torch.equal(edges.num_nodes, graphs.num_nodes)
    assert abs(edges.edge_index.shape[1] / graphs.edge_index.shape[1] - 0.9) < 0.03
    features = alter(graphs, "features", generator())
    kept = (features.x != 0).all(0)
    assert torch.equal(kept, (features.x != 0).any(0))
    assert 0 < (~kept).sum() < 30
    assert torch.equal(features.x[:, kept], graphs.x[:, kept])


def test_walks_never_leave_their_component_and_reach_neighbours():
    # 1000 seeds cover a small batch entirely; only nodes without an edge are lost
    walked = alter(pack([star(5), ([], 3)], [torch.ones(5, 1), torch.ones(3, 1)]), "walk", generator())
    assert walked.num_nodes.tolist() == [5, 0]


def test_info_nce_by_hand():
    """Orthogonal views, tau = 1: own similarity 1, other 0, so log(e + 1) - 1."""
    eye = torch.eye(2, dtype=torch.float64)
    assert info_nce(eye, eye, 1.0).item() == pytest.approx(np.log(np.e + 1) - 1)


def test_graphcl_without_features_sees_structure():
    graphs = pack(MIXED)
    z = embed(PackedGraphs(graphs.edge_index, graphs.num_nodes), seed=0, epochs=1)
    assert z.shape == (36, 64)
    assert torch.isfinite(z).all()


def test_an_embedding_does_not_depend_on_the_batch():
    """In evaluation mode: an untrained encoder gives a graph the same vector alone and among others."""
    graphs = pack(MIXED)
    whole, pairs = (embed(graphs, seed=0, epochs=0, batch_size=size) for size in (128, 2))
    torch.testing.assert_close(whole, pairs)


@pytest.mark.parametrize(
    ("config", "error", "words"),
    [
        (
            HGOEConfig(num_subgroups=37),
            ValueError,
            "num_subgroups: expected at most 36, the number of ID graphs, got 37",
        ),
        (HGOEConfig(subgroups=torch.zeros(36)), TypeError, "subgroups: expected integer labels"),
        (
            HGOEConfig(subgroups=torch.zeros(4, dtype=torch.long)),
            ValueError,
            r"subgroups: expected shape \(36,\)",
        ),
        (HGOEConfig(subgroups=lambda _: [0] * 36), TypeError, "subgroups: expected integer labels"),
    ],
)
def test_errors(config, error, words):
    with pytest.raises(error, match=words):
        divide(pack(MIXED), config, 0)
