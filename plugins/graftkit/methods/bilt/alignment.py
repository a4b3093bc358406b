"""Whether a data set numbers the classes that a tree has, and how.

>>> places_of(("cat", "dog"), {"dog": 0, "cat": 1})
[1, 0]
"""

from collections import Counter
from collections.abc import Hashable, Mapping, Sequence

from graftkit.core.validation import check_integer, raise_invalid
from graftkit.methods.bilt.growth import listed

__all__ = ["places_of"]


def places_of(names: Sequence[str], class_to_idx: Mapping[str, int] | Sequence[str]) -> list[int]:
    """The number that a data set gives to each name.

    Parameters
    ----------
    names : sequence of str
        Finest classes of the tree.
    class_to_idx : mapping of str to int, or sequence of str
        As ``LabelTree.align`` takes it.

    Returns
    -------
    list of int
        0 to C_H - 1 once each, in the order of `names`.

    Raises
    ------
    TypeError
        If this is neither, or a number is no integer.
    ValueError
        If classes are missing or unknown, or the numbers are not 0 to C_H - 1 once each.
    """
    if isinstance(class_to_idx, str) or not isinstance(class_to_idx, Mapping | Sequence):
        raise_invalid("class_to_idx", class_to_idx, "a mapping or a sequence of names", error=TypeError)
    if not isinstance(class_to_idx, Mapping):
        odd = [name for name in class_to_idx if not isinstance(name, Hashable)]
        if odd:
            raise_invalid("class_to_idx", odd[0], "a mapping or a sequence of names", error=TypeError)
        twice = [name for name, count in Counter(class_to_idx).items() if count > 1]
        if twice:
            raise ValueError(f"class_to_idx: expected each name once, got {listed(twice)} twice")
        class_to_idx = {name: k for k, name in enumerate(class_to_idx)}
    known = set(names)
    missing = [name for name in names if name not in class_to_idx]
    extra = [name for name in class_to_idx if name not in known]
    if missing or extra:
        said = f"{listed(missing) or 'none'} missing and {listed(extra) or 'none'} unknown"
        raise ValueError(f"class_to_idx: expected the tree's {len(names)} classes, got {said}")
    places = [check_integer(f"class_to_idx[{name!r}]", class_to_idx[name]) for name in names]
    counts = Counter(places)
    wrong = [n for n, k in zip(names, places, strict=True) if not 0 <= k < len(names) or counts[k] > 1]
    if wrong:
        raise ValueError(
            f"class_to_idx: expected 0 to {len(names) - 1} once each, got other numbers for {listed(wrong)}"
        )
    return places
