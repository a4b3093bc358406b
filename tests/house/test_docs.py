"""numpydoc on every public object, and a public surface that is what it says."""

import importlib
import inspect
import sys
import types

import pytest

from tests.house.docstrings import (
    attribute_complaints,
    numpydoc_complaints,
    raises_complaints,
    shape_complaints,
)
from tests.house.surface import PublicObject, public_modules, public_objects

OBJECTS = public_objects()
CLASSES = [public for public in OBJECTS if inspect.isclass(public.obj)]


def assert_none(complaints: list[str]) -> None:
    assert not complaints, "\n".join(complaints)


def _name(value: object) -> str:
    return value.name if isinstance(value, PublicObject) else str(value)


@pytest.mark.parametrize("public", OBJECTS, ids=_name)
def test_docstring_is_numpydoc_and_matches_the_signature(public):
    assert_none(numpydoc_complaints(public.name))


@pytest.mark.parametrize("public", OBJECTS, ids=_name)
def test_array_entries_state_their_shape(public):
    assert_none(shape_complaints(public.obj))


@pytest.mark.parametrize("public", OBJECTS, ids=_name)
def test_raised_exceptions_are_documented(public):
    if not inspect.isclass(public.obj):
        assert_none(raises_complaints(public.obj))
        return
    for name in ("__init__", "__post_init__"):
        body = vars(public.obj).get(name)
        # A dataclass's generated __init__ has no source, and raises nothing of its own.
        if inspect.isfunction(body) and body.__code__.co_filename != "<string>":
            assert_none(raises_complaints(public.obj, body))


@pytest.mark.parametrize("public", CLASSES, ids=_name)
def test_fitted_attributes_are_documented(public):
    assert_none(attribute_complaints(public.obj))


@pytest.mark.parametrize("name", public_modules())
def test_all_is_sorted_and_complete(name):
    module = importlib.import_module(name)
    assert list(module.__all__) == sorted(module.__all__)
    assert [entry for entry in module.__all__ if not hasattr(module, entry)] == []
    public = {
        entry
        for entry, value in vars(module).items()
        if not entry.startswith("_") and not inspect.ismodule(value) and _is_offered(module, value)
    }
    assert public - set(module.__all__) == set()


def _is_offered(module: types.ModuleType, value: object) -> bool:
    """A plain module offers what it defines; a package what it imports, the shared core apart."""
    home = getattr(value, "__module__", None) or ""
    return not home.startswith("graftkit.core.") if hasattr(module, "__path__") else home == module.__name__


# By adapter: what randomness is called there (CONTRIBUTING.md, "Anatomy of a method").
RANDOMNESS = {
    "sklearn": {"random_state"},
    "pyod": {"random_state"},
    "art": {"seed"},
    "mmseg": {"seed"},
    "pyg": {"seed", "generator"},
    "diffusers": {"seed", "seeds", "generator", "random_state"},
}


@pytest.mark.parametrize("public", OBJECTS, ids=_name)
def test_randomness_has_its_hosts_name(public):
    host = public.name.split(".")[1]
    functions = inspect.getmembers(public.obj, inspect.isfunction) if inspect.isclass(public.obj) else []
    called = [public.obj, *(function for name, function in functions if not name.startswith("_"))]
    taken = {name for entry in called for name in _parameters(entry)}
    names = {"seed", "seeds", "random_state", "generator", "rng", "random_seed"} & taken
    assert names <= RANDOMNESS.get(host, {"seed", "seeds", "random_state", "generator", "rng"})


def _parameters(obj: object) -> set[str]:
    try:
        return set(inspect.signature(obj).parameters)
    except (TypeError, ValueError):  # an enumeration, an alias
        return set()


@pytest.mark.parametrize("name", public_modules())
def test_module_docstring_says_what_it_is_for(name):
    assert importlib.import_module(name).__doc__


# The checks themselves: each must be able to fail.

BAD = '''
"""A module with every mistake."""
import numpy as np

def scale(values, factor):
    """Scale values

    Parameters
    ----------
    values : ndarray
        The values.
    factr : float
        The factor.
    """
    if factor < 0:
        raise ValueError("factor")
    if factor == 0:
        raise_invalid("factor", factor, "something", error=TypeError)
    return values * factor

class Model:
    """A model.

    Parameters
    ----------
    k : int
        Neighbours.
    """

    def __init__(self, k):
        check_integer("k", k)

    def fit(self, X):
        self.scores_ = X
        return self
'''


@pytest.fixture
def bad(tmp_path, monkeypatch):
    (tmp_path / "badly_documented.py").write_text(BAD)
    monkeypatch.syspath_prepend(tmp_path)
    module = importlib.import_module("badly_documented")
    yield module
    sys.modules.pop("badly_documented")


@pytest.mark.usefixtures("bad")
def test_numpydoc_check_can_fail():
    codes = {complaint.split()[0] for complaint in numpydoc_complaints("badly_documented.scale")}
    assert codes == {"SS03", "PR01", "PR02", "RT01"}
    assert [c.split()[0] for c in numpydoc_complaints("badly_documented.Model.fit")] == ["GL08"]


def test_shape_check_can_fail(bad):
    assert shape_complaints(bad.scale) == ["Parameters: values is an array without a stated shape"]


def test_raises_check_can_fail(bad):
    assert raises_complaints(bad.scale) == [
        "Raises: TypeError is raised here and not documented",
        "Raises: ValueError is raised here and not documented",
    ]
    assert len(raises_complaints(bad.Model, bad.Model.__init__)) == 2


def test_attribute_check_can_fail(bad):
    assert attribute_complaints(bad.Model) == ["Attributes: scores_ is set in fit and not documented"]


def test_surface_finds_methods_but_not_those_of_a_host(bad):
    from tests.house.surface import objects_of

    class Derived(bad.Model):
        """Own class."""

        def predict(self):
            """Predict."""

    module = types.ModuleType("m")
    module.__all__, module.Derived = ["Derived"], Derived
    assert [public.name for public in objects_of(module)] == ["m.Derived", "m.Derived.predict"]
