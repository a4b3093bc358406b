"""The ways into a label tree: rows of names, CSV files, parent maps, is-a lists, graphs.

>>> from graftkit.methods.bilt.tree import LabelTree
>>> LabelTree.from_parents({"cat": "animal", "dog": "animal", "animal": None, "vehicle": None})
LabelTree(levels=2, classes=2/3)
"""

import os
from collections.abc import Mapping, Sequence
from typing import Any, Self

from graftkit.core.validation import raise_invalid
from graftkit.methods.bilt.growth import grow, listed, parents_of_edges
from graftkit.methods.bilt.sources import read_edges, read_graph, read_rows, rows_to_parents

__all__ = ["TreeConstructors"]


class TreeConstructors:
    """Class methods of `LabelTree`; the policies that they share are described there."""

    def __init__(self, names: Sequence[Sequence[str]], ancestors: Any) -> None:
        raise NotImplementedError

    @classmethod
    def from_paths(
        cls,
        paths: Any,
        *,
        pad: str = "repeat",
        collapse_unary: bool = False,
        inner_classes: str = "error",
    ) -> Self:
        """Build from one row of names a class, coarse to fine.

        Parameters
        ----------
        paths : iterable of sequences of str
            Row i is class i. The same name at two levels is two nodes.
        pad : {"repeat", "error"}, default="repeat"
            See the class.
        collapse_unary : bool, default=False
            See the class.
        inner_classes : {"error", "self"}, default="error"
            See the class.

        Returns
        -------
        LabelTree
            The tree.
        """
        parents, classes = rows_to_parents(paths)
        label = {node: node[1] for node in parents}
        names, ancestors = grow(parents, has_root=False, classes=classes, label=label, pad=pad,
                                collapse_unary=collapse_unary, inner_classes=inner_classes)  # fmt: skip
        return cls(names, ancestors)

    @classmethod
    def from_csv(
        cls,
        path: str | os.PathLike[str],
        columns: Sequence[str] | None = None,
        *,
        delimiter: str = ",",
        pad: str = "repeat",
        collapse_unary: bool = False,
        inner_classes: str = "error",
    ) -> Self:
        """Build from a CSV file with a header and one line a class.

        Parameters
        ----------
        path : str or path-like
            The file.
        columns : sequence of str or None, default=None
            Columns from coarse to fine; None takes all of them.
        delimiter : str, default=","
            Between cells.
        pad : {"repeat", "error"}, default="repeat"
            See the class; empty cells at the end of a line make a short branch.
        collapse_unary : bool, default=False
            See the class.
        inner_classes : {"error", "self"}, default="error"
            See the class.

        Returns
        -------
        LabelTree
            The tree.
        """
        rows = read_rows(path, columns, delimiter)
        return cls.from_paths(rows, pad=pad, collapse_unary=collapse_unary, inner_classes=inner_classes)

    @classmethod
    def from_parents(
        cls,
        parents: Mapping[str, str | None],
        *,
        classes: Sequence[str] | None = None,
        pad: str = "repeat",
        collapse_unary: bool = False,
        inner_classes: str = "error",
    ) -> Self:
        """Build from a map of child to parent.

        Parameters
        ----------
        parents : mapping of str to str or None
            None marks the nodes of level 1. Without any None the one node that has no parent is the root,
            which is no level.
        classes : sequence of str or None, default=None
            The finest classes in order; None takes the leaves in the order of the map.
        pad : {"repeat", "error"}, default="repeat"
            See the class.
        collapse_unary : bool, default=False
            See the class.
        inner_classes : {"error", "self"}, default="error"
            See the class.

        Returns
        -------
        LabelTree
            The tree.

        Raises
        ------
        TypeError
            If this is no mapping of strings.
        ValueError
            If a parent is missing beside parents that are None.
        """
        if not isinstance(parents, Mapping):
            raise_invalid("parents", parents, "a mapping of child to parent", error=TypeError)
        if not parents:
            raise ValueError("parents: expected at least one node, got none")
        for child, parent in parents.items():
            if not isinstance(child, str) or not (parent is None or isinstance(parent, str)):
                raise_invalid("parents", (child, parent), "names or None", error=TypeError)
        declared = any(parent is None for parent in parents.values())
        unknown = {parent for parent in parents.values() if parent is not None and parent not in parents}
        if declared and unknown:
            raise ValueError("parents: expected every parent to be a key where some map to None, got unknown "
                             f"{listed(sorted(unknown))}")  # fmt: skip
        names, ancestors = grow(parents, has_root=not declared, classes=classes, pad=pad,
                                collapse_unary=collapse_unary, inner_classes=inner_classes)  # fmt: skip
        return cls(names, ancestors)

    @classmethod
    def from_edges(
        cls,
        edges: Any,
        *,
        classes: Sequence[str] | None = None,
        pad: str = "repeat",
        collapse_unary: bool = False,
        inner_classes: str = "error",
    ) -> Self:
        """Build from is-a pairs, or from a file with "parent child" a line.

        Parameters
        ----------
        edges : iterable of (str, str), str or path-like
            Parent and child; there is one root, which is no level.
        classes : sequence of str or None, default=None
            The finest classes in order; None takes the leaves in the order of the pairs. Branches without a
            class are left out.
        pad : {"repeat", "error"}, default="repeat"
            See the class.
        collapse_unary : bool, default=False
            See the class.
        inner_classes : {"error", "self"}, default="error"
            See the class.

        Returns
        -------
        LabelTree
            The tree.
        """
        parents = parents_of_edges(read_edges(edges))
        names, ancestors = grow(parents, has_root=True, classes=classes, pad=pad,
                                collapse_unary=collapse_unary, inner_classes=inner_classes)  # fmt: skip
        return cls(names, ancestors)

    @classmethod
    def from_networkx(
        cls,
        graph: Any,
        *,
        classes: Sequence[Any] | None = None,
        pad: str = "repeat",
        collapse_unary: bool = False,
        inner_classes: str = "error",
    ) -> Self:
        """Build from a rooted directed graph.

        Parameters
        ----------
        graph : networkx.DiGraph
            Edges run from parent to child; a node's ``name`` attribute, if any, is its name.
        classes : sequence of nodes or None, default=None
            The finest classes in order; None takes the leaves in the graph's order.
        pad : {"repeat", "error"}, default="repeat"
            See the class.
        collapse_unary : bool, default=False
            See the class.
        inner_classes : {"error", "self"}, default="error"
            See the class.

        Returns
        -------
        LabelTree
            The tree.
        """
        edges, label, leaves = read_graph(graph)
        parents: dict[Any, Any] = parents_of_edges(edges)
        inner = set(parents.values())
        alone = [node for node in label if node not in parents and node not in inner]  # second roots, refused
        parents.update(dict.fromkeys(alone))
        names, ancestors = grow(parents, has_root=True, classes=leaves if classes is None else classes,
                                label=label, pad=pad, collapse_unary=collapse_unary,
                                inner_classes=inner_classes)  # fmt: skip
        return cls(names, ancestors)
