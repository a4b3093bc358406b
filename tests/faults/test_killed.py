"""Killed at random moments and started again, a training ends as one that nobody disturbed.

QEDG's audits are killed in tests/plugins/qedg/test_kill.py: a batch that was on its way counts as spent, so
what must hold there is the budget. RCPMOD has no checkpoint; a killed `fit` leaves nothing.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.faults.trainings import TRAININGS

ROOT = Path(__file__).resolve().parents[2]
NEEDS = {"aucseg": "mmseg", "bilt": "timm", "diffusion_feature": "diffusers", "hgoe_svdd": "torch_geometric",
         "hgoe_goodd": "torch_geometric"}  # fmt: skip


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.skipif(not hasattr(os, "fork"), reason="kills processes that it has forked")
@pytest.mark.parametrize("name", TRAININGS)
def test_a_killed_training_goes_on_to_the_same_end(tmp_path, name):
    if name in NEEDS:
        pytest.importorskip(NEEDS[name], reason=f"needs {NEEDS[name]}")
    paths = [str(ROOT), str(ROOT / "plugins"), str(ROOT / "adapters")]
    done = subprocess.run(
        [sys.executable, "-m", "tests.faults.killing", name, str(tmp_path), "0"],
        capture_output=True, text=True, check=False, cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(paths)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-4000:]
    outcome = json.loads(done.stdout.splitlines()[-1])
    assert outcome["died"] == TRAININGS[name][1]
    assert outcome["entries"] > 0
    assert {name for run in outcome["runs"] for name in run["differs"]} == set()
    # Some must have gone on in the middle, else the test shows nothing.
    assert any(start > 0 for run in outcome["runs"] for start in run["starts"])
