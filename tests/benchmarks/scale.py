"""The table of CONTRIBUTING's section "Scale": what the records say for a row, times 1e8 rows.

python tests/benchmarks/scale.py        # writes it; `make report` does so too
"""

import json
import textwrap
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).resolve().parent
PAGE = FOLDER.parents[1] / "CONTRIBUTING.md"
START, END = "<!-- scale: written by make report -->\n", "<!-- end of scale -->\n"
ROWS = 1e8
HEADER = ("what", "record", "measured", "a unit", "1e8 units, one core", "engine for that")
GIB = 2**30
Record = dict[str, Any]


@dataclass(frozen=True)
class Line:
    """One cost: seconds of a record, units that they were spent on, and who would share 1e8 of them out."""

    what: str
    key: str
    unit: str
    units: Callable[[Record], float] | float
    seconds: Callable[[Record], float] | float
    engine: str


TORCHRUN = "accelerate, data parallel (`examples/distributed/`)"
LINES = [
    Line("RCPMOD, fit: 20 epochs, two views of 64 columns", "rcpmod:scale/fit/100000", "row",
         lambda r: r["n"], lambda r: r["cpu_seconds"],
         "fit a sample; accelerate shares the encoding (`rcpmod.py`), faiss (IVF) the neighbours"),
    Line("RCPMOD, `score_samples`", "rcpmod:scale/score/1000000", "row",
         lambda r: r["n"], lambda r: r["cpu_seconds"], "joblib with Dask over chunks of rows (`scoring.py`)"),
    Line("DPCML, one pass: C=5, 100 columns", "dpcml:growth", "positive",
         8 * 1000 * 20, lambda r: r["seconds"]["8"],
         "DistributedDataParallel on sparse rows (`dpcml.py`)"),
    Line("DPCML, `recommend`: C=5, 5 113 items", "dpcml:ranking/0", "user",
         lambda r: r["users_per_second"]["ours, C=5"], 1.0,
         "joblib with Dask over users; many items: an inner-product index (faiss, implicit)"),
    Line("SSE-SAM, first stage, ResNet-18, tail of 10 %", "sse_sam:speed/resnet18/sgd/0.1", "picture",
         lambda r: r["batch"], lambda r: r["seconds"]["ours stage 1, loop"], TORCHRUN),
    Line("AUCSeg, loss and bank, ResNet-18, 128 x 160", "aucseg:step", "picture",
         4, lambda r: r["seconds"]["CE + AUC + bank"], "mmengine's launcher (`aucseg.py`)"),
    Line("BiLT on ResNet-18, 224 x 224, 1 010 classes", "bilt:end/resnet18/224/iNaturalist-2019", "picture",
         lambda r: r["batch"], lambda r: r["seconds"]["ours"], TORCHRUN),
    Line("EDGE's loss, 80 labels", "edge:loss/4096/80/4096", "row",
         lambda r: r["rows"], lambda r: r["ms"]["EDGE"]["median"] / 1000, TORCHRUN),
    Line("HGOE, training with outliers", "hgoe:training/energy", "graph",
         lambda r: r["batch"], lambda r: r["seconds"]["HGOE"],
         "accelerate; PyG's loader with workers makes outliers batch by batch"),
    Line("HGOE, synthesis of outliers", "hgoe:scale/synthesis/50000", "graph",
         lambda r: r["graphs"], lambda r: r["cpu_seconds"], "PyG's loader with workers; nothing is kept"),
    Line("QEDG, extraction", "qedg:growth/4000", "query",
         lambda r: r["queries"], lambda r: r["cpu_seconds"], "none: the victim's budget ends it before"),
    Line("Diffusion features, preset, small U-Net", "diffusion_feature:speed/32", "picture",
         lambda r: r["images_per_second"]["preset, early exit"], 1.0,
         "accelerate (`extract_features`), or joblib over shards (`scoring.py`)"),
]  # fmt: skip


def records(folder: Path = FOLDER / "results") -> dict[str, Record]:
    """Every record, by file and key."""
    found = {}
    for path in sorted(folder.glob("*.json")):
        for record in json.loads(path.read_text(encoding="utf-8"))["records"]:
            found[f"{path.stem}:{record['key']}"] = record
    return found


def table(found: dict[str, Record]) -> str:
    """The table, in Markdown."""
    lines = [HEADER, ("---",) * len(HEADER)]
    for line in LINES:
        record = found[line.key]
        units, seconds = (v(record) if callable(v) else v for v in (line.units, line.seconds))
        each = seconds / units
        several = line.unit.removesuffix("y") + ("ies" if line.unit.endswith("y") else "s")
        measured = f"{number(units)} {several}, {number(seconds)} s"
        lines.append(
            (line.what, f"`{line.key}`", measured, duration(each), duration(each * ROWS), line.engine)
        )
    return "".join("| " + " | ".join(cells) + " |\n" for cells in lines)


def memory(found: dict[str, Record]) -> str:
    """What of it must be held in memory, in sentences."""
    small, large = (found[f"rcpmod:scale/fit/{n}"] for n in (10_000, 100_000))
    row = (large["peak_gib"] - small["peak_gib"]) * GIB / (large["n"] - small["n"])
    synthesis = found["hgoe:scale/synthesis/50000"]
    graph = synthesis["extra_gib"] * GIB / synthesis["graphs"]
    slope = found["dpcml:growth"]["slope"]
    text = (
        f"Memory: fitting RCPMOD takes {row / 1000:.1f} kB a row (from `rcpmod:scale/fit/10000` to "
        f"`100000`), so {row * ROWS / 1e9:.0f} GB at 1e8: that is why a sample is fitted. Synthetic graphs "
        f"take {graph / 1000:.0f} kB each (`hgoe:scale/synthesis/50000`), {graph * ROWS / 1e9:.0f} GB at 1e8 "
        "if they were kept. DPCML's tables and moments are 4 bytes x 3 x 100 columns x (5 users + items): "
        f"{4 * 3 * 100 * 5 / 1000:.0f} kB a user. Its pass grew as positives to the power {slope:.2f} "
        "(`dpcml:growth`), more than the proportional growth that the table supposes."
    )
    return textwrap.fill(text, 110, break_on_hyphens=False) + "\n"


def number(value: float) -> str:
    """Three digits; from 100 on whole, in groups of three."""
    return f"{value:,.0f}".replace(",", " ") if value >= 100 else f"{value:.3g}"


def duration(seconds: float) -> str:
    """In the unit that reads best."""
    for unit, size in (("days", 86400), ("h", 3600), ("s", 1), ("ms", 1e-3)):
        if seconds >= size * (2 if unit in ("days", "h") else 1):
            return f"{number(seconds / size)} {unit}"
    return f"{seconds * 1e6:.3g} µs"


def update(page: Path = PAGE) -> str:
    """Put the table between its marks; returns the page."""
    text = page.read_text(encoding="utf-8")
    before, rest = text.split(START)
    after = rest.split(END)[1]
    found = records()
    return f"{before}{START}\n{table(found)}\n{memory(found)}\n{END}{after}"


if __name__ == "__main__":
    PAGE.write_text(update(), encoding="utf-8")
