"""Render RESULTS.md and the README's measured column from the JSON files in results/, and nothing else.

python tests/benchmarks/report.py

A method takes part by a module ``render_<method>.py`` beside this one, with ``TITLE``,
``render(records) -> str`` and ``headlines(records)``, its lines of the summary; a method without results
says so.
"""

import importlib
import json
import sys
from collections.abc import Iterable
from pathlib import Path
from statistics import mean, stdev
from typing import Any

FOLDER = Path(__file__).resolve().parent
sys.path.insert(0, str(FOLDER.parents[1]))

INTRODUCTION = """# Measured results

Written by `make report` from `tests/benchmarks/results/*.json`; no figure is typed by hand. `make bench`
measures, and each `bench_<method>.py` runs alone. Values are mean (standard deviation) over seeds unless
said; **bold** is the best of a row. Rows that the method loses stay.
"""

SUMMARY = """## Summary

Ours beside the rival with the best mean on the same task, whether it wins or loses. The interval is of the
paired difference over seeds, and decides the verdict. A figure whose name begins with a minus is
a cost, negated so that more is better. Time and memory are ratios to what the cell names.
"""

TIME = """## What the runs take

CPU minutes of the records that say what they took, ended children included; a rerun skips what is there. Most
are of a second run, beside other work (CONTRIBUTING, Benchmarks): a quiet machine needs less.
"""


def main() -> None:
    """Write RESULTS.md, the README's measured column, and CONTRIBUTING's table of scale."""
    from tests.benchmarks import scale
    from tests.benchmarks.readme import fill, measured

    target, landing = FOLDER / "RESULTS.md", FOLDER.parents[1] / "README.md"
    target.write_text(render_all(FOLDER / "results"))
    print(f"wrote {target.relative_to(Path.cwd()) if target.is_relative_to(Path.cwd()) else target}")
    landing.write_text(fill(landing.read_text(), measured(FOLDER / "results")))
    scale.PAGE.write_text(scale.update(), encoding="utf-8")


def render_all(results: Path) -> str:
    """The whole text, one section a method."""
    from tests.benchmarks.headline import HEADER

    sections: list[str] = []
    summary: list[list[str]] = []
    times: list[list[str]] = []
    for renderer in sorted(FOLDER.glob("render_*.py")):
        module = importlib.import_module(f"tests.benchmarks.{renderer.stem}")
        path = results / f"{renderer.stem.removeprefix('render_')}.json"
        if not path.exists():
            sections.append(f"## {module.TITLE}\n\nNot run.\n")
            continue
        stored = json.loads(path.read_text())
        name = module.TITLE.partition(":")[0].partition(",")[0]
        times.append([f"`bench_{path.stem}.py`", *minutes(stored["records"])])
        headlines = module.headlines(stored["records"])
        summary += [[name, *headline.cells()] for headline in headlines]
        summary += [] if headlines else [[name, "quality not measured yet", *["-"] * (len(HEADER) - 2)]]
        sections += [
            f"## {module.TITLE}\n",
            module.render(stored["records"]),
            machines(stored["environments"]),
        ]
    closing = [TIME, table(["script", "records", "timed", "CPU minutes"], times)] if times else []
    return "\n".join([INTRODUCTION, SUMMARY, table(HEADER, summary), *sections, *closing])


def minutes(records: list[dict[str, Any]]) -> list[str]:
    """How many records there are, how many say what they took, and the sum of that."""
    timed = [record["took"] for record in records if "took" in record]
    return [str(len(records)), str(len(timed)), f"{sum(timed) / 60:.1f}" if timed else "-"]


def machines(environments: list[dict[str, Any]]) -> str:
    """What the figures were measured on."""
    lines = ["Measured on:\n"]
    for e in environments:
        versions = ", ".join(f"{name} {version}" for name, version in e["versions"].items())
        lines.append(
            f"- {e['cpu']}, {e['cores']} cores, {e['threads']} torch thread(s), Python {e['python']}, "
            f"{versions}; commit {e['commit']}, {e['date']}"
        )
    return "\n".join(lines) + "\n"


def spread(values: Iterable[float | None], digits: int = 3) -> str:
    """Mean (standard deviation) of what was measured; a dash where nothing was."""
    known = [value for value in values if value is not None]
    if not known:
        return "-"
    text = f"{mean(known):.{digits}f}"
    return f"{text} ({stdev(known):.{digits}f})" if len(known) > 1 else text


def table(header: list[str], rows: list[list[str]]) -> str:
    """A Markdown table."""
    lines = ["| " + " | ".join(header) + " |", "|" + " --- |" * len(header)]
    return "\n".join([*lines, *("| " + " | ".join(row) + " |" for row in rows)]) + "\n"


if __name__ == "__main__":
    main()
