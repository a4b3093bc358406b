"""Measure SSE-SAM: time of a step beside its peers, arithmetic, growth, memory, saddles, quality.

    python tests/benchmarks/bench_sse_sam.py [--only speed,arithmetic,tensors,memory,toy,quality]
        [--quick] [--full] [--out FILE]

Finished records are skipped, so an interrupted run goes on, and ``--full`` adds to what the default run left:
ResNet-18 at every tail share, cross-entropy with augmentation, ImbSAM's original weighting, and the whole
training set once. Quality needs CIFAR-10-LT under GRAFTKIT_DATA. Nothing is tuned: every method has
its published radii, and all share learning rate, momentum, decay and schedule.
"""

import argparse
import gc
import math
import os
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from graftkit.methods.sse_sam.data import load_cifar10_lt, recall_by_frequency
from graftkit.torch import SSESAM, class_curvature, tail_classes_from_counts
from tests.benchmarks.models_sse_sam import MODELS, many_tensors
from tests.benchmarks.published_sse_sam import PublishedSSESAM
from tests.benchmarks.results_io import Records, environment
from tests.plugins.sse_sam.loops import counted

TAIL = 9
BASES = {"sgd": (torch.optim.SGD, {"lr": 1e-4, "momentum": 0.9}), "adamw": (torch.optim.AdamW, {"lr": 1e-5})}
Step = Callable[[], None]


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    sections = {
        "speed": speed,
        "arithmetic": arithmetic,
        "tensors": tensors,
        "memory": memory,
        "toy": toy,
        "quality": quality,
    }
    parser.add_argument("--only", default=",".join(sections), help="sections, separated by commas")
    parser.add_argument(
        "--quick", action="store_true", help="a smoke test: few steps, the figures mean nothing"
    )
    parser.add_argument("--full", action="store_true", help="everything; the default takes half an hour")
    parser.add_argument("--out", type=Path, default=None, help="JSON file instead of results/sse_sam.json")
    options = parser.parse_args(argv)
    torch.set_num_threads(1)
    records = Records("sse_sam", options.out)
    where = environment(("torch", "pytorch_optimizer"))
    for name in options.only.split(","):
        sections[name](records, where, options.quick, options.full)


# -- time ------------------------------------------------------------------------------------------


def batch(size: int, t: float, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    y = torch.randint(0, TAIL, (size,), generator=generator)
    y[: round(t * size)] = TAIL
    return torch.randn(size, 3, 32, 32, generator=generator), y


def steps_of(model: nn.Module, x: Tensor, y: Tensor, base: str) -> dict[str, Step]:
    """One step of each rival on the same model and batch."""
    from pytorch_optimizer import SAM

    mean, each = nn.CrossEntropyLoss(), nn.CrossEntropyLoss(reduction="none")
    cls, options = BASES[base]
    params = list(model.parameters())
    plain = cls(params, **options)
    peer = SAM(params, base_optimizer=cls, rho=0.05, **options)
    published = PublishedSSESAM(model, cls(params, **options), 0.05, 0.10)
    mask = y == TAIL

    def base_step() -> None:
        plain.zero_grad()
        mean(model(x), y).backward()
        plain.step()

    def peer_step() -> None:
        mean(model(x), y).backward()
        peer.first_step(zero_grad=True)
        mean(model(x), y).backward()
        peer.second_step(zero_grad=True)

    def published_step(stage: int) -> Step:
        return lambda: void(published.step(lambda: each(model(x), y), mask, stage=stage))

    def ours(form: str, stage: int, **kwargs: Any) -> Step:
        settings = {
            "tail_classes": [TAIL],
            "switch_step": 0 if stage == 2 else 10**9,
            "model": model,
            **kwargs,
        }
        optimizer = SSESAM(params, cls, **settings, **options)

        def closure(index: Tensor | None = None) -> tuple[Tensor, Tensor]:
            a, b = (x, y) if index is None else (x[index], y[index])
            return each(model(a), b), b

        def loop() -> None:
            optimizer.zero_grad()
            mean(model(x), y).backward()
            optimizer.step()

        # Two rivals cannot watch one model at once: each watches for the time of its own steps.
        loop.before = lambda: optimizer.watch(model, mean, verify=False)  # type: ignore[attr-defined]
        loop.after = optimizer.unwatch  # type: ignore[attr-defined]
        return loop if form == "loop" else lambda: void(optimizer.step(closure, targets=y))

    def alone(rows: Tensor) -> Step:
        inputs, labels = x[rows], y[rows]
        return lambda: void(torch.autograd.grad(mean(model(inputs), labels), params)) if len(rows) else None

    every = torch.arange(len(y))
    plain_sam = {"stage1": "sam", "gamma": None, "switch_step": None, "tail_classes": None}
    return {
        "base": base_step,
        "pytorch_optimizer SAM": peer_step,
        "published stage 1": published_step(1),
        "published stage 2": published_step(2),
        "ours SAM, loop": ours("loop", 1, **plain_sam),
        "ours SAM, closure": ours("closure", 1, **plain_sam),
        **{f"ours stage {s}, {form}": ours(form, s) for s in (1, 2) for form in ("loop", "closure")},
        # What forward and backward cost alone: small batches are dearer by the sample.
        **{f"pass, {name}": alone(every[rows]) for name, rows in
           (("all", y < 10), ("head", ~mask), ("tail", mask))},
    }  # fmt: skip


def void(value: object) -> None:
    del value


def measure(
    steps: dict[str, Step], repeats: int, budget: float = math.inf, least: int = 3
) -> dict[str, list[float]]:
    """CPU seconds a step, rivals taking turns so that a slow moment of the machine hits all.

    One thread computes, so the process's CPU time is the step's time on a machine that is not shared.
    """
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    started = time.perf_counter()
    for k in range(repeats + 1):
        if k > least and time.perf_counter() - started > budget:
            break
        for name, step in steps.items():
            getattr(step, "before", lambda: None)()
            start = time.process_time()
            step()
            if k > 0:  # the first round warms up
                seconds[name].append(time.process_time() - start)
            getattr(step, "after", lambda: None)()
    return seconds


SHARES = (0.0, 0.02, 0.1, 0.3)
BATCH = {"resnet18": 64, "vit": 64}


def speed(records: Records, where: dict[str, Any], quick: bool, full: bool) -> None:
    """A step of every rival, on every model, at every share of the tail."""
    for model_name, build in MODELS.items():
        for base in BASES:
            if base == "adamw" and model_name not in ("mlp", "vit"):
                continue
            for t in SHARES if model_name != "resnet18" or full else (0.1,):
                key = f"speed/{model_name}/{base}/{t}"
                if records.has(key) or (quick and (t != 0.1 or model_name == "resnet18")):
                    continue
                torch.manual_seed(0)
                size = 16 if quick else BATCH.get(model_name, 128)
                x, y = batch(size, t)
                budget = 180 if model_name == "resnet18" else 20
                times = measure(steps_of(build(), x, y, base), 2 if quick else 40, budget)
                median = {name: statistics.median(values) for name, values in times.items()}
                records.add(
                    key, where, section="speed", model=model_name, base=base, t=t, batch=size,
                    repeats=len(times["base"]), load=os.getloadavg()[1],
                    share=float((y == TAIL).double().mean()), seconds=median,
                    ratio={name: value / median["base"] for name, value in median.items()},
                )  # fmt: skip


def arithmetic(records: Records, where: dict[str, Any], quick: bool, full: bool) -> None:
    """What a step of ResNet-18 costs besides its passes: the same step on losses that are one product."""
    del full
    if quick or records.has("arithmetic/resnet18"):
        return
    torch.manual_seed(0)
    model = MODELS["resnet18"]()
    x, y = batch(64, 0.1)
    each = nn.CrossEntropyLoss(reduction="none")
    params = list(model.parameters())
    scale = torch.linspace(0.5, 1.5, len(y))
    options = {"lr": 1e-6, "momentum": 0.9, "tail_classes": [TAIL], "switch_step": 10**9}
    cheap, real = SSESAM(params, **options), SSESAM(params, model=model, **options)

    def total() -> tuple[Tensor, Tensor]:
        return torch.stack(torch._foreach_norm(params)).sum() * scale, y

    def passes() -> None:
        """The cheap losses' own cost in a step: one forward and two backwards, then twice one of each."""
        for k in range(3):
            losses = total()[0].sum()
            for _ in range(2 if k == 0 else 1):
                torch.autograd.grad(losses, params, retain_graph=True)

    times = measure(
        {
            "arithmetic and cheap passes": lambda: void(cheap.step(total)),
            "cheap passes": passes,
            "step": lambda: void(real.step(lambda: (each(model(x), y), y))),
        },
        5,
        90,
    )
    seconds = {name: statistics.median(values) for name, values in times.items()}
    own = seconds["arithmetic and cheap passes"] - seconds["cheap passes"]
    records.add(
        "arithmetic/resnet18", where, section="arithmetic", model="resnet18", batch=64, seconds=seconds,
        share=own / seconds["step"], load=os.getloadavg()[1],
    )  # fmt: skip


def tensors(records: Records, where: dict[str, Any], quick: bool, full: bool) -> None:
    """Arithmetic alone: what a SAM-mode step costs beyond its two passes, by the number of tensors."""
    del full
    for n in (10, 100) if quick else (10, 100, 1000, 10_000):
        key = f"tensors/{n}"
        if records.has(key):
            continue
        x, y = batch(2, 0.5)
        steps = steps_of(many_tensors(n), x, y, "sgd")
        picked = {
            name: steps[name]
            for name in ("base", "pytorch_optimizer SAM", "ours SAM, loop", "ours SAM, closure")
        }
        times = measure(picked, 2 if quick else 20, 25, least=5)
        records.add(
            key, where, section="tensors", n=n, seconds={k: statistics.median(v) for k, v in times.items()}
        )


def memory(records: Records, where: dict[str, Any], quick: bool, full: bool) -> None:
    """Parameter copies alive during the passes away from the weights, beyond weights and gradients."""
    del quick, full
    cases = [("ours, " + form, stage) for form in ("loop", "closure") for stage in (1, 2)]
    for form, stage in [*cases, ("pytorch_optimizer SAM", 1), ("published", 1)]:
        key = f"memory/{form}/{stage}"
        if records.has(key):
            continue
        model = nn.Linear(1013, 10, bias=False)  # a shape that nothing else has
        x, y = torch.randn(20, 1013), torch.arange(20) % 10
        mean, each = nn.CrossEntropyLoss(), nn.CrossEntropyLoss(reduction="none")
        step = memory_step(form, stage, model, mean, each, x, y)
        peak = 0

        def look(*_: object) -> None:
            nonlocal peak
            gc.collect()
            storages = {
                o.untyped_storage().data_ptr()
                for o in gc.get_objects()
                if type(o) in (Tensor, nn.Parameter) and o.shape == (10, 1013)
            }
            peak = max(peak, len(storages))

        handle = model.register_forward_hook(look)
        for _ in range(2):
            step()
        handle.remove()
        # Two of them, weights and gradient, any optimizer has.
        records.add(key, where, section="memory", form=form, stage=stage, copies=peak - 2)


def memory_step(
    form: str, stage: int, model: nn.Module, mean: nn.Module, each: nn.Module, x: Tensor, y: Tensor
) -> Step:
    """One step without momentum, whose buffer would count as one more copy."""
    from pytorch_optimizer import SAM

    if form == "published":
        sgd = torch.optim.SGD(model.parameters(), lr=0.1)
        published = PublishedSSESAM(model, sgd, 0.05, 0.10)
        return lambda: void(published.step(lambda: each(model(x), y), y == TAIL, stage=stage))
    if form == "pytorch_optimizer SAM":
        peer = SAM(model.parameters(), base_optimizer=torch.optim.SGD, lr=0.1)

        def peer_step() -> None:
            mean(model(x), y).backward()
            peer.first_step(zero_grad=True)
            mean(model(x), y).backward()
            peer.second_step(zero_grad=True)

        return peer_step
    optimizer = SSESAM(model.parameters(), lr=0.1, tail_classes=[TAIL], switch_step=0 if stage == 2 else 9)
    if form == "ours, closure":
        return lambda: void(optimizer.step(lambda: (each(model(x), y), y)))
    optimizer.watch(model, mean, verify=False)

    def loop() -> None:
        optimizer.zero_grad()
        mean(model(x), y).backward()
        optimizer.step()

    return loop


# -- quality ------------------------------------------------------------------------------------------


class LogitAdjustment(nn.Module):
    """Cross-entropy on logits shifted by tau log prior."""

    def __init__(self, counts: list[int], tau: float = 0.75, reduction: str = "mean") -> None:
        super().__init__()
        prior = torch.tensor(counts, dtype=torch.float32)
        self.shift, self.reduction = tau * torch.log(prior / prior.sum()), reduction

    def forward(self, logits: Tensor, y: Tensor) -> Tensor:
        return nn.functional.cross_entropy(logits + self.shift, y, reduction=self.reduction)


# Both about half as long as the prototype's runs of specification section 6.2.
REGIMES = {
    "memorised": {"lr": 0.1, "epochs": 80, "augment": False},  # everything is fitted (6.2 B)
    "augmented": {"lr": 0.05, "epochs": 40, "augment": True},  # the tail is not fitted (6.2 A)
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
    jobs = [
        (seed, loss, regime, method)
        for regime, loss in [*plans, *([("augmented", "ce")] if full else [])]
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


# -- saddles ------------------------------------------------------------------------------------------


def toy(records: Records, where: dict[str, Any], quick: bool, full: bool) -> None:
    """Two saddles that can be watched: the quadratic's, and one that only the tail's loss has."""
    del quick, full
    for method in ("sgd", "sam", "imbsam", "sse-sam"):
        for rho in (0.05, 0.5):
            for name in ("quadratic", "tail saddle"):
                key = f"toy/{name}/{method}/{rho}"
                if not records.has(key):
                    records.add(
                        key,
                        where,
                        section="toy",
                        toy=name,
                        method=method,
                        rho=rho,
                        path=walk(name, method, rho),
                    )


def walk(name: str, method: str, rho: float, steps: int = 60) -> list[float]:
    """Distance from the saddle along its escape direction, after every tenth step.

    quadratic: (x^2 - y^2)/2, all of it the head's, from (0.1, 0.01).
    tail saddle: head 0.9 (x - 1)^2/2, tail 0.1 (x^2 - y^2)/2 + y^4/40, so y escapes by the tail alone.
    """
    w = nn.Parameter(torch.tensor([0.1, 0.01], dtype=torch.float64))

    def losses() -> tuple[Tensor, Tensor]:
        x, y = w[0], w[1]
        if name == "quadratic":
            return torch.stack([x.square() - y.square()]) / 2, torch.tensor([0])
        head = 0.9 * (x - 1).square() / 2
        tail = 0.1 * (x.square() - y.square()) / 2 + y**4 / 40
        return 2 * torch.stack([head, tail]), torch.tensor([0, 1])

    settings: dict[str, Any] = {
        "sgd": {"rho": 0.0, "stage1": "sam", "gamma": None},
        "sam": {"rho": rho, "stage1": "sam", "gamma": None},
        "imbsam": {"rho": (0.0, rho), "tail_classes": [1], "gamma": 0.0},
        "sse-sam": {"rho": (rho, rho), "tail_classes": [1], "gamma": 0.7, "total_steps": steps},
    }
    optimizer = SSESAM([w], lr=0.1, **settings[method])
    path = []
    for k in range(steps):
        optimizer.step(losses)
        if k % 10 == 9:
            path.append(abs(w.detach()[1].item()))
    return path


if __name__ == "__main__":
    main()
