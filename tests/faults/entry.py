"""A public call with arguments that are right, of which a test makes one wrong."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Entry:
    """A call that works.

    ``name`` is the public name it stands for, ``make`` builds fresh arguments, ``sizes`` names arguments
    whose large values are legitimate and merely take long or much memory, ``says`` gives, for an argument,
    other words by which a message may name it (the host's own, or that of what the argument is turned into).
    ``state`` reads what a failed call must leave as it was.
    """

    name: str
    call: Callable[..., Any]
    make: Callable[[], dict[str, Any]]
    sizes: tuple[str, ...] = ()
    says: dict[str, tuple[str, ...]] = field(default_factory=dict)
    only: tuple[str, ...] | None = None  # the arguments to spoil; all by default
    callables: tuple[str, ...] = ()  # a function or module in their place fails with an error of its own
    state: Callable[[dict[str, Any]], Any] | None = None
