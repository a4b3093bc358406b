"""The whole synthesis: budgets, independence of sources, leak guard, features, cache, settings."""

import math
import random

import numpy as np
import pytest
import torch

from graftkit.methods.hgoe import exposure
from graftkit.methods.hgoe.cache import content_key, load, read, write
from graftkit.methods.hgoe.drawing import draw_one, realise
from graftkit.methods.hgoe.exposure import CROSS, EXTERNAL, INTERNAL, plan_exposure
from graftkit.methods.hgoe.graphs import PackedGraphs
from graftkit.methods.hgoe.pairs import content_digests
from graftkit.methods.hgoe.settings import HGOEConfig
from tests.plugins.hgoe.cases import block_graphs, pack, random_lists
from tests.plugins.hgoe.test_subgroups import MIXED, PLANTED, clique, ring


def features(lists, width=1, value=None):
    if value is not None:
        return [torch.full((n, width), value) for _, n in lists]
    return [torch.arange(n, dtype=torch.float32)[:, None].expand(-1, width) + 1 for _, n in lists]


IN = pack(MIXED, features(MIXED))
GRIDS = [([(0, 1), (1, 0), (1, 2), (2, 1)], 3 + k % 3) for k in range(12)]
TREES = random_lists(9, 7, low=4, messy=False)
OUT = {"grids": pack(GRIDS, features(GRIDS)), "trees": pack(TREES, features(TREES))}
KNOWN = HGOEConfig(subgroups=PLANTED)


def edges_of(graphs):
    return graphs.edge_index.tolist(), graphs.num_nodes.tolist(), graphs.x.tolist()


def test_budgets_are_exact_and_sources_in_order():
    config = HGOEConfig(subgroups=PLANTED, rate_external=0.3, rate_internal=0.7, rate_cross=0.4)
    plan = plan_exposure(IN, OUT, config, seed=0)
    graphs, source = realise(plan)
    # 36 graphs: int(10.8), round(25.2), round(14.4)
    assert torch.bincount(source).tolist() == [0, 10, 25, 14]
    assert len(graphs) == 49
    assert torch.equal(source, source.sort().values)
    assert plan.summary["external_sets"] == {"grids": 5, "trees": 5}
    assert plan.summary["internal"] == 25
    assert plan.summary["cross"] == 14
    assert plan.summary["subgroups"] == [12, 12, 12]


@pytest.mark.parametrize(("k", "internal"), [(2, 20), (3, 60), (4, 30)])
def test_official_counts(k, internal):
    lists = [ring(6 + g % 4) for g in range(100)]
    config = HGOEConfig.official(subgroups=torch.arange(100) % k, num_subgroups=k)
    sets = {name: pack([clique(5 + g % 3) for g in range(60)]) for name in "abc"}
    plan = plan_exposure(pack(lists), sets, config, seed=0)
    assert plan.summary["internal"] == internal
    assert plan.summary["cross"] == 10 * 3 * k * math.ceil(50 / (10 * 3 * k))
    assert plan.summary["external_sets"] == {"a": 16, "b": 17, "c": 17}


def test_one_seed_one_result_and_no_global_state():
    state = torch.get_rng_state().tolist(), random.getstate(), np.random.get_state()[1].tolist()  # noqa: NPY002
    a, b, c = (edges_of(realise(plan_exposure(IN, OUT, KNOWN, seed=s))[0]) for s in (1, 1, 2))
    torch.rand(3), random.random(), np.random.rand()  # noqa: NPY002
    d = edges_of(realise(plan_exposure(IN, OUT, KNOWN, seed=1))[0])
    assert a == b == d != c
    torch.set_rng_state(torch.tensor(state[0], dtype=torch.uint8))
    random.setstate(state[1])
    realise(plan_exposure(IN, OUT, HGOEConfig(), seed=1))
    assert torch.get_rng_state().tolist() == state[0]
    assert random.getstate() == state[1]


def test_adding_a_source_changes_no_other():
    both = plan_exposure(IN, OUT, HGOEConfig(subgroups=PLANTED, rate_cross=0.5), seed=0)
    graphs, source = realise(both)
    alone, _ = realise(plan_exposure(IN, {}, KNOWN, seed=0))
    inside = graphs.select((source == INTERNAL).nonzero().flatten())
    assert edges_of(inside) == edges_of(alone)
    only, _ = realise(plan_exposure(IN, OUT, HGOEConfig(rate_internal=0), seed=0))
    assert edges_of(graphs.select((source == EXTERNAL).nonzero().flatten())) == edges_of(only)


def test_a_lazy_graph_is_the_same_wherever_it_is_drawn():
    plan = plan_exposure(IN, OUT, HGOEConfig(subgroups=PLANTED, rate_cross=0.5), seed=0)
    for source in (INTERNAL, CROSS):
        first = [edges_of(draw_one(plan, source, k)) for k in range(4)]
        assert first == [edges_of(draw_one(plan, source, k)) for k in reversed(range(4))][::-1]
        assert first != [edges_of(draw_one(plan, source, k, epoch=1)) for k in range(4)]


def test_internal_outliers_lie_between_the_subgroups():
    """Sparse and dense Erdős-Rényi subgroups, lam fixed at 1/2: the mixture's density is halfway."""
    sparse, _ = block_graphs((20,), [[0.2]], 60, 0)
    thick, _ = block_graphs((20,), [[0.8]], 60, 1)
    config = HGOEConfig(subgroups=torch.arange(120) // 60, lam_range=(0.5, 0.5), rate_internal=5)
    graphs, _ = realise(plan_exposure(pack(sparse + thick), {}, config, seed=0))
    n = graphs.num_nodes.double()
    full = n >= 18  # nearly all nodes drawn: hardly any cropped to the high-degree corner
    pairs = graphs.edge_ptr.diff().double() / (n * (n - 1))
    assert abs(pairs[full].mean() - 0.5) < 0.05


def test_features_come_from_nodes_with_like_surroundings():
    """ID graphs are stars whose hub has feature 9 and whose leaves have 4: so have the synthetic ones."""
    lists = [([(0, k) for k in range(1, n)] + [(k, 0) for k in range(1, n)], n) for n in (6, 7, 8, 9) * 4]
    x = [torch.tensor([[9]] + [[4]] * (n - 1)) for _, n in lists]
    config = HGOEConfig(subgroups=torch.arange(16) % 2, threshold=0.01)
    graphs, _ = realise(plan_exposure(pack(lists, x), {}, config, seed=0))
    degree = torch.bincount(graphs.edge_index[0], minlength=len(graphs.x))
    assert graphs.x.dtype == torch.int64
    assert set(graphs.x[degree >= 5].flatten().tolist()) == {9}
    assert set(graphs.x[degree == 1].flatten().tolist()) <= {4, 9}  # both ends of a lone edge are alike
    assert (graphs.x[degree == 1] == 4).double().mean() > 0.8


@pytest.mark.parametrize(("source", "expected"), [("id", {1}), ("external", {2}), ("both", {1, 2})])
def test_the_feature_pool(source, expected, monkeypatch):
    seen = []
    original = exposure.concatenate
    monkeypatch.setattr(exposure, "concatenate", lambda parts: seen.append(parts) or original(parts))
    config = HGOEConfig(subgroups=PLANTED, feature_source=source)
    ones = PackedGraphs(IN.edge_index, IN.num_nodes, torch.ones_like(IN.x))
    grids = OUT["grids"]
    twos = PackedGraphs(grids.edge_index, grids.num_nodes, torch.full_like(grids.x, 2.0))
    plan = plan_exposure(ones, {"grids": twos}, config, seed=0)
    graphs, source_code = realise(plan)
    made = graphs.x[torch.repeat_interleave(source_code == INTERNAL, graphs.num_nodes)]
    assert set(made.flatten().tolist()) <= expected
    assert len(seen) == 2  # quotas, the pool
    pool = torch.cat([part.x for part in seen[1]])
    assert set(pool.flatten().tolist()) == expected


def test_graphs_without_features_stay_without():
    bare = PackedGraphs(IN.edge_index, IN.num_nodes)
    graphs, _ = realise(plan_exposure(bare, {}, KNOWN, seed=0))
    assert graphs.x is None


def test_only_the_given_graphs_reach_the_estimator(monkeypatch):
    seen = []
    original = exposure.adjacency.aligned_mean
    monkeypatch.setattr(
        exposure.adjacency,
        "aligned_mean",
        lambda g, *a, **k: seen.append(content_digests(g)) or original(g, *a, **k),
    )
    plan_exposure(IN, OUT, KNOWN, seed=0)
    assert {d for part in seen for d in part} == set(content_digests(IN))


def test_leak_guard():
    leaky = {"a": IN.select(torch.tensor([4])), "b": OUT["trees"]}
    mixed = pack([TREES[0], MIXED[4], TREES[1]], features([TREES[0], MIXED[4], TREES[1]]))
    with pytest.raises(ValueError, match=r"external\['b'\]: graph 1 equals ID graph 0 \(1 such graphs\)"):
        plan_exposure(IN.select(torch.tensor([4, 7, 8, 9])), {"b": mixed}, KNOWN, seed=0)
    with pytest.raises(ValueError, match=r"external\['a'\]: every graph equals an ID graph"):
        plan_exposure(IN, leaky, HGOEConfig(subgroups=PLANTED, leak="drop"), seed=0)
    config = HGOEConfig(leak="drop", rate_internal=0, rate_external=1)
    plan = plan_exposure(IN, {"b": mixed}, config, seed=0)
    assert plan.summary["leaks_dropped"] == 1
    assert content_digests(plan.external) == [content_digests(mixed)[0], content_digests(mixed)[2]]
    config = HGOEConfig(leak="keep", rate_internal=0, rate_external=1)
    assert len(plan_exposure(IN, {"b": mixed}, config, seed=0).external) == 3


def test_edgeless_and_single_node_graphs_are_welcome():
    lists = [*MIXED, ([], 1), ([], 4)]
    graphs, source = realise(
        plan_exposure(
            pack(lists, features(lists)), {"e": pack([([], 1), ([], 2)], features([([], 1), ([], 2)]))},
            HGOEConfig(subgroups=torch.cat([PLANTED, torch.tensor([0, 0])]), leak="keep"), seed=0,
        )
    )  # fmt: skip
    assert (source == EXTERNAL).sum() == 2
    made = graphs.select((source == INTERNAL).nonzero().flatten())
    assert (made.edge_ptr.diff() > 0).all()


WIDE = PackedGraphs(IN.edge_index, IN.num_nodes, torch.ones(len(IN.x), 9))
HALVES = PackedGraphs(IN.edge_index, IN.num_nodes, torch.full_like(IN.x, 0.5))
LONG = PackedGraphs(IN.edge_index, IN.num_nodes, IN.x.long())
BARE = PackedGraphs(IN.edge_index, IN.num_nodes)


@pytest.mark.parametrize(
    ("graphs", "external", "changes", "words"),
    [
        (IN.select(torch.empty(0, dtype=torch.long)), OUT, {}, "graphs: expected at least one ID graph"),
        (IN, {"a": pack([])}, {}, r"external\['a'\]: expected at least one graph"),
        (IN, {}, {"rate_internal": 0}, "no outlier source is enabled"),
        (IN, OUT, {"rate_internal": 0, "rate_external": 0}, "no outlier source is enabled"),
        (IN, {}, {"rate_cross": 0.5}, "external: expected at least one set for rate_cross > 0"),
        (IN, {"a": WIDE}, {}, r"external\['a'\] has width 9, the ID graphs have 1\..*project.*structural"),
        (IN, {"a": BARE}, {}, r"the ID graphs have node features, external\['a'\] have none.*constant"),
        (BARE, {"a": IN}, {}, r"x: external\['a'\] have node features, the ID graphs have none"),
        (LONG, {"a": HALVES}, {}, r"external\['a'\] has torch.float32 values that are no integers"),
        (LONG, {}, {"close_k": 2}, "close_k: expected 1 for integer features"),
        (IN, {}, {"feature_source": "external"}, "feature_source: expected a source with graphs"),
        (IN, {}, {"subgroups": PLANTED * 0}, "num_subgroups: expected at least 2 subgroups"),
    ],
)  # fmt: skip
def test_errors(graphs, external, changes, words):
    config = HGOEConfig(**{"subgroups": PLANTED, "leak": "keep", **changes})
    with pytest.raises(ValueError, match=words):
        plan_exposure(graphs, external, config, seed=0)


def test_forbidden_names_and_directed_edges():
    with pytest.raises(ValueError, match=r"external: expected names outside forbid=\['grids'\], got 'grids'"):
        plan_exposure(IN, OUT, KNOWN, seed=0, forbid=["grids"])
    one_way = pack([([(0, 1)], 2)], [torch.ones(2, 1)])
    words = r"external\['a'\]\[0\] has a directed edge"
    config = HGOEConfig(subgroups=PLANTED, rate_external=1)
    with pytest.warns(UserWarning, match=words) as caught:
        plan = plan_exposure(IN, {"a": one_way, "b": one_way}, config, seed=0)
    assert len(caught) == 1
    assert plan.external.edge_index[:, :2].tolist() == [[0, 1], [1, 0]]
    with pytest.raises(ValueError, match=words + "; make the graphs undirected"):
        plan_exposure(IN, {"a": one_way}, HGOEConfig(subgroups=PLANTED, directed="error"), seed=0)


def test_a_dtype_is_cast_to_the_id_graphs_with_a_warning():
    with pytest.warns(UserWarning, match=r"external\['a'\] is cast from torch.int64 to torch.float32"):
        plan = plan_exposure(IN, {"a": LONG}, HGOEConfig(leak="keep", rate_internal=0), seed=0)
    assert plan.external.x.dtype == torch.float32


# Settings.


@pytest.mark.parametrize(
    ("changes", "error", "words"),
    [
        ({"rate_external": -0.1}, ValueError, "rate_external: expected a finite number >= 0"),
        ({"rate_internal": math.inf}, ValueError, "rate_internal: expected a finite number"),
        ({"num_subgroups": 0}, ValueError, "num_subgroups: expected an integer >= 1"),
        ({"resolution": 1}, ValueError, "resolution: expected an integer >= 2"),
        ({"resolution": "mean"}, ValueError, "resolution: expected one of 'median'"),
        ({"threshold": -1}, ValueError, "threshold: expected a finite number >= 0"),
        ({"lam_range": (0.5, 0.1)}, ValueError, "lam_range: expected low <= high"),
        ({"lam_range": (0.5, 1.1)}, ValueError, r"lam_range: expected a finite number in \[0, 1\], got 1.1"),
        ({"lam_range": 0.5}, TypeError, "lam_range: expected a pair"),
        ({"pairing": "all"}, ValueError, "pairing: expected one of 'distinct', 'with_replacement'"),
        ({"subgroups": "structure"}, ValueError, "Did you mean 'structural'"),
        ({"subgroups": [0, 1]}, TypeError, "subgroups: expected a name, a callable or a tensor"),
        ({"estimator": "svd"}, ValueError, "estimator: expected one of"),
        ({"lazy": 1}, TypeError, "lazy: expected True or False"),
        ({"ssl_learning_rate": 0}, ValueError, "ssl_learning_rate: expected a finite number > 0"),
        ({"edge_attr": "keep"}, ValueError, "edge_attr: expected one of 'drop', 'zeros', 'resample'"),
    ],
)
def test_settings_errors(changes, error, words):
    with pytest.raises(error, match=words):
        HGOEConfig(**changes)


def test_official_preset_and_its_changes():
    config = HGOEConfig.official(num_subgroups=4)
    assert (config.rate_cross, config.subgroups, config.selection, config.budget) == (
        0.5,
        "graphcl",
        "first",
        "official",
    )
    assert config.num_subgroups == 4
    assert config.lam_range == (0.1, 1.0)
    with pytest.raises(ValueError, match="subgroups: expected a named option"):
        HGOEConfig(subgroups=len).as_dict()
    assert HGOEConfig(subgroups=torch.tensor([1, 2])).as_dict()["subgroups"] == [1, 2]


# The cache.


def test_a_written_file_comes_back(tmp_path):
    path = tmp_path / "deep" / "a.pt"
    tensors = {"x": torch.rand(3, 2), "empty": torch.empty(0, 2), "n": torch.tensor([True, False])}
    write(path, tensors, {"id": 3, "sets": {"a": 1}})
    back, summary = read(path)
    assert all(torch.equal(back[name], tensors[name]) for name in tensors)
    assert summary == {"id": 3, "sets": {"a": 1}}
    assert [p.name for p in path.parent.iterdir()] == ["a.pt"]
    assert read(tmp_path / "none.pt") is None
    with pytest.raises(FileNotFoundError, match="none"):
        load(tmp_path / "none.pt")


@pytest.mark.parametrize("damage", ["cut", "noise", "value"])
def test_a_damaged_file_is_noticed(tmp_path, damage):
    path = tmp_path / "a.pt"
    write(path, {"x": torch.ones(500)}, {})
    content = bytearray(path.read_bytes())
    if damage == "cut":
        path.write_bytes(content[:100])
    elif damage == "noise":
        path.write_bytes(b"nothing that torch knows")
    else:
        stored = torch.load(path, weights_only=True)
        stored["tensors"]["x"][7] = 2
        torch.save(stored, path)
    with pytest.warns(UserWarning, match=r"damaged cache, built again: a\.pt cannot be read"):
        assert read(path) is None


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "a.pt"
    write(path, {"x": torch.ones(2)}, {})
    monkeypatch.setattr(torch, "save", lambda *_: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        write(path, {"x": torch.zeros(2)}, {})
    monkeypatch.undo()
    assert read(path)[0]["x"].tolist() == [1, 1]
    assert [p.name for p in tmp_path.iterdir()] == ["a.pt"]


def test_the_key_sees_one_edge_one_feature_the_seed_and_the_names():
    base = {"seed": 0, **HGOEConfig().as_dict()}
    fewer = PackedGraphs(IN.edge_index[:, 1:], IN.num_nodes, IN.x)
    warmer = PackedGraphs(IN.edge_index, IN.num_nodes, IN.x + 1e-6)
    keys = {
        content_key(base, {"id": IN}),
        content_key(base, {"id": fewer}),
        content_key(base, {"id": warmer}),
        content_key({**base, "seed": 1}, {"id": IN}),
        content_key(base, {"other": IN}),
        content_key(base, {"id": IN, "a": OUT["grids"]}),
    }
    assert len(keys) == 6
    assert content_key(base, {"id": IN}) in keys


def test_the_key_sees_width_and_dtype_where_the_bytes_are_alike():
    """Zeros: two float32 columns have the bytes of one float64 column and of two int32 columns."""
    zero = torch.zeros(IN.num_nodes.sum(), 2)
    like = (zero, zero[:, :1].double(), zero.int())
    keys = {content_key({}, {"id": PackedGraphs(IN.edge_index, IN.num_nodes, x)}) for x in like}
    assert len(keys) == 3


def test_external_graphons_have_a_threshold_of_their_own():
    config = HGOEConfig(subgroups=PLANTED, rate_cross=0.5, threshold=0.0, external_threshold=50.0)
    with pytest.warns(UserWarning, match="threshold=50 removed every singular value"):
        plan = plan_exposure(IN, OUT, config, seed=0)
    assert [bool(matrix.any()) for matrix in plan.matrices] == [True] * 3 + [False] * 2
