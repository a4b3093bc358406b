"""The four transforms as PyG uses transforms: alone, composed, in data sets, with workers, pickled."""

import pickle

import pytest
import torch
from torch_geometric.data import Batch, Data, HeteroData
from torch_geometric.data.datapipes import DatasetAdapter
from torch_geometric.loader import DataLoader
from torch_geometric.transforms import AddRandomWalkPE, Compose, OneHotDegree, ToUndirected

from graftkit.pyg import HGOEAlignFeatures, HGOEHarmonize, HGOEMarkSource, HGOEStructuralEncoding
from tests.adapters.pyg.hgoe_cases import Listed, edge_pair, id_graphs, same

ALL = [
    HGOEStructuralEncoding(4, 4),
    HGOEAlignFeatures().fit(id_graphs(3)),
    HGOEHarmonize("constant"),
    HGOEHarmonize().fit(id_graphs(3)),
    HGOEMarkSource("internal"),
]


def name(transform):
    return type(transform).__name__


@pytest.mark.parametrize("transform", ALL, ids=name)
def test_inputs_are_not_changed_and_results_repeat(transform):
    graph = id_graphs(2)[0]
    before = graph.clone()
    once, twice = transform(graph), transform(graph)
    assert same(graph, before)
    assert same(once, twice)


@pytest.mark.parametrize("transform", ALL, ids=name)
def test_pickled_and_composed_it_does_the_same(transform):
    graph = id_graphs(2)[1]
    expected = transform(graph)
    assert same(pickle.loads(pickle.dumps(transform))(graph), expected)
    assert same(Compose([ToUndirected(), transform])(graph), expected)
    assert same(Compose([transform])([graph, graph])[1], expected)


@pytest.mark.parametrize("transform", ALL, ids=name)
@pytest.mark.parametrize("workers", [0, 2])
def test_as_transform_and_pre_transform_in_a_loader_with_workers(transform, workers):
    graphs = id_graphs(4)
    expected = Batch.from_data_list([transform(graph) for graph in graphs])
    for data in (Listed(graphs, transform=transform), Listed(graphs, pre_transform=transform)):
        (batch,) = DataLoader(data, batch_size=8, num_workers=workers)
        assert same(batch, expected)


def test_names_are_registered():
    names = set(vars(DatasetAdapter)) | set(DatasetAdapter.functions)
    assert {
        "hgoe_structural_encoding", "hgoe_align_features", "hgoe_harmonize", "hgoe_mark_source",
    } <= names  # fmt: skip


def test_reprs_show_the_arguments():
    assert (
        repr(HGOEStructuralEncoding(4, 5, "z")) == "HGOEStructuralEncoding(rw_dim=4, degree_dim=5, attr='z')"
    )
    assert "close_k=2" in repr(HGOEAlignFeatures(close_k=2))
    assert repr(HGOEHarmonize("project")).startswith("HGOEHarmonize(features='project'")
    assert repr(HGOEMarkSource("cross", "drop")) == "HGOEMarkSource(source='cross', y='drop')"


def test_encoding_equals_pygs_own_where_that_is_defined():
    graph = id_graphs(4)[3]
    ours = HGOEStructuralEncoding(16, 16)(graph).x_s
    torch.testing.assert_close(ours[:, :16], AddRandomWalkPE(16, "pe")(graph).pe, atol=2e-6, rtol=0)
    bare = Data(edge_index=graph.edge_index, num_nodes=graph.num_nodes)
    torch.testing.assert_close(ours[:, 16:], OneHotDegree(15)(bare).x)


def test_encoding_of_a_batch_is_that_of_its_graphs():
    graphs = id_graphs(3)
    batch = HGOEStructuralEncoding()(Batch.from_data_list(graphs))
    expected = torch.cat([HGOEStructuralEncoding()(g).x_s for g in graphs])
    torch.testing.assert_close(batch.x_s, expected)


def test_empty_and_heterogeneous_graphs():
    assert HGOEStructuralEncoding()(Data()).x_s.shape == (0, 32)
    assert HGOEHarmonize("constant")(Data()).x.shape == (0, 1)
    assert HGOEMarkSource("id")(Data()).source.tolist() == [0]
    for transform in (HGOEStructuralEncoding(), HGOEHarmonize("constant"), ALL[1]):
        with pytest.raises(TypeError, match="data: expected a homogeneous Data, got HeteroData"):
            transform(HeteroData())


def test_alignment_copies_the_pool():
    graphs = id_graphs(3)
    for graph in graphs:
        graph.x = torch.rand(graph.num_nodes, 3)
    align = HGOEAlignFeatures().fit(graphs[:1])
    filled = align(Data(edge_index=graphs[0].edge_index, num_nodes=graphs[0].num_nodes))
    encoding = HGOEStructuralEncoding()(graphs[0]).x_s
    for k, row in enumerate(filled.x):
        like = (encoding == encoding[k]).all(1)
        assert (graphs[0].x[like] == row).all(1).any()
    with pytest.raises(RuntimeError, match=r"HGOEAlignFeatures: call fit\(graphs\) first"):
        HGOEAlignFeatures()(graphs[0])
    with pytest.raises(ValueError, match="graphs: expected graphs with node features x"):
        HGOEAlignFeatures().fit([edge_pair(num_nodes=2)])
    with pytest.raises(ValueError, match="close_k: expected 1 for integer features"):
        HGOEAlignFeatures(close_k=2).fit([edge_pair(x=torch.tensor([[1], [2]]))])(edge_pair(num_nodes=2))


def test_harmonize_sets_features():
    graph = edge_pair(x=torch.rand(3, 5))
    assert HGOEHarmonize("constant")(graph).x.tolist() == [[1.0]] * 3
    structural = HGOEHarmonize("structural", 4, 4)
    assert torch.equal(structural(graph).x, HGOEStructuralEncoding(4, 4, "x")(graph).x)
    fitted = HGOEHarmonize("project").fit([edge_pair(x=torch.rand(2, 3).double())])
    wide, narrow = fitted(graph).x, fitted(edge_pair(x=torch.ones(2, 2))).x
    assert torch.equal(wide, graph.x[:, :3].double())
    assert narrow.tolist() == [[1, 1, 0]] * 2


def test_harmonize_drops_what_the_id_graphs_lack_and_names_what_they_have():
    plain = HGOEHarmonize().fit([edge_pair(x=torch.ones(3, 2), y=torch.tensor([1]))])
    graph = plain(
        edge_pair(x=torch.ones(4, 2).long(), pos=torch.ones(4, 3), edge_attr=torch.ones(2, 1), name="a")
    )
    assert set(graph.keys()) == {"x", "edge_index", "name"}
    assert graph.x.dtype == torch.float32
    assert "x_s" in plain(edge_pair(x=torch.ones(4, 2), x_s=torch.ones(4, 5)))  # encoded beforehand
    with pytest.raises(ValueError, match="x: the ID graphs have it, this graph does not"):
        plain(edge_pair(num_nodes=3))
    with pytest.raises(ValueError, match=r"x: this graph has shape \(3, 9\), the ID graphs have \(n, 2\)"):
        plain(edge_pair(x=torch.ones(3, 9)))
    whole = HGOEHarmonize().fit([edge_pair(x=torch.ones(3, 1).long(), pos=torch.ones(3, 3))])
    with pytest.raises(ValueError, match="pos: the ID graphs have it"):
        whole(edge_pair(x=torch.ones(3, 1)))
    with pytest.raises(
        ValueError, match=r"x: torch.float32 values that are no integers cannot become torch.int64"
    ):
        whole(edge_pair(x=torch.full((3, 1), 0.5), pos=torch.ones(3, 3)))


@pytest.mark.parametrize(
    ("odd", "words"),
    [
        ({"x": torch.ones(5, 1)}, "x: expected a tensor of 3 rows in this graph, got Tensor of shape"),
        ({"x": torch.ones(2, 1)}, "x: expected a tensor of 3 rows"),
        ({"edge_attr": torch.ones(5, 2)}, "edge_attr: expected a tensor of 2 rows"),
        ({"edge_attr": [[1, 1]]}, "edge_attr: expected a tensor of 2 rows"),
        ({"pos": torch.ones(4, 3)}, "pos: expected a tensor of 3 or 2 rows"),
        ({"pos": torch.tensor(1.0)}, "pos: expected a tensor of 3 or 2 rows"),
    ],
)
def test_harmonize_refuses_rows_that_belong_to_no_node_or_edge(odd, words):
    good = {"x": torch.ones(3, 1), "edge_attr": torch.ones(2, 2), "pos": torch.ones(3, 3), "num_nodes": 3}
    fitted = HGOEHarmonize().fit([edge_pair(**good)])
    assert set(fitted(edge_pair(**good)).keys()) == {*good, "edge_index"}
    with pytest.raises(ValueError, match=words):
        fitted(edge_pair(**{**good, **odd}))


def test_mark_source():
    graph = edge_pair(num_nodes=2, y=torch.tensor([[1.5, 2.5]]))
    marked = HGOEMarkSource("external")(graph)
    assert marked.source.tolist() == [1]
    assert marked.y.tolist() == [[-1.0, -1.0]]
    assert HGOEMarkSource("id")(graph).y.tolist() == [[1.5, 2.5]]
    assert HGOEMarkSource("internal", "keep")(graph).y.tolist() == [[1.5, 2.5]]
    assert "y" not in HGOEMarkSource("cross", "drop")(graph)
    flag = edge_pair(num_nodes=2, y=torch.tensor([True]))
    assert HGOEMarkSource()(flag).y.tolist() == [-1]  # a bool cannot be -1


@pytest.mark.parametrize(
    ("make", "error", "words"),
    [
        (lambda: HGOEStructuralEncoding(0), ValueError, "rw_dim: expected an integer >= 1"),
        (lambda: HGOEStructuralEncoding(attr=3), TypeError, "attr: expected an attribute's name"),
        (lambda: HGOEAlignFeatures(0), ValueError, "close_k: expected an integer >= 1"),
        (lambda: HGOEHarmonize("ones"), ValueError, "features: expected one of"),
        (lambda: HGOEHarmonize().fit([]), ValueError, "graphs: expected at least one graph"),
        (lambda: HGOEMarkSource("outside"), ValueError, "source: expected one of"),
        (lambda: HGOEMarkSource(y="remove"), ValueError, "y: expected one of"),
    ],
)
def test_errors(make, error, words):
    with pytest.raises(error, match=words):
        make()
