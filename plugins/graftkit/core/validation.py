"""One error style for every public boundary: argument, what was expected, what came.

>>> raise_invalid("rho", -1, "a finite number >= 0")
Traceback (most recent call last):
    ...
ValueError: rho: expected a finite number >= 0, got -1
"""

import difflib
import math
from collections.abc import Iterable
from numbers import Integral, Real
from typing import Any, NoReturn

__all__ = [
    "check_bool",
    "check_choice",
    "check_integer",
    "check_iterable",
    "check_jobs",
    "check_number",
    "describe",
    "raise_invalid",
]


def describe(value: Any) -> str:
    """Say in a few words what an argument was, without printing a whole array.

    Parameters
    ----------
    value : object
        Anything a caller passed.

    Returns
    -------
    str
        For arrays and tensors with axes the type, shape and dtype; otherwise a short ``repr``.

    Examples
    --------
    >>> import numpy as np
    >>> describe(np.zeros((2, 3)))
    'ndarray of shape (2, 3) and dtype float64'
    """
    shape = getattr(value, "shape", None)
    # NumPy scalars and 0-d tensors have a shape too, but their value says more.
    if shape is not None and shape != () and not isinstance(value, type):
        text = f"{type(value).__name__} of shape {tuple(shape)}"
        dtype = getattr(value, "dtype", None)
        return text if dtype is None else f"{text} and dtype {dtype}"
    if isinstance(value, list | tuple | dict | set) and len(value) > 6:
        return f"{type(value).__name__} of length {len(value)}"
    text = repr(value)
    return text if len(text) <= 80 else f"{type(value).__name__} {text[:77]}..."


def raise_invalid(
    name: str, value: Any, expected: str, *, fix: str = "", error: type[Exception] = ValueError
) -> NoReturn:
    """Raise the error of the house: what the argument should be, what it was, what to do.

    Parameters
    ----------
    name : str
        The argument, as the caller spells it.
    value : object
        What came; it is passed through :func:`describe`.
    expected : str
        What would have been right.
    fix : str, default=""
        A sentence that says what to do about it.
    error : type of Exception, default=ValueError
        The class to raise; ``TypeError`` when the type itself is wrong.

    Raises
    ------
    Exception
        Always, of class `error`.
    """
    message = f"{name}: expected {expected}, got {describe(value)}"
    raise error(f"{message}. {fix}" if fix else message)


def check_integer(name: str, value: Any, *, low: int | None = None, high: int | None = None) -> int:
    """Return `value` as an ``int`` within ``[low, high]``.

    Parameters
    ----------
    name : str
        The argument's name.
    value : object
        What came. NumPy integers are accepted, booleans are not.
    low, high : int or None, default=None
        Inclusive bounds. With one of them, the other is that of 64 bits, as in arrays and tensors.

    Returns
    -------
    int
        The value.

    Raises
    ------
    TypeError
        If `value` is no integer.
    ValueError
        If it is out of bounds, or has a bound and more than 64 bits.
    """
    expected = f"an integer{_interval(low, high, '[]')}"
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise_invalid(name, value, expected, error=TypeError)
    number = int(value)
    if (low is not None and number < low) or (high is not None and number > high):
        raise_invalid(name, value, expected)
    if (low is not None or high is not None) and not -(2**63) <= number < 2**63:
        raise_invalid(name, value, f"{expected} of 64 bits")
    return number


def check_iterable(name: str, value: Any, expected: str) -> Any:
    """Return `value` if it can be iterated and is no string; it is not iterated here.

    Parameters
    ----------
    name : str
        The argument's name.
    value : object
        What came. Arrays and tensors without an axis are refused, as strings are: their items are letters.
    expected : str
        What would have been right.

    Returns
    -------
    object
        The value.

    Raises
    ------
    TypeError
        If `value` cannot be iterated or is a string.
    """
    # Not by iter(): a loader would start its workers.
    kind = type(value)
    walkable = hasattr(kind, "__iter__") or hasattr(kind, "__getitem__")
    if isinstance(value, str | bytes) or not walkable or getattr(value, "shape", None) == ():
        raise_invalid(name, value, expected, error=TypeError)
    return value


def check_number(
    name: str, value: Any, *, low: float | None = None, high: float | None = None, closed: str = "[]"
) -> float:
    """Return `value` as a finite ``float`` within the given interval.

    Parameters
    ----------
    name : str
        The argument's name.
    value : object
        What came.
    low, high : float or None, default=None
        Bounds; ``None`` leaves that side open.
    closed : {"[]", "(]", "[)", "()"}, default="[]"
        Which bounds belong to the interval.

    Returns
    -------
    float
        The value.

    Raises
    ------
    TypeError
        If `value` is no real number.
    ValueError
        If it is NaN, infinite or out of bounds.
    """
    expected = f"a finite number{_interval(low, high, closed)}"
    if isinstance(value, bool) or not isinstance(value, Real):
        raise_invalid(name, value, expected, error=TypeError)
    try:
        number = float(value)
    except OverflowError:  # an integer beyond the largest float
        number = math.inf
    below = low is not None and (number < low or (closed[0] == "(" and number == low))
    above = high is not None and (number > high or (closed[1] == ")" and number == high))
    if not math.isfinite(number) or below or above:
        raise_invalid(name, value, expected)
    return number


def check_bool(name: str, value: Any) -> bool:
    """Return `value` as a ``bool``; 0 and 1 are refused, they are more often a misplaced argument.

    Parameters
    ----------
    name : str
        The argument's name.
    value : object
        What came; NumPy booleans are accepted.

    Returns
    -------
    bool
        The value.

    Raises
    ------
    TypeError
        If `value` is no boolean.
    """
    if type(value).__name__ not in ("bool", "bool_"):
        raise_invalid(name, value, "True or False", error=TypeError)
    return bool(value)


def check_choice(name: str, value: Any, options: Iterable[Any]) -> Any:
    """Return `value` if it is one of `options`; otherwise list them and propose the nearest.

    Parameters
    ----------
    name : str
        The argument's name.
    value : object
        What came.
    options : iterable
        The valid values.

    Returns
    -------
    object
        The value.

    Raises
    ------
    ValueError
        If `value` is none of `options`.
    """
    valid = list(options)
    if any(type(value) is type(option) and value == option for option in valid):
        return value
    near = difflib.get_close_matches(str(value), [str(option) for option in valid], n=1)
    raise_invalid(
        name, value, "one of " + ", ".join(map(repr, valid)), fix=f"Did you mean {near[0]!r}?" if near else ""
    )


def check_jobs(n_jobs: Any) -> None:
    """Refuse a number of workers that joblib would refuse after training.

    Parameters
    ----------
    n_jobs : int or None
        Workers, as in joblib; negative counts from the number of cores.

    Raises
    ------
    TypeError
        If it is no integer.
    ValueError
        If it is 0.
    """
    if n_jobs is not None and check_integer("n_jobs", n_jobs) == 0:
        raise_invalid("n_jobs", n_jobs, "None or an integer other than 0")


def _interval(low: float | None, high: float | None, closed: str) -> str:
    if low is not None and high is not None:
        return f" in {closed[0]}{low:g}, {high:g}{closed[1]}"
    if low is not None:
        return f" {'>=' if closed[0] == '[' else '>'} {low:g}"
    if high is not None:
        return f" {'<=' if closed[1] == ']' else '<'} {high:g}"
    return ""
