"""The report is computed from the JSON files: means, spreads, verdicts and missing sections."""

import json
import os

import pytest

from tests.benchmarks import render_hgoe, report
from tests.benchmarks.render_rcpmod import METHODS, render
from tests.benchmarks.results_io import Records


def quality(seed, ours, rival, data="digits", **case):
    methods = {name: {"auc": 0.5, "ap": 0.5, "seconds": 1.0} for name in METHODS}
    methods["RCPMOD"]["auc"], methods["XV-kNN"]["auc"] = ours, rival
    methods["RCPMOD"]["class"] = 0.9
    methods["RCPMOD, new-row score"] = methods["RCPMOD"]
    methods["completeness flag"] = {"auc": 0.6}
    base = {"data": data, "mix": "5-5-5", "missing": 0.3, "leak_free": False, **case}
    return {"section": "quality", "seed": seed, "methods": methods, **base}


def test_mean_and_sample_deviation():
    assert report.spread([0.9, 0.8]) == "0.850 (0.071)"
    assert report.spread([0.9]) == "0.900"
    assert report.spread([None]) == "-"


def test_losing_rows_are_named_with_their_margin():
    text = render([quality(0, 0.90, 0.95), quality(1, 0.92, 0.95), quality(0, 0.99, 0.95, mix="2-5-8")])
    assert "RCPMOD is best in 1 of 2 rows" in text
    assert "digits, 5-5-5, m=0.30 (to XV-kNN, by 0.040)" in text
    assert "**0.950 (0.000)**" in text


@pytest.mark.parametrize(("overall", "verdict"), [(0.98, "yes"), (0.96, "no")])
def test_published_figures_are_a_bar(overall, verdict):
    record = quality(0, overall, 0.5, data="Scene-15", mix="5-2-8")
    preset = {"section": "preset", "data": "Scene-15", "seed": 0, "auc": 0.964, "class": 0.987}
    section = render([record, preset]).split("### Beside the published code")[1].split("###")[0]
    assert f"| Scene-15, all | {overall:.3f} | 1 | 0.969 | {verdict} | 0.964 | 1 |" in section
    assert "| Scene-15, class | 0.900 | 1 | 0.991 | no | 0.987 | 1 |" in section


def test_sections_without_records_say_so():
    text = render([])
    assert text.count("Not run.") == 6


def test_ratio_of_speed_and_growth():
    speed = [
        {
            "section": "speed",
            "method": method,
            "n": 100,
            "cpu_seconds": seconds,
            "epoch_cpu_seconds": epoch,
            "peak_gib": 1.0,
            "epochs": 3,
            "hidden": [8],
            "data": False,
        }
        for method, seconds, epoch in (("published", 12.0, 3.0), ("RCPMOD", 2.0, 0.25))
    ]
    scale = [
        {"section": "scale", "task": "fit", "n": n, "epochs": 2, "seconds": s, "peak_gib": 1.0}
        for n, s in ((10, 1.0), (100, 11.0))
    ]
    text = render(speed + scale)
    # 87 more epochs of 3 s and of 0.25 s: 273 s against 23.75 s.
    assert "| 100 | RCPMOD | 2.0 | 0.25 | 6.0x | 12.0x | 11.5x | 1.00 |" in text
    assert "10 times the rows took 11.0 times as long" in text


def test_accuracy_at_a_full_schedule_names_time_and_every_kind():
    base = {"section": "accuracy", "n": 50, "epochs": 90, "data": True, "attribute": 1.0}
    records = [
        {**base, "method": method, "seed": seed, "auc": auc, "class": 0.8, "cpu_seconds": seconds}
        for method, auc, seconds in (("published", 0.9, 30.0), ("RCPMOD", 0.92, 6.0))
        for seed in (0, 1)
    ]
    text = render(records)
    assert "| RCPMOD | 2 | 0.920 (0.000) | 1.000 (0.000) | 0.800 (0.000) | - | 6 | 5.0x |" in text


def test_records_survive_and_resume(tmp_path):
    path = tmp_path / "results" / "x.json"
    Records("x", path).add("a", {"cpu": "one"}, value=1)
    again = Records("x", path)
    assert again.has("a")
    assert not again.has("b")
    again.add("b", {"cpu": "two"}, value=2)
    stored = json.loads(path.read_text())
    assert [(r["key"], r["environment"], r["value"]) for r in stored["records"]] == [("a", 0, 1), ("b", 1, 2)]
    assert list(path.parent.iterdir()) == [path]


def test_records_say_what_they_took(tmp_path, monkeypatch):
    clock = iter([(1.0, 1.0, 0.5, 0.0, 99.0), (3.0, 1.0, 61.0, 0.0, 99.0), (66.0, 1.5, 61.0, 0.0, 99.0)])
    monkeypatch.setattr(os, "times", lambda: next(clock))
    records = Records("x", tmp_path / "x.json")
    for key in "ab":
        records.add(key, {})
    assert [record["took"] for record in records.records.values()] == [62.5, 63.5]
    # An old record without a time is counted as not timed.
    assert report.minutes([*records.records.values(), {"key": "old"}]) == ["3", "2", "2.1"]
    assert report.minutes([{"key": "old"}]) == ["1", "0", "-"]


def test_adopted_records_stay_as_they_are(tmp_path):
    mine, lane, old = (tmp_path / f"{name}.json" for name in ("mine", "lane", "old"))
    Records("", mine).add("a", {"cpu": "one"}, took=3.0, value=1)
    records = Records("", lane)
    records.add("b", {"cpu": "two"}, took=70.0, value=2)
    records.add("c", {"cpu": "one"}, took=80.0, value=3)
    old.write_text('{"environments": [{"cpu": "old"}], "records": [{"key": "d", "environment": 0}]}')
    for path in (lane, old):
        Records("", mine).adopt(path)
    stored = json.loads(mine.read_text())
    assert stored["environments"] == [{"cpu": "one"}, {"cpu": "two"}, {"cpu": "old"}]
    assert [(r["key"], r["environment"], r.get("took")) for r in stored["records"]] == [
        ("a", 0, 3.0),
        ("b", 1, 70.0),
        ("c", 0, 80.0),
        ("d", 2, None),
    ]


def test_whole_report_from_a_folder(tmp_path):
    assert "Not run." in report.render_all(tmp_path)
    Records("rcpmod", tmp_path / "rcpmod.json").add(
        "k",
        {
            "cpu": "CPU-X",
            "cores": 2,
            "threads": 1,
            "python": "3",
            "versions": {"torch": "9"},
            "commit": "c",
            "date": "d",
        },
        **quality(0, 0.9, 0.8),
    )
    text = report.render_all(tmp_path)
    assert "CPU-X, 2 cores" in text
    assert "RCPMOD is best in 1 of 1 rows." in text
    assert "| `bench_rcpmod.py` | 1 | 1 | 0.0 |" in text
    assert "| RCPMOD | quality not measured yet | - |" in text  # not on a data set of the summary


def test_random_edges_are_a_rival_of_made_graphs():
    auroc = {"base": 0.5, "external": 0.6, "HGOE": 0.8, "shuffled": 0.8, "unweighted": 0.9, "alike": 1.0}
    records = [
        {
            "section": "quality", "data": "near", "detector": "energy", "seed": seed, "arm": arm,
            "metrics": {"near": {"AUROC": value}},
        }
        for arm, value in auroc.items()
        for seed in range(3)
    ]  # fmt: skip
    (line,) = render_hgoe.headlines(records)
    assert (line.rival, line.verdict()) == ("shuffled", "no clear difference")


def test_arms_of_graph_outliers_are_explained_only_where_they_were_run():
    def text(*arms):
        metrics = {"near": {"AUROC": 0.6, "AUPR": 0.5, "FPR95": 0.7}}
        shared = {"section": "quality", "data": "near", "detector": "energy", "seed": 0, "metrics": metrics}
        return render_hgoe.render([{**shared, "arm": arm} for arm in ("base", "HGOE", *arms)])

    for arm in ("official", "alike"):
        assert f"*{arm}* is" not in text()
        assert f"*{arm}* is" in text(arm)
