"""DPCML's section of the report is computed from the records: means, bars, losing columns, ratios."""

import pytest

from tests.benchmarks.render_dpcml import DEFAULTS, FIGURES, PUBLISHED, SHOWN, headlines, render


def quality(method, seed, precision, mrr=0.5, data="Steam-200k"):
    libcml = dict.fromkeys(SHOWN, 0.4) | {"precision@3": precision, "mrr": mrr}
    few = {"ndcg@10": 0.1, "recall@10": 0.2, "opauc": 0.3}
    return {
        "section": "quality",
        "data": data,
        "method": method,
        "seed": seed,
        "libcml": libcml,
        "standard": {**few, "maxdiv@3": 1.0, "maxdiv@10": 9.0} if method.startswith("DPCML") else few,
        "minority": few,
        "cpu_seconds": 3.0,
        "vectors_per_user": 5.0,
    }


def test_sections_without_records_say_so():
    assert render([]).count("Not run") == 6


@pytest.mark.parametrize(
    ("precision", "mrr", "verdict"), [(0.296, 0.521, "reached"), (0.296, 0.519, "missed")]
)
def test_defaults_are_held_against_their_bar(precision, mrr, verdict):
    text = render([quality(DEFAULTS, seed, precision, mrr) for seed in (0, 1)])
    assert f"P@3 29.60 (0.00) (bar 29.5), MRR {100 * mrr:.2f} (0.00) (bar 52.0): {verdict}." in text
    assert "2 seed(s)" in text


def test_one_vector_a_user_is_a_rival_in_the_summary():
    rows = [quality(DEFAULTS, seed, 0.3) for seed in range(3)]
    rows += [quality("ALS (implicit)", seed, 0.2) for seed in range(3)]
    rows += [quality("DPCML2, APA", seed, 0.9) for seed in range(3)]  # a setting of ours is none
    for rival in ("CML (C=1, uniform)", "HarS (C=1, hard)"):
        line = headlines([*rows, *(quality(rival, seed, 0.4) for seed in range(3))])[0]
        assert (line.metric, line.rival, line.verdict()) == ("P@3", rival, "**behind**")


def test_losing_columns_are_named():
    text = render([quality(DEFAULTS, 0, 0.3, 0.5), quality("ALS (implicit)", 0, 0.2, 0.6)])
    assert "The family with several vectors loses: mrr to ALS (implicit)." in text
    assert f"| {DEFAULTS} | 1 | **30.00** |" in text
    assert "| - | - |" in text  # no list diversity without vectors of one space


def test_ratios():
    epochs = [
        {
            "section": "speed",
            "what": "epoch",
            "n_vectors": 5,
            "published": p,
            "ours": {"256": 1.0, "1024": 0.5},
        }
        for p in (30.0, 20.0)
    ]
    sampling = {
        "section": "speed",
        "what": "sampling",
        "published": 2.0,
        "ours": {"keys": 0.05, "bitmap": 0.01},
    }
    growth = {"section": "growth", "seconds": {"1": 1.0, "2": 2.0}, "slope": 1.0, "users_times_four": 0.123}
    ranking = {"section": "ranking", "users_per_second": {"ours, C=1": 1000.0}, "difference_tensor": 10.0}
    text = render([*epochs, sampling, growth, ranking])
    assert "our batch 256 | 20.00 | 1.000 | 20.0x |" in text
    assert "bitmap | 2.000 | 0.0100 | 200.0x |" in text
    assert "Slope on logarithmic axes: 1.00" in text
    assert "+12 % a pass" in text
    assert "| ours, C=1 | 1,000 |" in text


def published_run(**changes):
    figures = {name: value / 100 for name, value in zip(FIGURES, PUBLISHED["hars"], strict=True)}
    return quality("hars", 0, 0.0) | {"section": "paper", "best_pass": 80, "libcml": {**figures, **changes}}


def test_published_figures_stand_under_their_names():
    """The paper's tables 2 and 5, Steam-200k, DPCML2 and HarS, once more by name."""
    dpcml2 = {"precision@3": 29.88, "recall@3": 17.13, "ndcg@3": 31.22, "precision@5": 28.70}
    dpcml2 |= {"recall@5": 14.51, "ndcg@5": 30.56, "map": 24.10, "mrr": 51.95}
    hars = {"precision@3": 26.66, "recall@3": 15.74, "ndcg@3": 27.93, "precision@5": 24.94}
    hars |= {"recall@5": 12.78, "ndcg@5": 26.63, "map": 23.25, "mrr": 48.84}
    for method, figures in (("dpcml2", dpcml2), ("hars", hars)):
        assert dict(zip(FIGURES, PUBLISHED[method], strict=True)) == figures


def test_reproduced_is_a_verdict_on_the_mean_over_seeds():
    runs = [published_run(mrr=(48.84 + off) / 100) | {"seed": seed} for seed, off in enumerate((2, -2, 3))]
    assert "| 49.84 (2.65); 48.84 | yes |" in render(runs)
    assert "| no (2.00 off) |" in render([published_run(mrr=(48.84 - off) / 100) for off in (1, 3)])


@pytest.mark.parametrize("name", FIGURES)
def test_published_settings_stand_beside_the_paper(name):
    figure = dict(zip(FIGURES, PUBLISHED["hars"], strict=True))[name]
    for off, verdict in (
        (0.0, "yes"),
        (1.4, "yes"),
        (-1.4, "yes"),
        (1.6, "no (1.60 off)"),
        (-1.6, "no (1.60 off)"),
    ):
        text = render([published_run(**{name: (figure + off) / 100})])
        assert f" {figure + off:.2f}; {figure:.2f} |" in text
        assert f" | {verdict} | 80 | 3 |" in text
