"""Messages word for word: they are what a user sees first when something is wrong."""

import math
import re
from decimal import Decimal
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from graftkit.core.validation import (
    check_bool,
    check_choice,
    check_integer,
    check_iterable,
    check_jobs,
    check_number,
    describe,
    raise_invalid,
)


def exactly(message: str) -> str:
    return f"^{re.escape(message)}$"


# describe


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "None"),
        ("rho", "'rho'"),
        (1.5, "1.5"),
        (float("nan"), "nan"),
        ([1, 2, 3], "[1, 2, 3]"),
        (list(range(7)), "list of length 7"),
        (dict.fromkeys(range(9)), "dict of length 9"),
        (np.zeros((2, 0), dtype=np.int8), "ndarray of shape (2, 0) and dtype int8"),
        (torch.zeros(4, 1), "Tensor of shape (4, 1) and dtype torch.float32"),
        (np.float64(-1.0), "np.float64(-1.0)"),
        (torch.tensor(2), "tensor(2)"),
        (np.ndarray, "<class 'numpy.ndarray'>"),
    ],
)
def test_describe(value, text):
    assert describe(value) == text


def test_describe_never_prints_a_long_repr():
    text = describe("x" * 10_000)
    assert text == "str " + repr("x" * 10_000)[:77] + "..."


# raise_invalid


def test_raise_invalid_says_argument_expectation_and_what_came():
    with pytest.raises(ValueError, match=exactly("rho: expected a finite number >= 0, got -1")):
        raise_invalid("rho", -1, "a finite number >= 0")


def test_raise_invalid_ends_with_the_fix_and_takes_the_class():
    with pytest.raises(KeyError, match="PRESETS") as caught:
        raise_invalid("name", "x", "a known name", fix="See PRESETS.", error=KeyError)
    assert caught.value.args == ("name: expected a known name, got 'x'. See PRESETS.",)


# check_integer


@pytest.mark.parametrize("value", [3, np.int64(3), np.uint8(3)])
def test_check_integer_gives_a_plain_int(value):
    result = check_integer("k", value, low=3, high=3)
    assert result == 3
    assert type(result) is int


@pytest.mark.parametrize(
    ("value", "came"),
    [
        (True, "True"),
        (np.True_, "np.True_"),
        (3.0, "3.0"),
        (np.float64(3.0), "np.float64(3.0)"),
        ("3", "'3'"),
        (None, "None"),
        (float("nan"), "nan"),
        (np.array([3]), "ndarray of shape (1,) and dtype int64"),
        (np.array(3), "array(3)"),
        (torch.tensor(3), "tensor(3)"),
    ],
)
def test_check_integer_refuses_other_types(value, came):
    with pytest.raises(TypeError, match=exactly(f"k: expected an integer >= 1, got {came}")):
        check_integer("k", value, low=1)


@pytest.mark.parametrize(
    ("bounds", "value", "expected"),
    [
        ({"low": 1}, 0, "an integer >= 1"),
        ({"high": 4}, 5, "an integer <= 4"),
        ({"low": 1, "high": 4}, 5, "an integer in [1, 4]"),
        ({"low": 1, "high": 4}, np.int32(-2), "an integer in [1, 4]"),
    ],
)
def test_check_integer_keeps_its_bounds(bounds, value, expected):
    with pytest.raises(ValueError, match=exactly(f"k: expected {expected}, got {value!r}")):
        check_integer("k", value, **bounds)


def test_check_integer_without_bounds_takes_any_size():
    assert check_integer("seed", -(10**400)) == -(10**400)


# check_jobs


@pytest.mark.parametrize("value", [None, 1, -1, np.int64(4)])
def test_check_jobs_takes_what_joblib_takes(value):
    check_jobs(value)


@pytest.mark.parametrize(
    ("value", "error", "message"),
    [
        (0, ValueError, "n_jobs: expected None or an integer other than 0, got 0"),
        (1.5, TypeError, "n_jobs: expected an integer, got 1.5"),
        (True, TypeError, "n_jobs: expected an integer, got True"),
    ],
)
def test_check_jobs_refuses_the_rest(value, error, message):
    with pytest.raises(error, match=exactly(message)):
        check_jobs(value)


# check_number


@pytest.mark.parametrize("value", [1, 1.0, np.float32(1), np.int64(1), Fraction(1)])
def test_check_number_gives_a_plain_float(value):
    result = check_number("lr", value)
    assert result == 1.0
    assert type(result) is float


@pytest.mark.parametrize("value", [True, np.False_, "1", None, 1j, Decimal(1), [1.0], np.array([1.0])])
def test_check_number_refuses_other_types(value):
    message = f"lr: expected a finite number > 0, got {describe(value)}"
    with pytest.raises(TypeError, match=exactly(message)):
        check_number("lr", value, low=0, closed="()")


@pytest.mark.parametrize(
    "value",
    [math.nan, math.inf, -math.inf, np.float32("nan"), np.float64("inf"), pytest.param(10**400, id="huge")],
)
def test_check_number_refuses_what_is_not_finite(value):
    with pytest.raises(ValueError, match=exactly(f"lr: expected a finite number, got {describe(value)}")):
        check_number("lr", value)


@pytest.mark.parametrize(
    ("closed", "inside", "outside", "expected"),
    [
        ("[]", (0.0, 1.0), (-1e-9, 1 + 1e-9), "in [0, 1]"),
        ("(]", (1e-300, 1.0), (0.0, 1.5), "in (0, 1]"),
        ("[)", (0.0, 0.999), (-0.5, 1.0), "in [0, 1)"),
        ("()", (1e-300, 0.999), (0.0, 1.0), "in (0, 1)"),
    ],
)
def test_check_number_bounds_belong_as_closed_says(closed, inside, outside, expected):
    for value in inside:
        assert check_number("p", value, low=0, high=1, closed=closed) == value
    for value in outside:
        with pytest.raises(
            ValueError, match=exactly(f"p: expected a finite number {expected}, got {value!r}")
        ):
            check_number("p", value, low=0, high=1, closed=closed)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"low": 0.5}, ">= 0.5"),
        ({"low": 0.5, "closed": "(]"}, "> 0.5"),
        ({"high": -1}, "<= -1"),
        ({"high": -1, "closed": "[)"}, "< -1"),
    ],
)
def test_check_number_one_sided_bounds(options, expected):
    value = 0.25
    with pytest.raises(ValueError, match=exactly(f"p: expected a finite number {expected}, got 0.25")):
        check_number("p", value, **options)


@given(
    value=st.floats(allow_nan=True, allow_infinity=True),
    low=st.none() | st.floats(-5, 5),
    high=st.none() | st.floats(-5, 5),
    closed=st.sampled_from(["[]", "(]", "[)", "()"]),
)
def test_check_number_agrees_with_the_definition(value, low, high, closed):
    above = low is None or (value >= low if closed[0] == "[" else value > low)
    below = high is None or (value <= high if closed[1] == "]" else value < high)
    if above and below and math.isfinite(value):
        assert check_number("x", value, low=low, high=high, closed=closed) == value
    else:
        with pytest.raises(ValueError, match=r"^x: expected a finite number"):
            check_number("x", value, low=low, high=high, closed=closed)


# check_bool


@pytest.mark.parametrize("value", [True, False, np.True_, np.False_])
def test_check_bool_gives_a_plain_bool(value):
    assert check_bool("flag", value) is bool(value)


@pytest.mark.parametrize("value", [0, 1, "True", None, np.int64(1), np.array([True]), [True]])
def test_check_bool_refuses_look_alikes(value):
    with pytest.raises(TypeError, match=exactly(f"flag: expected True or False, got {describe(value)}")):
        check_bool("flag", value)


# check_choice


def test_check_choice_returns_the_value():
    assert check_choice("scale", "global", ("feature", "global", None)) == "global"
    assert check_choice("scale", None, ("feature", "global", None)) is None


def test_check_choice_lists_the_options_and_proposes_the_nearest():
    message = "scale: expected one of 'feature', 'global', None, got 'featrue'. Did you mean 'feature'?"
    with pytest.raises(ValueError, match=exactly(message)):
        check_choice("scale", "featrue", ("feature", "global", None))


@pytest.mark.parametrize("value", ["zzz", 7, True, None])
def test_check_choice_proposes_nothing_far_off(value):
    with pytest.raises(
        ValueError, match=exactly(f"scale: expected one of 'feature', 1, got {describe(value)}")
    ):
        check_choice("scale", value, iter(["feature", 1]))


@pytest.mark.parametrize("value", [b"feature", ["feature"], np.array(["feature", "global"])])
def test_check_choice_refuses_look_alikes(value):
    with pytest.raises(
        ValueError, match=re.escape(f"scale: expected one of 'feature', got {describe(value)}")
    ):
        check_choice("scale", value, ["feature"])


def test_check_choice_tells_one_from_true():
    with pytest.raises(ValueError, match="got True"):
        check_choice("n", True, [1, 0])


# check_iterable


@pytest.mark.parametrize("value", [[], (1,), {1}, {"a": 1}, np.zeros(2), torch.zeros(2), iter([1]), range(3)])
def test_check_iterable_returns_the_value_itself(value):
    assert check_iterable("ks", value, "numbers") is value


@pytest.mark.parametrize(
    "value", [None, 3, 1.5, True, object, len, "abc", b"abc", np.array(1.0), torch.tensor(1.0)]
)
def test_check_iterable_refuses_strings_scalars_and_arrays_without_an_axis(value):
    with pytest.raises(TypeError, match=exactly(f"ks: expected numbers, got {describe(value)}")):
        check_iterable("ks", value, "numbers")


def test_check_iterable_starts_no_iteration():
    class Loader:
        def __iter__(self):
            raise AssertionError("iterated")

    check_iterable("loader", Loader(), "batches")


@pytest.mark.parametrize(
    ("value", "bounds", "words"),
    [
        (2**63, {"low": 0}, "an integer >= 0 of 64 bits"),
        (10**400, {"low": 0}, "an integer >= 0 of 64 bits"),
        (-(2**63) - 1, {"high": 5}, "an integer <= 5 of 64 bits"),
    ],
)
def test_check_integer_with_a_bound_refuses_what_no_tensor_holds(value, bounds, words):
    with pytest.raises(ValueError, match=exactly(f"n: expected {words}, got {describe(value)}")):
        check_integer("n", value, **bounds)
    assert check_integer("n", value) == value  # a seed may be as long as one likes
    assert check_integer("n", 2**63 - 1, low=0) == 2**63 - 1
