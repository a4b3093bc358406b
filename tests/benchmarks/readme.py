"""Fill the column "measured" of the README's table of methods from the results; `make report` calls it."""

import importlib
import json
import re
from collections import Counter
from pathlib import Path

from tests.benchmarks.headline import Headline

# The figure that a method exists for, as its renderer names it; the README shows this one, won or lost, and
# counts the others.
PURPOSE = {
    "aucseg": "mIoU.tail",
    "bilt": "-HD",
    "dpcml": "rarest interest",
    "edge": "near",
    "sse_sam": "few",
}
COLUMN = "measured"


def measured(results: Path) -> dict[str, str]:
    """A cell for each method that has results."""
    cells = {}
    for path in sorted(results.glob("*.json")):
        module = importlib.import_module(f"tests.benchmarks.render_{path.stem}")
        lines = module.headlines(json.loads(path.read_text())["records"])
        anchor = _anchor(module.TITLE)
        cells[path.stem] = (
            _cell(lines, PURPOSE.get(path.stem, ""), anchor)
            if lines
            else f"quality not measured yet; [what it costs](tests/benchmarks/RESULTS.md#{anchor})"
        )
    return cells


def fill(readme: str, cells: dict[str, str]) -> str:
    """Replace the column; rows without results say "not measured"."""
    lines = readme.splitlines(keepends=True)
    column = None
    for number, line in enumerate(lines):
        parts = line.split("|")
        if COLUMN in [part.strip() for part in parts]:
            column = [part.strip() for part in parts].index(COLUMN)
        elif column is not None and not line.startswith("|"):
            column = None
        elif column is not None and "---" not in line:
            parts[column] = f" {cells.get(parts[1].strip().strip('`'), 'not measured')} "
            lines[number] = "|".join(parts)
    return "".join(lines)


def _cell(lines: list[Headline], purpose: str, anchor: str) -> str:
    main = next(line for line in lines if purpose in line.metric)
    count = Counter(line.verdict().strip("*") for line in lines)
    rest = f"{count['ahead']} ahead, {count['behind']} behind of {len(lines)}"
    return f"{main.sentence()} ([{rest}](tests/benchmarks/RESULTS.md#{anchor}))"


def _anchor(title: str) -> str:
    return re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-")
