"""The wheel holds both roots, their types and nothing else, and works without the sources."""

import re
import shutil
import subprocess
import sys
import sysconfig
import tomllib
import venv
import zipfile
from email.parser import Parser
from itertools import chain
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from tests.house.subprocesses import run_json
from tests.house.surface import ADAPTERS, METHODS, PLUGINS, ROOT, existing_adapters, existing_methods
from tests.house.versions import bound

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]

EXTRAS = {
    "timm": {"timm"},
    "pyg": {"torch-geometric"},
    "mmseg": {"onedl-mmengine", "onedl-mmcv", "onedl-mmsegmentation"},
    "diffusers": {"diffusers", "transformers", "accelerate", "peft"},
    "art": {"adversarial-robustness-toolbox"},
    "pyod": {"pyod"},
    "accelerate": {"accelerate"},
    "transformers": {"transformers", "accelerate"},
    "lightning": {"lightning"},
    "dask": {"dask", "distributed"},
    "cli": {"typer", "rich", "packaging"},
    "examples": {"matplotlib", "rich", "pandas", "pillow"},
    "bench": {"faiss-cpu", "implicit", "pytorch-optimizer", "pytorch-ood"},
}
HOST_EXTRAS = set(EXTRAS) - {"examples", "bench"}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """A wheel of this checkout, built with the hatchling that is installed."""
    folder = tmp_path_factory.mktemp("wheel")
    command = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "--quiet",
        "--no-deps",
        "--no-build-isolation",
        "--no-index",
    ]
    subprocess.run([*command, "--wheel-dir", str(folder), str(ROOT)], check=True, timeout=120)
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def unpacked(wheel, tmp_path_factory) -> Path:
    """The wheel's contents as an installer would lay them."""
    folder = tmp_path_factory.mktemp("site")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder)
    return folder


@pytest.fixture(scope="module")
def metadata(unpacked):
    """The wheel's METADATA."""
    (path,) = unpacked.glob("graftkit-*.dist-info/METADATA")
    return Parser().parsestr(path.read_text(encoding="utf-8"))


def test_wheel_holds_both_roots_and_nothing_else(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}
    sources = {
        f"graftkit/{path.relative_to(root).as_posix()}"
        for root in (PLUGINS, ADAPTERS)
        for path in root.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert names == sources
    assert "graftkit/core/validation.py" in names
    assert "graftkit/sklearn/rcpmod.py" in names
    assert "graftkit/__init__.py" not in names


def test_every_first_level_package_is_marked_typed(unpacked):
    packages = sorted(path.parent for path in (unpacked / "graftkit").glob("*/__init__.py"))
    assert {path.name for path in packages} == {"core", "methods", *existing_adapters()}
    assert [path.name for path in packages if not (path / "py.typed").is_file()] == []


def test_licence_travels_with_the_wheel(unpacked):
    (licence,) = unpacked.glob("graftkit-*.dist-info/licenses/LICENSE")
    assert "The graftkit authors" in licence.read_text(encoding="utf-8")


def test_metadata_names_python_licence_and_core_dependencies(metadata):
    assert metadata["Name"] == "graftkit"
    assert metadata["Requires-Python"] == ">=3.11"
    assert metadata["License-Expression"] == "MIT"
    core = {r.name for r in map(Requirement, metadata.get_all("Requires-Dist")) if r.marker is None}
    assert core == {"torch", "numpy", "scipy", "scikit-learn", "tqdm"}


def test_extras_install_what_they_promise(metadata):
    assert set(metadata.get_all("Provides-Extra")) == {*EXTRAS, "all", "test", "dev"}
    requirements = [Requirement(text) for text in metadata.get_all("Requires-Dist")]
    for extra, expected in EXTRAS.items():
        names = {
            r.name.replace("_", "-") for r in requirements if r.marker and r.marker.evaluate({"extra": extra})
        }
        assert names - {"torch", "numpy", "scipy", "scikit-learn", "tqdm"} == expected, extra


@pytest.mark.parametrize(
    ("bundle", "parts"), [("all", HOST_EXTRAS), ("dev", {"all", "examples", "test", "bench"})]
)
def test_bundles_hold_every_part(bundle, parts):
    declared = [Requirement(text) for text in PROJECT["optional-dependencies"][bundle]]
    (own,) = [r for r in declared if r.name == "graftkit"]
    assert own.extras == parts


def test_adapters_name_the_oldest_version_of_their_host():
    """What an ImportError asks for is what pyproject.toml asks for."""
    named = {}
    for path in ADAPTERS.rglob("*.py"):
        for call in re.findall(r"require\((.*?)\)", path.read_text(encoding="utf-8"), re.DOTALL):
            found = dict(re.findall(r'(extra|distribution|minimum)="([^"]+)"', call))
            if "minimum" in found:
                module = re.findall(r'"([^"]+)"', call)[0]
                named[found.get("distribution", module)] = found["minimum"]
    declared = [*PROJECT["dependencies"], *chain.from_iterable(PROJECT["optional-dependencies"].values())]
    bounds = dict(bound(text) for text in declared if not text.startswith("graftkit"))
    assert len(named) >= 7
    # torchmetrics comes with lightning, which states no bound of its own here.
    assert {name: named[name] for name in named.keys() & bounds.keys()} == {
        name: bounds[name] for name in named.keys() & bounds.keys()
    }
    assert named.keys() - bounds.keys() <= {"torchmetrics"}


def test_every_requirement_states_its_minimum():
    declared = [*PROJECT["dependencies"], *chain.from_iterable(PROJECT["optional-dependencies"].values())]
    open_ended = [r for r in map(Requirement, declared) if r.name != "graftkit" and not r.specifier]
    assert open_ended == []


WITHOUT_SOURCES = """
import importlib, json, sys
from pathlib import Path
roots = {{Path(root).resolve() for root in {roots!r}}}
sys.path[:] = [{site!r}] + [entry for entry in sys.path if Path(entry or ".").resolve() not in roots]
modules = {modules!r}
loaded = [importlib.import_module(name) for name in modules]
print(json.dumps([Path(m.__file__).is_relative_to({site!r}) for m in loaded]))
"""


def test_wheel_imports_without_the_sources(unpacked):
    modules = [
        "graftkit.core.validation",
        *(f"graftkit.methods.{name}" for name in existing_methods()),
        *(f"graftkit.{name}" for name in existing_adapters()),
    ]
    roots = [str(PLUGINS.parent), str(ADAPTERS.parent)]
    assert run_json(WITHOUT_SOURCES.format(roots=roots, site=str(unpacked), modules=modules)) == [True] * len(
        modules
    )


CONSUMER = """
from graftkit.core.validation import check_integer
from graftkit.sklearn import RCPMOD

right: int = check_integer("n", 3)
wrong: str = check_integer("n", 3)
RCPMOD(n_epoch=3)
"""


@pytest.mark.slow
def test_types_are_seen_by_a_consumer(unpacked, tmp_path):
    """In an environment that holds the wheel, mypy accepts right use and reports wrong use, both roots."""
    environment = tmp_path / "venv"
    venv.create(environment, with_pip=False)
    site = Path(sysconfig.get_path("purelib", "venv", {"base": str(environment)}))
    shutil.copytree(unpacked / "graftkit", site / "graftkit")
    # The dependencies come from here; their own .pth files (the editable graftkit) are not followed.
    (site / "dependencies.pth").write_text(f"{sysconfig.get_path('purelib')}\n", encoding="utf-8")
    python = Path(sysconfig.get_path("scripts", "venv", {"base": str(environment)})) / "python"
    (tmp_path / "consumer.py").write_text(CONSUMER, encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", f"--python-executable={python}", "consumer.py"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    errors = [line for line in done.stdout.splitlines() if ": error:" in line]
    assert len(errors) == 2, done.stdout
    assert errors[0].startswith("consumer.py:6:")
    assert '"int", variable has type "str"' in errors[0]
    assert errors[1].startswith("consumer.py:7:")
    assert 'Unexpected keyword argument "n_epoch"' in errors[1]


def test_method_folders_have_the_agreed_names():
    assert set(existing_methods()) <= set(METHODS)
