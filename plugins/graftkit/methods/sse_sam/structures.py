"""Tensors inside nested tuples, lists and mappings, as models are called on them.

>>> import torch
>>> batch = {"image": torch.zeros(2, 3), "ids": ["a", "b"]}
>>> [path for path, _ in tensors_in(batch, "args[0]")]
["args[0]['image']"]
"""

import copy
from collections.abc import Callable, Iterator, Mapping, MutableMapping
from typing import Any

from torch import Tensor

__all__ = ["Versions", "map_tensors", "tensors_in", "with_items"]


def tensors_in(value: Any, path: str) -> Iterator[tuple[str, Tensor]]:
    """Every tensor inside nested tuples, lists and mappings, with how one would spell it.

    Parameters
    ----------
    value : object
        What to search.
    path : str
        The spelling of `value` itself.

    Yields
    ------
    (str, Tensor)
        Such as ``("args[0]['image']", tensor)``.
    """
    if isinstance(value, Tensor):
        yield path, value
    elif isinstance(value, tuple | list):
        for i, item in enumerate(value):
            yield from tensors_in(item, f"{path}[{i}]")
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield from tensors_in(item, f"{path}[{key!r}]")


def map_tensors(value: Any, function: Callable[[Any], Any]) -> Any:
    """Apply a function to the leaves of nested tuples, lists and mappings.

    Parameters
    ----------
    value : object
        What to map over.
    function : callable
        Applied to each leaf.

    Returns
    -------
    object
        Of the same structure.
    """
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*(map_tensors(item, function) for item in value))
    if isinstance(value, tuple | list):
        return type(value)(map_tensors(item, function) for item in value)
    if isinstance(value, MutableMapping):
        return with_items(value, lambda item: map_tensors(item, function))
    return function(value)


def with_items(mapping: MutableMapping[Any, Any], function: Callable[[Any], Any]) -> Any:
    """Make a mapping of the same kind with other items: a dict, or what hosts make of it (BatchEncoding).

    Parameters
    ----------
    mapping : mutable mapping
        Left as it is.
    function : callable
        Applied to each item.

    Returns
    -------
    object
        A shallow copy with the results.
    """
    other = copy.copy(mapping)
    for key in list(mapping):
        other[key] = function(mapping[key])
    return other


class Versions:
    """Version counters of tensors at one moment, to notice what was changed in place since.

    Parameters
    ----------
    values : mapping of str to object
        What to watch, by the name that a message should use.
    """

    def __init__(self, values: Mapping[str, Any]) -> None:
        self._values = values
        self._seen: list[tuple[str, Tensor, int]] = []
        for name, value in values.items():
            self._note(name, value)

    def _note(self, name: str, value: Any) -> None:
        if isinstance(value, Tensor):
            if not value.is_inference():
                self._seen.append((name, value, value._version))
        elif isinstance(value, (tuple, list)):
            for item in value:
                self._note(name, item)
        elif value is not None and isinstance(value, Mapping):
            for item in value.values():
                self._note(name, item)

    def changed(self) -> list[str]:
        """Name what was changed in place since.

        Returns
        -------
        list of str
            The names.
        """
        changed = [(name, tensor) for name, tensor, version in self._seen if tensor._version != version]
        # Spelled out only now, as hardly any call ever needs it.
        return [
            next((path for path, found in tensors_in(self._values[name], name) if found is tensor), name)
            for name, tensor in changed
        ]
