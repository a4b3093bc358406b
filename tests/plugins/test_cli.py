"""The command line: what it lists, diagnoses and cites, and how it fails."""

import subprocess
import sys
from importlib import metadata

import pytest

from graftkit import cli
from graftkit.core.catalogue import METHODS
from tests.house.surface import existing_methods


def run(*argv: str) -> int:
    """The exit code of a command in this process."""
    try:
        cli.main(list(argv))
    except SystemExit as error:
        return int(error.code or 0)
    return 0


@pytest.fixture
def wide(monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")


def versions(monkeypatch, **given: str | None) -> None:
    """Pretend that packages have these versions, None is not installed; torchvision is the pinned one."""
    given = {"torch": "2.14.1", "torchvision": "0.29.1", **given}
    real, requires = metadata.version, metadata.requires
    table = {name.replace("_", "-"): version for name, version in given.items()}

    def version(name: str) -> str:
        if name in table:
            found = table[name]
            if found is None:
                raise metadata.PackageNotFoundError(name)
            return found
        return real(name)

    monkeypatch.setattr(metadata, "version", version)
    needs = {"torchvision": ["numpy", "torch>=2.14.0", "pillow"]}  # another torchvision may be installed
    monkeypatch.setattr(metadata, "requires", lambda name: needs.get(name) or requires(name))


@pytest.mark.usefixtures("wide")
def test_list_shows_every_method_with_its_imports(capsys):
    assert run("list") == 0
    lines = capsys.readouterr().out.splitlines()
    for name, method in METHODS.items():
        (row,) = (line for line in lines if line.startswith(f"{name} "))
        assert method.purpose in row
        assert f"graftkit.{method.hosts[0]}" in row
        assert ("planned" in row) == (name not in existing_methods())


@pytest.mark.usefixtures("wide")
def test_list_names_the_extra_of_a_missing_host(monkeypatch, capsys):
    versions(monkeypatch, pyod=None)
    assert run("list") == 0
    (row,) = (line for line in capsys.readouterr().out.splitlines() if "graftkit.pyod" in line)
    assert row.endswith("missing: extra pyod")


@pytest.mark.usefixtures("wide")
def test_list_without_a_core_dependency_names_no_extra(monkeypatch, capsys):
    versions(monkeypatch, scikit_learn=None)
    assert run("list") == 0
    out = capsys.readouterr().out
    assert {line.split()[-1] for line in out.splitlines() if "graftkit.sklearn" in line} == {"missing"}
    assert "pip install" not in out


@pytest.mark.parametrize("command", ["list", "doctor"])
def test_what_to_install_can_be_copied_from_a_narrow_terminal(monkeypatch, capsys, command):
    monkeypatch.setenv("COLUMNS", "40")
    versions(monkeypatch, timm=None, diffusers=None, transformers=None)
    assert run(command) == 0
    commands = [line for line in capsys.readouterr().out.splitlines() if "pip install" in line]
    assert commands == ["to add what is missing: pip install 'graftkit[timm,diffusers]'"]


@pytest.mark.usefixtures("wide")
def test_doctor_is_content_with_the_tested_versions(capsys):
    assert run("doctor") == 0
    out = capsys.readouterr().out
    assert "will not work" not in out
    assert "missing" not in out
    assert "adversarial-robustness-toolbox" in out
    assert out.startswith(f"graftkit {metadata.version('graftkit')}, Python 3.")  # what a bug report needs


@pytest.mark.usefixtures("wide")
@pytest.mark.parametrize(
    ("given", "code", "words"),
    [
        ({"timm": None}, 0, "missing: extra timm"),
        ({"timm": "1.0.1"}, 1, "will not work: timm 1.0.1 is older than >="),
        ({"timm": "99.0"}, 0, "newer than tested"),
        ({"scipy": None}, 1, "will not work: scipy is not installed (pip install graftkit)"),
        ({"timm": "1.0.1"}, 1, "too old"),
        ({"torch": "2.14.1+cpu"}, 1, "take both from one index"),
        ({"torch": "2.13.0"}, 1, "torchvision 0.29.1 needs torch>=2.14.0, found 2.13.0"),
        ({"torch": "2.13.0", "torchvision": None}, 0, "2.13.0"),
        ({"onedl_mmsegmentation": None, "mmsegmentation": "1.2.2"}, 0, "original line is installed"),
    ],
)
def test_doctor_says_what_is_wrong(monkeypatch, capsys, given, code, words):
    versions(monkeypatch, **given)
    assert run("doctor") == code
    assert words in capsys.readouterr().out


@pytest.mark.usefixtures("wide")
def test_a_local_build_is_not_newer_than_its_version(monkeypatch, capsys):
    versions(monkeypatch, torch="2.14.1+cu130", torchvision="0.29.1+cu130")
    assert run("doctor") == 0
    (row,) = (line for line in capsys.readouterr().out.splitlines() if line.startswith("torch "))
    assert row.split()[-1] == "ok"


@pytest.mark.usefixtures("wide")
def test_a_build_for_gpus_goes_with_one_that_names_none(monkeypatch, capsys):
    versions(monkeypatch, torch="2.14.1+cu130")
    assert run("doctor") == 0
    assert "will not work" not in capsys.readouterr().out


@pytest.mark.usefixtures("wide")
@pytest.mark.parametrize(("built", "said"), [("mmcv/_ext.so", False), ("mmcv/ops/roi.py", True)])
def test_doctor_notices_an_mmcv_without_operators(monkeypatch, capsys, built, said):
    versions(monkeypatch, onedl_mmcv="2.3.6")
    monkeypatch.setattr(metadata, "files", lambda _: [metadata.PackagePath(built)])
    assert run("doctor") == 0
    assert ("mmcv has no compiled operators" in capsys.readouterr().out) == said


@pytest.mark.parametrize(
    ("said", "name"),
    [
        *((name, name) for name in METHODS),
        *((method.title, name) for name, method in METHODS.items()),
        ("DPCML", "dpcml"),
        ("sse-sam", "sse_sam"),
        ("gate", "content_shift"),
    ],
)
def test_cite_prints_bibtex_by_folder_and_by_title(capsys, said, name):
    assert run("cite", said) == 0
    out = capsys.readouterr().out
    papers = METHODS[name].papers
    assert out.count("archiveprefix") == len(papers)
    assert all(paper.title in out for paper in papers)


def test_cite_of_an_unknown_method_lists_the_known(capsys):
    assert run("cite", "gpt") == 2
    err = capsys.readouterr().err
    assert err == f"method: expected one of {', '.join(METHODS)}, got 'gpt'\n"


@pytest.mark.parametrize("argv", [("cite",), ("nonsense",), ("list", "--nope")])
def test_wrong_commands_exit_with_2(capsys, argv):
    assert run(*argv) == 2
    assert capsys.readouterr().err


def test_without_typer_the_command_names_the_extra():
    code = "import sys; sys.modules['typer'] = None; from graftkit.cli import main; main(['list'])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert done.stderr.strip().endswith("pip install 'graftkit[cli]'")
    assert "Traceback" not in done.stderr


def test_module_runs_as_a_script_and_imports_no_host():
    code = (
        "import runpy, sys; sys.argv = ['graftkit', 'doctor']\n"
        "try:\n    runpy.run_module('graftkit.cli', run_name='__main__')\n"
        "except SystemExit as error:\n    assert not error.code, error.code\n"
        "print(sorted({'torch', 'timm', 'mmcv', 'diffusers', 'sklearn', 'pyod'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip().endswith("[]")
