"""CONTRIBUTING's section on scale holds what the records say, and a line for every method."""

import pytest

from tests.benchmarks import scale


def test_the_page_is_what_the_records_give():
    assert scale.update() == scale.PAGE.read_text(encoding="utf-8"), "run `make report`"


def test_a_line_by_hand():
    """10 seconds for 4 rows are 2.5 seconds a row and 2.5e8 s = 2893.5 days for 1e8."""
    found = scale.records()
    key = scale.LINES[0].key
    row = scale.table({**found, key: {"n": 4, "cpu_seconds": 10.0}}).splitlines()[2]
    assert row.split(" | ")[2:5] == ["4 rows, 10 s", "2.5 s", "2 894 days"]


def test_memory_by_hand():
    """One GiB more for 90 000 rows more is 11 930 bytes a row."""
    found = scale.records()
    small, large = "rcpmod:scale/fit/10000", "rcpmod:scale/fit/100000"
    changed = {small: {"n": 10_000, "peak_gib": 1.0}, large: {"n": 100_000, "peak_gib": 2.0}}
    assert "11.9 kB a row" in scale.memory({**found, **changed})


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (5e-6, "5 µs"),
        (0.25, "250 ms"),
        (1.0, "1 s"),
        (7199.0, "7 199 s"),
        (7200.0, "2 h"),
        (172800.0, "2 days"),
    ],
)
def test_durations(seconds, text):
    assert scale.duration(seconds) == text


def test_every_method_has_a_line():
    page = scale.PAGE.read_text(encoding="utf-8")
    section = page.split("## Scale\n")[1].split("\n## ")[0]
    methods = [
        "RCPMOD",
        "DPCML",
        "SSE-SAM",
        "AUCSeg",
        "BiLT",
        "EDGE",
        "HGOE",
        "QEDG",
        "Diffusion features",
        "GATE",
    ]
    assert [name for name in methods if name not in section] == []
