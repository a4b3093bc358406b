"""PyG graphs are read alike from lists, data sets and subsets, and bad ones are named."""

import pytest
import torch
from torch_geometric.data import Data, HeteroData, TemporalData
from torch_geometric.datasets.graph_generator import GraphGenerator
from torch_geometric.transforms import Constant, ToSparseTensor
from torch_geometric.utils import to_dense_adj

from graftkit.methods.hgoe.adjacency import aligned_mean
from graftkit.pyg import Graphon, GraphonMixup, HGOEConfig, estimate_graphon
from graftkit.pyg.hgoe_graphs import per_node_keys, read_graphs, to_data_list
from tests.adapters.pyg.hgoe_cases import Listed, edge_pair, family, id_graphs, same


def packed_equal(a, b):
    return (
        torch.equal(a.edge_index, b.edge_index)
        and torch.equal(a.num_nodes, b.num_nodes)
        and (a.x is b.x is None or torch.equal(a.x, b.x))
    )


@pytest.mark.parametrize("x", [True, False])
def test_list_data_set_subset_and_transform_read_alike(x):
    graphs = id_graphs(4, x=x)
    stored = Listed(graphs)
    assert packed_equal(read_graphs(graphs), read_graphs(stored))
    assert packed_equal(read_graphs(graphs[2:5]), read_graphs(stored[2:5]))
    order = torch.tensor([3, 0, 3])
    assert packed_equal(read_graphs([graphs[3], graphs[0], graphs[3]]), read_graphs(stored[order]))
    stored[1]  # PyG now keeps that graph beside the packed tensors
    assert packed_equal(read_graphs(graphs), read_graphs(stored))
    transformed = Listed(graphs, transform=Constant(value=3.0, cat=False))
    assert (read_graphs(transformed).x == 3).all()


def test_graphs_come_back():
    graphs = [*id_graphs(3), Data(x=torch.rand(4, 1), edge_index=torch.empty(2, 0, dtype=torch.long))]
    for graph in graphs:
        graph.y = torch.tensor([-1])
    back = to_data_list(read_graphs(graphs), y=torch.tensor([-1]))
    assert all(same(a, b) for a, b in zip(graphs, back, strict=True))


def test_a_graph_without_edge_index_or_with_one_node_is_a_graph():
    packed = read_graphs([Data(x=torch.ones(3, 1)), Data(x=torch.ones(1, 1)), edge_pair(x=torch.ones(5, 1))])
    assert packed.num_nodes.tolist() == [3, 1, 5]
    assert packed.edge_index.tolist() == [[4, 5], [5, 4]]
    assert read_graphs([edge_pair(num_nodes=4)]).num_nodes.tolist() == [4]


@pytest.mark.parametrize(
    ("graphs", "error", "words"),
    [
        (edge_pair(), TypeError, "graphs: expected a data set or a list of Data"),
        (3, TypeError, "graphs: expected a data set or a list of Data, got 3"),
        ([edge_pair(num_nodes=2), HeteroData()], TypeError, r"graphs\[1\]: expected a homogeneous Data"),
        ([TemporalData()], TypeError, r"graphs\[0\]: expected a homogeneous Data"),
        (["graph"], TypeError, r"graphs\[0\]: expected a homogeneous Data, got 'graph'"),
        (
            [edge_pair(x=torch.ones(2, 3)), edge_pair(x=torch.ones(2, 4))],
            ValueError,
            r"x: graphs\[1\] has width 4",
        ),
        ([edge_pair(x=torch.ones(2, 3)), edge_pair(num_nodes=2)], ValueError, r"graphs\[1\] has none"),
        (
            [edge_pair(x=torch.ones(2, 3)), edge_pair(x=torch.ones(2, 3).long())],
            ValueError,
            r"x: graphs\[1\] has width 3 and torch.int64",
        ),
        ([edge_pair(x=torch.ones(2, 0))], ValueError, "x: graphs have features of width 0"),
        ([edge_pair(x=torch.ones(2))], ValueError, r"graphs\[0\]\.x: expected shape \(2, d\)"),
        (
            [edge_pair(x=torch.tensor([[1.0], [torch.nan]]))],
            ValueError,
            "x: graph 0 has a feature that is NaN",
        ),
        ([edge_pair(num_nodes=1)], ValueError, "graph 0 has 1 nodes, but an edge names node 1"),
        (
            [Data(edge_index=torch.tensor([[0, -1], [1, 0]]), num_nodes=2)],
            ValueError,
            "graph 0 has 2 nodes, but an edge names node -1",
        ),
        (
            [Data(edge_index=torch.tensor([[0.0], [1.0]]), num_nodes=2)],
            ValueError,
            r"graphs\[0\]\.edge_index: expected an int64 tensor",
        ),
    ],
)
def test_errors_name_the_graph(graphs, error, words):
    with pytest.raises(error, match=words):
        read_graphs(graphs)


def test_a_sparse_adjacency_alone_is_refused():
    with pytest.warns(UserWarning, match="Sparse"):  # torch's own, about its CSR tensors
        sparse = ToSparseTensor(layout=torch.sparse_csr)(edge_pair(num_nodes=2))
    with pytest.raises(TypeError, match=r"graphs\[0\]: expected edge_index, not only a sparse adjacency"):
        read_graphs([sparse])


def test_keys_a_node_or_an_edge_at_a_time():
    graphs = [
        edge_pair(x=torch.ones(3, 2), pos=torch.ones(3, 3), edge_attr=torch.ones(2, 1), y=torch.ones(1))
    ]
    graphs.append(Data(**{**graphs[0].to_dict(), "idx": torch.tensor([4])}))
    assert set(per_node_keys(graphs)) == {"x", "pos", "edge_attr"}


# Graphons.


def test_estimation_is_the_mean_of_pygs_own_dense_adjacency():
    """Degree-sorted blocks by PyG's `to_dense_adj`; stars of distinct size have no ties that matter."""
    graphs = family("hub", 6, sizes=(5, 9))
    n = 6
    total = torch.zeros(n, n, dtype=torch.float64)
    for graph in graphs:
        dense = to_dense_adj(graph.edge_index, max_num_nodes=graph.num_nodes)[0].double()
        degree = dense.sum(0)
        around = dense @ degree
        order = sorted(range(len(dense)), key=lambda v: (-degree[v].item(), -around[v].item(), v))[:n]
        block = dense[order][:, order]
        total[: len(block), : len(block)] += block
    torch.testing.assert_close(aligned_mean(read_graphs(graphs), n), total / 6, rtol=0, atol=1e-12)
    graphon = estimate_graphon(graphs, resolution=n, threshold=0.0)
    torch.testing.assert_close(graphon.matrix, total / 6, rtol=0, atol=1e-12)
    assert graphon.num_graphs == 6
    assert graphon.meta["estimator"] == "usvt"


def test_a_graphon_resizes_mixes_samples_and_survives_a_file(tmp_path):
    graphon = estimate_graphon(family("core", 20), threshold=0.01)
    other = estimate_graphon(family("small world", 20), threshold=0.01)
    assert graphon.resize(5).resolution == 5
    mixed = graphon.mix(other, 0.25, n=8)
    torch.testing.assert_close(
        mixed.matrix, 0.25 * graphon.resize(8).matrix + 0.75 * other.resize(8).matrix, rtol=0, atol=1e-15
    )
    assert mixed.num_graphs == 40
    graphs = mixed.sample(5, generator=torch.Generator().manual_seed(3))
    again = mixed.sample(5, generator=torch.Generator().manual_seed(3))
    assert all(same(a, b) and a.is_undirected() and a.validate() for a, b in zip(graphs, again, strict=True))
    assert all(not g.has_isolated_nodes() and not g.has_self_loops() for g in graphs)
    mixed.save(tmp_path / "w.pt")
    back = Graphon.load(tmp_path / "w.pt")
    assert torch.equal(back.matrix, mixed.matrix)
    assert repr(back) == repr(mixed)
    assert "resolution=8, num_graphs=40" in repr(back)


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda: Graphon([[0.0]]), TypeError, "matrix: expected a floating-point tensor"),
        (lambda: Graphon(torch.zeros(2, 3)), ValueError, r"matrix: expected shape \(N, N\)"),
        (lambda: Graphon(torch.eye(2)), ValueError, "zero diagonal"),
        (lambda: Graphon(torch.tensor([[0, 2.0], [2.0, 0]])), ValueError, r"in \[0, 1\]"),
        (lambda: Graphon(torch.tensor([[0, torch.nan], [torch.nan, 0]])), ValueError, r"in \[0, 1\]"),
        (lambda: Graphon(torch.tensor([[0, 0.1], [0.2, 0]])), ValueError, "symmetric"),
        (
            lambda: Graphon(torch.zeros(2, 2)).mix(torch.zeros(2, 2), 0.5),
            TypeError,
            "other: expected a Graphon",
        ),
        (lambda: Graphon(torch.zeros(2, 2)).sample(1), ValueError, "graphons 0 and 0 are zero"),
        (lambda: estimate_graphon([]), ValueError, "graphs: expected at least one graph"),
        (
            lambda: estimate_graphon(family("core", 2), resolution=5000),
            ValueError,
            "resolution: expected at most 4000",
        ),
        (lambda: GraphonMixup(config={}), TypeError, "config: expected an HGOEConfig or None"),
        (lambda: GraphonMixup(label="hard"), ValueError, "label: expected one of"),
        (lambda: GraphonMixup()(), RuntimeError, r"GraphonMixup: call fit\(graphs\) before generating"),
        (lambda: GraphonMixup().fit(id_graphs(6)).generate(-1), ValueError, "num: expected an integer >= 0"),
    ],
)
def test_graphon_errors(call, error, words):
    with pytest.raises(error, match=words):
        call()


def test_mixup_is_a_graph_generator():
    graphs = id_graphs(8)
    labels = torch.tensor([int(g.y) for g in graphs])
    mixup = GraphonMixup(HGOEConfig(lam_range=(0.2, 0.2)), seed=1, label="soft").fit(graphs, labels)
    assert isinstance(mixup, GraphGenerator)
    assert [g.num_graphs for g in mixup.graphons_] == [8, 8]
    assert torch.equal(mixup.labels_, labels)
    made = mixup.generate(6)
    assert {tuple(round(v, 6) for v in g.y[0].tolist()) for g in made} == {(0.2, 0.8), (0.8, 0.2)}
    assert all((g.x == 1).all() and g.is_undirected() for g in made)
    twin = GraphonMixup(HGOEConfig(lam_range=(0.2, 0.2)), seed=1, label="soft").fit(graphs, labels)
    assert all(same(a, b) for a, b in zip(made, twin.generate(6), strict=True))
    assert not all(same(a, b) for a, b in zip(made, twin.generate(6), strict=True))
    assert "label='soft'" in repr(mixup)
    assert "pairing='distinct'" in repr(mixup)


def test_mixup_labels_outliers_or_nothing():
    graphs = id_graphs(6)
    assert GraphonMixup().fit(graphs)().y.tolist() == [-1]
    assert "y" not in GraphonMixup(label="none").fit(graphs)()
