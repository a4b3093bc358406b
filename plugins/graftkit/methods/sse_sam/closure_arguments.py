"""What a closure can be called with: nothing, or the row numbers of some samples.

>>> takes_index(lambda index=None: index), takes_index(lambda: None), takes_index(lambda x=3: x)
(True, False, False)
"""

import inspect
from collections.abc import Callable
from types import FunctionType
from typing import Any

__all__ = ["Closure", "call_whole", "takes_index"]

Closure = Callable[..., Any]


def takes_index(closure: Closure) -> bool:
    """Whether a closure can be asked for some of its samples.

    Parameters
    ----------
    closure : callable
        The user's.

    Returns
    -------
    bool
        ``True`` where its first positional argument may be an index: one without a default, or whose default
        is ``None`` or a slice. In ``lambda x=x, y=y: ...``, which binds a loop's batch, it is not.
    """
    taken, _, default = _positionals(closure)
    return taken and (default is None or default is inspect.Parameter.empty or isinstance(default, slice))


def call_whole(closure: Closure) -> Any:
    """Run a closure on the whole batch.

    Parameters
    ----------
    closure : callable
        The user's.

    Returns
    -------
    object
        What it returns.
    """
    return closure(None) if _positionals(closure)[1] else closure()


def _positionals(closure: Closure) -> tuple[bool, bool, Any]:
    """Whether a closure takes a positional argument, whether it must get one, and the first's default."""
    code = getattr(closure, "__code__", None)
    if isinstance(closure, FunctionType) and not hasattr(closure, "__wrapped__") and code is not None:
        # What inspect.signature would say, without its cost in every step.
        count, defaults = code.co_argcount, closure.__defaults__ or ()
        first = defaults[0] if 0 < count == len(defaults) else inspect.Parameter.empty
        return count > 0 or bool(code.co_flags & inspect.CO_VARARGS), count > len(defaults), first
    kinds = (
        inspect.Parameter.POSITIONAL_ONLY,
        inspect.Parameter.POSITIONAL_OR_KEYWORD,
        inspect.Parameter.VAR_POSITIONAL,
    )
    taken = [p for p in inspect.signature(closure).parameters.values() if p.kind in kinds]
    must = any(p.default is p.empty and p.kind is not p.VAR_POSITIONAL for p in taken)
    return bool(taken), must, taken[0].default if taken else inspect.Parameter.empty
