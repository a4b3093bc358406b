"""From parents to levels: the checks that make a list of edges a tree, and the padding of short branches.

Every source (paths, files, parent maps, graphs) becomes one map from node to parent, and this file turns it
into classes by level. A branch that ends early is extended downwards by its own leaf, as in the published
tieredImageNet-H tree (specification section 1.2); nodes on the way up keep their depth.

>>> names, ancestors = grow({"cat": "animal", "dog": "animal", "car": None, "animal": None}, has_root=False)
>>> names, ancestors.tolist()
((('animal', 'car'), ('cat', 'dog', 'car')), [[0, 0, 1], [0, 1, 2]])
"""

from collections.abc import Hashable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from graftkit.core.validation import check_bool, check_choice, raise_invalid

__all__ = ["grow", "listed", "parents_of_edges"]

Names = tuple[tuple[str, ...], ...]
IntArray = npt.NDArray[np.int64]
SHOWN = 8


def listed(names: Iterable[Any]) -> str:
    """Quote names for an error message, at most eight of them.

    Parameters
    ----------
    names : iterable
        The offending names.

    Returns
    -------
    str
        Such as ``"'a', 'b' and 3 more"``.
    """
    every = [repr(name) for name in names]
    more = f" and {len(every) - SHOWN} more" if len(every) > SHOWN else ""
    return ", ".join(every[:SHOWN]) + more


def parents_of_edges(edges: Iterable[tuple[Hashable, Hashable]]) -> dict[Hashable, Hashable]:
    """Turn (parent, child) pairs into a map from child to parent.

    Parameters
    ----------
    edges : iterable of (node, node)
        Parent first. The same pair twice is one edge.

    Returns
    -------
    dict
        Child to parent, in the order of the edges.

    Raises
    ------
    ValueError
        If a node has two parents or there is no edge; the message names the nodes.
    """
    parents: dict[Hashable, Hashable] = {}
    torn: dict[Hashable, list[Hashable]] = {}
    for parent, child in edges:
        if parents.setdefault(child, parent) != parent:
            torn.setdefault(child, [parents[child]]).append(parent)
    if torn:
        shown = "; ".join(f"{child!r} under {listed(above)}" for child, above in list(torn.items())[:SHOWN])
        raise ValueError(f"edges: expected one parent a node, got two or more for {shown}")
    if not parents:
        raise ValueError("edges: expected at least one, got none")
    return parents


def grow(
    parents: Mapping[Any, Any],
    *,
    has_root: bool,
    classes: Sequence[Any] | None = None,
    label: Mapping[Any, str] | None = None,
    pad: str = "repeat",
    collapse_unary: bool = False,
    inner_classes: str = "error",
) -> tuple[Names, IntArray]:
    """Check a parent map and lay it out in levels.

    Parameters
    ----------
    parents : mapping
        Node to parent; None, or a parent that is no key, stands for the top.
    has_root : bool
        True: exactly one node is at the top and is the root, which is no level. False: the nodes at the top
        are the classes of level 1.
    classes : sequence of nodes or None, default=None
        The finest classes, in order; None takes the leaves in the order of `parents`. Branches without a
        class are left out.
    label : mapping or None, default=None
        Node to printed name; None uses the nodes.
    pad : {"repeat", "error"}, default="repeat"
        What happens to a class above the deepest level.
    collapse_unary : bool, default=False
        True removes inner nodes with a single child.
    inner_classes : {"error", "self"}, default="error"
        What happens to a class that is an ancestor of another: "self" gives it a child "<name> (self)".

    Returns
    -------
    tuple of (names, ndarray of shape (H, C_H))
        Names by level, coarse to fine, and for each finest class its ancestor's index at every level.

    Raises
    ------
    TypeError
        If `collapse_unary` is no boolean or `classes` no sequence of nodes.
    ValueError
        If this is no tree, or the policies forbid it; the message lists the nodes.
    """
    check_choice("pad", pad, ("repeat", "error"))
    check_choice("inner_classes", inner_classes, ("error", "self"))
    check_bool("collapse_unary", collapse_unary)
    above: dict[Any, Any] = {}
    for node, parent in parents.items():
        above[node] = parent
        if parent is not None and parent not in parents:
            above[parent] = None
    text = {node: (label or {}).get(node, node) for node in above}
    _refuse_cycles(above, text)
    tops = [node for node, parent in above.items() if parent is None]
    if has_root and len(tops) != 1:
        raise ValueError(
            f"root: expected one node without a parent, got {len(tops)}: {listed(text[n] for n in tops)}. "
            "Give them a common parent"
        )
    root = tops[0] if has_root else None
    inner = {parent for parent in above.values() if parent is not None}
    if classes is None:
        classes = [node for node in parents if node not in inner and node != root]
    _check_classes(classes, above, text)
    chains = {node: _chain(node, above, root) for node in classes}
    _settle_inner(chains, text, inner_classes)
    if collapse_unary:
        children: dict[Any, set[Any]] = {}
        for chain in chains.values():
            for parent, child in zip([root, *chain], chain, strict=False):
                children.setdefault(parent, set()).add(child)
        chains = {
            node: [n for n in chain if n == chain[-1] or len(children[n]) > 1]
            for node, chain in chains.items()
        }
    return _lay_out(list(chains.values()), text, pad)


def _refuse_cycles(above: Mapping[Any, Any], text: Mapping[Any, str]) -> None:
    settled: set[Any] = set()
    for start in above:
        path: dict[Any, None] = {}
        node = start
        while node is not None and node not in settled:
            if node in path:
                loop = [*list(path)[list(path).index(node) :], node]
                shown = " -> ".join(repr(text[n]) for n in loop[: SHOWN + 1])
                raise ValueError(f"edges: expected a tree, got a cycle: {shown}")
            path[node] = None
            node = above[node]
        settled.update(path)


def _check_classes(classes: Sequence[Any], above: Mapping[Any, Any], text: Mapping[Any, str]) -> None:
    if isinstance(classes, str) or not isinstance(classes, Sequence):
        raise_invalid("classes", classes, "a sequence of nodes", error=TypeError)
    odd = [node for node in classes if not isinstance(node, Hashable)]
    if odd:
        raise_invalid("classes", odd[0], "a sequence of nodes", error=TypeError)
    if not classes:
        raise ValueError("classes: expected at least one class below the root, got none")
    unknown = [node for node in classes if node not in above]
    if unknown:
        raise ValueError(f"classes: expected names of the tree, got unknown {listed(unknown)}")
    seen: set[str] = set()
    twice = [name for name in (text[node] for node in classes) if name in seen or seen.add(name)]  # type: ignore[func-returns-value]
    if twice:
        raise ValueError(f"classes: expected each name once, got duplicates {listed(dict.fromkeys(twice))}")


def _chain(node: Any, above: Mapping[Any, Any], root: Any) -> list[Any]:
    """The nodes from level 1 to `node`; the root is left out."""
    chain = []
    while node is not None and node != root:
        chain.append(node)
        node = above[node]
    if not chain:
        raise ValueError("classes: expected at least one class below the root, got the root alone")
    return chain[::-1]


def _settle_inner(chains: dict[Any, list[Any]], text: dict[Any, str], policy: str) -> None:
    inner = {node for chain in chains.values() for node in chain[:-1]}
    both = [node for node in chains if node in inner]
    if both and policy == "error":
        raise ValueError(
            "classes: expected no class that is an ancestor of another, got "
            f"{listed(text[n] for n in both)}. "
            "inner_classes='self' gives each a child of its own"
        )
    for node in both:
        own = (node, "(self)")
        text[own] = f"{text[node]} (self)"
        chains[node] = [*chains[node], own]


def _lay_out(chains: list[list[Any]], text: Mapping[Any, str], pad: str) -> tuple[Names, IntArray]:
    depth = max(map(len, chains))
    short = [text[chain[-1]] for chain in chains if len(chain) < depth]
    if short and pad == "error":
        raise ValueError(
            f"classes: expected all at depth {depth} with pad='error', got shorter branches: {listed(short)}"
        )
    full = [chain + [chain[-1]] * (depth - len(chain)) for chain in chains]
    names, ancestors = [], np.empty((depth, len(full)), dtype=np.int64)
    for level in range(depth):
        nodes: list[Any] = list(dict.fromkeys(chain[level] for chain in full))
        if level < depth - 1:  # by name, as ImageFolder sorts: the order does not hang on that of the classes
            nodes.sort(key=lambda node: text[node])
        labels = [text[node] for node in nodes]
        if len(set(labels)) < len(labels):
            twice = [name for name in dict.fromkeys(labels) if labels.count(name) > 1]
            raise ValueError(f"names: expected each once a level, got duplicates at level {level + 1}: "
                             f"{listed(twice)}")  # fmt: skip
        index = {node: k for k, node in enumerate(nodes)}
        ancestors[level] = [index[chain[level]] for chain in full]
        names.append(tuple(labels))
    return tuple(names), ancestors
