"""No line of the library unpickles a file: torch.load is weights_only=True, np.load without pickle.

scikit-learn estimators are pickled by their users, as all of scikit-learn's are; the library itself neither
writes nor reads such a file.
"""

import ast
from pathlib import Path

import pytest

from tests.house.surface import ADAPTERS, PLUGINS

# Modules whose load functions run what is in the file.
RUNNING = {"pickle", "cPickle", "joblib", "dill", "cloudpickle", "shelve", "marshal", "pandas", "pd"}
READERS = {"load", "loads", "Unpickler", "read_pickle", "open"}


def faults_of(source: str) -> list[str]:
    tree = ast.parse(source)
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module in RUNNING:
            found += [
                f"{node.lineno}: from {node.module} import {a.name}" for a in node.names if a.name in READERS
            ]
        if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
            continue
        owner = node.func.value.id if isinstance(node.func.value, ast.Name) else ""
        given = {word.arg: word.value for word in node.keywords}
        if owner in RUNNING and node.func.attr in READERS:
            found.append(f"{node.lineno}: {owner}.{node.func.attr}")
        if owner == "torch" and node.func.attr == "load" and not is_constant(given.get("weights_only"), True):
            found.append(f"{node.lineno}: torch.load without weights_only=True")
        if (
            owner in ("np", "numpy")
            and node.func.attr == "load"
            and not is_constant(given.get("allow_pickle"), False)
        ):
            found.append(f"{node.lineno}: np.load without allow_pickle=False")
        if is_constant(given.get("allow_pickle"), True):
            found.append(f"{node.lineno}: allow_pickle=True")
    return found


def is_constant(node: ast.expr | None, value: bool) -> bool:
    return isinstance(node, ast.Constant) and node.value is value


@pytest.mark.parametrize("root", [PLUGINS, ADAPTERS], ids=["plugins", "adapters"])
def test_no_source_unpickles(root: Path):
    faults = {str(path): faults_of(path.read_text()) for path in root.rglob("*.py")}
    assert {path: found for path, found in faults.items() if found} == {}
    assert any("torch.load(" in path.read_text() for path in PLUGINS.rglob("*.py"))


@pytest.mark.parametrize(
    "line",
    [
        "torch.load(path)", "torch.load(path, weights_only=False)", "torch.load(path, weights_only=safe)",
        "np.load(path)", "np.load(path, allow_pickle=True)", "np.savez(path, allow_pickle=True)",
        "pickle.load(file)", "pickle.Unpickler(file).load()", "joblib.load(path)", "from pickle import loads",
        "pd.read_pickle(path)",
    ],
)  # fmt: skip
def test_the_scan_sees(line):
    assert faults_of(line)


def test_the_scan_lets_pass():
    good = "torch.load(path, weights_only=True); np.load(path, allow_pickle=False); pickle.dumps(x)"
    assert faults_of(good) == []
