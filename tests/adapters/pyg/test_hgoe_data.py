"""The outlier data set: storage, keys, labels, laziness, cache, pickling, PyG's own loader with workers."""

import pickle
import random

import numpy as np
import pytest
import torch
from torch_geometric.data import Batch, Data
from torch_geometric.loader import DataLoader
from torch_geometric.transforms import Constant
from torch_geometric.utils import is_undirected

from graftkit.methods.hgoe import exposure
from graftkit.pyg import HGOEConfig, HGOEStructuralEncoding, OutlierExposureDataset
from tests.adapters.pyg.hgoe_cases import Listed, edge_pair, family, id_graphs, same

IN = id_graphs(10)
OUT = {"trees": family("tree", 9), "grids": family("grid", 30)}


def build(**changes):
    config = changes.pop("config", None) or HGOEConfig(**changes.pop("settings", {}))
    return OutlierExposureDataset(changes.pop("graphs", IN), changes.pop("external", OUT), config, **changes)


def equal(first, second):
    return len(first) == len(second) and all(same(a, b) for a, b in zip(first, second, strict=True))


@pytest.mark.parametrize("lazy", [False, True])
def test_graphs_keys_labels_and_sources(lazy):
    data = build(settings={"rate_cross": 0.5, "lazy": lazy})
    assert data.sources.bincount().tolist() == [0, 10, 10, 10]
    assert len(data) == 30
    for graph, source in zip(data, data.sources, strict=True):
        assert set(graph.keys()) == {"x", "edge_index", "y", "source"}
        assert graph.validate()
        assert graph.is_undirected()
        assert graph.y.tolist() == [-1]
        assert graph.source.item() == source
        assert (graph.x == 1).all()
        if source > 1:
            assert not graph.has_isolated_nodes()
    summary = data.summary()
    assert (summary["id"], summary["external"], summary["internal"], summary["cross"]) == (20, 10, 10, 10)
    assert sum(summary["subgroups"]) == 20
    assert repr(data) == "OutlierExposureDataset(30)"
    summary["subgroups"].append(99)
    assert 99 not in data.summary()["subgroups"]


def test_external_graphs_are_those_of_the_sets_unchanged():
    data = build(settings={"rate_internal": 0, "rate_external": 1, "selection": "first"})
    expected = [*OUT["trees"], *OUT["grids"]]
    assert data.summary()["external_sets"] == {"trees": 9, "grids": 11}
    for graph in data:
        assert any(torch.equal(graph.edge_index, other.edge_index) for other in expected)


@pytest.mark.parametrize("lazy", [False, True])
def test_one_seed_one_data_set_whatever_the_workers(lazy):
    state = torch.get_rng_state().tolist(), random.getstate(), np.random.get_state()[1].tolist()  # noqa: NPY002
    data = build(settings={"lazy": lazy})
    plain = [data[k] for k in range(len(data))]
    assert state == (torch.get_rng_state().tolist(), random.getstate(), np.random.get_state()[1].tolist())  # noqa: NPY002
    assert equal(build(settings={"lazy": lazy}), plain)
    assert not equal(build(settings={"lazy": lazy}, seed=1), plain)
    for workers in (0, 2):
        (batch,) = DataLoader(data, batch_size=len(data), num_workers=workers)
        assert same(batch, Batch.from_data_list(plain))


def test_lazy_graphs_change_by_epoch_and_by_nothing_else():
    data = build(settings={"lazy": True})
    first = [data[k] for k in range(len(data))]
    data.set_epoch(1)
    second = [data[k] for k in range(len(data))]
    inside = data.sources == 2
    assert all(same(a, b) for a, b, i in zip(first, second, inside, strict=True) if not i)
    assert not all(same(a, b) for a, b in zip(first, second, strict=True))
    assert equal(first, [data.at(k, 0) for k in range(len(data))])
    with pytest.raises(IndexError, match="outlier 20 of 20"):
        data.get(len(data))


@pytest.mark.parametrize("lazy", [False, True])
def test_pickled_copied_and_sliced(lazy):
    data = build(settings={"lazy": lazy, "rate_cross": 0.5})
    assert equal(pickle.loads(pickle.dumps(data)), data)
    part = data[[25, 0, 12]]
    assert equal(part, [data[25], data[0], data[12]])
    assert part.sources.tolist() == [3, 1, 2]
    assert same(part.at(2, 0), data[12])
    assert len(data.shuffle()) == 30


@pytest.mark.parametrize("rates", [(0.05, 0.0), (0.0, 0.05), (0.05, 0.05)])
@pytest.mark.parametrize("lazy", [False, True])
def test_a_single_outlier_of_each_kind(rates, lazy):
    data = build(settings={"rate_external": rates[0], "rate_internal": rates[1], "lazy": lazy})
    assert len(data) == sum(rate > 0 for rate in rates)
    assert [g.source.item() for g in data] == [k + 1 for k, rate in enumerate(rates) if rate]


def test_in_memory_data_sets_and_transforms_on_access():
    stored, out = Listed(IN), {name: Listed(graphs) for name, graphs in OUT.items()}
    data = build(graphs=stored, external=out, transform=HGOEStructuralEncoding())
    assert equal([data.get(k) for k in range(len(data))], build())
    assert data[3].x_s.shape == (data[3].num_nodes, 32)
    transformed = Listed(IN, transform=Constant(value=3.0, cat=False))
    twos = {"a": Listed(OUT["trees"], transform=Constant(value=3.0, cat=False))}
    assert all((g.x == 3).all() for g in build(graphs=transformed, external=twos))


def test_graphs_without_features():
    bare = {"trees": family("tree", 9, x=False)}
    for lazy in (False, True):
        data = build(graphs=id_graphs(10, x=False), external=bare, settings={"lazy": lazy})
        assert set(data[0].keys()) == set(data[-1].keys()) == {"edge_index", "num_nodes", "y", "source"}
        (batch,) = DataLoader(data, batch_size=99)
        assert batch.num_nodes == sum(g.num_nodes for g in data)


@pytest.mark.parametrize(
    ("y", "expected"),
    [
        (torch.tensor([3]), [-1]),
        (torch.tensor([[0.5, 1.5]]), [[-1.0, -1.0]]),
        (torch.tensor([True]), [-1]),
        (torch.tensor(2), [-1]),
        (None, [-1]),
    ],
)
@pytest.mark.parametrize("lazy", [False, True])
def test_outlier_labels_have_the_form_of_the_id_labels(y, expected, lazy):
    graphs = [g.clone() for g in IN]
    for graph in graphs:
        del graph.y
        if y is not None:
            graph.y = y
    data = build(graphs=graphs, settings={"lazy": lazy})
    (batch,) = DataLoader(data, batch_size=20)
    plain = graphs if y is not None else [edge_pair(num_nodes=2, y=torch.tensor([0]))] * 20
    (reference,) = DataLoader(plain, batch_size=20)
    assert batch.y.shape == reference.y.shape
    assert (batch.y == -1).all()
    assert data[0].y.tolist() == data[19].y.tolist() == expected


@pytest.mark.parametrize("lazy", [False, True])
@pytest.mark.parametrize("how", ["drop", "zeros", "resample"])
def test_edge_attributes(how, lazy):
    graphs = [g.clone() for g in IN]
    for k, graph in enumerate(graphs):
        graph.edge_attr = torch.full((graph.num_edges, 2), float(k + 1))
    data = build(graphs=graphs, settings={"edge_attr": how, "lazy": lazy})
    for graph in data:
        if how == "drop":
            assert "edge_attr" not in graph
            continue
        assert graph.edge_attr.shape == (graph.num_edges, 2)
        assert is_undirected(graph.edge_index, graph.edge_attr)
        if how == "zeros":
            assert not graph.edge_attr.any()
        else:
            assert set(graph.edge_attr.flatten().tolist()) <= set(range(1, 21))
    with pytest.raises(ValueError, match="edge_attr: expected ID graphs with edge_attr on every edge"):
        build(settings={"edge_attr": "zeros"})


# The cache.


def test_the_cache_is_used_checked_and_rebuilt(tmp_path, monkeypatch):
    first = build(cache_dir=tmp_path)
    (file,) = tmp_path.iterdir()
    calls = []
    original = exposure.plan_exposure
    monkeypatch.setattr(
        "graftkit.pyg.hgoe_data.plan_exposure", lambda *a, **k: calls.append(1) or original(*a, **k)
    )
    second = build(cache_dir=tmp_path)
    assert not calls
    assert equal(first, second)
    assert first.summary() == second.summary()
    file.write_bytes(file.read_bytes()[:500])
    with pytest.warns(UserWarning, match="damaged cache, built again"):
        third = build(cache_dir=tmp_path)
    assert calls
    assert equal(first, third)
    assert equal(first, build(cache_dir=tmp_path))  # the file is whole again
    assert len(calls) == 1


def test_another_input_is_another_file(tmp_path):
    build(cache_dir=tmp_path)
    build(cache_dir=tmp_path, seed=1)
    build(cache_dir=tmp_path, settings={"rate_internal": 0.4})
    changed = [g.clone() for g in IN]
    changed[4].edge_index = changed[4].edge_index[:, 2:]
    with pytest.warns(UserWarning, match="directed"):
        build(cache_dir=tmp_path, graphs=changed)
    build(cache_dir=tmp_path, external={"trees": OUT["trees"][:8], "grids": OUT["grids"]})
    assert len(list(tmp_path.iterdir())) == 5
    with pytest.raises(ValueError, match="forbid"):  # a cached file does not hide a forbidden name
        build(cache_dir=tmp_path, forbid=("trees",))


def test_a_cache_that_is_no_folder_is_refused_before_any_work(tmp_path, monkeypatch):
    file = tmp_path / "a"
    file.write_text("mine")
    monkeypatch.setattr("graftkit.pyg.hgoe_data.plan_exposure", lambda *_, **__: pytest.fail("worked"))
    with pytest.raises(ValueError, match="cache_dir: expected a folder"):
        build(cache_dir=file)
    with pytest.raises(TypeError, match="cache_dir: expected the path of a folder, or None, got 3"):
        build(cache_dir=3)
    assert file.read_text() == "mine"


# What is refused.


WIDE = [edge_pair(x=torch.ones(3, 9))] * 3
HALF = [edge_pair(x=torch.full((3, 1), 0.5))] * 3


@pytest.mark.parametrize(
    ("changes", "error", "words"),
    [
        ({"graphs": []}, ValueError, "graphs: expected at least one ID graph"),
        ({"external": {"a": []}}, ValueError, r"external\['a'\]: expected at least one graph"),
        ({"external": [OUT]}, TypeError, "external: expected a mapping of names to data sets"),
        ({"external": {"a": 3}}, TypeError, r"external\['a'\]: expected a data set or a list of Data"),
        ({"external": {"a": WIDE}}, ValueError, r"external\['a'\] has width 9, the ID graphs have 1"),
        ({"external": {"a": [edge_pair(num_nodes=2)]}}, ValueError, "have node features, .* have none"),
        (
            {"external": {"a": [edge_pair(num_nodes=1)]}},
            ValueError,
            "graph 0 has 1 nodes, but an edge names node 1",
        ),
        ({"external": {"a": [IN[3]]}}, ValueError, r"external\['a'\]: graph 0 equals ID graph 3"),
        ({"external": {}, "settings": {"rate_internal": 0}}, ValueError, "no outlier source is enabled"),
        ({"forbid": ["trees"]}, ValueError, r"external: expected names outside forbid=\['trees'\]"),
        ({"forbid": "trees"}, TypeError, "forbid: expected a sequence of names"),
        ({"config": 3}, TypeError, "config: expected an HGOEConfig or None"),
        ({"seed": -1}, ValueError, "seed: expected an integer >= 0"),
        ({"seed": None}, TypeError, "seed: expected an integer"),
        (
            {"settings": {"lazy": True}, "cache_dir": "a"},
            ValueError,
            "cache_dir: expected None where config.lazy",
        ),
        (
            {"settings": {"subgroups": len}, "cache_dir": "a"},
            ValueError,
            "subgroups: expected a named option",
        ),
        ({"settings": {"num_subgroups": 21}}, ValueError, "num_subgroups: expected at most 20"),
        ({"settings": {"resolution": 4001}}, ValueError, "resolution: expected at most 4000"),
    ],
)
def test_errors(changes, error, words):
    with pytest.raises(error, match=words):
        build(**changes)


def test_a_node_attribute_that_outliers_cannot_have_is_named():
    graphs = [g.clone() for g in IN]
    for k, graph in enumerate(graphs):
        graph.pos = torch.rand(graph.num_nodes, 3)
        graph.name, graph.number = "a", torch.tensor([k])  # of the graph: harmless
    with pytest.raises(
        ValueError, match=r"pos: the ID graphs have this node or edge attribute.*ignore=\('pos',\)"
    ):
        build(graphs=graphs)
    assert len(build(graphs=graphs, ignore=("pos",))) == 20


def test_a_thin_external_set_of_edgeless_graphs_is_welcome():
    lonely = [Data(x=torch.ones(k + 1, 1), edge_index=torch.empty(2, 0, dtype=torch.long)) for k in range(4)]
    data = build(external={"lonely": lonely}, settings={"rate_external": 1})
    assert data.sources.bincount().tolist() == [0, 4, 10]


def test_dtypes_are_cast_once_with_a_warning():
    whole = [edge_pair(x=torch.ones(3, 1).long())] * 3
    with pytest.warns(UserWarning, match=r"external\['a'\] is cast from torch.int64 to torch.float32"):
        assert build(external={"a": whole})[0].x.dtype == torch.float32
    graphs = [g.clone() for g in IN]
    for graph in graphs:
        graph.x = graph.x.long()
    with pytest.raises(ValueError, match="values that are no integers"):
        build(graphs=graphs, external={"a": HALF})
