"""Packed graphs: selection, joining, undirected pairs, digests, and what is refused."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from graftkit.methods.hgoe.graphs import PackedGraphs, concatenate
from graftkit.methods.hgoe.pairs import content_digests, simple_pairs, undirected, undirected_pairs
from tests.plugins.hgoe import reference
from tests.plugins.hgoe.cases import pack, random_lists

PAIR = torch.tensor([[0, 1], [1, 0]])


def unpack(graphs):
    """Back to ``(edges, n)`` with local numbers."""
    ptr, cuts = graphs.ptr.tolist(), graphs.edge_ptr.tolist()
    return [
        ((graphs.edge_index[:, cuts[g] : cuts[g + 1]] - ptr[g]).T.tolist(), int(graphs.num_nodes[g]))
        for g in range(len(graphs))
    ]


@given(seed=st.integers(0, 10**6), count=st.integers(1, 7))
def test_packing_and_selecting_keep_every_graph(seed, count):
    lists = random_lists(count, seed)
    x = [torch.rand(n, 2) for _, n in lists]
    graphs = pack(lists, x)
    index = torch.randint(count, (5,), generator=torch.Generator().manual_seed(seed))
    chosen = graphs.select(index)
    assert unpack(chosen) == [([list(pair) for pair in lists[g][0]], lists[g][1]) for g in index.tolist()]
    assert torch.equal(chosen.x, torch.cat([x[g] for g in index.tolist()]))


def test_joining_keeps_order_and_features_only_if_all_have_them():
    a, b = pack(random_lists(3, 0)), pack(random_lists(2, 1))
    assert unpack(concatenate([a, b])) == unpack(a) + unpack(b)
    with_x = PackedGraphs(a.edge_index, a.num_nodes, torch.ones(int(a.num_nodes.sum()), 1))
    assert concatenate([with_x, b]).x is None
    assert concatenate([with_x, with_x]).x.shape == (2 * int(a.num_nodes.sum()), 1)


def test_nothing_at_all_is_allowed():
    none = pack([])
    assert len(none) == 0
    assert len(concatenate([none, none])) == 0
    assert undirected_pairs(none)[0].shape == (0,)
    assert content_digests(none) == []


@given(seed=st.integers(0, 10**6))
def test_pairs_equal_the_adjacency(seed):
    lists = random_lists(4, seed)
    low, high = undirected_pairs(pack(lists))
    expected, start = [], 0
    for edges, n in lists:
        a = reference.adjacency(edges, n)
        expected += [(start + u, start + v) for u in range(n) for v in range(u + 1, n) if a[u, v]]
        start += n
    assert list(zip(low.tolist(), high.tolist(), strict=True)) == expected


def test_as_many_edges_up_as_down_are_not_yet_pairs():
    graphs, first = undirected(pack([([(0, 1), (2, 1)], 3)]))
    assert first == 0
    assert graphs.edge_index.tolist() == [[0, 1, 1, 2], [1, 0, 2, 1]]


def test_a_one_way_edge_gets_its_reverse():
    lists = [([(0, 1), (1, 0)], 2), ([(0, 1), (1, 2), (2, 1), (2, 2)], 3)]
    graphs, first = undirected(pack(lists, [torch.ones(2, 1), torch.zeros(3, 1)]))
    assert first == 1
    assert unpack(graphs)[1] == ([[0, 1], [1, 0], [1, 2], [2, 1]], 3)
    assert graphs.x.flatten().tolist() == [1, 1, 0, 0, 0]
    both = pack([([(0, 1), (1, 0), (0, 0), (0, 1)], 2)])  # loops and repeats are no direction
    assert undirected(both) == (both, None)


def test_digests_see_an_edge_a_node_a_feature_and_no_edge_order():
    x = torch.arange(3.0)[:, None]
    edges = torch.tensor([[0, 1, 1, 2], [1, 0, 2, 1]])

    def digest(edge_index=edges, n=3, features=x):
        return content_digests(PackedGraphs.from_lists([edge_index], [n], [features[:n]]))[0]

    assert digest() == digest(edges.flip(1))
    others = {
        digest(edges[:, :2]),
        digest(features=x + 1),
        digest(features=torch.cat([x, x[:1]]), n=4),
    }
    assert len({digest(), *others}) == 4
    assert digest(features=0 * x) == digest(features=-0.0 * x)  # equal numbers of other bytes


@pytest.mark.parametrize(
    ("make", "error", "words"),
    [
        (
            lambda: PackedGraphs.from_lists([PAIR, PAIR + 1], [2, 2]),
            ValueError,
            "graph 1 has 2 nodes, but an edge names node 2",
        ),
        (
            lambda: PackedGraphs.from_lists([PAIR - 1], [2]),
            ValueError,
            "graph 0 has 2 nodes, but an edge names node -1",
        ),
        (
            lambda: PackedGraphs(PAIR - 1, torch.tensor([2])),
            ValueError,
            r"edge_index: expected node numbers in \[0, 1\], got -1",
        ),
        (lambda: PackedGraphs(PAIR + 5, torch.tensor([2])), ValueError, r"node numbers in \[0, 1\], got 6"),
        (
            lambda: PackedGraphs(PAIR, torch.tensor([1, 1])),
            ValueError,
            "graph 0 has an edge that ends in another graph",
        ),
        (
            lambda: PackedGraphs(torch.tensor([[1, 0], [1, 0]]), torch.tensor([1, 1])),
            ValueError,
            "edges in the order of their graphs",
        ),
        (
            lambda: PackedGraphs(PAIR.float(), torch.tensor([2])),
            TypeError,
            "edge_index: expected an int64 tensor",
        ),
        (lambda: PackedGraphs(PAIR, [2]), TypeError, "num_nodes: expected an int64 tensor"),
        (
            lambda: PackedGraphs(PAIR.T.reshape(-1), torch.tensor([2])),
            ValueError,
            r"edge_index: expected shape \(2, E\)",
        ),
        (
            lambda: PackedGraphs(PAIR, torch.tensor([3, -1])),
            ValueError,
            "num_nodes: expected a vector of counts >= 0",
        ),
        (
            lambda: PackedGraphs(PAIR, torch.tensor([2]), torch.ones(3, 1)),
            ValueError,
            r"x: expected shape \(2, d\)",
        ),
        (
            lambda: PackedGraphs(PAIR, torch.tensor([2, 1]), torch.tensor([[0.0], [1.0], [torch.nan]])),
            ValueError,
            "x: graph 1 has a feature that is NaN or infinite",
        ),
    ],
)
def test_errors_name_the_graph(make, error, words):
    with pytest.raises(error, match=words):
        make()


@pytest.mark.parametrize("total", [1, 2, 256, 65_536, 65_537, 3_000_000])
def test_pairs_of_few_and_of_many_nodes(total):
    """Up to 65,536 nodes an edge is sorted as one number of 32 bits, beyond as one of 64."""
    rng = np.random.default_rng(total)
    source, target = rng.integers(0, total, (2, 400))
    source[:9], target[:9] = total - 1, [0, 0, total - 1, *rng.integers(0, total, 6)]
    low, high = simple_pairs(source, target, total)
    expected = sorted(
        {(min(e), max(e)) for e in zip(source.tolist(), target.tolist(), strict=True) if e[0] != e[1]}
    )
    assert [*zip(low.tolist(), high.tolist(), strict=True)] == expected
