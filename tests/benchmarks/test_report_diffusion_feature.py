"""The report on diffusion features is computed from the records: verdicts, claims, rows without records."""

import pytest

from tests.benchmarks.bench_diffusion_feature import NAMES
from tests.benchmarks.render_diffusion_feature import render

ARMS = (
    "plain forward", "pipeline, nothing but the output", "preset, no exit", "preset, early exit",
    "8 draws, up block 1, ours", "8 draws, up block 1, DIFT's", "plain forward, afterwards",
)  # fmt: skip


def test_sections_without_records_say_so():
    assert render([]).count("Not run") == 4


@pytest.mark.parametrize(("early", "verdict"), [(0.84, "reached"), (0.85, "missed")])
def test_early_exit_is_held_against_its_share(early, verdict):
    ratio = {**dict.fromkeys(ARMS, 1.0), "preset, early exit": early, "preset, no exit": 1.03}
    record = {
        "section": "speed", "width": 32, "rounds": 3, "ratio": ratio, "spread": dict.fromkeys(ARMS, 0.1),
        "images_per_second": dict.fromkeys(ARMS, 2.0), "flops": {"preset, early exit": 0.8},
    }  # fmt: skip
    text = render([record])
    assert f"FLOP share + 5 %: preset, early exit {early:.3f} against 0.800, {verdict}." in text
    assert "+3.0 % (bar 2 %: missed)" in text


def test_claims_that_do_not_hold_are_said():
    def record(state, seed, late):
        miou = {f"{name}@{t}": 0.2 for name in NAMES for t in (0, 50)}
        miou["up-level2-repeat1-res-out@50"] = late + 0.01 * seed
        miou["down-level1-repeat0-vit-out@50"] = 0.3 + 0.01 * seed
        return {
            "section": "segmentation", "data": "CamVid", "state": state, "steps": 5 * (state == "trained"),
            "seed": seed, "miou": miou, "baselines": {"position": 0.1},
        }  # fmt: skip

    text = render([record(state, seed, 0.1) for state in ("trained", "untrained") for seed in (0, 1, 2)])
    assert "CamVid, U-Net trained for 5 updates, 3 seed(s)" in text
    assert (
        "- Seen: quality falls along the up stage (res-out, coarsest over finest): 0.200 against 0.110."
        in text
    )
    assert "- The contrary: up beats down at one resolution" in text
    assert "- No clear difference: cross-q beats self-q" in text
    assert "| *position* |" in text
