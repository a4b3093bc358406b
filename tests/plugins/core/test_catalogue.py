"""The catalogue agrees with the folders, the README, the constraints and pyproject.toml."""

import re
import tomllib

import pytest

from graftkit.core.catalogue import HOSTS, METHODS, TESTED, Paper, bibtex
from tests.house.surface import ADAPTERS, ROOT, existing_methods

README = (ROOT / "README.md").read_text(encoding="utf-8")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def test_every_folder_of_a_method_is_in_the_catalogue():
    assert set(existing_methods()) <= METHODS.keys()


@pytest.mark.parametrize("name", existing_methods())
def test_hosts_of_a_method_are_the_adapters_that_import_it(name):
    """No host is promised that does not mention the method, and none that does is left out."""
    importing = {
        path.relative_to(ADAPTERS).parts[0]
        for path in ADAPTERS.rglob("*.py")
        if path.stem.startswith(name)
        or re.search(rf"graftkit\.methods(\.| import ){name}\b", path.read_text(encoding="utf-8"))
    }
    assert importing == set(METHODS[name].hosts)


def test_hosts_name_extras_that_install_their_package():
    for host in HOSTS.values():
        if host.extra:
            declared = PROJECT["optional-dependencies"][host.extra]
            assert any(re.match(rf"{host.distribution}\b", text) for text in declared), host


def test_tested_versions_are_those_of_the_constraints():
    text = (ROOT / "constraints.txt").read_text(encoding="utf-8")
    found = re.findall(r"^([\w.-]+)==(\S+)$", text, re.MULTILINE)
    pinned = {name.lower().replace("_", "-"): version for name, version in found}
    assert {name: pinned.get(name) for name in TESTED} == TESTED


def test_readme_cites_what_the_command_cites():
    text = " ".join(README.split())
    for method in METHODS.values():
        assert f"| {method.title} |" in text
        for paper in method.papers:
            assert paper.title in text
            assert f"arXiv:{paper.arxiv}" in text
            assert not paper.doi or f"doi:{paper.doi}" in text
            assert f"{paper.venue} {paper.year}" in text
            assert ", ".join(paper.authors) in text


def test_bibtex_names_journal_or_booktitle_and_leaves_out_what_is_unknown():
    entry = bibtex(Paper("k", ("A. A", "B. B"), "T", "J", 2020, "1", doi="10.1/x", journal=True))
    assert entry.startswith("@article{k,\n  author = {A. A and B. B},\n  title = {{T}},\n  journal = {J},")
    assert "doi = {10.1/x}" in entry
    assert "doi" not in bibtex(Paper("k", ("A",), "T", "C", 2020, "1"))


def test_keys_of_papers_are_unique():
    keys = [paper.key for method in METHODS.values() for paper in method.papers]
    assert len(keys) == len(set(keys)) == 11
