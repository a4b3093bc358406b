"""SSE-SAM's section of the report: what it says of the schedules is what the benchmark runs."""

import pytest

from tests.benchmarks import quality_sse_sam
from tests.benchmarks.render_sse_sam import GROUPS, PARTS, render


def record(regime, seed=0):
    return {
        "section": "quality",
        "data": "tenth",
        "regime": regime,
        "loss": "la",
        "method": "sam",
        "seed": seed,
        "recall": dict.fromkeys(GROUPS, 40.0 + seed),
        "train": {"head": 99.0, "tail": 50.0},
        "units": 80,
        "curvature": {
            part: dict.fromkeys(("lambda_max", "lambda_min", "saddle_ratio"), 1.0) for part in PARTS
        },
    }


def test_epochs_that_a_regime_does_not_name_are_said():
    epochs = {name: plan["epochs"] for name, plan in quality_sse_sam.REGIMES.items()}
    text = render([record("augmented")])
    assert (
        f"augmented {epochs['augmented']}, memorised {epochs['memorised']}, "
        f"the full set {quality_sse_sam.WHOLE['epochs']}." in text
    )


@pytest.mark.parametrize("name", quality_sse_sam.REGIMES)
def test_epochs_that_a_regime_names_are_run(name):
    base, _, named = name.partition(", ")
    plan, short = quality_sse_sam.REGIMES[name], quality_sse_sam.REGIMES[base]
    assert {**plan, "epochs": None} == {**short, "epochs": None}
    assert not named or named == f"{plan['epochs']} epochs"


def test_long_regimes_are_rows_of_their_own():
    text = render([record("augmented"), record("augmented, 80 epochs", 0), record("augmented, 80 epochs", 1)])
    assert "| tenth, augmented, la | sam | 1 | 80 | 40.000 |" in text
    assert "| tenth, augmented, 80 epochs, la | sam | 2 | 80 | 40.500 (0.707) |" in text


@pytest.mark.parametrize(("full", "plans", "whole"), [(False, 3, 0), (True, 6, 5)])
def test_plans(full, plans, whole, monkeypatch):
    """Every plan has all methods and seeds; the long ones only with --full."""
    keys = []

    class Seen:
        def has(self, key):
            keys.append(key)
            return True

    monkeypatch.setenv("GRAFTKIT_DATA", "somewhere")
    monkeypatch.setattr(quality_sse_sam, "load_cifar10_lt", lambda *_, **__: (None, None))
    quality_sse_sam.quality(Seen(), {}, quick=False, full=full)
    tenth = [key for key in keys if key.startswith("quality/tenth/")]
    assert len(set(keys)) == len(keys)
    assert sum("epochs/" in key for key in keys) == (30 if full else 0)
    assert len(keys) - len(tenth) == whole
    assert len([key for key in tenth if "tail x2" not in key]) == 15 * plans
