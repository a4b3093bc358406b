"""Train on long-tailed images with an unmodified loop: SGD, SAM, ImbSAM and SSE-SAM side by side.

CIFAR-10-LT (with ``--data`` or ``GRAFTKIT_DATA``) or scikit-learn's digits with a long tail. You will
see a table of recall by class frequency (test set, last epoch), with SGD at twice the epochs as the fair
rival, and a figure of the curvature of head and tail at the end of each run. Where the tail is not
memorised, expect plain SGD to win: that is what the method's docstring says too.

    python examples/sse_sam.py [--data DIR] [--seed N] [--quick] [--out DIR]
"""

import argparse
import os
import time
from pathlib import Path
from typing import Any

import matplotlib as mpl
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from tqdm import tqdm

from graftkit.methods.sse_sam.curvature_table import CurvatureTable
from graftkit.methods.sse_sam.data import load_cifar10_lt, long_tailed_digits, recall_by_frequency
from graftkit.torch import SSESAM, class_curvature, tail_classes_from_counts


def main(argv: list[str] | None = None) -> dict[str, Any]:
    """Run the example and return the row of the tour's table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, default=os.getenv("GRAFTKIT_DATA") or None, help="real data")
    parser.add_argument("--seed", type=int, default=0, help="seed of weights and batches")
    parser.add_argument("--quick", action="store_true", help="fewer epochs, under a minute")
    parser.add_argument("--out", type=Path, default=Path("out"), help="folder for the figure")
    options = parser.parse_args(argv)
    mpl.use("Agg")
    start = time.perf_counter()
    name, (x, y), (test_x, test_y), many, few = _load(options.data, options.quick)
    counts = torch.bincount(y).tolist()
    tail = tail_classes_from_counts(counts, many).tolist()  # medium and few, as in the released command
    epochs = 6 if options.quick else 14
    steps = epochs * -(-len(y) // 64)
    methods: dict[str, dict[str, Any] | None] = {
        "SGD": None,
        "SGD, twice the epochs": None,
        "SAM": {"stage1": "sam", "gamma": None, "rho": 0.05},
        "ImbSAM": {"tail_classes": tail, "gamma": 0.0, "rho": (0.0, 0.1)},
        "SSE-SAM": {"tail_classes": tail, "gamma": 0.7, "total_steps": steps, "rho": (0.05, 0.1)},
    }
    figures, panel = {}, CurvatureTable()
    some = torch.cat([torch.nonzero(y == c).flatten()[:32] for c in range(len(counts))])
    groups = {"head": [c for c in range(len(counts)) if c not in tail], "tail": tail}
    for method, settings in tqdm(methods.items(), desc="optimizers"):
        model = _train(x, y, len(counts), epochs * (1 + ("twice" in method)), settings, options.seed)
        with torch.no_grad():
            predicted = torch.cat([model(batch).argmax(1) for batch in test_x.split(500)])
        figures[method] = recall_by_frequency(predicted, test_y, counts, many=many, few=few)
        loss, named = nn.CrossEntropyLoss(reduction="none"), {f"{method}, {g}": c for g, c in groups.items()}
        panel.update(class_curvature(model, loss, [(x[some], y[some])], named, k=10, density=True))
    seconds = time.perf_counter() - start

    table = Table("optimizer", "many", "medium", "few", "all", title=f"{name}: recall in %, last epoch")
    for method, values in figures.items():
        table.add_row(method, *(f"{value:.1f}" for value in values.values()))
    Console().print(table)
    options.out.mkdir(parents=True, exist_ok=True)
    panel.plot().figure.savefig(path := options.out / "sse_sam.png", dpi=120, bbox_inches="tight")
    best = max((m for m in figures if m != "SSE-SAM"), key=lambda m: figures[m]["few"])
    return {
        "method": "SSE-SAM", "host": "torch", "data": name, "metric": "few-shot recall, %",
        "baseline": f"{best} {figures[best]['few']:.1f}",
        "ours": f"{figures['SSE-SAM']['few']:.1f}",
        "seconds": round(seconds, 1),
        "figure": str(path),
        "figures": figures,
    }  # fmt: skip


def _train(
    x: Tensor, y: Tensor, n_classes: int, epochs: int, settings: dict[str, Any] | None, seed: int
) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = nn.Sequential(
            nn.Conv2d(x.shape[1], 16, 3, 2, 1), nn.GroupNorm(4, 16), nn.ReLU(), nn.Conv2d(16, 32, 3, 2, 1),
            nn.GroupNorm(4, 32), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(128, n_classes),
        )  # fmt: skip
    criterion = nn.CrossEntropyLoss()
    options = {"lr": 0.05, "momentum": 0.9, "weight_decay": 5e-4}
    optimizer: torch.optim.Optimizer = torch.optim.SGD(model.parameters(), **options)
    if settings is not None:  # these two lines are all that changes
        optimizer = SSESAM(model.parameters(), **options, **settings)
        optimizer.watch(model, criterion)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs)
    generator = torch.Generator().manual_seed(seed)
    for _ in range(epochs):
        for rows in torch.randperm(len(y), generator=generator).split(64):
            optimizer.zero_grad()
            criterion(model(x[rows]), y[rows]).backward()
            optimizer.step()
        scheduler.step()
    return model.eval()


def _load(data: str | Path | None, quick: bool) -> tuple[str, Any, Any, float, float]:
    archive = Path(data) / "cifar10_lt" / "cifar10_lt100.zip" if data else None
    if archive is not None and archive.exists():
        # A tenth of every class: minutes, not hours, on a CPU.
        train, test = load_cifar10_lt(archive, share=0.1, test_share=0.1 if quick else 0.5)
        return "CIFAR-10-LT, a tenth", train, test, 100, 20
    return "digits, long-tailed", *long_tailed_digits(), 40, 10


if __name__ == "__main__":
    main()
