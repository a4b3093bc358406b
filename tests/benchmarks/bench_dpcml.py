"""Measure DPCML: quality against baselines, the library's defaults, speed against the published procedure.

    python tests/benchmarks/bench_dpcml.py            # Steam-200k, one seed; see SECTIONS
    python tests/benchmarks/bench_dpcml.py --full     # three seeds, and CiteULike-T
    python tests/benchmarks/bench_dpcml.py --quick    # a minute on generated data, into a temporary file
    python tests/benchmarks/bench_dpcml.py --paper    # the published settings to the end: hours, resumes

Settings are selected on the validation part of seed 0 only (section ``selection``: NDCG@10, protocol
standard), four candidates each: for DPCML2 (`TUNED` in `quality_dpcml.py`; the number of passes is among
them: that is where the default of 100 comes from), for its baselines HarS and CML, and for itemKNN, ALS and
BPR. The other rows of the family run with the library's defaults, the last pass, not tuned one by one. Test
figures follow the public code's protocol (``libcml``: training items masked) and the standard one (training
and validation masked).
"""

import argparse
import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

from graftkit.core.progress import progress_bar

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from tests.benchmarks import quality_dpcml as quality
from tests.benchmarks import speed_dpcml as speed
from tests.benchmarks.results_io import Records, environment

DISTRIBUTIONS = ("graftkit", "torch", "numpy", "scipy", "scikit-learn", "implicit")
PAPER = {"unis": 1, "hars": 3, "dpcml1": 1, "dpcml2": 3}
SECTIONS = ("selection", "quality", "speed", "ranking", "growth", "time")


def main(argv: list[str] | None = None) -> Path:
    """Run the chosen sections and return the path of the JSON file."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--full", action="store_true", help="three seeds, CiteULike-T too")
    parser.add_argument("--quick", action="store_true", help="a smoke run of every section, tiny")
    parser.add_argument("--paper", action="store_true", help="published settings to the end (hours, resumes)")
    parser.add_argument("--method", choices=sorted(PAPER), action="append", help="with --paper: only these")
    parser.add_argument("--row", action="append", help="only this row of selection and quality (may repeat)")
    parser.add_argument("--only", choices=SECTIONS, action="append", help="only this section (may repeat)")
    parser.add_argument("--seeds", type=int, default=None, help="seeds of the quality rows")
    parser.add_argument("--repeats", type=int, default=3, help="repeats of what is timed")
    parser.add_argument(
        "--data", type=Path, default=os.environ.get("GRAFTKIT_DATA"), help="folder of real data"
    )
    parser.add_argument("--out", type=Path, default=None, help="JSON file to write or resume")
    options = parser.parse_args(argv)
    torch.set_num_threads(1)
    out = options.out
    options.seeds = options.seeds or (3 if options.full else 1)
    if options.quick:
        options.seeds = options.repeats = 1
        out = out or Path(tempfile.mkdtemp()) / "dpcml.json"
    elif options.data is None:
        parser.error("needs real data: set GRAFTKIT_DATA or pass --data, or use --quick")
    records = Records("dpcml", out)
    here = environment(DISTRIBUTIONS)
    jobs = _paper_jobs(options) if options.paper else _jobs(options, records)
    for key, job in progress_bar(jobs, desc="DPCML benchmark", verbose=1):
        if not records.has(key):
            records.add(key, here, **job())
    return records.path


Job = tuple[str, Callable[[], dict[str, Any]]]


def _jobs(options: argparse.Namespace, records: Records) -> Iterator[Job]:
    chosen = options.only or SECTIONS
    folder = str(options.data) if options.data else None
    names = ["generated"] if options.quick else ["Steam-200k"] + (["CiteULike-T"] if options.full else [])
    quick = {"max_iter": 2, "n_components": 8} if options.quick else {}
    for name in names:
        if "selection" in chosen:
            for method, grid in {**quality.TUNED, **quality.BASELINES}.items():
                if options.row and method not in options.row:
                    continue
                for i, candidate in enumerate(grid):
                    settings = candidate if method in quality.BASELINES else {**candidate, **quick}
                    yield (
                        f"selection/{name}/{method}/{i}",
                        _bind(quality.select, name, folder, method, settings),
                    )
        if "quality" in chosen:
            for seed in range(options.seeds):
                order = [
                    quality.DEFAULTS,
                    *(m for m in quality.FAMILY if m != quality.DEFAULTS),
                    *quality.TUNED,
                    *quality.BASELINES,
                    "popularity",
                ]
                for method in order:
                    if method in quality.FAMILY:
                        chosen_settings: dict[str, Any] | None = {**quality.FAMILY[method], **quick}
                    else:
                        chosen_settings = quality.best_settings(records, name, method)
                    if chosen_settings is None or (seed and method in ("itemKNN", "popularity")):
                        continue  # nothing selected yet, or nothing random about it
                    if method in quality.TUNED and chosen_settings in [
                        {**row, **quick} for row in quality.FAMILY.values()
                    ]:
                        continue  # what was selected is a row of the family
                    if options.row and method not in options.row:
                        continue
                    yield (
                        f"quality/{name}/{method}/{seed}",
                        _bind(quality.measure, name, folder, method, chosen_settings, seed),
                    )
    if "speed" in chosen:
        for n_vectors in (1, 5):
            for repeat in range(options.repeats):
                yield (
                    f"speed/epoch/{n_vectors}/{repeat}",
                    _bind(speed.epoch, names[0], folder, n_vectors, options.quick),
                )
        for what in (speed.sampling, speed.evaluation):
            yield f"speed/{what.__name__}", _bind(what, names[0], folder, options.quick)
    if "ranking" in chosen:
        for repeat in range(options.repeats):
            yield f"ranking/{repeat}", _bind(speed.ranking, names[0], folder, options.quick)
    if "growth" in chosen:
        yield "growth", _bind(speed.growth, options.quick)
    if "time" in chosen:
        yield "speed/time_to_quality", _bind(speed.time_to_quality, names[0], folder, options.quick)


def _bind(function: Callable[..., dict[str, Any]], *arguments: Any) -> Callable[[], dict[str, Any]]:
    return lambda: function(*arguments)


def _paper_jobs(options: argparse.Namespace) -> Iterator[Job]:
    folder = str(options.data) if options.data else None
    name = "generated" if options.quick else "Steam-200k"
    for seed in range(max(PAPER.values())):
        for method in sorted(PAPER, key=lambda m: ("hars", "dpcml2", "unis", "dpcml1").index(m)):
            if seed < PAPER[method] and (options.method is None or method in options.method):
                yield (
                    f"paper/{method}/{seed}",
                    _bind(quality.run_paper, name, folder, method, seed, options.quick),
                )


if __name__ == "__main__":
    main()
