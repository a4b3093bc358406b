"""Measure AUCSeg: cost against the published procedure and cross-entropy, quality on CamVid in mmseg.

    python tests/benchmarks/bench_aucseg.py            # every section; one seed of one architecture
    python tests/benchmarks/bench_aucseg.py --full     # three seeds, both architectures, more arms; resumes
    python tests/benchmarks/bench_aucseg.py --quick    # a smoke run of every section, into a temporary file

Costs are medians over interleaved repetitions on one thread, and ratios. The quality section trains every
arm alike: the schedule, learning rate and number of iterations were fixed beforehand (specification, section
6), the loss weight is 1, nothing was tuned for an arm, and the last iteration is scored on CamVid's
validation pictures, which therefore selected nothing.
"""

import argparse
import os
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from graftkit.core.progress import progress_bar
from tests.benchmarks import camvid_aucseg as camvid
from tests.benchmarks import cost_aucseg as cost
from tests.benchmarks.results_io import Records, environment

DISTRIBUTIONS = ("graftkit", "torch", "numpy", "onedl-mmengine", "onedl-mmcv", "onedl-mmsegmentation")
SECTIONS = ("speed", "memory", "step", "bank", "quality")
ITERATIONS = 600
Job = tuple[str, Callable[[], dict[str, Any]]]


def main(argv: list[str] | None = None) -> Path:
    """Run the chosen sections and return the path of the JSON file."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--full", action="store_true", help="three seeds, both architectures, more arms")
    parser.add_argument("--quick", action="store_true", help="a smoke run of every section, tiny")
    parser.add_argument("--only", choices=SECTIONS, action="append", help="only this section (may repeat)")
    parser.add_argument("--again", action="store_true", help="measure what is there already, too")
    parser.add_argument("--seeds", type=int, help="seeds of the quality section (1, with --full 3)")
    parser.add_argument(
        "--data", type=Path, default=os.environ.get("GRAFTKIT_DATA"), help="folder of real data"
    )
    parser.add_argument("--out", type=Path, default=None, help="JSON file to write or resume")
    options = parser.parse_args(argv)
    torch.set_num_threads(1)
    out = options.out
    if options.quick:
        out = out or Path(tempfile.mkdtemp()) / "aucseg.json"
    records = Records("aucseg", out)
    jobs = [job for name in options.only or SECTIONS for job in JOBS[name](options)]
    todo = [(key, job) for key, job in jobs if options.again or not records.has(key)]
    bar = progress_bar(total=len(todo), desc="AUCSeg benchmark", verbose=1)
    here = environment(DISTRIBUTIONS)
    for key, job in todo:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the hosts' own, many and long
            records.add(key, here, **job())
        bar.update()
    bar.close()
    return records.path


def speed_jobs(options: argparse.Namespace) -> Iterator[Job]:
    """The loss alone: four shapes against both rivals, growth with pixels and with present classes."""
    everyone = ("published", "ours", "CE")
    cases = dict.fromkeys(cost.CASES, everyone)
    cases.update({case: ("ours", "CE") for case in (*cost.PIXELS, *cost.PRESENT) if case not in cases})
    if options.quick:
        cases = {(1, 5, 24, 32, 4): everyone}
    for case, names in cases.items():
        yield f"speed/{case}", partial(cost.speed, case, names, 1 if options.quick else 5)


def memory_jobs(options: argparse.Namespace) -> Iterator[Job]:
    """Peak memory of each loss, a process each."""
    for case in [(1, 5, 24, 32, 4)] if options.quick else cost.CASES:
        for name in cost.LOSSES:
            yield f"memory/{case}/{name}", partial(cost.memory, case, name, 1 if options.quick else 5)


def step_jobs(options: argparse.Namespace) -> Iterator[Job]:
    """A whole training step of mmseg's ResNet-18."""
    yield "step", partial(cost.training_step, 1 if options.quick else 5, options.quick)


def bank_jobs(options: argparse.Namespace) -> Iterator[Job]:
    """The bank: milliseconds a picture, growth over steps."""
    for tail, present, ratio in cost.TAILS:
        size, repeats = (160, 4) if options.quick else (512, 64)
        yield f"bank/{tail}", partial(cost.bank_cost, tail, present, ratio, repeats, size)
    yield "growth", partial(cost.bank_growth, 100 if options.quick else 10_000)


def quality_jobs(options: argparse.Namespace) -> Iterator[Job]:
    """CamVid: all arms of a seed before the next seed, so that a run that stops compares like with like."""
    if options.data is None:
        print("CamVid skipped: set GRAFTKIT_DATA or pass --data", file=sys.stderr)
        return
    archive = Path(options.data) / "camvid" / "camvid_240x180.zip"
    folder, weights = camvid.unpack(archive), camvid.class_weights(archive)
    arms = {**camvid.ARMS, **(camvid.MORE_ARMS if options.full else {})}
    architectures = list(camvid.ARCHITECTURES)[: 2 if options.full or options.quick else 1]
    if options.quick:
        arms = dict(list(arms.items())[:2])
    iterations = 4 if options.quick else ITERATIONS
    for architecture in architectures:
        for seed in range(options.seeds or (3 if options.full and not options.quick else 1)):
            for arm in arms:
                key = f"quality/{architecture}/{arm}/{seed}"
                yield key, partial(camvid.train, arm, architecture, seed, folder, weights, iterations)


JOBS: dict[str, Callable[[argparse.Namespace], Iterator[Job]]] = {
    "speed": speed_jobs,
    "memory": memory_jobs,
    "step": step_jobs,
    "bank": bank_jobs,
    "quality": quality_jobs,
}


if __name__ == "__main__":
    print(main())
