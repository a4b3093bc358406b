"""A missing host is an ImportError that says what to install."""

import json
import re
import sys

import pytest

from graftkit.core.extras import require


def test_present_module_is_returned():
    assert require("json", extra="none") is json
    assert require("os.path", extra="none").join("a", "b") == __import__("os").path.join("a", "b")


def test_missing_module_names_package_minimum_and_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch_geometric", None)
    with pytest.raises(ImportError, match=r"^graftkit needs ") as caught:
        require("torch_geometric", extra="pyg", distribution="torch-geometric", minimum="2.6")
    message = str(caught.value)
    assert message.startswith("graftkit needs torch-geometric>=2.6 here, which could not be imported (")
    assert message.endswith("). Install it with: pip install 'graftkit[pyg]'")
    assert caught.value.name == "torch_geometric"


def test_module_name_stands_in_for_the_distribution():
    with pytest.raises(
        ImportError, match=r"^graftkit needs no_such_host here, which could not be imported \(No module"
    ):
        require("no_such_host", extra="x")


def test_a_broken_host_shows_its_own_reason(tmp_path, monkeypatch):
    (tmp_path / "half_installed.py").write_text("import its_missing_part\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ImportError, match=re.escape("(No module named 'its_missing_part')")) as caught:
        require("half_installed", extra="x")
    assert isinstance(caught.value.__cause__, ModuleNotFoundError)


def test_other_errors_of_a_host_pass_through(tmp_path, monkeypatch):
    (tmp_path / "raises_at_import.py").write_text("raise RuntimeError('driver too old')\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(RuntimeError, match=r"^driver too old$"):
        require("raises_at_import", extra="x")
