"""Every example runs in its quick form, with and without real data, and returns the tour's row."""

import base64
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
KEYS = {"method", "host", "data", "metric", "baseline", "ours", "seconds", "figure"}
METHODS = sorted(path.stem for path in EXAMPLES.glob("*.py") if not path.stem.startswith("tour"))


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


def tour(folder: Path, **examples: str) -> subprocess.CompletedProcess[str]:
    """Run a copy of the tour beside these examples."""
    (folder / "examples").mkdir()
    for name in ("tour.py", "tour_page.py"):
        (folder / "examples" / name).write_text((EXAMPLES / name).read_text())
    for name, source in examples.items():
        (folder / "examples" / f"{name}.py").write_text(source)
    return subprocess.run(
        [sys.executable, str(folder / "examples" / "tour.py"), "--out", str(folder / "out")],
        capture_output=True,
        text=True,
        env={"COLUMNS": "200", "PATH": ""},
        check=False,
    )


def fine(figure: Path) -> str:
    """An example that works and has this figure."""
    fields = {**{key: f"ok-{key}" for key in KEYS}, "data": "<digits> & more", "figure": str(figure)}
    return f"def main(argv=None):\n    return {fields!r}\n"


@pytest.fixture
def figure(tmp_path) -> Path:
    path = tmp_path / "figure.png"
    Image.effect_noise((900, 600), 80).save(path)
    return path


def test_tour_reports_a_failure_and_goes_on(tmp_path, figure):
    """A broken example is a red row and exit code 1; the one after it still runs."""
    broken = "def main(argv=None):\n    raise ValueError('broken on purpose')\n"
    done = tour(tmp_path, rcpmod=broken, sse_sam=fine(figure))
    assert done.returncode == 1
    assert "broken on purpose" in done.stdout
    assert "ok-ours" in done.stdout
    assert f"figure: {figure}" in done.stdout.replace("\n", "")
    page = (tmp_path / "out" / "tour.html").read_text()
    assert "1 of 2 methods ran" in page
    assert "failed: ValueError: broken on purpose" in page


def test_tour_page_stands_alone(tmp_path, figure):
    """Figures are inside, nothing is fetched, text is escaped; the sheet fits a landing page."""
    done = tour(tmp_path, rcpmod=fine(figure), aucseg=fine(figure))
    assert done.returncode == 0, done.stderr
    page = (tmp_path / "out" / "tour.html").read_text()
    pictures = re.findall(r"src='data:image/png;base64,([^']+)'", page)
    assert [base64.b64decode(code) for code in pictures] == [figure.read_bytes()] * 2
    assert not re.search(r"https?:|<script|<link|url\(", page)
    assert "width=device-width" in page
    assert "&lt;digits&gt; &amp; more" in page
    with Image.open(tmp_path / "out" / "tour.png") as sheet:
        assert sheet.width > 700


def test_tour_interrupted_shows_what_has_finished(tmp_path, figure):
    """Ctrl-C: exit code 130, no traceback, and the rows so far."""
    stopped = "def main(argv=None):\n    raise KeyboardInterrupt\n"
    done = tour(tmp_path, rcpmod=fine(figure), sse_sam=stopped, aucseg=fine(figure))
    assert done.returncode == 130
    assert "Traceback" not in done.stderr
    assert done.stdout.count("ok-ours") == 1
    assert "1 of 1 methods ran" in (tmp_path / "out" / "tour.html").read_text()
