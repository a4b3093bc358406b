"""Tell pictures with none of the known labels from pictures with rare labels.

Composites of scikit-learn's digits (with ``--data`` or ``GRAFTKIT_DATA``: CIFAR-10-LT collages) have one to
three of eight labels, long-tailed. You will see mAP and JointEnergy's AUROC, for all known pictures and for
the rare, after cross-entropy, with outliers labelled "nothing" (no gap term) and after EDGE; and histograms.

    python examples/edge.py [--data DIR] [--seed N] [--quick] [--out DIR]
"""

import argparse
import os
import time
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import torch
from rich.console import Console
from rich.table import Table
from timm.optim import create_optimizer_v2
from timm.task import MultiLabelClassificationTask
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset
from tqdm import tqdm

from graftkit.methods.edge.collages import cifar_task
from graftkit.methods.edge.composites import OODTask, digit_task
from graftkit.timm import EDGELoss, OutlierExposureBatcher, multilabel_map, tail_sweep
from graftkit.torch import joint_energy

HEADS = 4  # rare: pictures with none of the four most frequent labels


def main(argv: list[str] | None = None) -> dict[str, Any]:
    """Run the example and return the row of the tour's table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--data", type=Path, default=os.getenv("GRAFTKIT_DATA") or None, help="real data")
    parser.add_argument("--seed", type=int, default=0, help="seed of data, weights and batches")
    parser.add_argument("--quick", action="store_true", help="fewer pictures and epochs, under a minute")
    parser.add_argument("--out", type=Path, default=Path("out"), help="folder for the figure")
    options = parser.parse_args(argv)
    plt.switch_backend("Agg")
    if options.data and not Path(options.data).is_dir():
        parser.error(f"--data: expected a folder, got {options.data}")
    start, (n, epochs) = time.perf_counter(), (600, 4) if options.quick else (1500, 8)
    real = options.data is not None and (Path(options.data) / "cifar10_lt").is_dir()
    size = {"n_train": n, "n_test": n} | ({"per_class": 200} if real else {})
    task = cifar_task(options.data, options.seed, **size) if real else digit_task(options.seed, **size)
    criteria = {
        "cross-entropy": EDGELoss(alpha=0.0, beta=0.0, k=16),
        "with outliers": EDGELoss(beta=0.0, k=16),
        "EDGE": EDGELoss(k=16, margin=1.0, warmup_epochs=epochs // 2),
    }
    logits = {name: train(task, loss, epochs, options.seed) for name, loss in tqdm(criteria.items())}
    figures = {name: measure(task, values) for name, values in logits.items()}
    active = f"{float(criteria['EDGE'].last.active_fraction):.0%} of EDGE's last pairs inside the hinge"
    table = Table("", *figures, title=f"{task.name}: mAP, AUROC of JointEnergy", caption=active)
    for key in figures["EDGE"]:
        table.add_row(key, *(f"{values[key]:.3f}" for values in figures.values()))
    Console().print(table)
    (figure := options.out / "edge.png").parent.mkdir(parents=True, exist_ok=True)
    plot(task, logits).savefig(figure, dpi=120)
    near, *far = (f"{name}, rare" for name in task.ood)
    cells = {k: (v[near], min(v[name] for name in far)) for k, v in figures.items()}
    best = max(("cross-entropy", "with outliers"), key=lambda name: sum(cells[name]))
    ours, other = (f"{a:.3f}, {b:.3f}" for a, b in (cells["EDGE"], cells[best]))
    row = {"method": "EDGE", "host": "timm", "data": task.name, "baseline": f"{best} {other}", "ours": ours}
    row |= {"metric": "AUROC, rare labels: near, worst far", "seconds": round(time.perf_counter() - start, 1)}
    return {**row, "figure": str(figure), "figures": figures}


def train(task: OODTask, criterion: EDGELoss, epochs: int, seed: int) -> dict[str, Tensor]:
    """Train by timm's multi-label task with another criterion; give the logits of all test pictures."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        layers = [nn.LazyConv2d(16, 4, 2), nn.BatchNorm2d(16), nn.ReLU(), nn.LazyConv2d(32, 4, 2)]
        layers += [nn.BatchNorm2d(32), nn.ReLU(), nn.Flatten(), nn.LazyLinear(128), nn.BatchNorm1d(128)]
        model = nn.Sequential(*layers, nn.ReLU(), nn.Linear(128, task.n_labels))
        model(task.x[:2])
        trained = MultiLabelClassificationTask(model, criterion=criterion, verbose=False)
        optimizer = create_optimizer_v2(model, opt="adamw", lr=3e-3, weight_decay=1e-4)
        for epoch in range(epochs):
            sets = TensorDataset(*task.draw(epoch)), TensorDataset(task.draw_outliers(epoch))
            known, outliers = (DataLoader(part, 64, shuffle=True, drop_last=True) for part in sets)
            # What changes: the criterion, and batches of known pictures followed by outliers.
            criterion.set_epoch(epoch)
            for inputs, target in OutlierExposureBatcher(known, outliers) if criterion.alpha else known:
                optimizer.zero_grad()
                trained(inputs, target)["loss"].backward()
                optimizer.step()
    model.eval()
    return {name: model(images).detach() for name, images in {"known": task.x, **task.ood}.items()}


def measure(task: OODTask, logits: dict[str, Tensor]) -> dict[str, float]:
    """Give mAP, and AUROC by unknown for all known pictures and for the rare."""
    figures = {"mAP": multilabel_map(logits["known"], task.y).value}
    for name in task.ood:
        scores = joint_energy(logits["known"]), task.y, joint_energy(logits[name])
        steps = tail_sweep(*scores, heads=[0, HEADS], label_counts=task.counts)
        figures[name], figures[f"{name}, rare"] = (step.figures["AUROC"] for step in steps)
    return figures


def plot(task: OODTask, logits: dict[str, dict[str, Tensor]]) -> Any:
    """Histograms of the energies before and after."""
    rare = ~task.y[:, task.counts.argsort(descending=True)[:HEADS]].bool().any(1)
    drawn, axes = plt.subplots(1, 2, figsize=(11, 4), sharey=True, layout="constrained")
    for axis, name in zip(axes, ("cross-entropy", "EDGE"), strict=True):
        known = logits[name]["known"]
        for label, values in {"known": known, "known, rare": known[rare], **logits[name]}.items():
            energy = joint_energy(values).clamp(max=20)
            axis.hist(energy, bins=50, range=(0, 20), density=True, histtype="step", label=label)
        axis.set(title=f"after {name}", xlabel="JointEnergy (20 and more in the last bin)", yscale="log")
    axes[1].legend()
    return drawn


if __name__ == "__main__":
    main()
