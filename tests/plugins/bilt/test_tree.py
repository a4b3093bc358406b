"""LabelTree against brute force, its forms, its policies."""

import itertools

import networkx as nx
import pytest
import torch

from graftkit.methods.bilt import LabelTree
from tests.plugins.bilt import reference
from tests.plugins.bilt.cases import SMALL, even_tree, leaves_of, random_parents

SEEDS = range(12)


def tree_of(seed, **options):
    parents = random_parents(seed)
    return parents, LabelTree.from_parents(parents, **options)


@pytest.mark.parametrize("seed", SEEDS)
def test_distance_is_that_of_networkx_and_of_a_walk_on_the_padded_tree(seed):
    parents, tree = tree_of(seed)
    leaves = leaves_of(parents)
    paths = reference.padded([p[1:] for p in reference.parents_to_paths(parents, leaves)])
    expected = torch.tensor(reference.lca_distance(paths), dtype=torch.float32)
    assert torch.equal(tree.distance(), expected)
    # The padded tree as a graph: nodes (level, name).
    graph = nx.DiGraph()
    for path in paths:
        nodes = [(0, "r"), *((h, name) for h, name in enumerate(path, 1))]
        graph.add_edges_from(itertools.pairwise(nodes))
    depth = tree.num_levels
    for i, j in itertools.product(range(len(leaves)), repeat=2):
        a, b = (depth, leaves[i]), (depth, leaves[j])
        common = nx.lowest_common_ancestor(graph, a, b)
        assert tree.distance()[i, j] == depth - common[0]
        assert tree.distance()[i, j] == reference.bfs_length(graph.edges, a, b) // 2


@pytest.mark.parametrize("seed", SEEDS)
def test_distance_of_every_level_is_an_integer_ultrametric(seed):
    _, tree = tree_of(seed)
    for h in range(1, tree.num_levels + 1):
        d = tree.distance(h)
        assert torch.equal(d, d.T)
        assert torch.equal(d.diagonal(), torch.zeros(len(d)))
        assert torch.equal(d, d.round())
        assert d.min() >= 0
        assert d.max() <= h
        off = d + torch.diag(torch.full((len(d),), 1.0))
        assert off.min() >= 1
        assert (d[:, None, :] <= torch.maximum(d[:, :, None], d[None, :, :])).all()


@pytest.mark.parametrize("seed", SEEDS)
def test_padding_leaves_the_depth_of_the_common_ancestor(seed):
    parents, tree = tree_of(seed)
    leaves = leaves_of(parents)
    graph = nx.DiGraph((b, a) for a, b in parents.items())
    depth = nx.single_source_shortest_path_length(graph, "r")
    for i, j in itertools.combinations(range(len(leaves)), 2):
        common = nx.lowest_common_ancestor(graph, leaves[i], leaves[j])
        assert tree.distance()[i, j] == tree.num_levels - depth[common]
        assert tree.distance(kind="path")[i, j] == nx.shortest_path_length(
            graph.to_undirected(), leaves[i], leaves[j])  # fmt: skip
        below = [depth[n] - depth[common] for n in nx.descendants(graph, common)]
        assert tree.distance(kind="height")[i, j] == max(below)


@pytest.mark.parametrize("seed", SEEDS)
def test_every_form_reads_back_as_the_same_tree(seed, tmp_path):
    _, tree = tree_of(seed)
    file = tmp_path / "labels.csv"
    tree.to_csv(file)
    forms = [
        LabelTree.from_json(tree.to_json()),
        LabelTree.from_csv(file),
        LabelTree.from_paths(tree.paths()),
        LabelTree.from_networkx(tree.to_networkx()),
        LabelTree.from_levels(tree.ancestors, [tree.names(h + 1) for h in range(tree.num_levels)]),
    ]
    assert {form.fingerprint() for form in forms} == {tree.fingerprint()}
    assert all(form == tree and hash(form) == hash(tree) for form in forms)
    assert [path.name for path in tmp_path.iterdir()] == ["labels.csv"]


def test_edges_parents_and_graph_give_one_tree(tmp_path):
    parents = random_parents(3)
    edges = [(parent, child) for child, parent in parents.items()]
    file = tmp_path / "isa.txt"
    file.write_text("\n".join(f"{a} {b}" for a, b in edges) + "\n\n")
    tree = LabelTree.from_parents(parents)
    graph = nx.DiGraph(edges)
    assert LabelTree.from_edges(edges) == tree
    assert LabelTree.from_edges(file) == tree
    assert LabelTree.from_networkx(graph, classes=tree.names()) == tree


def test_a_case_by_hand():
    # cat dog wolf car bus: cat and dog meet at "pet" (1), cat and wolf at "animal" (2), car at the root (3).
    assert SMALL.distance()[0].tolist() == [0, 1, 2, 3, 3]
    assert SMALL.distance(2).tolist() == [[0, 2, 1], [2, 0, 2], [1, 2, 0]]  # pet, road, wild
    assert SMALL.names(1) == ("animal", "vehicle")
    assert SMALL.names(-2) == ("pet", "road", "wild")
    assert SMALL.ancestors.tolist() == [[0, 0, 0, 1, 1], [0, 0, 2, 1, 1], [0, 1, 2, 3, 4]]
    assert SMALL.sizes == (2, 3, 5)
    assert (SMALL.num_levels, SMALL.num_classes) == (3, 5)
    assert repr(SMALL) == "LabelTree(levels=3, classes=2/3/5)"


def test_aligning_permutes_the_distances_and_keeps_coarse_numbers():
    order = ["bus", "cat", "wolf", "car", "dog"]
    tree = SMALL.align({name: k for k, name in enumerate(order)})
    index = torch.tensor([SMALL.names().index(name) for name in order])
    assert tree.names() == tuple(order)
    assert torch.equal(tree.distance(), SMALL.distance()[index][:, index])
    assert torch.equal(tree.ancestors[:-1], SMALL.ancestors[:-1, index])
    assert tree.names(1) == SMALL.names(1)
    assert tree.align(order) == tree
    assert tree.align(SMALL.names()) == SMALL
    assert tree.fingerprint() != SMALL.fingerprint()


def test_paths_are_recognised():
    assert SMALL.is_path((0, 0, 1))
    assert SMALL.is_path(("animal", "pet", "dog"))
    assert not SMALL.is_path(("animal", "road", "dog"))
    assert SMALL.is_path(torch.tensor([[0, 0, 1], [0, 2, 1], [1, 1, 4]])).tolist() == [True, False, True]


def test_short_branches_are_repeated_or_refused():
    rows = [("animal", "cat"), ("animal", "dog"), ("car",)]
    tree = LabelTree.from_paths(rows)
    assert tree.paths() == [("animal", "cat"), ("animal", "dog"), ("car", "car")]
    assert tree.distance(kind="path").tolist() == [
        [0, 2, 3],
        [2, 0, 3],
        [3, 3, 0],
    ]  # car is one below the root
    with pytest.raises(ValueError, match=r"pad='error', got shorter branches: 'car'"):
        LabelTree.from_paths(rows, pad="error")


def test_unary_chains_stay_or_go():
    parents = {"a": None, "b": "a", "c": "b", "d": "b", "e": "a", "f": "e", "g": None}
    assert LabelTree.from_parents(parents).sizes == (2, 3, 4)
    tree = LabelTree.from_parents(parents, collapse_unary=True)  # e has one child f: f hangs on a
    assert tree.paths() == [("a", "b", "c"), ("a", "b", "d"), ("a", "f", "f"), ("g", "g", "g")]


def test_a_class_above_a_class_is_refused_or_gets_a_child():
    rows = [("animal",), ("animal", "cat"), ("car", "taxi")]
    with pytest.raises(ValueError, match=r"ancestor of another, got 'animal'.*inner_classes='self'"):
        LabelTree.from_paths(rows)
    tree = LabelTree.from_paths(rows, inner_classes="self")
    assert tree.paths() == [("animal", "animal (self)"), ("animal", "cat"), ("car", "taxi")]
    edges = [("r", "a"), ("a", "b"), ("r", "c")]
    assert LabelTree.from_edges(edges, classes=["a", "b", "c"], inner_classes="self").names() == (
        "a (self)", "b", "c")  # fmt: skip


def test_chosen_classes_cut_the_tree():
    edges = [("r", "a"), ("a", "b"), ("a", "c"), ("r", "d"), ("d", "e")]
    assert LabelTree.from_edges(edges, classes=["c", "b"]).paths() == [("a", "c"), ("a", "b")]


def test_one_level_and_levels_of_one_class():
    flat = LabelTree.from_paths([("a",), ("b",), ("c",)])
    assert flat.num_levels == 1
    assert torch.equal(flat.distance(), 1 - torch.eye(3))
    narrow = LabelTree.from_paths([("all", "a"), ("all", "b")])
    assert narrow.sizes == (1, 2)
    assert narrow.distance().tolist() == [[0, 1], [1, 0]]


def test_the_same_name_at_two_levels_is_two_nodes():
    tree = LabelTree.from_paths([("Eurofighter", "Eurofighter"), ("Boeing", "737"), ("Boeing", "747")])
    assert tree.names(1) == ("Boeing", "Eurofighter")


def test_levels_keep_a_data_sets_numbers():
    tree = LabelTree.from_levels([[2, 0, 1, 2], [0, 1, 2, 3]])
    assert tree.ancestors.tolist() == [[2, 0, 1, 2], [0, 1, 2, 3]]
    assert tree.names(1) == ("1:0", "1:1", "1:2")
    assert LabelTree.from_levels(torch.tensor([[0, 0], [0, 1]])).names() == ("2:0", "2:1")


def test_a_csv_with_chosen_columns(tmp_path):
    file = tmp_path / "a.csv"
    file.write_text("variant;note;maker\n737-200;x;Boeing\nA320;y;Airbus\n", encoding="utf-8-sig")
    tree = LabelTree.from_csv(file, columns=["maker", "variant"], delimiter=";")
    assert tree.paths() == [("Boeing", "737-200"), ("Airbus", "A320")]


def test_what_it_gives_out_is_a_copy():
    tree = even_tree()
    before = tree.fingerprint()
    tree.ancestors.zero_()
    tree.distance().zero_()
    assert tree.fingerprint() == before
    assert tree.ancestors.any()


@pytest.mark.data
@pytest.mark.parametrize(
    ("file", "sizes"),
    [
        ("inaturalist19", (3, 4, 9, 34, 57, 72, 1010)),
        ("tiered_imagenet", (2, 5, 21, 35, 86, 159, 270, 422, 510, 584, 607, 608)),
    ],
)
def test_published_trees(data_root, file, sizes):
    """Classes by level as the specification gives them (section 1.2)."""
    tree = LabelTree.from_edges(data_root / "taxonomies" / f"{file}_isa.txt")
    assert tree.sizes == sizes
    share = float((tree.distance() != tree.distance(kind="height")).float().mean())
    assert share == pytest.approx(0.27 if file.startswith("tiered") else 0.0, abs=0.01)


@pytest.mark.data
def test_imagenet(data_root):
    tree = LabelTree.from_edges(data_root / "taxonomies" / "imagenet_isa.txt")
    assert (tree.num_classes, tree.num_levels) == (1000, 15)
    assert LabelTree.from_networkx(tree.to_networkx()).fingerprint() == tree.fingerprint()


def test_a_csv_may_end_its_lines_with_the_delimiter(tmp_path):
    (tmp_path / "t.csv").write_text("a,b\nx,y,\nz,v,\n")
    assert LabelTree.from_csv(tmp_path / "t.csv").paths() == [("x", "y"), ("z", "v")]


@pytest.mark.parametrize("kind", ["lca", "height", "path"])
def test_distances_do_not_hang_on_torchs_defaults(kind, default_dtype):
    tree = LabelTree.from_paths([("a",), ("b", "c"), ("b", "d", "e")])
    expected = tree.distance(kind=kind)
    for dtype in (torch.float64, torch.bfloat16):
        with default_dtype(dtype):
            assert torch.equal(tree.distance(kind=kind), expected)
            assert tree.distance(kind=kind).dtype == torch.float32
    with torch.device("meta"):  # stands for a GPU: a tree is on the CPU wherever new tensors go
        assert torch.equal(LabelTree.from_paths(tree.paths()).distance(kind=kind), expected)
        assert tree.align(["c", "a", "e"]).names() == ("c", "a", "e")
        assert tree.is_path(("a", "a", "a"))


@pytest.mark.parametrize("rows", [[("x",)], [("a", "x"), ("a", "y")], [("a", "x"), ("b", "y")]])
def test_the_largest_distance(rows):
    tree = LabelTree.from_paths(rows)
    assert tree.largest_distance == int(tree.distance().max())
