"""The paired loader: coverage, order, workers, keys."""

import random
from collections import Counter

import numpy as np
import pytest
import torch
from torch_geometric.data import Batch, Data, HeteroData
from torch_geometric.loader import DataLoader

from graftkit.pyg import HGOEConfig, HGOEStructuralEncoding, OutlierExposureDataset, OutlierExposureLoader
from graftkit.pyg.hgoe_batches import stored_batch
from tests.adapters.pyg.hgoe_cases import Listed, edge_pair, family, id_graphs, same


def numbered(count, start=0):
    return [edge_pair(x=torch.ones(2, 1), number=torch.tensor([start + k])) for k in range(count)]


def numbers(loader):
    return [(a.number.tolist(), b.number.tolist()) for a, b in loader]


@pytest.mark.parametrize("outliers", [1, 3, 10, 40])
@pytest.mark.parametrize("size", [1, 4, 10, 64])
def test_every_id_graph_comes_once_whatever_the_outliers(outliers, size):
    loader = OutlierExposureLoader(numbered(10), numbered(outliers, 100), batch_size=size)
    for _ in range(2):
        steps = numbers(loader)
        assert len(steps) == len(loader) == -(-10 // size)
        assert Counter(k for first, _ in steps for k in first) == Counter(range(10))
        assert all(len(second) == min(size, outliers) == len(set(second)) for _, second in steps)


def test_outliers_go_round_evenly():
    loader = OutlierExposureLoader(numbered(60), numbered(7, 100), batch_size=3, oe_batch_size=5)
    seen = Counter(k for _, second in numbers(loader) for k in second)
    assert set(seen) == set(range(100, 107))
    assert max(seen.values()) - min(seen.values()) <= 1  # 100 draws from 7


def test_order_depends_on_seed_and_epoch_alone():
    def make(seed=0, **kwargs):
        return OutlierExposureLoader(numbered(20), numbered(9, 100), batch_size=6, seed=seed, **kwargs)

    state = torch.get_rng_state().tolist(), random.getstate(), np.random.get_state()[1].tolist()  # noqa: NPY002
    first = make()
    epochs = [numbers(first), numbers(first)]
    assert epochs[0] != epochs[1]
    assert [numbers(make()), numbers(make(1))] == [epochs[0], numbers(make(1))]
    assert numbers(make(1)) != epochs[0]
    resumed = make()
    resumed.set_epoch(1)
    assert numbers(resumed) == epochs[1]
    for workers in (1, 2):
        loader = make(num_workers=workers, persistent_workers=True)
        assert [numbers(loader), numbers(loader)] == epochs
    assert state == (torch.get_rng_state().tolist(), random.getstate(), np.random.get_state()[1].tolist())  # noqa: NPY002


def test_lazy_outliers_follow_the_epoch_even_in_lasting_workers():
    data = OutlierExposureDataset(id_graphs(10), config=HGOEConfig(lazy=True, rate_internal=1))

    def edges(loader):
        return [b.edge_index.tolist() for _, b in loader]

    plain = OutlierExposureLoader(id_graphs(10), data, batch_size=8)
    expected = [edges(plain), edges(plain)]
    lasting = OutlierExposureLoader(id_graphs(10), data, batch_size=8, num_workers=2, persistent_workers=True)
    assert [edges(lasting), edges(lasting)] == expected
    still = OutlierExposureLoader(id_graphs(10), data, batch_size=8, shuffle=False)
    assert edges(still) != edges(still)  # other graphs, not another order


def test_without_shuffling_both_sides_come_in_order():
    loader = OutlierExposureLoader(numbered(5), numbered(3, 100), batch_size=2, shuffle=False)
    assert numbers(loader) == [([0, 1], [100, 101]), ([2, 3], [102, 100]), ([4], [101, 102])]


def test_the_id_side_alone():
    loader = OutlierExposureLoader(numbered(5), numbered(3, 100), batch_size=2)
    assert [batch.number.tolist() for batch in loader.id_loader()] == [[0, 1], [2, 3], [4]]


def test_batches_are_pygs_own():
    graphs, outliers = id_graphs(4), family("tree", 3)
    first, second = next(iter(OutlierExposureLoader(graphs, outliers, batch_size=8, shuffle=False)))
    (expected,) = DataLoader(graphs, batch_size=8)
    assert same(first, expected)
    (expected,) = DataLoader(outliers, batch_size=8)
    assert same(second, expected)


@pytest.mark.parametrize("x", [True, False])
def test_gathered_batches_equal_pygs_own(x):
    """From packed data sets, whole and subsets, batches come without taking graphs apart."""
    graphs = id_graphs(6, x=x)
    for k, graph in enumerate(graphs):
        graph.edge_attr = torch.rand(graph.num_edges, 2)
        graph.target = torch.rand(1, 3)
        graph.some_index = torch.tensor([0, graph.num_nodes - 1])
        graph.number = k
    stored = Listed(graphs)
    for data, listed in (
        (stored, graphs),
        (stored[3:9], graphs[3:9]),
        (stored[[4, 1]], [graphs[4], graphs[1]]),
    ):
        got = stored_batch(data, range(len(listed)))
        expected = Batch.from_data_list(listed)
        assert same(got, expected)
        assert all(same(a, b) for a, b in zip(got.to_data_list(), expected.to_data_list(), strict=True))
        assert got.num_graphs == len(listed)
        got = stored_batch(data, [1, 0, 1], excluded=["edge_attr"])
        assert same(got, Batch.from_data_list([listed[k] for k in (1, 0, 1)], exclude_keys=["edge_attr"]))
    assert stored_batch(graphs, [0]) is None
    assert stored_batch(Listed(graphs, transform=HGOEStructuralEncoding()), [0]) is None
    for graph in graphs:
        graph.name = "a"  # no tensor: PyG's own way
    assert stored_batch(Listed(graphs), [0]) is None


def test_data_sets_and_lists_give_the_same_steps():
    graphs, outliers = id_graphs(6), family("tree", 7)
    plain = OutlierExposureLoader(graphs, outliers, batch_size=5)
    packed = OutlierExposureLoader(Listed(graphs), Listed(outliers), batch_size=5)
    for first, second in zip(plain, packed, strict=True):
        assert all(same(a, b) for a, b in zip(first, second, strict=True))


def test_edge_attributes_of_one_side_are_left_out_of_both():
    graphs, outliers = id_graphs(3), family("tree", 3)
    for graph in graphs:
        graph.edge_attr = torch.ones(graph.num_edges, 1)
    for pair in ((graphs, outliers), (outliers, graphs)):
        loader = OutlierExposureLoader(*pair, batch_size=2)
        assert all("edge_attr" not in batch for step in loader for batch in step)
        assert all("edge_attr" not in batch for batch in loader.id_loader())


def test_ignored_attributes_are_left_out():
    graphs = id_graphs(10)
    for graph in graphs:
        graph.pos = torch.ones(graph.num_nodes, 3)
    data = OutlierExposureDataset(graphs, ignore=("pos",))
    first, second = next(iter(OutlierExposureLoader(graphs, data, batch_size=4)))
    assert "pos" not in first
    assert set(second.keys()) - {"source"} == set(first.keys())


def with_encoding(graphs):
    return [HGOEStructuralEncoding()(graph) for graph in graphs]


@pytest.mark.parametrize(
    ("graphs", "outliers", "arguments", "error", "words"),
    [
        ([], numbered(2), {}, ValueError, "graphs: expected at least one graph"),
        (numbered(2), [], {}, ValueError, "outliers: expected at least one graph"),
        (numbered(2), numbered(2), {"batch_size": 0}, ValueError, "batch_size: expected an integer >= 1"),
        (
            numbered(2),
            numbered(2),
            {"oe_batch_size": 0},
            ValueError,
            "oe_batch_size: expected an integer >= 1",
        ),
        (numbered(2), numbered(2), {"seed": None}, TypeError, "seed: expected an integer"),
        (numbered(2), numbered(2), {"shuffle": 1}, TypeError, "shuffle: expected True or False"),
        (numbered(2), numbered(2), {"collate_fn": len}, TypeError, r"decides \['collate_fn'\] itself"),
        (numbered(2), numbered(2), {"workers": 2}, TypeError, "unexpected keyword argument 'workers'"),
        (
            with_encoding(id_graphs(2)),
            family("tree", 2),
            {},
            ValueError,
            "x_s: ID graphs have it, outliers do not",
        ),
        (
            id_graphs(2),
            with_encoding(family("tree", 2)),
            {},
            ValueError,
            "x_s: outliers have it, ID graphs do not",
        ),
        (
            [edge_pair(x=torch.ones(3, 7))],
            [edge_pair(x=torch.ones(3, 9))],
            {},
            ValueError,
            r"x: ID graphs have \(n, 7\) of torch.float32, outliers \(n, 9\)",
        ),
        (
            [edge_pair(x=torch.ones(3, 1))],
            [edge_pair(x=torch.ones(3, 1).long())],
            {},
            ValueError,
            "of torch.int64. HGOEHarmonize makes them alike",
        ),
    ],
)
def test_errors(graphs, outliers, arguments, error, words):
    with pytest.raises(error, match=words):
        OutlierExposureLoader(graphs, outliers, **arguments)


def test_excluded_keys_are_not_compared():
    loader = OutlierExposureLoader(with_encoding(id_graphs(2)), family("tree", 2), exclude_keys=["x_s"])
    first, _ = next(iter(loader))
    assert "x_s" not in first


@pytest.mark.parametrize(
    ("odd", "words"),
    [
        ({"x": torch.ones(2, 4)}, r"x: outliers\[(9|\d)\] has \(n, (4|1)\) of torch.float32"),
        ({"x": torch.ones(2, 1).long()}, r"x: outliers\[\d\] has \(n, 1\) of torch\.(int64|float32)"),
        ({"x": torch.ones(2, 1), "pos": torch.ones(2, 3)}, r"pos: .*exclude_keys=\['pos'\]"),
        ({"x": torch.ones(2, 1), "name": "a"}, r"name: outliers\[\d\] has (an attribute|none)"),
    ],
)
@pytest.mark.parametrize("seed", [0, 1])
def test_a_graph_unlike_the_others_is_named_wherever_it_comes(odd, words, seed):
    """The ninth: beyond the graphs that are looked at beforehand, before or behind others in its batch."""
    outliers = [edge_pair(x=torch.ones(2, 1)) for _ in range(9)] + [edge_pair(**odd)]
    loader = OutlierExposureLoader(numbered(10), outliers, 10, seed=seed)
    with pytest.raises(ValueError, match=words):
        list(loader)
    mixed = OutlierExposureLoader(outliers, numbered(10), 10, seed=seed, exclude_keys=["number"])
    with pytest.raises(ValueError, match=words.replace("outliers", "graphs")):
        list(mixed)


def test_keys_that_only_some_graphs_have_can_be_left_out():
    outliers = [edge_pair(x=torch.ones(2, 1)) for _ in range(9)]
    outliers.append(edge_pair(x=torch.ones(2, 1), pos=torch.ones(2, 3)))
    ((_, batch),) = OutlierExposureLoader(numbered(10), outliers, 10, exclude_keys=["pos"])
    assert "pos" not in batch


@pytest.mark.parametrize("place", [0, 5, 20])
@pytest.mark.parametrize("side", ["graphs", "outliers"])
def test_another_kind_of_graph_is_named_wherever_it_comes(place, side):
    odd = HeteroData()
    odd["atom"].x, odd["atom", "to", "atom"].edge_index = torch.ones(2, 1), torch.tensor([[0], [1]])
    sides = {name: [edge_pair(x=torch.ones(2, 1)) for _ in range(24)] for name in ("graphs", "outliers")}
    sides[side][place] = odd
    with pytest.raises(TypeError, match=rf"{side}\[{place}\]: expected a homogeneous Data, got HeteroData"):
        list(OutlierExposureLoader(**sides, batch_size=6))
    assert odd.node_types == ["atom"]  # looking made no other
    sides[side][place] = "a graph"
    with pytest.raises(TypeError, match=rf"{side}\[{place}\]: expected a homogeneous Data, got 'a graph'"):
        list(OutlierExposureLoader(**sides, batch_size=6))


def test_a_graph_without_an_edge_list_is_told_how_to_say_so():
    graphs = [edge_pair(x=torch.ones(2, 1)) for _ in range(4)]
    bare = Data(x=torch.ones(2, 1))
    with pytest.raises(ValueError, match=r"edge_index: graphs.* an edge_index of shape \(2, 0\)"):
        list(OutlierExposureLoader([*graphs, bare], graphs, 5))
    bare.edge_index = torch.empty(2, 0, dtype=torch.int64)
    ((first, _),) = OutlierExposureLoader([*graphs, bare], graphs, 5)
    assert first.num_graphs == 5


@pytest.mark.parametrize(
    "attributes",
    [
        {"num_nodes": 2},
        {"x": torch.ones(2, 1), "name": "CCO", "tags": ["a"], "notes": {"b": 1}},
        {"x": torch.ones(2, 1), "y": torch.tensor(1), "face": torch.zeros(3, 1, dtype=torch.int64)},
        {"x": torch.ones(2, 1), "adj": torch.ones(2, 2)},
    ],
)
def test_what_the_host_batches_is_not_refused(attributes):
    graphs = [edge_pair(**attributes) for _ in range(10)]
    first, second = next(iter(OutlierExposureLoader(graphs, graphs, 10)))
    wanted = Batch.from_data_list(graphs)
    for batch in (first, second):
        assert set(batch.keys()) == set(wanted.keys())
        assert batch.num_graphs == 10
