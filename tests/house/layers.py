"""The layer rules as data and as functions that read sources: who may import what."""

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Host:
    """One adapter folder: the import names it may use and the extra that installs them."""

    imports: tuple[str, ...]
    extra: str | None = None  # None: a core dependency, always there
    warm_up: tuple[str, ...] = ()  # what "importing the host" means to the import-cost test


# The numerics that any plugin may use; importing them is no adapter's doing. (scikit-learn's metrics pull in
# rich, which draws from Python's global random at import.)
CORE = ("numpy", "scipy.stats", "sklearn.neighbors", "sklearn.utils.validation")

# The eight adapters, those to come included: a folder that is not in this table fails the test.
ADAPTERS = {
    "torch": Host(("torch",), None, ("torch",)),
    "sklearn": Host(("sklearn",), None, ("sklearn.base",)),
    "timm": Host(("timm",), "timm", ("timm",)),
    "pyg": Host(("torch_geometric",), "pyg", ("torch_geometric.data", "torch_geometric.transforms")),
    "mmseg": Host(("mmengine", "mmseg", "mmcv"), "mmseg", ("mmseg.registry", "mmengine.runner", "mmcv")),
    "diffusers": Host(
        ("diffusers", "transformers", "accelerate"), "diffusers", ("diffusers", "transformers", "accelerate")
    ),
    "art": Host(("art",), "art", ("art.estimators.classification", "art.attacks")),
    "pyod": Host(("pyod",), "pyod", ("pyod.models.base",)),
}

# No plugin imports these; an adapter only its own. torch and scikit-learn are core dependencies.
HOSTS = (
    "timm",
    "torch_geometric",
    "mmseg",
    "mmengine",
    "mmcv",
    "diffusers",
    "transformers",
    "accelerate",
    "lightning",
    "pytorch_lightning",
    "art",
    "pyod",
)

# Pieces that join two hosts live under the outer one and import the inner adapter inside their constructor:
# file below adapters/graftkit -> module that it may import.
EXCEPTIONS: dict[str, str] = {"mmseg/diffusion_feature.py": "graftkit.diffusers"}

# Calls whose first argument, a literal, is a module that gets imported.
IMPORT_CALLS = {"__import__", "import_module", "require", "find_spec", "importorskip"}


def imported_modules(source: str) -> Iterator[tuple[int, str]]:
    """Every module that a file imports anywhere, with its line: statements and calls with a literal name."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = "." * node.level + (f"{node.module}." if node.module else "")
            # "from sklearn import base" imports sklearn.base as much as "import sklearn.base" does.
            yield from ((node.lineno, f"{base}{alias.name}") for alias in node.names)
        elif isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
            name = getattr(node.func, "attr", getattr(node.func, "id", ""))
            if name in IMPORT_CALLS and isinstance(node.args[0].value, str):
                yield node.lineno, node.args[0].value


def plugin_complaints(plugins: Path) -> list[str]:
    """Imports in ``plugins/graftkit`` of a host, of scikit-learn's estimator machinery, or of an adapter."""
    adapters = [f"graftkit.{name}" for name in ADAPTERS]
    forbidden = [*HOSTS, "sklearn.base", *adapters]
    return [
        f"{where}: a plugin imports {module}"
        for where, module in _imports_below(plugins)
        if any(_is_within(module, name) for name in forbidden)
    ]


def adapter_complaints(adapters: Path) -> list[str]:
    """Imports in ``adapters/graftkit/<host>`` of another host or of another adapter."""
    complaints = [
        f"{folder.name}: an adapter that the table ADAPTERS does not know"
        for folder in sorted(adapters.iterdir())
        if folder.is_dir() and folder.name != "__pycache__" and folder.name not in ADAPTERS
    ]
    for name, host in ADAPTERS.items():
        others = [f"graftkit.{other}" for other in ADAPTERS if other != name]
        forbidden = [h for h in HOSTS if h not in host.imports] + others
        for where, module in _imports_below(adapters / name, relative_to=adapters):
            allowed = EXCEPTIONS.get(where.rpartition(":")[0])
            if allowed and _is_within(module, allowed):
                continue
            if any(_is_within(module, other) for other in forbidden):
                complaints.append(f"{where}: the {name} adapter imports {module}")
    return complaints


def namespace_complaints(*roots: Path) -> list[str]:
    """``__init__.py`` files at the level of the namespace, which would hide the other root."""
    return [
        f"{root.name}/__init__.py hides the other root" for root in roots if (root / "__init__.py").exists()
    ]


def _imports_below(folder: Path, relative_to: Path | None = None) -> Iterator[tuple[str, str]]:
    for path in sorted(folder.rglob("*.py")):
        for line, module in imported_modules(path.read_text(encoding="utf-8")):
            yield f"{path.relative_to(relative_to or folder).as_posix()}:{line}", module


def _is_within(module: str, package: str) -> bool:
    return module == package or module.startswith(package + ".")
