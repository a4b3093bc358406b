"""Quality of SSE-SAM beside its rivals: CIFAR-10-LT, every method trained alike, recall and curvature.

Nothing is tuned: every method has its published radii, and all share learning rate, momentum, decay and
schedule.
"""

import os
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from graftkit.methods.sse_sam.data import load_cifar10_lt, recall_by_frequency
from graftkit.torch import SSESAM, class_curvature, tail_classes_from_counts
from tests.benchmarks.models_sse_sam import MODELS
from tests.benchmarks.results_io import Records
from tests.plugins.sse_sam.loops import counted


class LogitAdjustment(nn.Module):
    """Cross-entropy on logits shifted by tau log prior."""

    def __init__(self, counts: list[int], tau: float = 0.75, reduction: str = "mean") -> None:
        super().__init__()
        prior = torch.tensor(counts, dtype=torch.float32)
        self.shift, self.reduction = tau * torch.log(prior / prior.sum()), reduction

    def forward(self, logits: Tensor, y: Tensor) -> Tensor:
        return nn.functional.cross_entropy(logits + self.shift, y, reduction=self.reduction)


# The first two are about half as long as the prototype's runs (specification, section 6.2), the others equal.
REGIMES = {
    "memorised": {"lr": 0.1, "epochs": 80, "augment": False},  # everything is fitted (6.2 B)
    "augmented": {"lr": 0.05, "epochs": 40, "augment": True},  # the tail is not fitted (6.2 A)
    "memorised, 150 epochs": {"lr": 0.1, "epochs": 150, "augment": False},
    "augmented, 80 epochs": {"lr": 0.05, "epochs": 80, "augment": True},
}
WHOLE = {"lr": 0.1, "epochs": 20, "augment": True, "batch": 128}
METHODS = ("sgd", "sgd x2", "sam", "imbsam", "sse-sam")
SEEDS = 3


def quality(records: Records, where: dict[str, Any], quick: bool, full: bool) -> None:
    root = os.environ.get("GRAFTKIT_DATA")
    if not root:
        print("quality: skipped, GRAFTKIT_DATA is not set")
        return
    archive = Path(root) / "cifar10_lt" / "cifar10_lt100.zip"
    train, test = load_cifar10_lt(archive, share=0.1, test_share=0.05 if quick else 0.5)
    # Plan by plan, and in each seed by seed, so that an interrupted run has every method alike.
    plans = [("memorised", "la"), ("memorised", "ce"), ("augmented", "la")]
    if full:
        plans += [("augmented", "ce"), ("memorised, 150 epochs", "la"), ("augmented, 80 epochs", "la")]
    jobs = [
        (seed, loss, regime, method)
        for regime, loss in plans
        for seed in range(1 if quick else SEEDS)
        for method in METHODS
    ]
    if full:
        jobs += [(seed, "la", "memorised", "imbsam, tail x2") for seed in range(SEEDS)]
    for seed, loss, regime, method in jobs:
        key = f"quality/tenth/{regime}/{loss}/{method}/{seed}"
        if not records.has(key):
            plan = {**REGIMES[regime], **({"epochs": 1} if quick else {})}
            record = train_once(train, test, method, loss, seed, plan)
            records.add(key, where, section="quality", data="tenth", regime=regime, **record)
    if not full:
        return
    train, test = load_cifar10_lt(archive)
    for method in METHODS:
        key = f"quality/full/augmented/la/{method}/0"
        if not records.has(key):
            record = train_once(train, test, method, "la", 0, WHOLE)
            records.add(key, where, section="quality", data="full", regime="augmented", **record)


def train_once(
    train: Any, test: Any, method: str, loss: str, seed: int, plan: dict[str, Any]
) -> dict[str, Any]:
    """One run, last epoch, no choice by the test set."""
    (x, y), (test_x, test_y) = train, test
    counts = torch.bincount(y).tolist()
    scale = sum(counts) / 12406
    tail = tail_classes_from_counts(counts, 1000 * scale).tolist()
    size = plan.get("batch", 64)
    epochs = plan["epochs"] * (2 if method == "sgd x2" else 1)
    total = epochs * -(-len(y) // size)
    torch.manual_seed(seed)
    model = MODELS["group_norm_cnn"]()
    criterion = LogitAdjustment(counts) if loss == "la" else nn.CrossEntropyLoss()
    options = {"lr": plan["lr"], "momentum": 0.9, "weight_decay": 5e-4}
    settings: dict[str, dict[str, Any]] = {
        "sam": {"stage1": "sam", "gamma": None, "rho": 0.05},
        "imbsam": {"tail_classes": tail, "gamma": 0.0, "rho": (0.0, 0.10)},
        "imbsam, tail x2": {"tail_classes": tail, "gamma": 0.0, "rho": (0.0, 0.10), "tail_weight": 2.0},
        "sse-sam": {"tail_classes": tail, "gamma": 0.7, "total_steps": total, "rho": (0.05, 0.10)},
    }
    optimizer: torch.optim.Optimizer
    if method in settings:
        optimizer = SSESAM(model.parameters(), **settings[method], **options)
        optimizer.watch(model, criterion)
    else:
        optimizer = torch.optim.SGD(model.parameters(), **options)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs)
    generator = torch.Generator().manual_seed(seed)
    start = time.process_time()
    with counted(model[0], len(y)) as work:
        for _ in range(epochs):
            for rows in torch.randperm(len(y), generator=generator).split(size):
                inputs = augmented(x[rows], generator) if plan["augment"] else x[rows]
                optimizer.zero_grad()
                criterion(model(inputs), y[rows]).backward()
                optimizer.step()
            scheduler.step()
    seconds = time.process_time() - start
    model.eval()
    with torch.no_grad():
        predicted = torch.cat([model(b).argmax(1) for b in test_x.split(500)])
        fitted = torch.cat([model(b).argmax(1) for b in x.split(500)]) == y
    in_tail = torch.isin(y, torch.tensor(tail))
    return {
        "method": method, "loss": loss, "seed": seed, "epochs": epochs, "seconds": seconds,
        "units": work.units,  # forward+backward passes over the training set
        "recall": recall_by_frequency(predicted, test_y, counts, many=1000 * scale, few=200 * scale),
        "train": {
            "head": 100 * float(fitted[~in_tail].double().mean()),
            "tail": 100 * float(fitted[in_tail].double().mean()),
        },
        "curvature": curvature_of(model, x, y, counts, tail, loss),
    }  # fmt: skip


def curvature_of(
    model: nn.Module, x: Tensor, y: Tensor, counts: list[int], tail: list[int], loss: str
) -> dict[str, dict[str, float]]:
    """Extreme curvature of the trained loss, on at most 32 images a class."""
    each = (
        LogitAdjustment(counts, reduction="none") if loss == "la" else nn.CrossEntropyLoss(reduction="none")
    )
    kept = torch.cat([torch.nonzero(y == c).flatten()[:32] for c in range(len(counts))])
    groups = {
        "head": [c for c in range(len(counts)) if c not in tail],
        "tail": tail,
        "most frequent": [0],
        "rarest": [len(counts) - 1],
    }
    rows = class_curvature(model, each, [(x[kept], y[kept])], groups, k=20)
    return {
        name: {k: row[k] for k in ("lambda_max", "lambda_min", "saddle_ratio")} for name, row in rows.items()
    }


def augmented(x: Tensor, generator: torch.Generator) -> Tensor:
    """Random crop of 32 from 40 and horizontal flip, one draw a sample."""
    padded = nn.functional.pad(x, (4, 4, 4, 4))
    corner = torch.randint(0, 9, (len(x), 2), generator=generator)
    rows = corner[:, :1] + torch.arange(32)
    columns = corner[:, 1:] + torch.arange(32)
    flip = torch.rand(len(x), generator=generator) < 0.5
    columns = torch.where(flip[:, None], columns.flip(1), columns)
    index = torch.arange(len(x))
    return (
        padded[index[:, None, None], :, rows[:, :, None], columns[:, None, :]]
        .permute(0, 3, 1, 2)
        .contiguous()
    )
