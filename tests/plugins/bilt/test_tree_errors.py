"""What a label tree refuses, by type and in words: the offending names are listed."""

import networkx as nx
import pytest
import torch

from graftkit.methods.bilt import LabelTree
from tests.plugins.bilt.cases import SMALL


@pytest.mark.parametrize(
    ("parents", "message"),
    [
        ({"a": "b", "b": "c", "c": "a", "d": "r"}, r"got a cycle: 'a' -> 'b' -> 'c' -> 'a'"),
        ({"a": "a"}, r"got a cycle: 'a' -> 'a'"),
        ({"a": "r", "b": "s"}, r"root: expected one node without a parent, got 2: 'r', 's'"),
        ({}, r"parents: expected at least one node, got none"),
        ({"r": None}, None),
        ({"a": "b", "c": None}, r"every parent to be a key where some map to None, got unknown 'b'"),
    ],
)
def test_parent_maps(parents, message):
    if message is None:
        assert LabelTree.from_parents(parents).sizes == (1,)
        return
    with pytest.raises(ValueError, match=message):
        LabelTree.from_parents(parents)


def test_two_parents_are_named_with_both():
    with pytest.raises(ValueError, match=r"one parent a node, got two or more for 'c' under 'a', 'b'"):
        LabelTree.from_edges([("r", "a"), ("r", "b"), ("a", "c"), ("b", "c")])
    with pytest.raises(ValueError, match=r"got two or more for 'c' under 'a', 'b'"):
        LabelTree.from_networkx(nx.DiGraph([("r", "a"), ("r", "b"), ("a", "c"), ("b", "c")]))
    with pytest.raises(ValueError, match=r"two or more for 'DC-9' under 'Douglas', 'Boeing'"):
        LabelTree.from_paths([("Douglas", "DC-9", "x"), ("Boeing", "DC-9", "y")])
    with pytest.raises(ValueError, match=r"two or more for 'x' of level 2"):
        LabelTree([["a", "b"], ["x"], ["p", "q"]], [[0, 1], [0, 0], [0, 1]])


def test_roots_and_graphs():
    graph = nx.DiGraph([("r", "a"), ("r", "b")])
    graph.add_node("stray")
    with pytest.raises(ValueError, match=r"one node without a parent, got 2: .*'stray'"):
        LabelTree.from_networkx(graph)
    with pytest.raises(TypeError, match=r"graph: expected a networkx.DiGraph"):
        LabelTree.from_networkx(nx.Graph([("a", "b")]))
    with pytest.raises(TypeError, match=r"graph: expected a networkx.DiGraph"):
        LabelTree.from_networkx([("a", "b")])
    with pytest.raises(TypeError, match=r"nodes that are strings"):
        LabelTree.from_networkx(nx.DiGraph([(1, 2)]))
    with pytest.raises(ValueError, match=r"cycle"):
        LabelTree.from_networkx(nx.DiGraph([("r", "a"), ("x", "y"), ("y", "x")]))


@pytest.mark.parametrize(
    ("rows", "error", "message"),
    [
        ([], ValueError, r"paths: expected at least one row, got none"),
        ([()], ValueError, r"at least one name in row 0"),
        ([("a", "x"), ("a", "x")], ValueError, r"each class once, got duplicates 'x'"),
        ([("a", "x"), ("x",)], ValueError, r"each name once, got duplicates 'x'"),
        ([("a", "x"), ("b", "x")], ValueError, r"one parent a name and level, got two or more for 'x'"),
        ([("a", float("nan"))], TypeError, r"a string in row 0, level 2, got nan"),
        ([("a", 3)], TypeError, r"a string in row 0, level 2, got 3"),
        ([("a", " ")], ValueError, r"a name in row 0, level 2, got an empty one"),
        (["ab"], TypeError, r"a sequence of names in row 0"),
        ("ab", TypeError, r"an iterable of rows"),
        (7, TypeError, r"an iterable of rows"),
    ],
)
def test_paths(rows, error, message):
    with pytest.raises(error, match=message):
        LabelTree.from_paths(rows)


@pytest.mark.parametrize(
    ("text", "columns", "message"),
    [
        ("a,b\nx,NaN\n", None, r"line 2 of t.csv, got empty or NaN cells in 'b'"),
        ("a,b\nx,y\nz,v, w\n", None, r"expected 2 cells in line 3 of t.csv, got more. Quote names with ','"),
        ("a,a\nx,y\n", None, r"a column of each name, got two or more of 'a'"),
        ("a,b\n,y\n", None, r"empty or NaN cells in 'a'"),
        ("a,b\n,\n", None, r"empty or NaN cells in 'a', 'b'"),
        ("a,b\nx,y\n", ["a", "c"], r"some of 'a', 'b', got unknown 'c'"),
        ("a,b\n", None, r"at least one row"),
    ],
)
def test_csv_files(tmp_path, text, columns, message):
    file = tmp_path / "t.csv"
    file.write_text(text)
    with pytest.raises(ValueError, match=message):
        LabelTree.from_csv(file, columns)


def test_edges():
    with pytest.raises(ValueError, match=r"at least one, got none"):
        LabelTree.from_edges([])
    with pytest.raises(TypeError, match=r"a pair \(parent, child\) at position 1"):
        LabelTree.from_edges([("a", "b"), ("c",)])
    with pytest.raises(TypeError, match=r"two strings at position 0"):
        LabelTree.from_edges([("a", 1)])
    with pytest.raises(TypeError, match=r"pairs \(parent, child\) or a path"):
        LabelTree.from_edges(3)
    with pytest.raises(FileNotFoundError, match="nowhere"):
        LabelTree.from_edges("nowhere.txt")


def test_edge_files_name_the_line(tmp_path):
    file = tmp_path / "isa.txt"
    file.write_text("a b\na b c\n")
    with pytest.raises(ValueError, match=r"'parent child' in line 2, got 'a b c'"):
        LabelTree.from_edges(file)


def test_chosen_classes():
    edges = [("r", "a"), ("a", "b")]
    with pytest.raises(ValueError, match=r"got unknown 'z'"):
        LabelTree.from_edges(edges, classes=["b", "z"])
    with pytest.raises(ValueError, match=r"got duplicates 'b'"):
        LabelTree.from_edges(edges, classes=["b", "b"])
    with pytest.raises(ValueError, match=r"ancestor of another, got 'a'"):
        LabelTree.from_edges(edges, classes=["a", "b"])
    with pytest.raises(ValueError, match=r"at least one class below the root, got none"):
        LabelTree.from_edges(edges, classes=[])
    with pytest.raises(ValueError, match=r"got the root alone"):
        LabelTree.from_edges(edges, classes=["r"])


@pytest.mark.parametrize(
    ("key", "value", "error", "message"),
    [
        ("pad", "zero", ValueError, r"pad: expected one of 'repeat', 'error'"),
        ("inner_classes", "Self", ValueError, r"Did you mean 'self'"),
        ("collapse_unary", 1, TypeError, r"collapse_unary: expected True or False"),
    ],
)
def test_policies(key, value, error, message):
    with pytest.raises(error, match=message):
        LabelTree.from_edges([("r", "a"), ("r", "b")], **{key: value})


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        (["cat", "dog"], ValueError, r"got 'wolf', 'car', 'bus' missing and none unknown"),
        (["cat", "dog", "wolf", "car", "bus", "tram"], ValueError, r"none missing and 'tram' unknown"),
        ({"cat": 0, "dog": 1, "wolf": 1, "car": 3, "bus": 4}, ValueError, r"other numbers for 'dog', 'wolf'"),
        ({"cat": 0, "dog": 1, "wolf": 2, "car": 3, "bus": 5}, ValueError, r"other numbers for 'bus'"),
        (["cat", "cat", "wolf", "car", "bus", "dog"], ValueError, r"each name once, got 'cat' twice"),
        ("cat", TypeError, r"a mapping or a sequence"),
        (5, TypeError, r"a mapping or a sequence"),
    ],
)
def test_aligning(given, error, message):
    with pytest.raises(error, match=message):
        SMALL.align(given)


@pytest.mark.parametrize(
    ("table", "error", "message"),
    [
        ([[0, 1], [1, 0]], ValueError, r"the last row to be 0 to 1"),
        ([[0.0, 0.0], [0.0, 1.0]], TypeError, r"ancestors: expected integers"),
        ([[0, -1], [0, 1]], ValueError, r"numbers from 0, got -1"),
        ([0, 1], ValueError, r"shape \(H, C_H\)"),
        ([[0, 2, 2], [0, 1, 2]], ValueError, r"got none below '1:1' of level 1"),
        # Names for 2 ** 40 nodes would fill the memory.
        (
            [[0, 2**40], [0, 1]],
            ValueError,
            r"numbers below 2, the finest classes, got 1099511627776",
        ),
    ],
)
def test_levels(table, error, message):
    with pytest.raises(error, match=message):
        LabelTree.from_levels(table)


def test_names():
    with pytest.raises(ValueError, match=r"got 'x' twice at level 2"):
        LabelTree([["a"], ["x", "x"]], [[0, 0], [0, 1]])
    with pytest.raises(ValueError, match=r"one sequence for each of 2 levels"):
        LabelTree([["x", "y"]], [[0, 0], [0, 1]])
    with pytest.raises(ValueError, match=r"numbers below 1 at level 1"):
        LabelTree([["a"], ["x", "y"]], [[0, 1], [0, 1]])
    with pytest.raises(TypeError, match=r"strings at level 1"):
        LabelTree([[1], ["x", "y"]], [[0, 0], [0, 1]])


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"format": "other/1"}'])
def test_json(text):
    with pytest.raises(ValueError, match=r"text: expected the JSON of a LabelTree"):
        LabelTree.from_json(text)


def test_json_with_numbers_out_of_range():
    with pytest.raises(ValueError, match=r"text: .*parents: expected an integer in \[0, 0\], got 4"):
        LabelTree.from_json('{"format": "graftkit.LabelTree/1", "names": [["a"], ["b"]], "parents": [[4]]}')


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: SMALL.names(0), ValueError, r"level: expected 1 to 3 or -3 to -1; the root is no level"),
        (lambda: SMALL.names(4), ValueError, r"level: expected an integer in \[-3, 3\]"),
        (lambda: SMALL.names("1"), TypeError, r"level: expected an integer"),
        (
            lambda: SMALL.distance(kind="lcs"),
            ValueError,
            r"kind: .*'lca', 'height', 'path'.*Did you mean 'lca'",
        ),
        (lambda: SMALL.is_path((0, 0)), ValueError, r"3 entries"),
        (lambda: SMALL.is_path(("animal", "pet", "cow")), ValueError, r"a name of level 3, got 'cow'"),
        (lambda: SMALL.is_path((0, 0, 1.5)), TypeError, r"names or integers"),
        (lambda: SMALL.is_path(torch.tensor([[0, 0, 5]])), ValueError, r"0 to 4 at level 3, got 5"),
        (lambda: SMALL.is_path(torch.tensor([0, 0, 5])), ValueError, r"shape \(B, 3\)"),
    ],
)
def test_questions(call, error, message):
    with pytest.raises(error, match=message):
        call()


@pytest.mark.parametrize("names", [3, [None], "ab", [7]])
def test_names_that_are_none(names):
    with pytest.raises(TypeError, match=r"names: expected"):
        LabelTree.from_levels([[0, 1]], names=names)


@pytest.mark.parametrize(
    ("parents", "message"),
    [
        ("[[0.5, 1.2]]", r"parents: expected an integer in \[0, 1\], got 0.5"),
        ("[[true, false]]", r"got True"),
        ("[[99999999999999999999, 0]]", r"got 99999999999999999999"),
        ("[[-1, 0]]", r"got -1"),
    ],
)
def test_json_whose_parents_are_no_numbers_of_nodes(parents, message):
    text = '{"format": "graftkit.LabelTree/1", "names": [["a", "b"], ["x", "y"]], "parents": %s}'
    assert LabelTree.from_json(text % "[[1, 0]]").ancestors.tolist() == [[1, 0], [0, 1]]
    with pytest.raises(ValueError, match=r"text: expected the JSON of a LabelTree.*" + message):
        LabelTree.from_json(text % parents)


def test_one_string_for_columns(tmp_path):
    (tmp_path / "t.csv").write_text("a,b\nx,y\n")
    with pytest.raises(TypeError, match=r"columns: expected a sequence of column names.*got 'ab'"):
        LabelTree.from_csv(tmp_path / "t.csv", columns="ab")


def test_predictions_and_names_of_odd_types():
    tree = LabelTree.from_paths([("a", "x"), ("b", "y")])
    for dtype in (torch.float32, torch.bool):
        with pytest.raises(TypeError, match=r"predictions: expected integers, got Tensor"):
            tree.is_path(torch.ones(3, 2, dtype=dtype))
    assert tree.is_path(torch.ones(1, 2, dtype=torch.int32)).tolist() == [True]
    with pytest.raises(TypeError, match=r"class_to_idx: expected a mapping or a sequence.*got \['x'\]"):
        tree.align([["x"], "y"])


def test_names_that_a_csv_file_would_not_give_back(tmp_path):
    tree = LabelTree.from_paths([("bread", "nan"), ("bread", " pita"), ("cake", "pie")])
    with pytest.raises(ValueError, match=r"got 'nan', ' pita'\. to_json keeps every name"):
        tree.to_csv(tmp_path / "t.csv")
    assert list(tmp_path.iterdir()) == []
    assert LabelTree.from_json(tree.to_json()) == tree
