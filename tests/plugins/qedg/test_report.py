"""The report: its schema, its forms, what must be in it."""

import csv
import io
import json
import math
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest
import torch

from tests.plugins.qedg.cases import TINY, auditor, evaluation, network

X, Y = evaluation()
KEYS = {
    "schema", "settings", "ledger", "baseline_ledgers", "curve", "queries_to_kappa", "events", "stopped",
    "seconds",
}  # fmt: skip


@pytest.fixture(scope="module")
def result():
    options = {"target_id": "<b>model</b> & co v3", "config": replace(TINY, tau=0.5)}
    return auditor(budget=50, **options).run((X, Y), eval_origin="uniform noise", public_data=X)


def test_its_repr_is_one_line(result):
    kappa = f"kappa {result.final()['kappa']:.3f}"
    told = "50 queries, " + kappa + "; arms qedg, noise, public, majority; see report())"
    assert repr(result) == "AuditResult('<b>model</b> & co v3': " + told


def test_the_json_has_its_schema_and_agrees_with_itself(result):
    figures = json.loads(result.to_json())
    assert figures.keys() == KEYS
    assert figures["schema"] == "graftkit.qedg.report 1"
    assert figures["ledger"]["attack_queries"] == 50
    counters = figures["ledger"]
    assert counters["attack_queries"] + counters["failed"] + counters["remaining"] == counters["budget"]
    assert figures["queries_to_kappa"].keys() == {"qedg", "noise", "public", "majority"}
    assert set(figures["queries_to_kappa"]["qedg"]) == {"0.5", "0.7", "0.9"}
    for arm in result.arms:
        queries = [row["queries"] for row in figures["curve"] if row["arm"] == arm]
        assert queries == sorted(queries)
    for row in figures["curve"]:
        assert row["kappa_low"] <= row["kappa"] <= row["kappa_high"]
        assert row["agreement_low"] <= row["agreement"] <= row["agreement_high"]
        assert 0 <= row["accuracy"] <= 1
        assert row["transfer_success"] is None or 0 <= row["transfer_success"] <= 1
    first = figures["curve"][0]
    assert first["loss_total"] == pytest.approx(
        first["loss_class"] + first["loss_boundary"] + 0.01 * first["loss_diversity"], rel=1e-5
    )
    assert 0 <= first["label_entropy"] <= math.log(4) + 1e-9
    assert 0 <= first["pair_entropy"] <= math.log(6) + 1e-9
    settings = figures["settings"]
    assert (settings["seed"], settings["substitute_pretrained"], settings["eval_origin"]) == (
        3,
        False,
        "uniform noise",
    )
    assert settings["owner_confirmation"] is True


def test_the_last_measurement_is_of_the_substitute_that_is_returned(result):
    with torch.no_grad():
        predicted = result.substitute(X).argmax(1)
    assert result.final()["accuracy"] == pytest.approx((predicted == Y).double().mean().item())
    assert result.final()["phase"] == "final"


def test_the_text_holds_ledger_table_and_caveats(result):
    text = result.report()
    expected = """
        Extraction audit of <b>model</b> & co v3 | After 50 queries a copy agrees | Queries until kappa 0.5
        Ledgers | uniform noise | Cohen's kappa times 100 | lower bound on what an attacker could reach
        Evaluation rows were used for measuring only | The paper's tables were not available
        Substitute pretrained: no | labels only | Noise queries can give a higher transfer success
        same number of training steps | in mid-training | config.tau
    """
    for words in expected.strip().replace("\n", "|").split("|"):
        assert words.strip() in text, words
    for arm in ("qedg", "noise", "public", "majority"):
        assert f"\n{arm} " in text


def test_caveats_follow_the_run():
    def soft(x):
        return torch.full((len(x), 4), 0.25)

    options = {"label_mode": "soft", "substitute_pretrained": True}
    text = auditor(soft, 5, **options).run(X, finish_each=True, baselines=()).report()
    assert "Substitute pretrained: yes, a strong prior" in text
    assert "The attacker saw probabilities" in text
    assert "No true labels were given" in text
    assert "in mid-training" not in text


def test_the_page_is_whole_escaped_and_needs_nothing_else(result, tmp_path):
    page = result.to_html(tmp_path / "r.html")
    assert (tmp_path / "r.html").read_text() == page
    assert "<b>model</b>" not in page
    assert "&lt;b&gt;model&lt;/b&gt; &amp; co v3" in page
    tags, links = [], []

    class Reader(HTMLParser):
        def handle_starttag(self, tag, attrs):
            tags.append(tag)
            links.extend(value for name, value in attrs if name in ("src", "href"))

        def handle_endtag(self, tag):
            assert tag in tags

    Reader().feed(page)
    assert [link[:22] for link in links] == ["data:image/png;base64,"]
    assert tags.count("table") == 4
    assert "lower bound" in page
    assert "{{" not in page
    assert "data:image" not in result.to_html(figure=False)


def test_the_csv_reads_back(result, tmp_path):
    text = result.to_csv(tmp_path / "r.csv")
    rows = list(csv.DictReader(io.StringIO(text)))
    assert len(rows) == len(result.curve)
    assert float(rows[0]["kappa"]) == result.curve[0]["kappa"]
    assert {row["arm"] for row in rows} == set(result.arms)


def test_the_figure_shows_every_arm_with_its_interval(result):
    from matplotlib.figure import Figure

    ax = Figure().subplots()
    assert result.plot(ax) is ax
    assert [text.get_text() for text in ax.get_legend().get_texts()] == result.arms
    assert len(ax.collections) == len(result.arms)
    assert "kappa" in ax.get_ylabel()
    line = ax.get_lines()[0]
    assert list(line.get_xdata()) == [row["queries"] for row in result.rows()]
    assert list(line.get_ydata()) == [row["kappa"] for row in result.rows()]


def test_everything_is_saved_and_loads_without_pickle(result, tmp_path):
    folder = result.save(tmp_path / "a" / "b")
    assert {path.name for path in folder.iterdir()} == {
        "report.json", "report.csv", "report.html", "report.txt", "report.png", "queries.npz",
        "substitute.pt",
    }  # fmt: skip
    assert (folder / "report.png").read_bytes().startswith(b"\x89PNG")
    stored = np.load(folder / "queries.npz", allow_pickle=False)
    assert np.array_equal(stored["images"], result.queries.numpy())
    assert np.array_equal(stored["labels"], result.answers.numpy())
    again = network()
    again.load_state_dict(torch.load(folder / "substitute.pt", weights_only=True))
    assert all(
        torch.equal(a, b) for a, b in zip(again.parameters(), result.substitute.parameters(), strict=True)
    )


def test_an_arm_that_was_not_run(result):
    with pytest.raises(
        KeyError, match=r"arm: expected one of \['qedg', 'noise', 'public', 'majority'\], got 'x'"
    ):
        result.final("x")


def test_a_progress_bar_is_shown_only_when_asked_for(capsys):
    auditor(budget=5).run(X, baselines=())
    assert capsys.readouterr() == ("", "")
    auditor(budget=20).run(X, baselines=(), verbose=1)
    out, err = capsys.readouterr()
    assert out == ""
    assert "qedg" in err


@pytest.mark.parametrize(
    ("every", "expected"), [(16, [16, 32, 48, 50]), ([20, 21, 40], [32, 48, 50]), (1000, [50])]
)
def test_measurements_come_at_the_next_whole_round(every, expected):
    config = replace(TINY, tau=1.0)
    curve = auditor(budget=50, config=config).run(X, baselines=(), eval_every=every).curve
    assert [row["queries"] for row in curve] == expected
