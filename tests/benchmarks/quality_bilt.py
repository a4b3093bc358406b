"""Training of BiLT's variants and rivals on small data, one budget for all, nothing tuned.

Every arm has the same encoder, start, batches, optimizer, schedule and epochs; hardness of soft labels, decay
of HXE and BiLT's settings are the library's defaults. The last epoch is evaluated, none is chosen.
"""

import os
import time
from pathlib import Path
from typing import Any

import torch
from scipy.stats import spearmanr
from torch import Tensor, nn

from graftkit.methods.bilt import (
    VARIANTS,
    HierarchicalHead,
    HierarchicalMetrics,
    HierarchicalOutput,
    LabelTree,
    variant_loss,
)
from graftkit.methods.bilt.cost import difference
from graftkit.methods.bilt.data import gaussian_tree, load_cifar10, load_digits_tree, load_omniglot

# Arms that share a training and differ in what they rank by: name -> (whose training, source).
RANKED = {
    "flat CE + CRM": ("flat CE", "crm"),
    "BiLT + AIGDL, by probability": ("BiLT + AIGDL", "prob"),
}
TRAINED = [name for name in VARIANTS if name not in RANKED]
CURVES = ("flat CE", "parallel heads", "BiLT", "BiLT + AIGDL")
KS = {"digits": (1, 3), "gaussian": (1, 5), "omniglot": (1, 5), "cifar10": (1, 3)}


class Encoder(nn.Module):
    """Two hidden layers, then a head."""

    def __init__(self, inputs: int, tree: LabelTree, options: dict[str, Any]) -> None:
        super().__init__()
        self.encoder = nn.Sequential(
            nn.Flatten(), nn.Linear(inputs, 128), nn.ReLU(), nn.Linear(128, 128), nn.ReLU()
        )
        self.head = HierarchicalHead(128, tree, neck=None, **options)

    def forward(self, x: Tensor) -> HierarchicalOutput:
        return self.head(self.encoder(x))


def load(data: str, seed: int, quick: bool) -> tuple[Any, Any, LabelTree]:
    """Training part, test part, tree; made data are drawn anew with each seed, files are split once."""
    folder = Path(os.environ.get("GRAFTKIT_DATA", "nowhere"))
    if data == "digits":
        return load_digits_tree(random_state=seed)
    if data == "gaussian":
        return gaussian_tree(random_state=seed)[:3]
    if data == "omniglot":
        return load_omniglot(folder / "omniglot" / "images_background_small1.zip", train=2 if quick else 10)
    sizes = {"per_class": 20, "test_per_class": 20} if quick else {"per_class": 250, "test_per_class": 200}
    return load_cifar10(folder / "cifar10_lt" / "cifar10_lt100.zip", **sizes)


def build(data: str, x: Tensor, tree: LabelTree, options: dict[str, Any], seed: int) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        if data in ("digits", "gaussian"):
            return Encoder(x[0].numel(), tree, options)
        from graftkit.timm import wrap_timm

        return wrap_timm("test_resnet", tree, in_chans=x.shape[1], neck=None, **options)


def fit(model: nn.Module, loss: nn.Module, x: Tensor, y: Tensor, *, epochs: int, lr: float, seed: int,
        each_epoch: Any = None) -> None:  # fmt: skip
    optimizer = torch.optim.SGD(model.parameters(), lr=lr, momentum=0.9, weight_decay=5e-4)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs)
    g = torch.Generator().manual_seed(seed)
    for _ in range(epochs):
        model.train()
        for rows in torch.randperm(len(y), generator=g).split(64):
            if len(rows) < 2:
                continue
            optimizer.zero_grad()
            loss(model(x[rows]), y[rows]).backward()
            optimizer.step()
        schedule.step()
        if each_epoch is not None:
            each_epoch()


def outputs(model: nn.Module, x: Tensor) -> HierarchicalOutput:
    model.eval()
    with torch.no_grad():
        parts = [model(batch) for batch in x.split(500)]

    def join(name: str) -> tuple[Tensor, ...]:
        return tuple(torch.cat(level) for level in zip(*(getattr(p, name) for p in parts), strict=True))

    return HierarchicalOutput(
        torch.cat([p.scores for p in parts]), join("level_logits"), join("level_scores"), parts[0].level_cost
    )


def measure(
    out: HierarchicalOutput, y: Tensor, tree: LabelTree, source: str, ks: tuple[int, ...]
) -> dict[str, float]:
    metrics = HierarchicalMetrics(tree, ks, source=source)
    metrics.update(out, y)
    return {name: float(value) for name, value in metrics.compute().items()}


def run(data: str, arm: str, seed: int, *, quick: bool) -> dict[str, dict[str, Any]]:
    """Train one arm; returns a record for it and for the arms that only rank otherwise."""
    (x, y), (test_x, test_y), tree = load(data, seed, quick)
    variant = VARIANTS[arm]
    model, loss = build(data, x, tree, variant.head, seed), variant_loss(arm, tree)
    epochs = 2 if quick else {"digits": 60, "gaussian": 60, "omniglot": 12, "cifar10": 12}[data]
    curve: list[list[float]] = []

    def note() -> None:
        top = measure(outputs(model, test_x), test_y, tree, variant.source, (1,))
        curve.append([round(top["top1"], 4), round(top["level1"], 4)])

    start = time.process_time()
    each = note if data == "gaussian" and arm in CURVES else None
    fit(model, loss, x, y, epochs=epochs, lr=0.1, seed=seed, each_epoch=each)
    seconds = time.process_time() - start
    out = outputs(model, test_x)
    arms = {arm: variant.source, **{n: s for n, (whose, s) in RANKED.items() if whose == arm}}
    common = {
        "section": "quality",
        "data": data,
        "seed": seed,
        "epochs": epochs,
        "cpu_seconds": round(seconds, 2),
    }
    records = {
        name: {**common, "arm": name, "metrics": measure(out, test_y, tree, source, KS[data])}
        for name, source in arms.items()
    }
    if curve:
        records[arm]["curve"] = curve
    return records


def recovery(seed: int, *, quick: bool) -> dict[str, Any]:
    """E4: do learned corrections of siblings follow their true nearness?"""
    (x, y), _, tree, centres = gaussian_tree(
        (4, 4, 4), scales=(1.0, 0.6, 0.4), line=(0.0, 0.25, 1.0, 1.25), train=20, random_state=seed
    )
    model = build("gaussian", x, tree, VARIANTS["BiLT + AIGDL"].head, seed)
    assert isinstance(model, Encoder)
    fit(model, variant_loss("BiLT + AIGDL", tree), x, y, epochs=2 if quick else 60, lr=0.1, seed=seed)
    delta = difference(model.head.costs[-1].weight.detach())
    near = -torch.cdist(centres, centres)
    siblings = tree.distance() == 1
    rows = [
        float(spearmanr(delta[k][siblings[k]].numpy(), near[k][siblings[k]].numpy()).statistic)
        for k in range(tree.num_classes)
        if len(delta[k][siblings[k]].unique()) > 1
    ]
    return {
        "section": "recovery",
        "seed": seed,
        "correlation": sum(rows) / max(1, len(rows)),
        "rows": len(rows),
    }
