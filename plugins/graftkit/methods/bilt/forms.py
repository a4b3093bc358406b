"""A label tree in other forms: JSON, CSV, a networkx graph, and the hash that tells trees apart.

>>> from graftkit.methods.bilt.tree import LabelTree
>>> tree = LabelTree.from_paths([("animal", "cat"), ("vehicle", "car")])
>>> LabelTree.from_json(tree.to_json()) == tree
True
"""

import csv
import hashlib
import io
import json
import os
from collections.abc import Sequence
from typing import Any, Self

import numpy as np
from torch import Tensor

from graftkit.core.extras import require
from graftkit.core.files import whole_file
from graftkit.core.validation import check_integer, raise_invalid
from graftkit.methods.bilt.growth import listed

__all__ = ["TreeForms"]

FORMAT = "graftkit.LabelTree/1"


class TreeForms:
    """What `LabelTree` writes and, from JSON, reads."""

    _names: tuple[tuple[str, ...], ...]

    def __init__(self, names: Sequence[Sequence[str]], ancestors: Any) -> None:
        raise NotImplementedError

    def lineage(self, level: int) -> Tensor:
        """As in `LabelTree`."""
        raise NotImplementedError

    def paths(self) -> list[tuple[str, ...]]:
        """As in `LabelTree`."""
        raise NotImplementedError

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Read what `to_json` wrote.

        Parameters
        ----------
        text : str
            JSON.

        Returns
        -------
        LabelTree
            The tree.

        Raises
        ------
        TypeError
            If `text` is no string.
        ValueError
            If this is no label tree.
        """
        if not isinstance(text, str):
            raise_invalid("text", text, "a string of JSON", error=TypeError)
        try:
            stored = json.loads(text)
            if stored["format"] != FORMAT:
                raise ValueError("another format")
            row = np.arange(len(stored["names"][-1]))
            rows = [row]
            for parents in reversed(stored["parents"]):
                numbers = [check_integer("parents", k, low=0, high=len(row) - 1) for k in parents]
                row = np.asarray(numbers, dtype=np.int64)[row]
                rows.append(row)
            return cls(stored["names"], np.stack(rows[::-1]))
        except (json.JSONDecodeError, KeyError, IndexError, TypeError, ValueError) as error:
            raise ValueError(
                f"text: expected the JSON of a LabelTree, got {text[:40]!r} ({error})"
            ) from error

    def to_json(self) -> str:
        """Write as JSON.

        Returns
        -------
        str
            What `from_json` reads.
        """
        parents = [self.lineage(h)[-2].tolist() for h in range(2, len(self._names) + 1)]
        return json.dumps({"format": FORMAT, "names": self._names, "parents": parents}, ensure_ascii=False)

    def to_csv(self, path: str | os.PathLike[str]) -> None:
        """Write one line a class, with columns level_1 to level_H; the file is there whole or not at all.

        Parameters
        ----------
        path : str or path-like
            The target.

        Raises
        ------
        ValueError
            If `from_csv` would not read a name back: it is empty, "nan", or has spaces around it.
        """
        names = dict.fromkeys(name for level in self._names for name in level)
        odd = [name for name in names if not name or name != name.strip() or name.lower() == "nan"]
        if odd:
            raise ValueError("names: expected none that is empty, 'nan' or has spaces around it, got "
                             f"{listed(odd)}. to_json keeps every name")  # fmt: skip
        text = io.StringIO(newline="")
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(f"level_{h}" for h in range(1, len(self._names) + 1))
        writer.writerows(self.paths())
        with whole_file(path) as file:
            file.write(text.getvalue().encode())

    def to_networkx(self) -> Any:
        """Write as a rooted graph whose nodes are (level, number) with their names as ``name``.

        Returns
        -------
        networkx.DiGraph
            What `from_networkx` reads.

        Raises
        ------
        ImportError
            If networkx is not installed; torch brings it.
        """
        graph = require("networkx", extra="all").DiGraph()
        graph.add_node((0, 0), name="root")
        for h, names in enumerate(self._names, start=1):
            parents = self.lineage(h)[-2].tolist() if h > 1 else [0] * len(names)
            for k, name in enumerate(names):
                graph.add_node((h, k), name=name)
                graph.add_edge((h - 1, parents[k]), (h, k))
        return graph

    def fingerprint(self) -> str:
        """A hash of names, numbers and structure, the same on every machine.

        Returns
        -------
        str
            64 hexadecimal digits.
        """
        return hashlib.sha256(self.to_json().encode()).hexdigest()
