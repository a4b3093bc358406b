"""Train every arm of the EDGE benchmark alike, and measure it.

All arms of a seed share data, initial weights, order of batches, schedule and number of steps; arms with
outliers see twice the pictures. Settings are those of the specification's recipe, fixed beforehand: nothing
was tuned for an arm, no unknown of the test was looked at, the last epoch counts.
"""

import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from scipy.stats import spearmanr
from timm.loss import AsymmetricLossMultiLabel, DistributionBalancedLoss
from torch import Tensor, nn

from graftkit.methods.edge import (
    EDGELoss,
    EnergyBoundedLoss,
    OEDatasetSelector,
    multilabel_map,
    tail_sweep,
)
from graftkit.methods.edge.baselines import SCORES
from graftkit.methods.edge.collages import cifar_task
from graftkit.methods.edge.composites import OUTLIERS, OODTask, digit_task

HEADS = 4
K = 16


def arms(task: OODTask, warmup: int, n: int) -> dict[str, tuple[Callable[[Tensor, Tensor], Tensor], bool]]:
    """Criteria, each with whether it is given outliers."""
    asl, balanced = AsymmetricLossMultiLabel(), DistributionBalancedLoss(task.counts, num_samples=n)
    edge = {"k": K, "warmup_epochs": warmup}
    return {
        "BCE": (nn.BCEWithLogitsLoss(), False),
        "ASL": (asl, False),
        "DB": (balanced, False),
        "BCE + L_conf": (EDGELoss(beta=0.0, k=K), True),
        "EDGE m=0": (EDGELoss(**edge), True),
        "EDGE m=1": (EDGELoss(margin=1.0, **edge), True),
        "EDGE m=3": (EDGELoss(margin=3.0, **edge), True),
        "EDGE m=1, k=batch": (EDGELoss(margin=1.0, k=1.0, warmup_epochs=warmup), True),
        "gap only, m=1": (EDGELoss(alpha=0.0, margin=1.0, **edge), True),
        "EDGE m=1, ASL": (EDGELoss(margin=1.0, id_loss=asl, **edge), True),
        "bounded OE": (EnergyBoundedLoss(), True),
    }


ARMS = (
    "BCE",
    "ASL",
    "DB",
    "BCE + L_conf",
    "EDGE m=0",
    "EDGE m=1",
    "EDGE m=3",
    "EDGE m=1, k=batch",
    "gap only, m=1",
    "EDGE m=1, ASL",
    "bounded OE",
)


def network(task: OODTask) -> nn.Sequential:
    """The recipe's: two convolutions, one hidden layer; the last layer apart for its features."""
    channels, side = task.x.shape[1], task.x.shape[2]
    left = ((side - 4) // 2 + 1 - 4) // 2 + 1
    body = nn.Sequential(
        nn.Conv2d(channels, 16, 4, 2),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.Conv2d(16, 32, 4, 2),
        nn.BatchNorm2d(32),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(32 * left * left, 128),
        nn.BatchNorm1d(128),
        nn.ReLU(),
    )
    return nn.Sequential(body, nn.Linear(128, task.n_labels))


def fit(
    task: OODTask, criterion: Any, exposed: bool, seed: int, epochs: int, kinds: Any = None
) -> tuple[nn.Sequential, dict[str, float]]:
    """Train; returns the network in eval mode, seconds, and the gap term's state near the end."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = network(task)
    generator = torch.Generator().manual_seed(seed)
    batch = 64
    steps = len(task.draw(0)[0]) // batch
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, max_lr=3e-3, total_steps=epochs * steps, pct_start=0.2
    )
    seconds, gaps, active = 0.0, [], []
    for epoch in range(epochs):
        x, y = task.draw(epoch)
        order = torch.randperm(len(x), generator=generator)
        u = task.draw_outliers(epoch, kinds)[torch.randperm(len(x), generator=generator)] if exposed else None
        if isinstance(criterion, EDGELoss):
            criterion.set_epoch(epoch)
        start = time.process_time()
        for rows in order[: steps * batch].split(batch):
            inputs, targets = x[rows], y[rows]
            if u is not None:
                where = slice(len(gaps) % steps * batch, len(gaps) % steps * batch + batch)
                inputs = torch.cat([inputs, u[where]])
                targets = torch.cat([targets, targets.new_full((batch, task.n_labels), -1)])
            optimizer.zero_grad()
            criterion(model(inputs), targets).backward()
            optimizer.step()
            schedule.step()
            last = getattr(criterion, "last", None)
            gaps.append(float(last.gap) if last else math.nan)
            active.append(float(last.active_fraction) if last else math.nan)
        seconds += time.process_time() - start
    state = {"seconds": seconds}
    if isinstance(criterion, EDGELoss):
        state |= {"gap": sum(gaps[-40:]) / 40, "active_fraction": sum(active[-40:]) / 40}
    return model.eval(), state


@torch.no_grad()
def measure(task: OODTask, model: nn.Module, scores: tuple[str, ...] = ("JointEnergy",)) -> dict[str, Any]:
    """Figures by score, unknown and tail; mAP beside them."""
    known = model(task.x)
    average = multilabel_map(known, task.y)
    rare = task.counts.argsort(descending=True)[HEADS:].numpy()
    result: dict[str, Any] = {
        "mAP": average.value,
        "rare AP": float(average.per_label[rare].mean()),
        "ood": {},
    }
    for score in scores:
        rule = SCORES[score]
        for name, images in task.ood.items():
            sides = rule(known), task.y, rule(model(images))
            steps = tail_sweep(*sides, heads=[0, HEADS], label_counts=task.counts)
            result["ood"][f"{score}/{name}"] = [step.figures for step in steps]
            result["rare rows"] = steps[1].n_id
    return result


def task_of(data: str, seed: int, folder: Path | None, n: int) -> OODTask:
    """One seed's task."""
    if data == "digits":
        return digit_task(seed, n_train=n, n_test=n)
    if folder is None:
        raise ValueError("the collages need --data")
    return cifar_task(folder, seed, n_train=n, n_test=n)


def run(data: str, arm: str, seed: int, folder: Path | None, n: int, epochs: int) -> dict[str, Any]:
    """One record: an arm and a seed. Arms without outliers are scored by every rule."""
    task = task_of(data, seed, folder, n)
    criterion, exposed = arms(task, epochs // 2, n)[arm]
    model, state = fit(task, criterion, exposed, seed, epochs)
    scores = tuple(SCORES) if arm in ("BCE", "ASL", "DB") else ("JointEnergy",)
    settings = {"data": data, "arm": arm, "seed": seed, "n_train": n, "epochs": epochs, "exposed": exposed}
    return {"section": "quality", **settings, **state, **measure(task, model, scores)}


def select(seed: int, n: int, epochs: int) -> dict[str, Any]:
    """The selector on digits: distances by the features of a BCE network, EDGE with each candidate."""
    task = digit_task(seed, n_train=n, n_test=n)
    model, _ = fit(task, nn.BCEWithLogitsLoss(), False, seed, epochs)
    spectra = {}
    with torch.no_grad():
        known = model[0](task.draw(epochs)[0])
        rules = {"published": {}, "centred": {"center": True}, "whole set": {"level": "set"}}
        for rule, options in rules.items():
            selector = OEDatasetSelector(k=32, **options).fit(known)
            for kind in OUTLIERS:
                selector.add(kind, model[0](task.draw_outliers(epochs, [kind])))
            spectra[rule] = dict(selector.rank())
    candidates = {}
    for kind in OUTLIERS:
        trained, _ = fit(
            task, EDGELoss(k=K, margin=1.0, warmup_epochs=epochs // 2), True, seed, epochs, [kind]
        )
        figures = measure(task, trained)
        auroc = {name.split("/")[1]: steps[0]["AUROC"] for name, steps in figures["ood"].items()}
        candidates[kind] = {"mAP": figures["mAP"], "AUROC": auroc}
    correlations = {}
    for rule, distances in spectra.items():
        for unknown in ("near", "far"):
            level = [
                min(v for name, v in candidates[kind]["AUROC"].items() if unknown in name)
                for kind in OUTLIERS
            ]
            order = [distances[kind] for kind in OUTLIERS]
            correlations[f"{rule}/{unknown}"] = float(spearmanr(order, level).statistic)
    return {
        "section": "selector",
        "seed": seed,
        "distances": spectra,
        "candidates": candidates,
        "rank correlation": correlations,
    }
