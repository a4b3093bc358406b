"""Make milder mistakes: a timm model over a tree of labels, beside the usual ways.

Omniglot (alphabet -> character, with ``--data`` or ``GRAFTKIT_DATA``) or scikit-learn's digits in three
groups. You will see a table of accuracy, mistake severity (levels up to where truth and prediction meet) and
HD@k (mean distance of the best k classes) of a small timm model trained with flat cross-entropy, with
parallel heads and with BiLT + AIGDL, and a figure of where its mistakes lie. Expect HD@k to fall, by much
the same amount as by CRM, which needs no training; the other columns differ by little on one small run.

    python examples/bilt.py [--data DIR] [--seed N] [--quick] [--out DIR]
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
from torch import Tensor
from torch.nn.functional import interpolate
from tqdm import tqdm

from graftkit.methods.bilt import VARIANTS, variant_loss
from graftkit.methods.bilt.data import load_digits_tree, load_omniglot
from graftkit.timm import HierarchicalClassifier, HierarchicalMetrics, LabelTree, wrap_timm

# Row of the table -> (variant that is trained, what classes are ranked by).
ROWS = {
    "flat CE": ("flat CE", "prob"),
    "flat CE + CRM": ("flat CE", "crm"),
    "parallel heads": ("parallel heads", "prob"),
    "BiLT + AIGDL": ("BiLT + AIGDL", "risk"),
}


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
    name, (x, y), (test_x, test_y), tree = _load(options.data)
    epochs = 2 if options.quick else 6

    models: dict[str, HierarchicalClassifier] = {}
    figures: dict[str, dict[str, float]] = {}
    for row, (variant, source) in tqdm(ROWS.items(), desc="losses"):
        if variant not in models:
            models[variant] = _train(variant, tree, x, y, epochs, options.seed)
        metrics = HierarchicalMetrics(tree, (1, 5), source=source)
        with torch.no_grad():
            for images, labels in zip(test_x.split(500), test_y.split(500), strict=True):
                metrics.update(models[variant](images), labels)
        figures[row] = {key: float(value) for key, value in metrics.compute().items()}
    seconds = time.perf_counter() - start

    table = Table("trained with", "top-1, %", "level 1, %", "severity", "HD@1", "HD@5", title=name)
    for row, values in figures.items():
        shares = [f"{100 * values[key]:.1f}" for key in ("top1", "level1_rollup")]
        table.add_row(row, *shares, *(f"{values[key]:.3f}" for key in ("mistake_severity", "hd@1", "hd@5")))
    Console().print(table)
    options.out.mkdir(parents=True, exist_ok=True)
    metrics.plot().figure_.savefig(path := options.out / "bilt.png", dpi=120)
    best = min((row for row in figures if row != "BiLT + AIGDL"), key=lambda row: figures[row]["hd@5"])
    return {
        "method": "BiLT + AIGDL",
        "host": "timm",
        "data": name,
        "metric": "HD@5, lower is better",
        "baseline": f"{best} {figures[best]['hd@5']:.3f}",
        "ours": f"{figures['BiLT + AIGDL']['hd@5']:.3f}",
        "seconds": round(seconds, 1),
        "figure": str(path),
        "figures": figures,
    }


def _train(
    variant: str, tree: LabelTree, x: Tensor, y: Tensor, epochs: int, seed: int
) -> HierarchicalClassifier:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        # These two lines are all that changes.
        model = wrap_timm("test_resnet", tree, in_chans=1, neck=None, **VARIANTS[variant].head)
    criterion = variant_loss(variant, tree)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-4)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs)
    generator = torch.Generator().manual_seed(seed)
    for _ in range(epochs):
        model.train()
        for rows in torch.randperm(len(y), generator=generator).split(32):
            optimizer.zero_grad()
            criterion(model(x[rows]), y[rows]).backward()
            optimizer.step()
        scheduler.step()
    return model.eval()


def _load(data: str | Path | None) -> tuple[str, Any, Any, LabelTree]:
    archive = Path(data) / "omniglot" / "images_background_small1.zip" if data else None
    if archive is not None and archive.exists():
        return "Omniglot, five drawings a character", *load_omniglot(archive, train=5)
    (x, y), (test_x, test_y), tree = load_digits_tree(per_class=30)
    larger = [interpolate(images, 28, mode="bilinear") for images in (x, test_x)]
    return "digits, 30 a class", (larger[0], y), (larger[1], test_y), tree


if __name__ == "__main__":
    main()
