"""The tree of labels: from which names come, how classes hang together, how far apart they are.

Level 0 is the root, levels 1 to H are classes, H the finest. Every level is a partition of the finest
classes; branches that end early are extended by their own leaf (specification section 1.2).

>>> tree = LabelTree.from_paths([("animal", "cat"), ("animal", "dog"), ("vehicle", "car")])
>>> tree, tree.names(1), tree.distance()[0].tolist()
(LabelTree(levels=2, classes=2/3), ('animal', 'vehicle'), [0.0, 1.0, 2.0])
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from numbers import Integral
from typing import Any

import torch
from torch import Tensor

from graftkit.core.validation import check_choice, check_integer, raise_invalid
from graftkit.methods.bilt.alignment import places_of
from graftkit.methods.bilt.constructors import TreeConstructors
from graftkit.methods.bilt.distances import lca_distance, sibling_depths
from graftkit.methods.bilt.forms import TreeForms
from graftkit.methods.bilt.level_checks import ancestor_table, check_levels

__all__ = ["LabelTree"]


class LabelTree(TreeConstructors, TreeForms):
    """A tree over classes, in levels, unchanging.

    The constructors `from_paths`, `from_csv`, `from_parents`, `from_edges`, `from_networkx`, `from_levels`
    and `from_json` are the usual ways in. They share the policies ``pad`` ("repeat" extends short branches
    by their leaf, "error" refuses them), ``collapse_unary`` (True removes inner nodes with one child) and
    ``inner_classes`` ("error" refuses a class that is an ancestor of another, "self" gives it a child
    "<name> (self)"). Coarse classes are numbered by name, finest classes in the order given.

    Parameters
    ----------
    names : sequence of sequences of str
        Class names by level, coarse to fine.
    ancestors : array-like of int, shape (H, C_H)
        For each finest class the number of its ancestor at every level; the last row is 0 to C_H - 1.

    Raises
    ------
    TypeError
        If names are no strings or numbers no integers.
    ValueError
        If the arrays contradict each other, a name comes twice in a level or a node has two parents.
    """

    def __init__(self, names: Sequence[Sequence[str]], ancestors: Any) -> None:
        table = ancestor_table(ancestors)
        self._names = check_levels(names, table)
        self._ancestors = torch.from_numpy(table)

    @classmethod
    def from_levels(cls, ancestors: Any, names: Sequence[Sequence[str]] | None = None) -> LabelTree:
        """Build from numbers, such as a data set's own coarse labels, which are kept.

        Parameters
        ----------
        ancestors : array-like of int, shape (H, C_H)
            See the class.
        names : sequence of sequences of str or None, default=None
            Names by level; None makes some up, such as "2:07".

        Returns
        -------
        LabelTree
            The tree.
        """
        table = ancestor_table(ancestors)
        if names is None:
            sizes = [int(row.max()) + 1 for row in table]
            names = [[f"{h}:{k:0{len(str(n - 1))}d}" for k in range(n)] for h, n in enumerate(sizes, 1)]
        return cls(names, table)

    # -- what it knows -----------------------------------------------------------------------------

    @property
    def num_levels(self) -> int:
        """Number of levels H; the root is none."""
        return len(self._names)

    @property
    def num_classes(self) -> int:
        """Number of finest classes C_H."""
        return len(self._names[-1])

    @property
    def sizes(self) -> tuple[int, ...]:
        """Classes by level, coarse to fine."""
        return tuple(map(len, self._names))

    @property
    def largest_distance(self) -> int:
        """The largest entry of `distance`: levels below the last one that is a single class."""
        return sum(size > 1 for size in self.sizes)

    @property
    def ancestors(self) -> Tensor:
        """Ancestors of the finest classes, an int64 tensor of shape (H, C_H), as a copy."""
        return self._ancestors.clone()

    def names(self, level: int = -1) -> tuple[str, ...]:
        """Names of a level.

        Parameters
        ----------
        level : int, default=-1
            1 to H, or from the finest, -1 to -H.

        Returns
        -------
        tuple of str
            In the order of the class numbers.
        """
        return self._names[self.level(level) - 1]

    def level(self, level: int) -> int:
        """Turn a level that may count from the finest into 1 to H.

        Parameters
        ----------
        level : int
            1 to H or -H to -1.

        Returns
        -------
        int
            1 to H.

        Raises
        ------
        TypeError
            If it is no integer.
        ValueError
            If there is no such level.
        """
        number = check_integer("level", level, low=-self.num_levels, high=self.num_levels)
        if number == 0:
            raise_invalid(
                "level", 0, f"1 to {self.num_levels} or -{self.num_levels} to -1; the root is no level"
            )
        return number if number > 0 else self.num_levels + 1 + number

    def lineage(self, level: int) -> Tensor:
        """Ancestors of the classes of one level, at that level and above.

        Parameters
        ----------
        level : int
            1 to H or -H to -1.

        Returns
        -------
        Tensor of shape (h, C_h)
            The last row is 0 to C_h - 1.
        """
        h = self.level(level)
        table = self._ancestors.new_empty(h, self.sizes[h - 1])
        table[:, self._ancestors[h - 1]] = self._ancestors[:h]
        return table

    def distance(self, level: int = -1, kind: str = "lca") -> Tensor:
        """Distances of all pairs of one level.

        Parameters
        ----------
        level : int, default=-1
            1 to H or -H to -1.
        kind : {"lca", "height", "path"}, default="lca"
            "lca" climbs from the level to the common ancestor, padding counted, and is what the method and
            its metrics use. "height" is the height of the subtree below the common ancestor and "path" the
            number of edges between the two, padding not counted.

        Returns
        -------
        Tensor of shape (C_h, C_h)
            float32.

        Raises
        ------
        ValueError
            If `kind` or `level` is unknown.
        """
        check_choice("kind", kind, ("lca", "height", "path"))
        lineage = self.lineage(level)
        return lca_distance(lineage) if kind == "lca" else sibling_depths(lineage, self._ends(lineage), kind)

    def _ends(self, lineage: Tensor) -> Tensor:
        """The level at which each branch really ends: below it the same name repeats alone."""
        ends = lineage.new_full(lineage.shape[1:], len(lineage))
        still = torch.ones_like(ends, dtype=torch.bool)
        for h in range(len(lineage) - 1, 0, -1):
            above = lineage[h - 1]
            names = [self._names[h - 1][k] for k in above.tolist()]
            own = self._names[len(lineage) - 1]
            same = torch.tensor([a == b for a, b in zip(names, own, strict=True)], device=lineage.device)
            still &= same & (torch.bincount(above)[above] == 1)
            ends[still] = h
        return ends

    def is_path(self, predictions: Any) -> Any:
        """Tell whether predictions, one a level, lie on one way from the root.

        Parameters
        ----------
        predictions : sequence of H ints or names, or Tensor of shape (B, H)
            Coarse to fine.

        Returns
        -------
        bool or Tensor of shape (B,)
            True where they do.

        Raises
        ------
        TypeError
            If this is neither.
        ValueError
            If a name is unknown, a number out of range or the length is not H.
        """
        if not isinstance(predictions, Tensor | Sequence):
            raise_invalid("predictions", predictions, "a sequence or a tensor", error=TypeError)
        if not isinstance(predictions, Tensor):
            if len(predictions) != self.num_levels:
                raise_invalid("predictions", predictions, f"{self.num_levels} entries, one a level")
            numbers = [self._number(entry, h) for h, entry in enumerate(predictions)]
            return bool(self.is_path(self._ancestors.new_tensor([numbers]))[0])
        if predictions.ndim != 2 or predictions.shape[1] != self.num_levels:
            raise_invalid("predictions", predictions, f"shape (B, {self.num_levels})")
        if predictions.dtype not in (torch.int64, torch.int32, torch.int16, torch.int8):
            raise_invalid("predictions", predictions, "integers", error=TypeError)
        predictions = predictions.long()
        for h, size in enumerate(self.sizes):
            outside = predictions[:, h][(predictions[:, h] < 0) | (predictions[:, h] >= size)]
            if outside.numel():
                raise_invalid("predictions", int(outside[0]), f"0 to {size - 1} at level {h + 1}")
        finest = predictions[:, -1]
        return (predictions == self._ancestors.to(predictions.device)[:, finest].T).all(1)

    def _number(self, entry: Any, h: int) -> int:
        if isinstance(entry, str):
            if entry not in self._names[h]:
                raise_invalid("predictions", entry, f"a name of level {h + 1}")
            return self._names[h].index(entry)
        if isinstance(entry, bool) or not isinstance(entry, Integral):
            raise_invalid("predictions", entry, "names or integers", error=TypeError)
        return int(entry)

    def paths(self) -> list[tuple[str, ...]]:
        """One row of names a finest class, coarse to fine.

        Returns
        -------
        list of tuple of str
            What `from_paths` takes.
        """
        columns = [[level[k] for k in row] for level, row in
                   zip(self._names, self._ancestors.tolist(), strict=True)]  # fmt: skip
        return list(zip(*columns, strict=True))

    def align(self, class_to_idx: Mapping[str, int] | Sequence[str]) -> LabelTree:
        """Renumber the finest classes as a data set numbers them; coarse numbers stay.

        Parameters
        ----------
        class_to_idx : mapping of str to int, or sequence of str
            As ``ImageFolder.class_to_idx``, or the names in order.

        Returns
        -------
        LabelTree
            A new tree.
        """
        places = places_of(self._names[-1], class_to_idx)
        order = self._ancestors.new_tensor(places).argsort()  # of a permutation: its inverse
        ancestors = self._ancestors[:, order]
        ancestors[-1] = self._ancestors[-1]
        return type(self)([*self._names[:-1], [self._names[-1][k] for k in order.tolist()]], ancestors)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, LabelTree):
            return NotImplemented
        return self._names == other._names and torch.equal(self._ancestors, other._ancestors)

    def __hash__(self) -> int:
        return hash(self.fingerprint())

    def __repr__(self) -> str:
        return f"LabelTree(levels={self.num_levels}, classes={'/'.join(map(str, self.sizes))})"
