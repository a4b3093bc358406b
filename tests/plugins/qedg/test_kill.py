"""kill -9 at random moments: the budget holds over all processes of a run."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="kills processes that it has forked")
@pytest.mark.parametrize(("kills", "seed"), [(20, 0)])
def test_the_budget_holds_however_often_the_process_is_killed(tmp_path, kills, seed):
    paths = [str(ROOT), str(ROOT / "plugins"), str(ROOT / "adapters")]
    done = subprocess.run(
        [sys.executable, "-m", "tests.plugins.qedg.killed", str(tmp_path), str(kills), str(seed)],
        capture_output=True, text=True, check=False, cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(paths)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    outcome = json.loads(done.stdout)
    assert outcome["died"] == kills
    lost = 0
    for run in outcome["runs"]:
        assert run["attack_queries"] + run["failed"] == run["budget"] == 45
        # A reserved batch may have died before it was sent, so fewer may have been seen; never more.
        assert run["attack_queries"] <= run["seen"] <= run["budget"]
        lost += run["failed"]
    # Of twenty, some must have hit a batch on its way, else the test shows nothing.
    assert lost > 0
