"""What graftkit offers, found by looking at the two roots: modules, public names, their sources."""

import importlib
import inspect
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from graftkit.core.catalogue import METHODS as CATALOGUE

ROOT = Path(__file__).resolve().parents[2]
PLUGINS = ROOT / "plugins" / "graftkit"
ADAPTERS = ROOT / "adapters" / "graftkit"

METHODS = tuple(CATALOGUE)


@dataclass(frozen=True)
class PublicObject:
    """A class, function or public method that users may call."""

    name: str  # dotted, as users import it
    obj: Any
    is_method: bool = False


def _packages(folder: Path) -> list[str]:
    return sorted(path.parent.name for path in folder.glob("*/__init__.py"))


def existing_methods() -> list[str]:
    """Methods whose folder exists, so whose status is "works"."""
    return _packages(PLUGINS / "methods")


def existing_adapters() -> list[str]:
    """Hosts that have an adapter."""
    return _packages(ADAPTERS)


def public_modules() -> list[str]:
    """First-level modules whose ``__all__`` is a promise."""
    core = sorted(path.stem for path in (PLUGINS / "core").glob("*.py") if path.stem != "__init__")
    top = sorted(path.stem for path in PLUGINS.glob("*.py"))
    return [
        *(f"graftkit.{name}" for name in top),
        *(f"graftkit.core.{name}" for name in core),
        *(f"graftkit.methods.{name}" for name in existing_methods()),
        *(f"graftkit.{name}" for name in existing_adapters()),
    ]


def public_objects() -> list[PublicObject]:
    """Every documented object: the names in each ``__all__`` and the public methods of its classes."""
    found: dict[int, PublicObject] = {}
    for module_name in public_modules():
        module = importlib.import_module(module_name)
        for public in objects_of(module):
            found.setdefault(id(public.obj), public)
    return list(found.values())


def objects_of(module: ModuleType) -> Iterator[PublicObject]:
    """Callables in ``__all__`` of one module, each class followed by the methods that graftkit wrote."""
    for name in module.__all__:
        obj = getattr(module, name)
        if not callable(obj):
            continue  # constants and registries have no signature to hold a docstring against
        dotted = f"{module.__name__}.{name}"
        yield PublicObject(dotted, obj)
        if inspect.isclass(obj):
            yield from _methods_of(dotted, obj)


def _methods_of(dotted: str, cls: type) -> Iterator[PublicObject]:
    # Methods that a host's base class brings are that host's to document.
    for owner in cls.__mro__:
        if not owner.__module__.startswith("graftkit.") and owner is not cls:
            continue
        for name, member in vars(owner).items():
            if name.startswith("_") or not _is_method(member):
                continue
            if getattr(cls, name, None) is not None and inspect.getattr_static(cls, name) is member:
                yield PublicObject(f"{dotted}.{name}", _unwrap(member), is_method=True)


def _is_method(member: Any) -> bool:
    return inspect.isfunction(member) or isinstance(member, classmethod | staticmethod | property)


def _unwrap(member: Any) -> Any:
    if isinstance(member, classmethod | staticmethod):
        return member.__func__
    if isinstance(member, property):
        return member.fget
    return inspect.unwrap(member)
