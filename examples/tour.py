"""Run every method; print one table, save one figure a method and one page of all.

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
from rich.table import Column, Table
from rich.text import Text

sys.path.insert(0, str(Path(__file__).resolve().parent))
from tour_page import COLUMNS, HEADINGS, write_page, write_sheet

FOLDER = Path(__file__).resolve().parent


def main(argv: list[str] | None = None) -> dict[str, Any]:
    """Run the tour and return each method's row, or the error that stopped it."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--data", type=Path, default=os.getenv("GRAFTKIT_DATA") or None, help="folder of real data"
    )
    parser.add_argument("--seed", type=int, default=0, help="passed to every method")
    parser.add_argument("--quick", action="store_true", help="the examples' quick form")
    parser.add_argument("--out", type=Path, default=Path("out"), help="folder for the figures")
    options = parser.parse_args(argv)
    if options.data and not Path(options.data).is_dir():
        parser.error(f"--data: expected a folder, got {options.data}")
    arguments = ["--seed", str(options.seed), "--out", str(options.out)]
    arguments += ["--data", str(options.data)] if options.data else []
    arguments += ["--quick"] if options.quick else []

    console = Console(markup=False)  # "graftkit[timm]" in an error is text
    console.print(f"Data: {options.data or 'what the dependencies ship'}")
    methods = sorted(path.stem for path in FOLDER.glob("*.py") if not path.stem.startswith("tour"))
    rows: dict[str, Any] = {}
    try:
        _run(console, methods, arguments, rows)
    except KeyboardInterrupt:
        console.print(f"Stopped by Ctrl-C: {len(rows)} of {len(methods)} methods have run.", style="bold")
        raise
    finally:  # Ctrl-C too: what has finished is shown
        left = [method for method in methods if method not in rows]
        _report(console, rows, left)
        if rows:
            options.out.mkdir(parents=True, exist_ok=True)
            data = str(options.data or "what the dependencies ship")
            console.print(f"page: {write_page(rows, data, options.out / 'tour.html', left)}")
            write_sheet(rows, options.out / "tour.png")
    return rows


def _run(console: Console, methods: list[str], arguments: list[str], rows: dict[str, Any]) -> None:
    for position, method in enumerate(methods, start=1):
        console.print(f"{position}/{len(methods)} {method}", style="bold")
        start = time.perf_counter()
        try:
            rows[method] = _checked(_load(method).main(arguments))
        except (Exception, SystemExit) as error:  # an example that exits must not end the others
            rows[method] = {"error": f"{type(error).__name__}: {error}"}
            console.print_exception()
        console.print(f"{method}: {time.perf_counter() - start:.0f} s")


def _checked(row: dict[str, Any]) -> dict[str, Any]:
    missing = [name for name in (*COLUMNS, "figure") if name not in row]
    if missing:
        raise ValueError(f"the example returned a row without {', '.join(missing)}")
    return row


def _load(method: str) -> Any:
    spec = importlib.util.spec_from_file_location(f"graftkit_example_{method}", FOLDER / f"{method}.py")
    if spec is None or spec.loader is None:
        raise ImportError(f"no example for {method}")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _report(console: Console, rows: dict[str, Any], left: list[str]) -> None:
    table = Table(*(Column(heading, overflow="fold") for heading in HEADINGS), title="graftkit tour")
    for method, row in rows.items():
        if "error" in row:
            table.add_row(method, "", "", "", "", Text(f"failed: {row['error']}", style="red"), "")
            continue
        table.add_row(*(str(row[name]) for name in COLUMNS))
    console.print(table)
    for row in rows.values():
        if "figure" in row:
            console.print(f"figure: {row['figure']}")
    if left:
        console.print(f"Not run: {', '.join(left)}")


if __name__ == "__main__":
    try:
        results = main()
    except KeyboardInterrupt:
        sys.exit(130)
    sys.exit(int(any("error" in row for row in results.values())))
