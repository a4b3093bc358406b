"""Targets, audits and cases of QEDG's quality benchmark (X1 to X5 of the specification, and CIFAR-10-LT)."""

import hashlib
import os
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from graftkit.methods.qedg import AuditResult, QEDGAuditor, QEDGConfig

BUDGETS = (250, 500, 1000)
Case = Callable[[int, bool], dict[str, Any]]


@dataclass(frozen=True)
class Task:
    """A target, its evaluation rows, and inputs that an attacker might own."""

    target: Callable[[Tensor], Any]
    shape: tuple[int, ...]
    classes: int
    x: Tensor
    y: Tensor | None
    public: Tensor | None
    substitute: Callable[[int], nn.Module]


def seeded(make: Callable[[], nn.Module], seed: int) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return make()


def perceptron(size: int, hidden: int, classes: int, seed: int) -> nn.Module:
    return seeded(
        lambda: nn.Sequential(nn.Flatten(), nn.Linear(size, hidden), nn.ReLU(), nn.Linear(hidden, classes)),
        seed,
    )


def convolutional(shape: tuple[int, ...], classes: int, seed: int, width: int = 16) -> nn.Module:
    return seeded(
        lambda: nn.Sequential(
            nn.Conv2d(shape[0], width, 3, 2, 1), nn.ReLU(), nn.Conv2d(width, 2 * width, 3, 2, 1), nn.ReLU(),
            nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(8 * width, classes),
        ),
        seed,
    )  # fmt: skip


def fit(model: nn.Module, x: Tensor, y: Tensor, epochs: int, lr: float) -> nn.Module:
    optimizer, random = torch.optim.Adam(model.parameters(), lr=lr), torch.Generator().manual_seed(0)
    for _ in range(epochs):
        for rows in torch.randperm(len(x), generator=random).split(128):
            optimizer.zero_grad()
            cross_entropy(model(x[rows]), y[rows]).backward()
            optimizer.step()
    return model.eval().requires_grad_(False)


@cache
def digits(seed: int) -> Task:
    """An MLP trained on 1,000 digits; the other 797 measure."""
    images, labels = load_digits(return_X_y=True)
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(seed))
    x = torch.tensor(images / 16, dtype=torch.float32).reshape(-1, 1, 8, 8)[order]
    y = torch.tensor(labels)[order]
    target = fit(perceptron(64, 64, 10, seed), x[:1000], y[:1000], 30, 3e-3)
    return Task(
        target, (1, 8, 8), 10, x[1000:], y[1000:], x[:1000], lambda s: perceptron(64, 32, 10, 1000 + s)
    )


def settings(quick: bool, **changes: Any) -> QEDGConfig:
    small = {"g_steps": 3, "inner_epochs": 2, "final_rounds": 1} if quick else {}
    return QEDGConfig.preset("digits", **{**small, **changes})


def audit(
    task: Task, budget: int, seed: int, *, changes: dict[str, Any] | None = None, quick: bool = False,
    checkpoint: Path | None = None, **run: Any,
) -> AuditResult:  # fmt: skip
    auditor = QEDGAuditor(
        task.target, task.shape, task.classes, substitute=task.substitute(seed), budget=budget,
        owner_confirmation=True, target_id="benchmark", seed=seed, config=settings(quick, **(changes or {})),
    )  # fmt: skip
    data = task.x if task.y is None else (task.x, task.y)
    options = {"eval_every": 10**6, **run}
    return auditor.run(data, checkpoint=checkpoint, resume=checkpoint is not None, **options)


def figures(row: dict[str, Any]) -> dict[str, Any]:
    names = ("queries", "agreement", "kappa", "accuracy", "transfer_success", "train_steps")
    return {name: None if row[name] is None or row[name] != row[name] else row[name] for name in names}


def sweep(
    task: Task, budgets: tuple[int, ...], seed: int, quick: bool, changes: dict[str, Any] | None = None,
    **run: Any,
) -> dict[str, Any]:  # fmt: skip
    """Each budget to its end, by resuming the one before: the same as separate runs, bit for bit."""
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        for budget in budgets:
            result = audit(
                task, budget, seed, changes=changes, quick=quick, checkpoint=Path(folder) / "run", **run
            )
            for arm in result.arms:
                found.setdefault(arm, {})[str(budget)] = figures(result.final(arm))
    found["events"] = len(result.events)
    found["stopped"] = result.stopped
    return found


# X1.


def curve_cases(quick: bool) -> dict[str, Case]:
    budgets = (60, 120) if quick else BUDGETS

    def qedg(seed: int, quick: bool) -> dict[str, Any]:
        task = digits(seed)
        return sweep(task, budgets, seed, quick, baselines=("noise", "majority"), public_data=task.public)

    def class_only(seed: int, quick: bool) -> dict[str, Any]:
        changes = {"boundary_weight": 0.0, "diversity_weight": 0.0}
        return sweep(digits(seed), budgets, seed, quick, changes, baselines=())

    return {"QEDG and baselines": qedg, "class loss and filter": class_only}


# X2.

CENTRES = torch.tensor([[0.2, 0.2], [0.8, 0.25], [0.5, 0.5], [0.25, 0.8], [0.8, 0.8]])


def blobs(seed: int) -> Task:
    """Five classes in the plane, the nearest centre: its boundaries are known."""
    x = torch.rand(1000, 2, generator=torch.Generator().manual_seed(seed))
    return Task(
        lambda z: -torch.cdist(z, CENTRES), (2,), 5, x, None, None, lambda s: perceptron(2, 32, 5, 1000 + s)
    )


def boundary(z: Tensor) -> tuple[Tensor, Tensor]:
    """Distance to the nearest boundary, and the pair of classes that meet there."""
    squared = torch.cdist(z, CENTRES) ** 2
    first, second = squared.topk(2, 1, largest=False).indices.unbind(1)
    rows = torch.arange(len(z))
    apart = (CENTRES[first] - CENTRES[second]).norm(dim=1)
    distance = (squared[rows, second] - squared[rows, first]) / (2 * apart)
    return distance, torch.minimum(first, second) * 5 + torch.maximum(first, second)


def mechanism_cases(quick: bool) -> dict[str, Case]:
    budget = 60 if quick else 400
    weights = {"class": (0, 0), "+ boundary": (1, 0), "+ diversity": (0, 0.01), "both": (1, 0.01)}
    # On vectors of two numbers the published weights are small beside the class loss; larger ones, too.
    weights |= {"+ boundary x3": (3, 0), "+ diversity x100": (0, 1.0)}

    def run(seed: int, quick: bool, w: tuple[float, float] = (0, 0)) -> dict[str, Any]:
        changes = {
            "boundary_weight": float(w[0]), "diversity_weight": w[1], "loop_transform": "none",
            "query_transform": "none", "batch_size": 64, "lr_g": 0.02, "tau": 0.9, "transfer_rows": 0,
        }  # fmt: skip
        result = audit(blobs(seed), budget, seed, changes=changes, quick=quick, baselines=())
        distance, pairs = boundary(result.queries)
        shares = np.bincount(pairs.numpy()) / max(len(pairs), 1)
        entropy = float(-(shares[shares > 0] * np.log(shares[shares > 0])).sum())
        mean = float(distance.mean()) if len(pairs) else None
        return {"distance": mean, "pair_entropy": entropy, **figures(result.final())}

    return {name: partial(run, w=w) for name, w in weights.items()}


# X3.

ABLATIONS: dict[str, dict[str, Any]] = {
    "QEDG": {},
    "tau 1": {"tau": 1.0},
    "w_bal 1": {"error_weight": 1.0},
    "no query transform": {"query_transform": "none"},
    "similarity of probabilities, w_div .1": {"diversity_space": "prob", "diversity_weight": 0.1},
    "w_oc 10, w_div .1": {"boundary_weight": 10.0, "diversity_weight": 0.1},
    "flips as free augmentation": {"free_aug": ("hflip", "vflip")},
}


def ablation_cases(quick: bool) -> dict[str, Case]:
    budget = 60 if quick else 500

    def run(seed: int, quick: bool, changes: dict[str, Any]) -> dict[str, Any]:
        result = audit(digits(seed), budget, seed, changes=changes, quick=quick, baselines=())
        return {**figures(result.final()), "events": len(result.events), "stopped": result.stopped}

    return {name: partial(run, changes=changes) for name, changes in ABLATIONS.items()}


# X4.


def defended(task: Task, defence: str) -> Callable[[Any], Any]:
    """The digits network behind an ART postprocessor."""
    from art.defences import postprocessor as art
    from art.estimators.classification import PyTorchClassifier

    made = {
        "none": None,
        "Rounded(2)": partial(art.Rounded, decimals=2),
        "ReverseSigmoid": art.ReverseSigmoid,
        "HighConfidence(.5)": partial(art.HighConfidence, cutoff=0.5),
        "GaussianNoise(.3)": partial(art.GaussianNoise, scale=0.3),
    }[defence]
    network = nn.Sequential(task.target, nn.Softmax(1))  # type: ignore[arg-type]
    classifier = PyTorchClassifier(
        network, nn.CrossEntropyLoss(), task.shape, task.classes, clip_values=(0.0, 1.0), device_type="cpu",
        postprocessing_defences=made and made(),
    )  # fmt: skip
    return lambda x: classifier.predict(x.numpy())


DEFENCES = ("none", "Rounded(2)", "ReverseSigmoid", "HighConfidence(.5)", "GaussianNoise(.3)")


def owner_cases(quick: bool) -> dict[str, Case]:
    budgets = (60, 120) if quick else (250, 500, 1000, 2000)

    def run(seed: int, quick: bool, defence: str) -> dict[str, Any]:
        task = digits(seed)
        np.random.seed(seed)  # noqa: NPY002  (ART's noise is global)
        target = defended(task, defence)
        right = float((torch.from_numpy(target(task.x)).argmax(1) == task.y).double().mean())
        guarded = Task(target, task.shape, task.classes, task.x, task.y, None, task.substitute)
        # Resumption would ask a noisy target in another order; only the undefended sweep is in steps.
        found = sweep(guarded, budgets if defence == "none" else budgets[:2], seed, quick, baselines=())
        return {**found, "own_accuracy": right}

    return {defence: partial(run, defence=defence) for defence in DEFENCES}


# X5.


def hashed(x: Tensor) -> list[int]:
    return [hashlib.sha256(row.contiguous().numpy().tobytes()).digest()[0] % 10 for row in x]


def control_cases(quick: bool) -> dict[str, Case]:
    budget = 60 if quick else 500
    order = torch.tensor([3, 1, 4, 0, 5, 9, 2, 6, 8, 7])

    def run(seed: int, quick: bool, name: str) -> dict[str, Any]:
        task = digits(seed)
        target = {
            "as it is": task.target,
            "labels permuted": lambda x: order[task.target(x).argmax(1)],
            "constant": lambda x: torch.full((len(x),), 3),
            "random labels": hashed,
        }[name]
        changed = Task(target, task.shape, task.classes, task.x, None, None, task.substitute)
        return figures(audit(changed, budget, seed, quick=quick, baselines=()).final())

    names = ("as it is", "labels permuted", "constant", "random labels")
    return {name: partial(run, name=name) for name in names}


# CIFAR-10-LT.


@cache
def cifar(seed: int, quick: bool) -> Task:
    from graftkit.methods.sse_sam.data import load_cifar10_lt

    archive = Path(os.environ["GRAFTKIT_DATA"]) / "cifar10_lt" / "cifar10_lt100.zip"
    (x, y), (test_x, test_y) = load_cifar10_lt(
        archive, share=0.05 if quick else 1.0, test_share=0.02 if quick else 0.1
    )
    # Back to [0, 1], by the range of what was loaded.
    low, high = x.amin((0, 2, 3), keepdim=True), x.amax((0, 2, 3), keepdim=True)
    x, test_x = ((part - low) / (high - low) for part in (x, test_x))
    target = fit(convolutional((3, 32, 32), 10, seed, 32), x, y, 8 if quick else 10, 2e-3)
    return Task(
        target, (3, 32, 32), 10, test_x.clamp(0, 1), test_y, x.clamp(0, 1),
        lambda s: convolutional((3, 32, 32), 10, 1000 + s),
    )  # fmt: skip


def cifar_cases(quick: bool) -> dict[str, Case]:
    budgets = (60,) if quick else (1000, 4000)

    def run(seed: int, quick: bool) -> dict[str, Any]:
        task = cifar(seed, quick)
        # The digits preset, with photographic transforms: the published schedule would take hours here.
        changes = {
            "loop_transform": "photo_loop", "query_transform": "photo", "batch_size": 256, "width": 32,
            "final_rounds": 10 if not quick else 1, "inner_epochs": 5 if not quick else 1,
        }  # fmt: skip
        found = sweep(task, budgets, seed, quick, changes, public_data=task.public)
        with torch.no_grad():
            right = float((task.target(task.x).argmax(1) == task.y).double().mean())  # type: ignore[attr-defined]
        return {**found, "own_accuracy": right}

    return {"QEDG and baselines": run}
