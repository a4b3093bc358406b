"""Where label trees come from: rows of names, CSV files, lists of edges, graphs; each read to one shape.

>>> chains, labels = rows_to_parents([("animal", "cat"), ("animal", "dog")])
>>> chains[2, "cat"]
(1, 'animal')
"""

import csv
import os
from collections.abc import Hashable, Iterable, Sequence
from pathlib import Path
from typing import Any

from graftkit.core.files import readable_file
from graftkit.core.validation import check_iterable, raise_invalid
from graftkit.methods.bilt.growth import listed

__all__ = ["read_edges", "read_rows", "read_graph", "rows_to_parents"]

Parents = dict[Any, Any]


def rows_to_parents(rows: Iterable[Sequence[str]], name: str = "paths") -> tuple[Parents, list[Any]]:
    """Turn rows of names, coarse to fine, into a parent map whose nodes are (level, name).

    Parameters
    ----------
    rows : iterable of sequence of str
        One a class. Rows may differ in length.
    name : str, default="paths"
        The argument, for messages.

    Returns
    -------
    tuple of (dict, list)
        Parents, and the classes in the order of the rows.

    Raises
    ------
    TypeError
        If a row is no sequence or a cell no string; NaN is none.
    ValueError
        If there is no row, a cell is empty, a name has two parents or a class comes twice.
    """
    if hasattr(rows, "tolist"):  # an array, or the values of a data frame
        rows = rows.tolist()
    if isinstance(rows, str) or not isinstance(rows, Iterable):
        raise_invalid(name, rows, "an iterable of rows of names", error=TypeError)
    parents: Parents = {}
    classes: dict[Any, None] = {}
    torn: dict[str, list[str]] = {}
    twice = []
    for position, row in enumerate(rows):
        if isinstance(row, str) or not isinstance(row, Sequence):
            raise_invalid(name, row, f"a sequence of names in row {position}", error=TypeError)
        if not row:
            raise ValueError(f"{name}: expected at least one name in row {position}, got none")
        above = None
        for level, cell in enumerate(row, start=1):
            if not isinstance(cell, str):
                raise_invalid(name, cell, f"a string in row {position}, level {level}", error=TypeError)
            if not cell.strip():
                raise ValueError(
                    f"{name}: expected a name in row {position}, level {level}, got an empty one"
                )
            node = (level, cell)
            if parents.setdefault(node, above) != above:
                before = parents[node]
                torn.setdefault(cell, [before[1] if before else "the root"]).append(
                    above[1] if above else "the root"
                )
            above = node
        if above in classes:
            twice.append(row[-1])
        classes[above] = None
    if torn:
        shown = "; ".join(f"{child!r} under {listed(dict.fromkeys(up))}" for child, up in torn.items())
        raise ValueError(f"{name}: expected one parent a name and level, got two or more for {shown}")
    if twice:
        raise ValueError(f"{name}: expected each class once, got duplicates {listed(dict.fromkeys(twice))}")
    if not classes:
        raise ValueError(f"{name}: expected at least one row, got none")
    return parents, list(classes)


def read_rows(
    path: str | os.PathLike[str], columns: Sequence[str] | None, delimiter: str
) -> list[tuple[str, ...]]:
    """Read the named columns of a CSV file with a header; trailing empty cells make a short row.

    Parameters
    ----------
    path : str or path-like
        The file, UTF-8.
    columns : sequence of str or None
        Columns, coarse to fine; None takes all of them.
    delimiter : str
        Between cells.

    Returns
    -------
    list of tuple of str
        One a line.

    Raises
    ------
    TypeError
        If `columns` is one string.
    ValueError
        If a column is unknown or there twice, a line has more cells than the header, or an empty or NaN
        cell stands before a filled one.
    """
    if isinstance(columns, str):
        raise_invalid("columns", columns, "a sequence of column names, coarse to fine", error=TypeError)
    with (
        readable_file(path, "a CSV file with a header"),
        Path(path).open(encoding="utf-8-sig", newline="") as file,
    ):
        reader = csv.DictReader(file, delimiter=delimiter)
        header = [column for column in reader.fieldnames or [] if column is not None]
        wanted = list(columns) if columns is not None else header
        unknown = [column for column in wanted if column not in header]
        if unknown or not wanted:
            raise ValueError(f"columns: expected some of {listed(header)}, got unknown {listed(unknown)}")
        twice = [column for column in dict.fromkeys(wanted) if header.count(column) > 1]
        if twice:
            raise ValueError(f"path: expected a column of each name, got two or more of {listed(twice)}")
        rows = []
        for line in reader:
            if any(map(str.strip, line.pop(None, []))):
                raise ValueError(f"path: expected {len(header)} cells in line {reader.line_num} of "
                                 f"{Path(path).name}, got more. Quote names with {delimiter!r}")  # fmt: skip
            cells = [(line.get(column) or "").strip() for column in wanted]
            while cells and not cells[-1]:
                cells.pop()
            bad = [wanted[k] for k, cell in enumerate(cells) if not cell or cell.lower() == "nan"]
            if bad or not cells:
                raise ValueError(
                    f"path: expected names in line {reader.line_num} of {Path(path).name}, got empty or NaN "
                    f"cells in {listed(bad or wanted)}"
                )
            rows.append(tuple(cells))
    return rows


def read_edges(edges: Any) -> list[tuple[str, str]]:
    """Read (parent, child) pairs from an iterable, or from a file with one pair a line.

    Parameters
    ----------
    edges : iterable of (str, str), str or path-like
        Pairs, or the path of an is-a list.

    Returns
    -------
    list of (str, str)
        Parent and child.

    Raises
    ------
    TypeError
        If a pair is no pair of strings.
    ValueError
        If a line does not hold two names.
    """
    if isinstance(edges, str | os.PathLike):
        pairs = []
        with readable_file(edges, "'parent child' a line"):
            lines = Path(edges).read_text(encoding="utf-8").splitlines()
        for number, line in enumerate(lines, start=1):
            words = line.split()
            if words and len(words) != 2:
                raise ValueError(f"edges: expected 'parent child' in line {number}, got {line!r}")
            if words:
                pairs.append((words[0], words[1]))
        return pairs
    check_iterable("edges", edges, "pairs (parent, child) or a path")
    pairs = []
    for position, pair in enumerate(edges):
        if not isinstance(pair, Sequence) or isinstance(pair, str) or len(pair) != 2:
            raise_invalid("edges", pair, f"a pair (parent, child) at position {position}", error=TypeError)
        if not all(isinstance(end, str) for end in pair):
            raise_invalid("edges", pair, f"two strings at position {position}", error=TypeError)
        pairs.append((pair[0], pair[1]))
    return pairs


def read_graph(graph: Any) -> tuple[list[tuple[Hashable, Hashable]], dict[Hashable, str], list[Hashable]]:
    """Read a directed graph as networkx has it, without importing networkx.

    Parameters
    ----------
    graph : networkx.DiGraph
        Edges run from parent to child. A node's ``name`` attribute, where there is one, is its name.

    Returns
    -------
    tuple of (list, dict, list)
        Edges, names, and the leaves in the graph's order.

    Raises
    ------
    TypeError
        If this is no directed graph, or a name is no string.
    """
    if not all(hasattr(graph, part) for part in ("nodes", "edges", "is_directed")) or not graph.is_directed():
        raise_invalid("graph", graph, "a networkx.DiGraph with edges parent -> child", error=TypeError)
    label = {node: data.get("name", node) for node, data in graph.nodes(data=True)}
    for node, text in label.items():
        if not isinstance(text, str):
            raise_invalid("graph", node, "nodes that are strings or have a string as 'name'", error=TypeError)
    inner = {parent for parent, _ in graph.edges}
    return list(graph.edges), label, [node for node in graph.nodes if node not in inner]
