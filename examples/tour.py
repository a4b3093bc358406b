"""Run every method that exists on real data; print one table, save one figure a method and one page of all.

    python examples/tour.py [--data DIR] [--seed N] [--quick] [--out DIR]

Each method runs through its own example in this folder. A failing method is reported and the others go
on; the exit code then is 1. ``tour.html`` holds the table and every figure, ``tour.png`` the figures, small.
Ctrl-C stops the tour with exit code 130; what has finished by then is still in the table and on the page.
"""

import argparse
import importlib.util
import os
import sys
import time
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(Path(__file__).resolve().parent))
from tour_page import COLUMNS, HEADINGS, write_page, write_sheet

METHODS = (
    "rcpmod",
    "sse_sam",
    "aucseg",
    "dpcml",
    "hgoe",
    "diffusion_feature",
    "content_shift",
    "bilt",
    "edge",
    "qedg",
)
FOLDER = Path(__file__).resolve().parent


def main(argv: list[str] | None = None) -> dict[str, Any]:
    """Run the tour and return each method's row, or the error that stopped it."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--data", type=Path, default=os.environ.get("GRAFTKIT_DATA"), help="folder of real data"
    )
    parser.add_argument("--seed", type=int, default=0, help="passed to every method")
    parser.add_argument("--quick", action="store_true", help="the examples' quick form")
    parser.add_argument("--out", type=Path, default=Path("out"), help="folder for the figures")
    options = parser.parse_args(argv)
    arguments = ["--seed", str(options.seed), "--out", str(options.out)]
    arguments += ["--data", str(options.data)] if options.data else []
    arguments += ["--quick"] if options.quick else []

    console = Console()
    console.print(f"Data: {options.data or 'what the dependencies ship'}")
    methods = [method for method in METHODS if (FOLDER / f"{method}.py").exists()]
    rows: dict[str, Any] = {}
    try:
        _run(console, methods, arguments, rows)
    finally:  # Ctrl-C too: what has finished is shown
        _report(console, rows)
        if rows:
            options.out.mkdir(parents=True, exist_ok=True)
            write_sheet(rows, options.out / "tour.png")
            data = str(options.data or "what the dependencies ship")
            console.print(f"page: {write_page(rows, data, options.out / 'tour.html')}")
    return rows


def _run(console: Console, methods: list[str], arguments: list[str], rows: dict[str, Any]) -> None:
    for position, method in enumerate(methods, start=1):
        console.print(f"[bold]{position}/{len(methods)} {method}[/bold]")
        start = time.perf_counter()
        try:
            rows[method] = _load(method).main(arguments)
        except Exception as error:
            rows[method] = {"error": f"{type(error).__name__}: {error}"}
            console.print_exception()
        console.print(f"{method}: {time.perf_counter() - start:.0f} s")


def _load(method: str) -> Any:
    spec = importlib.util.spec_from_file_location(f"graftkit_example_{method}", FOLDER / f"{method}.py")
    if spec is None or spec.loader is None:
        raise ImportError(f"no example for {method}")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _report(console: Console, rows: dict[str, Any]) -> None:
    table = Table(*HEADINGS, title="graftkit tour")
    for method, row in rows.items():
        if "error" in row:
            table.add_row(method, "", "", "", "", f"[red]failed: {row['error']}[/red]", "")
            continue
        table.add_row(*(str(row[name]) for name in COLUMNS))
    console.print(table)
    for row in rows.values():
        if "figure" in row:
            console.print(f"figure: {row['figure']}")
    planned = [method for method in METHODS if method not in rows]
    if planned:
        console.print(f"Not built yet: {', '.join(planned)}")


if __name__ == "__main__":
    try:
        results = main()
    except KeyboardInterrupt:
        sys.exit(130)
    sys.exit(int(any("error" in row for row in results.values())))
