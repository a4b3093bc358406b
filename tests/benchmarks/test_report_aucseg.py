"""AUCSeg's section of the report: differences by seed with their sign, verdicts, missing sections."""

import pytest

from tests.benchmarks.render_aucseg import COLUMNS, render


def quality(arm, seed, miou, tail):
    metrics = dict.fromkeys(COLUMNS, 50.0) | {"mIoU": miou, "mIoU.tail": tail, "IoU.pole": 1.0}
    return {
        "section": "quality", "arm": arm, "architecture": "Net, small", "seed": seed, "iterations": 600,
        "cpu_seconds": 60.0, "seconds": 70.0, "metrics": metrics,
    }  # fmt: skip


def test_wins_and_losses_are_told_by_seed():
    text = render([
        quality("CE", 0, 40.0, 1.0), quality("CE", 1, 41.0, 2.0),
        quality("CE + AUC", 0, 44.0, 9.0), quality("CE + AUC", 1, 40.5, 1.5),
    ])  # fmt: skip
    assert "CE + AUC against CE: mIoU +4.0 / -0.5, tail +8.0 / -0.5" in text
    assert "| **42.2 (2.5)** |" in text
    assert text.index("| CE + AUC |") < text.index("| CE |")  # by falling mIoU


def test_seeds_that_only_one_arm_has_are_not_compared():
    text = render(
        [quality("CE", 0, 40.0, 1.0), quality("CE", 1, 41.0, 2.0), quality("CE + AUC", 1, 44.0, 9.0)]
    )
    assert "CE + AUC against CE: mIoU +3.0, tail +7.0" in text


@pytest.mark.parametrize(
    ("published", "ours", "verdict"), [(3.0, 1.0, "met"), (1.5, 1.0, "missed at 4 x 11")]
)
def test_verdict_on_speed(published, ours, verdict):
    seconds = {"published": published, "ours": ours, "CE": 0.5}
    text = render([{"section": "speed", "case": [4, 11, 180, 240, 11], "seconds": seconds}])
    assert f"0.6: {verdict}" in text
    assert f"| {published / ours:.1f} | 2.00 |" in text


def test_slow_banks_are_named():
    record = {
        "section": "bank", "tail": 7, "present": 3, "resize_ratio": 1.0, "size": 512, "nbytes": 2**20,
        "milliseconds": {"ours": 6.0, "published": 100.0}, "slowest": {"ours": 9.0, "published": 200.0},
    }  # fmt: skip
    assert "missed with 7 tail classes" in render([record])


@pytest.mark.parametrize(("extra", "verdict"), [(210, "met"), (230, "missed at 1 x 1 x 5 x 5")])
def test_verdict_on_memory(extra, verdict):
    record = {"section": "memory", "case": [1, 1, 5, 5, 1], "loss": "ours", "extra_bytes": extra}
    assert f"beside it: {verdict}" in render([{**record, "image_bytes": 100, "gradient_bytes": 100}])


def test_sections_without_records_say_so():
    assert render([]).count("Not run.") == 5
