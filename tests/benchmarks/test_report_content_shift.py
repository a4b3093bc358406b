"""GATE's section of the report is computed from the records: bars, agreement, losing rows."""

import pytest

from tests.benchmarks.render_content_shift import headlines, render

PLACE = "up-level0-repeat1-res-out@50"


def quality(seed, gain, change, verdict="helps"):
    miou = {"basic": 0.3, "edges": 0.3 + change, "prompt": 0.3, "blend, mean": 0.31, "blend, learned": 0.29}
    gate = {
        "edges": {"gain_mean": gain, "control_gain": gain / 2},
        "prompt": {"gain_mean": 0.0, "control_gain": None},
    }
    return {
        "section": "quality", "data": "scenes", "steps": 200, "seed": seed, "gate": gate,
        "verdict": {"edges": verdict, "prompt": "no evidence"}, "miou": {PLACE: miou},
        "rank_correlation": {PLACE: 1.0}, "loss": {"U-Net": 0.5},
    }  # fmt: skip


def cost(time):
    names = ("plain", "ControlNet")
    return {
        "section": "cost", "batch": 2, "rounds": 3, "forwards": dict.fromkeys(names, 1),
        "flops": {"plain": 1.0, "ControlNet": 1.3}, "ratio": {"plain": 1.0, "ControlNet": 1.3},
        "spread": dict.fromkeys(names, 0.01), "encoders": {"vae": 1, "text": 2},
        "networks": {
            "plain": {"flops": 1.0, "ratio": 1.0, "spread": 0.0},
            "ControlNet": {"flops": 1.34, "ratio": time, "spread": 0.01},
        },
    }  # fmt: skip


def test_sections_without_records_say_so():
    assert render([]).count("Not run") == 4


@pytest.mark.parametrize(
    ("time", "words"), [(1.36, "All are within 5 %"), (1.5, "More than 5 % off: ControlNet by +12 %.")]
)
def test_times_are_held_against_the_count(time, words):
    assert words in render([cost(time)])


@pytest.mark.parametrize(
    ("seconds", "verdict"),
    [
        (3.0, "1.50 times as fast as one by one (aim 1.5: reached)"),
        (2.9, "1.45 times as fast as one by one (aim 1.5: missed)"),
    ],
)
def test_batches_have_a_bar(seconds, verdict):
    times = {
        "gate, batches of 8": [2.0], "gate, one by one": [seconds], "content_shift_score": [0.5],
        "six variants, files": [2.0], "six variants, blended at once": [1.0],
    }  # fmt: skip
    text = render([{"section": "batches", "images": 4, "seconds": times}])
    assert verdict in text
    assert "Techniques in one batch" not in text  # an older record
    few = {"four prompts and one image, together": [2.0], "four prompts and one image, apart": [seconds]}
    text = render([{"section": "batches", "images": 4, "seconds": times | few}])
    assert "does not fill it" not in text
    assert f"do not fill it: {verdict.replace('one by one', 'one technique after another')}" in text
    assert "score is 4.0 times as fast" in text


def test_verdicts_are_counted_against_the_probe_and_nothing_is_hidden():
    text = render([quality(0, 0.02, 0.1), quality(1, 0.02, -0.1), quality(2, -0.02, -0.1, "harms")])
    assert "direction was the probe's in 2 of 3 cases" in text
    assert "| edges | 0.67 (2.31) | 0.33 (1.15) | harms; helps | -0.033 (0.115) |" in text
    assert "| *blend, learned* |  |  |  | -0.010 (0.000) |" in text
    assert "No verdict had a direction" in render([quality(0, 0.0, 0.1, "no evidence")])


def test_headline_is_the_technique_ranked_first_also_where_it_loses():
    (line,) = headlines([cost(1.3), *(quality(seed, 0.02, -0.1 - 0.01 * seed) for seed in range(3))])
    assert line.ours == pytest.approx({0: 0.2, 1: 0.19, 2: 0.18})
    assert line.rival == "mean of variants"
    assert line.verdict() == "**behind**"
    assert line.time.startswith("1.30 of plain")
