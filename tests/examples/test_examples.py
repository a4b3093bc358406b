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


def tour(
    folder: Path, *flags: str, data: str = "", columns: int = 200, **examples: str
) -> subprocess.CompletedProcess[str]:
    """Run a copy of the tour beside these examples."""
    (folder / "examples").mkdir()
    for name in ("tour.py", "tour_page.py"):
        (folder / "examples" / name).write_text((EXAMPLES / name).read_text())
    for name, source in examples.items():
        (folder / "examples" / f"{name}.py").write_text(source)
    return subprocess.run(
        [sys.executable, str(folder / "examples" / "tour.py"), "--out", str(folder / "out"), *flags],
        capture_output=True,
        text=True,
        env={"COLUMNS": str(columns), "PATH": "", "GRAFTKIT_DATA": data},
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
    assert "overflow-wrap: break-word" in page  # a long path to the data is not wider than a phone
    assert "&lt;digits&gt; &amp; more" in page
    assert "Data: what the dependencies ship." in page  # an empty GRAFTKIT_DATA is none, not this folder
    assert "img { max-width: 100%;" in page
    assert ".wide { overflow-x: auto; }" in page
    assert '<div class="wide"><table>' in page
    with Image.open(tmp_path / "out" / "tour.png") as sheet:
        assert sheet.width > 700
        assert sheet.mode == "P"  # a palette: small enough for a landing page


def test_tour_interrupted_shows_what_has_finished(tmp_path, figure):
    """Ctrl-C: exit code 130, no traceback, and the rows so far."""
    # A background job of a shell ignores SIGINT: the handler is set first.
    stopped = "import signal as s\ndef main(argv=None):\n"
    stopped += "    s.signal(s.SIGINT, s.default_int_handler)\n    s.raise_signal(s.SIGINT)\n"
    done = tour(tmp_path, aucseg=fine(figure), rcpmod=stopped, sse_sam=fine(figure))
    assert done.returncode == 130
    assert "Traceback" not in done.stderr + done.stdout
    assert done.stdout.count("ok-ours") == 1
    assert "Stopped by Ctrl-C: 1 of 3 methods have run." in done.stdout
    assert "Not run: rcpmod, sse_sam" in done.stdout
    page = (tmp_path / "out" / "tour.html").read_text()
    assert "1 of 3 methods ran" in page
    assert "Not run: rcpmod, sse_sam." in page
    assert list((tmp_path / "out").glob("*.part")) == []


def test_square_brackets_in_an_error_are_text(tmp_path, figure):
    """To rich "[timm]" is a style, and "[/x]" a fault that would take table and page along."""
    words = "pip install 'graftkit[timm]' [/x] <b>"
    done = tour(
        tmp_path, rcpmod=f"def main(argv=None):\n    raise ImportError({words!r})\n", sse_sam=fine(figure)
    )
    assert done.returncode == 1
    assert words in " ".join(done.stdout.rpartition("graftkit tour")[2].replace("│", " ").split())
    page = (tmp_path / "out" / "tour.html").read_text()
    assert "1 of 2 methods ran" in page
    assert "[/x] &lt;b&gt;</td>" in page


@pytest.mark.parametrize("flags", [(), ("--quick", "--seed", "7")])
def test_every_example_is_given_the_flags_of_the_tour(tmp_path, figure, flags):
    echo = fine(figure).replace("'ok-ours'", "' '.join(argv)")
    done = tour(tmp_path, *flags, data=str(tmp_path), an_eleventh_method=echo)
    assert done.returncode == 0, done.stderr
    given = f"--seed {7 if flags else 0} --out {tmp_path / 'out'} --data {tmp_path}"
    assert f"<td>{given}{' --quick' if flags else ''}</td>" in (tmp_path / "out" / "tour.html").read_text()


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("def main(argv=None):\n    raise SystemExit(3)\n", "failed: SystemExit: 3"),
        ("def main(argv=None):\n    return {'method': 'x'}\n", "a row without host, data, metric"),
        ("import no_such_module\n", "failed: ModuleNotFoundError"),
    ],
)
def test_an_example_that_exits_or_returns_too_little_fails_alone(tmp_path, figure, source, words):
    done = tour(tmp_path, rcpmod=source, sse_sam=fine(figure))
    assert done.returncode == 1
    assert done.stdout.count("ok-ours") == 1
    assert words in (tmp_path / "out" / "tour.html").read_text()


def test_a_narrow_terminal_breaks_cells_and_cuts_none(tmp_path, figure):
    done = tour(tmp_path, columns=60, rcpmod=fine(figure))
    table = done.stdout.partition("graftkit tour")[2].partition("figure:")[0]
    assert "…" not in table
    cells = zip(*(line.split("│")[1:-1] for line in table.splitlines() if line.startswith("│")), strict=True)
    assert "".join(part.strip() for part in list(cells)[4]) == "ok-baseline"


def test_a_figure_that_is_none_leaves_table_and_page(tmp_path, figure):
    (tmp_path / "broken.png").write_bytes(b"no picture")
    tour(tmp_path, rcpmod=fine(tmp_path / "broken.png"), sse_sam=fine(figure))
    assert "2 of 2 methods ran" in (tmp_path / "out" / "tour.html").read_text()


def test_a_figure_that_was_not_written_is_left_out(tmp_path, figure):
    done = tour(tmp_path, rcpmod=fine(tmp_path / "nowhere.png"), sse_sam=fine(figure))
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "out" / "tour.html").read_text().count("<img") == 1


def test_a_data_folder_that_is_none_is_said_at_once(tmp_path, figure):
    done = tour(tmp_path, rcpmod=fine(figure), data=str(tmp_path / "nowhere"))
    assert done.returncode == 2
    assert "--data: expected a folder, got" in done.stderr
    assert done.stdout == ""
