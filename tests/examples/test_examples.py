"""Every example runs in its quick form, with and without real data, and returns the tour's row."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
KEYS = {"method", "host", "data", "metric", "baseline", "ours", "seconds", "figure"}
METHODS = sorted(path.stem for path in EXAMPLES.glob("*.py") if path.stem != "tour")


def run(code: str, *arguments: str, data: str = "") -> subprocess.CompletedProcess[str]:
    import os

    environment = {**os.environ, "GRAFTKIT_DATA": data, "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, "-c", code, *arguments],
        capture_output=True,
        text=True,
        env=environment,
        cwd=EXAMPLES,
        check=False,
    )


CALL = """
import importlib, json, sys
sys.path.insert(0, '.')
row = importlib.import_module(sys.argv[1]).main(sys.argv[2:])
print(json.dumps(row, default=str))
"""


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.timeout(240)
def test_quick_form_on_shipped_data(method, tmp_path):
    done = run(CALL, method, "--quick", "--seed", "1", "--out", str(tmp_path))
    assert done.returncode == 0, done.stderr
    row = json.loads(done.stdout.splitlines()[-1])
    assert row.keys() >= KEYS
    figure = Path(row["figure"])
    assert figure.parent == tmp_path
    assert figure.read_bytes().startswith(b"\x89PNG")


@pytest.mark.timeout(240)
def test_rcpmod_beats_isolation_forest_on_mismatched_views(tmp_path):
    """The claim of the example's table: rows whose views are swapped are found, the forest misses them."""
    done = run(CALL, "rcpmod", "--quick", "--out", str(tmp_path))
    assert done.returncode == 0, done.stderr
    figures = json.loads(done.stdout.splitlines()[-1])["figures"]
    assert figures["RCPMOD"]["class"] > figures["IsolationForest"]["class"] + 0.1


def test_tour_reports_a_failure_and_goes_on(tmp_path):
    """A broken example is a red row and exit code 1; the one after it still runs."""
    folder = tmp_path / "examples"
    folder.mkdir()
    (folder / "tour.py").write_text((EXAMPLES / "tour.py").read_text())
    (folder / "rcpmod.py").write_text("def main(argv=None):\n    raise ValueError('broken on purpose')\n")
    fields = {key: "ok-" + key for key in KEYS}
    (folder / "sse_sam.py").write_text(f"def main(argv=None):\n    return {fields!r}\n")
    done = subprocess.run(
        [sys.executable, str(folder / "tour.py"), "--out", str(tmp_path)],
        capture_output=True,
        text=True,
        env={"COLUMNS": "200", "PATH": ""},
        check=False,
    )
    assert done.returncode == 1
    assert "broken on purpose" in done.stdout
    assert "ok-ours" in done.stdout
    assert "figure: ok-figure" in done.stdout
