"""Measure EDGE: the loss's cost against three rivals, its parts, and quality on digits and CIFAR collages.

    python tests/benchmarks/bench_edge.py          # costs; quality with 1,500 pictures, 10 epochs, 5 seeds
    python tests/benchmarks/bench_edge.py --full   # quality at the specification's 3,000 pictures, 20 epochs
    python tests/benchmarks/bench_edge.py --quick  # a smoke run of every section, into a temporary file

Costs are medians over interleaved repetitions on one thread, forward and backward, with the least beside
them. Runs resume by key; --only, --seeds and --arms narrow them.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from graftkit.core.progress import progress_bar
from graftkit.methods.edge import EDGELoss, energy_gap_loss, joint_energy
from graftkit.methods.edge.spectra import batch_spectrum, set_spectrum
from tests.benchmarks import published_edge as published
from tests.benchmarks import quality_edge as quality
from tests.benchmarks.results_io import Records, environment

DISTRIBUTIONS = ("graftkit", "torch", "timm", "pytorch-ood", "scikit-learn", "numpy")
SECTIONS = ("loss", "gap", "memory", "step", "scoring", "selector cost", "quality", "collages", "selector")
# Rows of either side, labels, tail.
SHAPES = ((64, 20, 32), (128, 80, 32), (1024, 1000, 256), (4096, 80, 4096))
Job = tuple[str, Callable[[], dict[str, Any]]]


def main(argv: list[str] | None = None) -> Path:
    """Run the chosen sections and return the path of the JSON file."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--full", action="store_true", help="the specification's sizes of the quality runs")
    parser.add_argument("--quick", action="store_true", help="a smoke run of every section, tiny")
    parser.add_argument("--only", choices=SECTIONS, action="append", help="only this section (may repeat)")
    parser.add_argument("--arms", choices=quality.ARMS, action="append", help="only this arm (may repeat)")
    parser.add_argument("--seeds", type=int, default=5, help="seeds of the quality sections")
    parser.add_argument(
        "--data", type=Path, default=os.environ.get("GRAFTKIT_DATA"), help="folder of real data"
    )
    parser.add_argument("--out", type=Path, default=None, help="JSON file to write or resume")
    options = parser.parse_args(argv)
    torch.set_num_threads(1)
    out = options.out
    if options.quick:
        out = out or Path(tempfile.mkdtemp()) / "edge.json"
    records = Records("edge", out)
    jobs = [job for name in options.only or SECTIONS for job in JOBS[name](options)]
    todo = [(key, job) for key, job in jobs if not records.has(key)]
    bar = progress_bar(total=len(todo), desc="EDGE benchmark", verbose=1)
    here = environment(DISTRIBUTIONS)
    for key, job in todo:
        records.add(key, here, **job())
        bar.update()
    bar.close()
    return records.path


def batch(n: int, labels: int) -> tuple[Tensor, Tensor]:
    """Logits of n known rows and n outliers, and their targets."""
    generator = torch.Generator().manual_seed(0)
    known = (torch.rand(n, labels, generator=generator) < 0.1).float()
    logits = torch.randn(2 * n, labels, generator=generator) - 2
    return logits, torch.cat([known, -torch.ones(n, labels)])


def rivals(k: int) -> dict[str, Callable[[Tensor, Tensor], Tensor]]:
    """Losses of the same tensors; BCE takes outliers as rows without a label."""
    from pytorch_ood.loss import EnergyRegularizedLoss

    ours = {
        "EDGE": EDGELoss(k=k, margin=1.0),
        "EDGE, pairwise": EDGELoss(k=k, margin=1.0, gap_method="pairwise"),
        "EDGE, sorted": EDGELoss(k=k, margin=1.0, gap_method="sorted"),
        "EDGE, plain form": EDGELoss(k=k, margin=1.0, fused=False),
    }
    regulariser = EnergyRegularizedLoss(alpha=0.01, margin_in=-8.0, margin_out=-1.0)
    return {
        "BCE": lambda z, t: functional.binary_cross_entropy_with_logits(z, t.clamp(min=0)),
        "BCE, targets ready": _ready_bce(),
        **ours,
        "EDGE, split": lambda z, t: ours["EDGE"].split(z[: len(z) // 2], t[: len(z) // 2], z[len(z) // 2 :]),
        "BCE + pytorch-ood's regulariser": lambda z, t: published.bounded_regulariser(z, t, regulariser),
        "naive": lambda z, t: published.naive_loss(z, t, k, 1.0),
    }


def _ready_bce() -> Callable[[Tensor, Tensor], Tensor]:
    cache: dict[int, Tensor] = {}

    def loss(z: Tensor, t: Tensor) -> Tensor:
        if id(t) not in cache:
            cache[id(t)] = t.clamp(min=0)
        return functional.binary_cross_entropy_with_logits(z, cache[id(t)])

    return loss


def timed(functions: dict[str, Callable[[], Any]], repeats: int) -> dict[str, dict[str, float]]:
    """Median and least milliseconds of each, in turns, so that a busy moment meets all alike."""
    taken: dict[str, list[float]] = {name: [] for name in functions}
    for function in functions.values():
        function()
    for _ in range(repeats):
        for name, function in functions.items():
            function()  # what ran before has filled the caches with its own
            start = time.perf_counter()
            function()
            taken[name].append(1000 * (time.perf_counter() - start))
    return {name: {"median": median(values), "least": min(values)} for name, values in taken.items()}


def loss_cost(n: int, labels: int, k: int, repeats: int) -> dict[str, Any]:
    """Forward and backward of the loss alone."""
    logits, targets = batch(n, labels)
    functions = {}
    for name, loss in rivals(k).items():
        if name == "naive" and n > 1024:
            continue  # minutes
        leaf = logits.clone().requires_grad_()

        def call(loss: Any = loss, leaf: Tensor = leaf) -> None:
            leaf.grad = None
            loss(leaf, targets).backward()

        functions[name] = call
    return {"section": "loss", "rows": n, "labels": labels, "k": k, "ms": timed(functions, repeats)}


def gap_cost(n: int, repeats: int) -> dict[str, Any]:
    """The gap term alone by both forms, with the largest difference of value and gradient."""
    generator = torch.Generator().manual_seed(0)
    oe, tail = (torch.rand(n, generator=generator) * 20 for _ in range(2))
    functions, results = {}, {}
    for method in ("pairwise", "sorted"):
        a, b = oe.clone().requires_grad_(), tail.clone().requires_grad_()

        def call(method: str = method, a: Tensor = a, b: Tensor = b) -> None:
            a.grad = b.grad = None
            loss = energy_gap_loss(a, b, 1.0, method=method)
            loss.backward()
            results[method] = (loss.detach(), a.grad, b.grad)

        functions[method] = call
    taken = timed(functions, repeats)
    apart = max(
        float(((one - other).abs() / other.abs().max()).max())
        for one, other in zip(results["sorted"], results["pairwise"], strict=True)
    )
    return {"section": "gap", "pairs": n * n, "ms": taken, "relative difference": apart}


PEAK = """
import sys, torch
sys.path.insert(0, {root!r})
torch.set_num_threads(1)
from tests.benchmarks.bench_edge import batch, rivals
from tests.benchmarks.results_io import forget_peak, resident
logits, targets = batch({n}, {labels})
logits.requires_grad_()
loss = rivals({k})[{name!r}]
small, marks = batch(4, 3)
loss(small.requires_grad_(), marks).backward()
before = forget_peak()
loss(logits, targets).backward()
print((resident("VmHWM") - before) / (logits.numel() * 4))
"""


def memory(n: int, labels: int, k: int, name: str) -> dict[str, Any]:
    """Growth of the peak over the logits' own size, in a process of its own; the gradient (1x) is in it."""
    code = PEAK.format(root=str(Path(__file__).resolve().parents[2]), n=n, labels=labels, k=k, name=name)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return {
        "section": "memory",
        "rows": n,
        "labels": labels,
        "k": k,
        "loss": name,
        "times": float(done.stdout),
    }


def step_cost(repeats: int) -> dict[str, Any]:
    """A whole training step of timm's ResNet-18 at 64 x 64: without outliers, and with as many."""
    import timm

    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = timm.create_model("resnet18", num_classes=20)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    targets = batch(16, 20)[1]
    images = torch.randn(32, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    cases = {
        "BCE, 16 rows": (nn.BCEWithLogitsLoss(), images[:16], targets[:16]),
        "BCE, 32 rows": (nn.BCEWithLogitsLoss(), images, targets.clamp(min=0)),
        "EDGE, 16 and 16": (EDGELoss(k=8, margin=1.0), images, targets),
    }

    def step(criterion: Any, x: Tensor, y: Tensor) -> None:
        optimizer.zero_grad()
        criterion(model(x), y).backward()
        optimizer.step()

    return {
        "section": "step",
        "ms": timed({name: partial(step, *case) for name, case in cases.items()}, repeats),
    }


def scoring_cost(repeats: int) -> dict[str, Any]:
    """4096 x 81 logits by three scores, and where the naive form breaks."""
    logits = batch(2048, 81)[0]
    functions = {
        "JointEnergy": lambda: joint_energy(logits),
        "naive log(1 + exp)": lambda: published.naive_energy(logits),
        "logsumexp": lambda: logits.logsumexp(1),
    }
    high = {
        str(z): [float(f(torch.full((1, 1), z))) for f in (joint_energy, published.naive_energy)]
        for z in (-20.0, 90.0)
    }
    return {"section": "scoring", "ms": timed(functions, repeats), "ours and naive at": high}


def selector_cost(repeats: int) -> dict[str, Any]:
    """Spectra of 64 x 2048 features by batch, and of a whole set."""
    features = torch.randn(64, 2048, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    functions = {
        "svdvals": lambda: batch_spectrum(features),
        "Gram (fast=True)": lambda: batch_spectrum(features, fast=True),
        "full SVD": lambda: torch.linalg.svd(features),
        "whole set, 512 wide": lambda: set_spectrum(features[:, :512]),
    }
    apart = (batch_spectrum(features, fast=True) / batch_spectrum(features) - 1).abs().max()
    return {"section": "selector cost", "ms": timed(functions, repeats), "relative difference": float(apart)}


def loss_jobs(options: argparse.Namespace) -> Iterator[Job]:
    """The loss at the specification's shapes."""
    for n, labels, k in SHAPES[:1] if options.quick else SHAPES:
        repeats = 3 if options.quick else 100 if n < 1000 else 9
        yield f"loss/{n}/{labels}/{k}", partial(loss_cost, n, labels, k, repeats)


def gap_jobs(options: argparse.Namespace) -> Iterator[Job]:
    """The hinge by both forms."""
    for n in (16, 64) if options.quick else (16, 64, 128, 256, 1024, 4096):
        yield f"gap/{n}", partial(gap_cost, n, 3 if options.quick or n > 1024 else 50)


def memory_jobs(options: argparse.Namespace) -> Iterator[Job]:
    """Peak memory; the shape is large enough to be seen above the allocator's pages."""
    n, labels, k = (256, 80, 32) if options.quick else (8192, 1000, 32)
    for name in ("BCE", "EDGE", "EDGE, plain form", "BCE + pytorch-ood's regulariser"):
        yield f"memory/{n}/{labels}/{k}/{name}", partial(memory, n, labels, k, name)


def quality_jobs(data: str, options: argparse.Namespace) -> Iterator[Job]:
    """All arms of a seed before the next seed, so that a run that stops compares like with like."""
    if data == "collages" and options.data is None:
        print("collages skipped: set GRAFTKIT_DATA or pass --data", file=sys.stderr)
        return
    n, epochs = (128, 2) if options.quick else (3000, 20) if options.full else (1500, 10)
    names = options.arms or quality.ARMS
    for seed in range(1 if options.quick else options.seeds):
        for arm in names[:: 3 if options.quick else 1]:
            folder = None if options.data is None else Path(options.data)
            key = f"quality/{data}/{n}x{epochs}/{arm}/{seed}"
            yield key, partial(quality.run, data, arm, seed, folder, n, epochs)


def selector_jobs(options: argparse.Namespace) -> Iterator[Job]:
    """Distance against AUROC; three seeds."""
    n, epochs = (128, 2) if options.quick else (3000, 15) if options.full else (1500, 8)
    for seed in range(1 if options.quick else min(3, options.seeds)):
        yield f"selector/{n}x{epochs}/{seed}", partial(quality.select, seed, n, epochs)


def single(
    key: str, function: Callable[[int], dict[str, Any]], repeats: int
) -> Callable[[Any], Iterator[Job]]:
    """A section of one record."""

    def jobs(options: argparse.Namespace) -> Iterator[Job]:
        yield key, partial(function, 2 if options.quick else repeats)

    return jobs


JOBS: dict[str, Callable[[argparse.Namespace], Iterator[Job]]] = {
    "loss": loss_jobs,
    "gap": gap_jobs,
    "memory": memory_jobs,
    "step": single("step", step_cost, 15),
    "scoring": single("scoring", scoring_cost, 100),
    "selector cost": single("selector cost", selector_cost, 20),
    "quality": partial(quality_jobs, "digits"),
    "collages": partial(quality_jobs, "collages"),
    "selector": selector_jobs,
}


if __name__ == "__main__":
    print(main())
