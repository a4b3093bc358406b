"""One wrong argument: a ValueError or TypeError that names it, nothing hangs, changes, or is left on disk.

Every name in an adapter's ``__all__`` has an entry, or a reason not to have one. What a message must hold is
the argument's name, or the word by which the host knows it: sizes of a matrix and of features are
scikit-learn's to report, and named as it names them.
"""

import importlib
import re
import signal
import tempfile
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from tests.faults.entry import Entry

pytestmark = pytest.mark.filterwarnings("ignore")  # a wrong value may well warn, too

# The module with the entries, by host; what is needed for it.
HOSTS = {
    "sklearn": ("entries_sklearn", "entries", "sklearn"),
    "pyod": ("entries_pyod", "entries", "pyod"),
    "torch": ("entries_torch", "entries", "torch"),
    "timm": ("entries_timm", "entries", "timm"),
    "pyg": ("entries_pyg", "entries", "torch_geometric"),
    "art": ("entries_art", "entries", "art"),
    "mmseg": ("entries_mmseg", "entries", "mmseg"),
    "diffusers": ("entries_diffusers", "entries", "diffusers"),
}
# Public names without an entry.
EXEMPT = {
    "DiffusionFeatureBackbone": "mmengine's registry around DiffusionBackbone, which is here",
    "DiffusionFeatureOutput": "made by the pipeline, a plain record",
    "DiffusionFeaturePipeline": "diffusers' own constructor of models; its call is here",
    "EDGETerms": "made by the loss, a plain record",
    "FeatureInfo": "made by the backbone, a plain record",
    "GateReport": "made by the pipeline, a plain record; its files are in test_corrupted.py",
    "GraphOODDetector": "a protocol",
    "VariantBackbone": "tests/adapters/diffusers/test_shift_errors.py, and DiffusionBackbone is here",
}

# Arguments that take anything.
ANYTHING = {
    ("JointEnergyPostprocessor", "config"): "OpenOOD's, ignored",
    ("Text", "embeds"): "a plain record: the pipeline looks at it",
    ("Text", "pooled"): "a plain record",
    ("Text", "mask"): "a plain record",
}

JUNK: dict[str, Callable[[], Any]] = {
    "None": lambda: None,
    "nan": lambda: float("nan"),
    "inf": lambda: float("inf"),
    "-inf": lambda: -float("inf"),
    "-1": lambda: -1,
    "0": lambda: 0,
    "0.5": lambda: 0.5,
    "-0.5": lambda: -0.5,
    "huge": lambda: 10**12,
    "beyond a float": lambda: 10**400,
    "1e300": lambda: 1e300,
    "empty string": lambda: "",
    "string": lambda: "no such",
    "bytes": lambda: b"x",
    "True": lambda: True,
    "False": lambda: False,
    "[]": list,
    "()": lambda: (),
    "{}": dict,
    "mixed list": lambda: [1, "a", None],
    "nested list": lambda: [[1, 2], [3]],
    "nan list": lambda: [float("nan")] * 3,
    "object": object,
    "class": lambda: int,
    "function": lambda: len,
    "complex": lambda: 1j,
    "set": lambda: {1},
    "dict of junk": lambda: {"x": None},
    "generator": lambda: iter([1]),
    "empty array": lambda: np.zeros((0,)),
    "array of objects": lambda: np.array([None, "a"], dtype=object),
    "array of strings": lambda: np.array(["a", "b"]),
    "4-d array": lambda: np.zeros((2, 1, 1, 2)),
    "0-d array": lambda: np.array(1.0),
    "complex array": lambda: np.zeros(3, dtype=complex),
    "array with nan": lambda: np.array([[1.0, np.nan], [0.0, 1.0]]),
    "array with inf": lambda: np.full((3, 2), np.inf),
    "empty tensor": lambda: torch.zeros(0),
    "0-d tensor": lambda: torch.tensor(2.0),
    "tensor of nan": lambda: torch.full((3,), float("nan")),
    "complex tensor": lambda: torch.zeros(3, dtype=torch.cfloat),
    "tensor of integers": lambda: torch.arange(6).reshape(2, 3),
    "boolean tensor": lambda: torch.ones(3, dtype=torch.bool),
    "module": lambda: torch.nn.Identity(),
}
LARGE = {"huge", "beyond a float", "1e300"}


@cache
def entries_of(host: str) -> list[Entry]:
    module, function, needed = HOSTS[host]
    pytest.importorskip(needed, reason=f"needs {needed}")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return getattr(importlib.import_module(f"tests.faults.{module}"), function)()


def drawn() -> st.SearchStrategy[Any]:
    """A factory of something wrong, named in reports; now and then generated rather than from the list."""
    generated = st.one_of(
        st.integers(-3, 50),
        st.floats(width=32),
        st.text(max_size=4),
        arrays.arrays(
            st.sampled_from([np.float32, np.int64, bool]), arrays.array_shapes(max_dims=3, max_side=4)
        ),
    )
    named = st.sampled_from(sorted(JUNK)).map(lambda name: (name, JUNK[name]))
    return st.one_of(named, named, named, generated.map(lambda value: ("generated", lambda: value)))


# Words of the hosts that stand for a name: scikit-learn's about data, torch's about a float64 that no float32
# holds, timm's about a model; and a training that left the numbers, which the estimators document.
DATA = {"X", "y", "X_val", "X_train", "X_test"}
HOST_SAYS = (
    "Expected 2D array",
    "Complex data not supported",
    "Found array with",
    "could not convert string",
    "inhomogeneous",
    "but DPCML is expecting",
    "minimum of",
    "float() argument",
    "Unsupported",
    "dtype='numeric'",
    "Found input",
)
DIVERGED = ("training diverged", "non-finite gradient", "without overflow", "Unknown model (")


class Hung(BaseException):
    """A call took ten seconds of processor time."""


@contextmanager
def limited(seconds: float = 10.0) -> Iterator[None]:
    def stop(*_: Any) -> None:
        raise Hung

    before = signal.signal(signal.SIGPROF, stop)
    signal.setitimer(signal.ITIMER_PROF, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)


def is_large(value: Any) -> bool:
    try:
        found = np.abs(np.asarray(value, dtype=float))
    except (TypeError, ValueError, OverflowError):
        return not isinstance(value, str | bytes) and isinstance(value, int)
    return bool((found > 40).any())


def spoil(entry: Entry, argument: str, value: Any) -> str | None:
    """Call with one wrong argument. What is wrong with the answer, or None."""
    arguments = {**entry.make(), argument: value}
    before = entry.state(arguments) if entry.state is not None else None
    try:
        with limited(), np.errstate(all="ignore"):
            entry.call(**arguments)
    except (ValueError, TypeError) as error:
        words = (argument, *entry.says.get(argument, ()))
        if type(value) is type(entry.make()[argument]):  # right by itself, wrong beside another argument
            words += tuple(entry.make())
        if argument in DATA and any(text in str(error) for text in HOST_SAYS):
            return None
        if not any(
            re.search(rf"(?<![A-Za-z0-9]){re.escape(word)}(?![A-Za-z0-9])", str(error)) for word in words
        ):
            return f"{type(error).__name__} without its name: {str(error)[:200]}"
    except Hung:
        return "hangs"
    except OSError as error:
        if not isinstance(error, FileNotFoundError | IsADirectoryError | NotADirectoryError):
            return f"{type(error).__name__}: {str(error)[:200]}"
    except (IndexError, RuntimeError) as error:
        # Where the host's own class is another one, the house's style of message still holds: name first.
        words = (argument, *entry.says.get(argument, ()))
        if not str(error).startswith(tuple(f"{word}: expected" for word in words)) and not any(
            text in str(error) for text in DIVERGED
        ):
            return f"{type(error).__name__}: {str(error)[:200]}"
    except Exception as error:
        return f"{type(error).__name__}: {str(error)[:200]}"
    else:
        return None
    if entry.state is not None and not equal(entry.state({**arguments, argument: value}), before):
        return "changed by a call that failed"
    return None


def equal(a: Any, b: Any) -> bool:
    if isinstance(a, list):
        return len(a) == len(b) and all(torch.equal(x, y) for x, y in zip(a, b, strict=True))
    return a == b


def check(entry: Entry, examples: int) -> None:
    names = sorted(entry.make() if entry.only is None else entry.only)
    states = torch.get_rng_state()

    @settings(max_examples=examples, deadline=None, derandomize=True, database=None,
              phases=(Phase.generate,),  # the first fault is small enough
        suppress_health_check=list(HealthCheck))  # fmt: skip
    @given(argument=st.sampled_from(names), junk=drawn())
    def every_wrong_argument(argument: str, junk: tuple[str, Callable[[], Any]]) -> None:
        value = junk[1]()
        if argument in entry.callables and junk[0] in ("class", "function", "module"):
            return
        if (
            junk[0] == "beyond a float" and argument in DATA
        ):  # NumPy's OverflowError, in scikit-learn's own check
            return
        if argument in entry.sizes and (junk[0] in LARGE or is_large(value)):
            return
        fault = spoil(entry, argument, value)
        assert fault is None, f"{entry.name}({argument}={junk[0]}): {fault}"

    every_wrong_argument()
    torch.set_rng_state(states)  # PyG's and torch's own constructors may draw


def run(host: str, examples: int, folder: Path) -> None:
    faults = []
    for entry in entries_of(host):
        entry.call(**entry.make())  # what is right is right
        try:
            check(entry, examples)
        except AssertionError as error:
            faults.append(str(error).splitlines()[0])
    assert not faults, "\n".join(faults)
    assert list(folder.rglob("*.part")) == []


@pytest.mark.parametrize("host", HOSTS)
def test_wrong_arguments_are_named(host, tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))  # where calls write
    run(host, 10, tmp_path)


@pytest.mark.parametrize("host", HOSTS)
def test_what_no_argument_can_be_is_refused(host, tmp_path, monkeypatch):
    """Above, what is let through may be right after all; a bare object, or a NaN for a number, never is."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    accepted, asked = [], 0
    for entry in entries_of(host):
        for argument, right in entry.make().items():
            named = entry.only is None or argument in entry.only
            if not named or argument in entry.callables or (entry.name, argument) in ANYTHING:
                continue
            for value in (object(), float("nan")) if type(right) in (int, float) else (object(),):
                asked += 1
                try:
                    with limited():
                        entry.call(**{**entry.make(), argument: value})
                except Exception:  # which ones is asked above
                    continue
                accepted.append(f"{entry.name}({argument}={value})")
    assert accepted == []
    assert asked > 10


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("host", HOSTS)
def test_many_wrong_arguments_are_named(host, tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    run(host, 300, tmp_path)


@pytest.mark.parametrize("host", HOSTS)
def test_every_public_name_has_an_entry(host):
    known = {
        entry.name.split(".")[0] for other in ("torch", host) for entry in entries_of(other)
    } | EXEMPT.keys()
    module = importlib.import_module(f"graftkit.{host}")
    assert {name for name in module.__all__ if callable(getattr(module, name))} <= known
