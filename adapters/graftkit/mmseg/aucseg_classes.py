"""Classes as configs give them: numbers or names, alone or in groups.

>>> resolve_classes("tail_classes", ["pole", 0], ("road", "pole"))
[1, 0]
"""

from collections.abc import Iterable, Sequence
from typing import Any

from graftkit.core.validation import check_integer, raise_invalid

__all__ = ["any_named", "check_disjoint", "check_groups", "resolve_classes"]


def resolve_classes(name: str, given: Sequence[int | str], classes: Sequence[str] | None) -> list[int]:
    """Turn class names into numbers.

    Parameters
    ----------
    name : str
        The argument, for messages.
    given : sequence of int or str
        Numbers or names.
    classes : sequence of str or None
        The data set's names.

    Returns
    -------
    list of int
        Class numbers.

    Raises
    ------
    TypeError
        If a class is neither a name nor an integer.
    ValueError
        If a name is unknown, a number out of range, or there are names and the data set has none.
    """
    if classes is None and any_named(given):
        raise_invalid(name, list(given), "class numbers, since the data set's metainfo has no classes")
    entries = [entry if isinstance(entry, str) else check_integer(name, entry, low=0) for entry in given]
    if classes is None:
        return [int(entry) for entry in entries]
    for entry in entries:
        if entry not in (classes if isinstance(entry, str) else range(len(classes))):
            raise_invalid(name, entry, f"names or numbers of {', '.join(map(str, classes))}")
    return [classes.index(entry) if isinstance(entry, str) else entry for entry in entries]


def any_named(classes: Any) -> bool:
    """Say whether any class is named; a bare string is no list of names.

    Parameters
    ----------
    classes : object
        What came as a list of classes.

    Returns
    -------
    bool
        False for what is no list too.
    """
    return (
        not isinstance(classes, str)
        and hasattr(classes, "__iter__")
        and any(isinstance(c, str) for c in classes)
    )


def check_groups(groups: Any) -> dict[str, list[int | str]]:
    """Refuse what are no groups of classes.

    Parameters
    ----------
    groups : dict
        From a name to class numbers or names.

    Returns
    -------
    dict
        The same, in lists.

    Raises
    ------
    TypeError
        If it is no dict of lists, or a class is neither a name nor an integer.
    ValueError
        If there is no group, a group is empty, a number is negative, or two groups share a class.
    """
    if not isinstance(groups, dict) or not all(
        isinstance(g, Iterable) and not isinstance(g, str | bytes | dict) for g in groups.values()
    ):
        raise_invalid("groups", groups, "a dict from names to lists of classes", error=TypeError)
    if not groups:
        raise_invalid("groups", groups, "at least one group")
    checked = {name: list(group) for name, group in groups.items()}
    for name, group in checked.items():
        if not group:
            raise_invalid("groups", name, "no empty group")
        for entry in group:
            if not isinstance(entry, str):
                check_integer(f"groups[{name!r}]", entry, low=0)
    check_disjoint(checked)
    return checked


def check_disjoint(groups: dict[str, list[Any]]) -> None:
    """Refuse groups that share a class.

    Parameters
    ----------
    groups : dict
        From a name to classes.

    Raises
    ------
    ValueError
        If one is in two groups, or twice in one.
    """
    owner: dict[Any, str] = {}
    for name, group in groups.items():
        for entry in group:
            if entry in owner:
                raise_invalid(
                    "groups", f"{entry!r} in {owner[entry]!r} and {name!r}", "each class in one group"
                )
            owner[entry] = name
