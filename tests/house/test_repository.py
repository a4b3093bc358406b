"""The checkout itself: what lies where, what must not be in it, and what the README claims."""

import ast
import re
import shutil
import subprocess
import tomllib
from itertools import chain
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from tests.house.surface import METHODS, ROOT, existing_adapters, existing_methods

TOP_LEVEL = {
    "CHANGELOG.md",
    "CITATION.cff",
    "CONTRIBUTING.md",
    "LICENSE",
    "Makefile",
    "README.md",
    "adapters",
    "constraints.txt",
    "examples",
    "plugins",
    "pyproject.toml",
    "tests",
}
HIDDEN = {".ci", ".gitignore"}
LARGEST = 500_000  # bytes
LONGEST = 400  # lines of a file of code: beyond that it holds more than one idea

# Folders of somebody's machine, and hosts that packages come from. Names are put together here so that this
# file does not trip over itself.
MACHINE_PATH = re.compile(r"(?<![\w./~$}-])/(?:work|tmp|root|home|opt|Users|mnt|scratch)/[\w.]")
INDEX_HOSTS = (
    "pypi" + ".org",
    "pythonhosted" + ".org",
    "registry." + "npmjs",
    "anaconda" + ".org",
    "pytorch" + ".org/whl",
)


def repository_files() -> list[Path]:
    """Tracked files and those about to be: untracked, not ignored."""
    if shutil.which("git") is None or not (ROOT / ".git").exists():
        pytest.skip("not a git checkout: what belongs to the repository cannot be told")
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    return [ROOT / name for name in listed.split("\0") if name and (ROOT / name).is_file()]


def text_complaints(path: Path) -> list[str]:
    """Machine paths and index hosts in one file; binary files have none."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError:
        return []
    return [
        f"{path.name}:{number}: {line.strip()[:80]}"
        for number, line in enumerate(lines, 1)
        if MACHINE_PATH.search(line) or any(host in line for host in INDEX_HOSTS)
    ]


def test_top_level_is_what_was_agreed():
    top = {path.relative_to(ROOT).parts[0] for path in repository_files()}
    assert {name for name in top if not name.startswith(".")} == TOP_LEVEL
    assert {name for name in top if name.startswith(".")} == HIDDEN


def test_no_file_is_large():
    assert [path.name for path in repository_files() if path.stat().st_size > LARGEST] == []


def long_files(paths: list[Path]) -> list[Path]:
    """Files of Python code with more lines than `LONGEST`."""
    code = [path for path in paths if path.suffix == ".py"]
    return [path for path in code if len(path.read_text(encoding="utf-8").splitlines()) > LONGEST]


def test_files_of_code_are_split_by_idea():
    assert [path.relative_to(ROOT).as_posix() for path in long_files(repository_files())] == []


def test_length_check_can_fail(tmp_path):
    files = [tmp_path / name for name in ("whole.py", "split.py", "data.txt")]
    for file, lines in zip(files, (LONGEST + 1, LONGEST, LONGEST + 1), strict=True):
        file.write_text("x = 1\n" * lines)
    assert long_files(files) == files[:1]


def test_no_file_names_a_machine_or_a_package_index():
    complaints = [text for path in repository_files() for text in text_complaints(path)]
    assert not complaints, "\n".join(complaints)


@pytest.mark.parametrize(
    "line", ["open('/wo" + "rk/x')", "see /ro" + "ot/.cache", "index: " + INDEX_HOSTS[0]]
)
def test_text_check_can_fail(tmp_path, line):
    file = tmp_path / "a.py"
    file.write_text(f"fine = 'a/home/b' + '../work/x'\n{line}\n")
    assert [text.split(":")[1] for text in text_complaints(file)] == ["2"]


def readme_status() -> dict[str, str]:
    """The README's table of methods: folder name to status."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    rows = [line.split("|")[1:-1] for line in readme.splitlines() if line.startswith("|")]
    cells = [[cell.strip() for cell in row] for row in rows]
    return {row[0].strip("`"): row[-1] for row in cells if row[0].strip("`") in METHODS}


def test_readme_lists_ten_methods_and_tells_their_status_truthfully():
    expected = {name: "works" if name in existing_methods() else "planned" for name in METHODS}
    assert readme_status() == expected


@pytest.mark.parametrize("name", METHODS)
def test_a_method_comes_with_its_tests_example_and_benchmark(name):
    """All of them, under one name, or none of them."""
    parts = [
        f"plugins/graftkit/methods/{name}/__init__.py",
        f"tests/plugins/{name}/reference.py",
        f"tests/benchmarks/bench_{name}.py",
        f"examples/{name}.py",
    ]
    missing = [part for part in parts if not (ROOT / part).is_file()]
    assert missing in ([], parts)


def test_folders_are_named_after_methods_and_hosts():
    below = {path.name for path in (ROOT / "tests" / "plugins").iterdir() if path.is_dir()} - {"__pycache__"}
    assert below <= {*METHODS, "core"}
    tested = {path.name for path in (ROOT / "tests" / "adapters").glob("*") if path.is_dir()} - {
        "__pycache__"
    }
    assert tested == set(existing_adapters())
    assert {path.stem for path in (ROOT / "examples").glob("*.py")} <= {*METHODS, "tour", "tour_page"}


def test_packages_only_name_things():
    """An ``__init__.py`` is a docstring, imports, checks for the host and ``__all__``; code has a file."""
    found = [path for root in ("plugins", "adapters") for path in (ROOT / root).rglob("__init__.py")]
    assert found
    code = [
        f"{path.relative_to(ROOT).as_posix()}:{node.lineno}"
        for path in found
        for node in ast.parse(path.read_text(encoding="utf-8")).body
        if not only_names(node)
    ]
    assert code == []


def only_names(node: ast.stmt) -> bool:
    """A docstring, an import, a check for a host (also under a condition), or ``__all__``."""
    if isinstance(node, ast.If):
        return all(map(only_names, node.body + node.orelse))
    if isinstance(node, ast.Expr):
        return isinstance(node.value, ast.Constant) or ast.unparse(node).startswith("require(")
    return isinstance(node, ast.Import | ast.ImportFrom) or ast.unparse(node).startswith("__all__ = ")


# The tested versions.


def constraints() -> dict[str, Version]:
    """Pins of constraints.txt."""
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pins = [line.split("==") for line in lines if line and not line.startswith("#")]
    return {canonicalize_name(name): Version(version) for name, version in pins}


def test_constraints_satisfy_what_pyproject_asks_for():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    declared = [
        *project["build-system"]["requires"],
        *project["project"]["dependencies"],
        *chain.from_iterable(project["project"]["optional-dependencies"].values()),
    ]
    pins = constraints()
    requirements = [r for r in map(Requirement, declared) if r.name != "graftkit"]
    missing = [r.name for r in requirements if canonicalize_name(r.name) not in pins]
    assert missing == []
    unmet = [str(r) for r in requirements if pins[canonicalize_name(r.name)] not in r.specifier]
    assert unmet == []


def test_constraints_hold_the_agreed_pair():
    pins = constraints()
    assert (str(pins["torch"]), str(pins["torchvision"])) == ("2.14.1", "0.29.1")


def test_ci_runs_what_a_user_can_run():
    script = (ROOT / ".ci" / "run").read_text(encoding="utf-8").splitlines()
    commands = [line for line in script if line and not line.startswith(("#", "set ", "cd "))]
    assert commands == ["exec make lint test"]


def test_changelog_and_citation_name_the_version_of_pyproject():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    citation = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    assert re.search(r"^cff-version: 1\.2\.0$", citation, re.MULTILINE)
    assert re.search(rf"^version: {re.escape(project['version'])}$", citation, re.MULTILINE)
    assert "## [Unreleased]" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
