"""Measure SSE-SAM: time of a step beside its peers, growth with parameter tensors, memory, quality, saddles.

    python tests/benchmarks/bench_sse_sam.py [--only speed,tensors,memory,quality,toy] [--quick] [--out FILE]

Finished records are skipped, so an interrupted run goes on. Quality needs CIFAR-10-LT under GRAFTKIT_DATA.
"""

import argparse
import gc
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

TAIL = 9
BASES = {"sgd": (torch.optim.SGD, {"lr": 1e-4, "momentum": 0.9}), "adamw": (torch.optim.AdamW, {"lr": 1e-5})}
Step = Callable[[], None]


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    sections = {"speed": speed, "tensors": tensors, "memory": memory, "quality": quality, "toy": toy}
    parser.add_argument("--only", default=",".join(sections), help="sections, separated by commas")
    parser.add_argument(
        "--quick", action="store_true", help="a smoke test: few steps, the figures mean nothing"
    )
    parser.add_argument("--out", type=Path, default=None, help="JSON file instead of results/sse_sam.json")
    options = parser.parse_args(argv)
    torch.set_num_threads(1)
    records = Records("sse_sam", options.out)
    where = environment(("torch", "pytorch_optimizer"))
    for name in options.only.split(","):
        sections[name](records, where, options.quick)


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

    plain_sam = {"stage1": "sam", "gamma": None, "switch_step": None, "tail_classes": None}
    return {
        "base": base_step,
        "pytorch_optimizer SAM": peer_step,
        "published stage 1": published_step(1),
        "published stage 2": published_step(2),
        "ours SAM, loop": ours("loop", 1, **plain_sam),
        "ours SAM, closure": ours("closure", 1, **plain_sam),
        **{f"ours stage {s}, {form}": ours(form, s) for s in (1, 2) for form in ("loop", "closure")},
    }


def void(value: object) -> None:
    del value


def measure(steps: dict[str, Step], repeats: int) -> dict[str, list[float]]:
    """Seconds a step, rivals taking turns so that a slow moment of the machine hits all."""
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for k in range(repeats + 1):
        for name, step in steps.items():
            getattr(step, "before", lambda: None)()
            start = time.perf_counter()
            step()
            if k > 0:  # the first round warms up
                seconds[name].append(time.perf_counter() - start)
            getattr(step, "after", lambda: None)()
    return seconds


def speed(records: Records, where: dict[str, Any], quick: bool) -> None:
    for model_name, build in MODELS.items():
        for base in BASES:
            if base == "adamw" and model_name not in ("mlp", "vit"):
                continue
            for t in (0.0, 0.02, 0.1, 0.3):
                key = f"speed/{model_name}/{base}/{t}"
                if records.has(key) or (quick and (t != 0.1 or model_name == "resnet18")):
                    continue
                torch.manual_seed(0)
                size = 16 if quick else 64 if model_name == "resnet18" else 128
                x, y = batch(size, t)
                repeats = 2 if quick else 20
                times = measure(steps_of(build(), x, y, base), repeats)
                median = {name: statistics.median(values) for name, values in times.items()}
                records.add(
                    key, where, section="speed", model=model_name, base=base, t=t, batch=size,
                    repeats=repeats,
                    share=float((y == TAIL).double().mean()), seconds=median,
                    ratio={name: value / median["base"] for name, value in median.items()},
                )  # fmt: skip


def tensors(records: Records, where: dict[str, Any], quick: bool) -> None:
    """Arithmetic alone: what a SAM-mode step costs beyond its two passes, by the number of tensors."""
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
        times = measure(picked, 2 if quick else 10)
        records.add(
            key, where, section="tensors", n=n, seconds={k: statistics.median(v) for k, v in times.items()}
        )


def memory(records: Records, where: dict[str, Any], quick: bool) -> None:
    """Parameter copies alive during the passes away from the weights, beyond weights and gradients."""
    del quick
    for form in ("loop", "closure"):
        for stage in (1, 2):
            key = f"memory/{form}/{stage}"
            if records.has(key):
                continue
            model = nn.Linear(1013, 10, bias=False)  # a shape that nothing else has
            x, y = torch.randn(20, 1013), torch.arange(20) % 10
            mean, each = nn.CrossEntropyLoss(), nn.CrossEntropyLoss(reduction="none")
            optimizer = SSESAM(
                model.parameters(), lr=0.1, tail_classes=[TAIL], switch_step=0 if stage == 2 else 9
            )
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
                if form == "loop":
                    if optimizer._watch is None:
                        optimizer.watch(model, mean, verify=False)
                    optimizer.zero_grad()
                    mean(model(x), y).backward()
                    optimizer.step()
                else:
                    optimizer.step(lambda m=model, e=each, x=x, y=y: (e(m(x), y), y))
            handle.remove()
            # Two of them, weights and gradient, any optimizer has.
            records.add(key, where, section="memory", form=form, stage=stage, copies=peak - 2)


# -- quality ------------------------------------------------------------------------------------------


class LogitAdjustment(nn.Module):
    """Cross-entropy on logits shifted by tau log prior."""

    def __init__(self, counts: list[int], tau: float = 0.75) -> None:
        super().__init__()
        prior = torch.tensor(counts, dtype=torch.float32)
        self.shift = tau * torch.log(prior / prior.sum())

    def forward(self, logits: Tensor, y: Tensor) -> Tensor:
        return nn.functional.cross_entropy(logits + self.shift, y)


REGIMES = {
    "augmented": {"lr": 0.05, "epochs": 80, "augment": True},  # the tail is not fitted (specification 6.2 A)
    "memorised": {"lr": 0.1, "epochs": 150, "augment": False},  # everything is fitted (6.2 B)
}
METHODS = ("sgd", "sgd x2", "sam", "imbsam", "sse-sam")


def quality(records: Records, where: dict[str, Any], quick: bool) -> None:
    root = os.environ.get("GRAFTKIT_DATA")
    if not root:
        print("quality: skipped, GRAFTKIT_DATA is not set")
        return
    archive = Path(root) / "cifar10_lt" / "cifar10_lt100.zip"
    train, test = load_cifar10_lt(archive, share=0.1, test_share=0.05 if quick else 0.5)
    for seed in range(1 if quick else 3):
        for loss in ("ce",) if quick else ("la", "ce"):
            for regime, plan in REGIMES.items():
                for method in METHODS:
                    key = f"quality/tenth/{regime}/{loss}/{method}/{seed}"
                    if not records.has(key):
                        record = train_once(
                            train, test, method, loss, seed, {**plan, **({"epochs": 1} if quick else {})}
                        )
                        records.add(key, where, section="quality", data="tenth", regime=regime, **record)
    if quick:
        return
    train, test = load_cifar10_lt(archive)
    for method in METHODS:
        key = f"quality/full/augmented/la/{method}/0"
        if not records.has(key):
            plan = {"lr": 0.1, "epochs": 12, "augment": True, "batch": 128}
            record = train_once(train, test, method, "la", 0, plan)
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
    start = time.perf_counter()
    for _ in range(epochs):
        for rows in torch.randperm(len(y), generator=generator).split(size):
            inputs = augmented(x[rows], generator) if plan["augment"] else x[rows]
            optimizer.zero_grad()
            criterion(model(inputs), y[rows]).backward()
            optimizer.step()
        scheduler.step()
    seconds = time.perf_counter() - start
    model.eval()
    with torch.no_grad():
        predicted = torch.cat([model(b).argmax(1) for b in test_x.split(500)])
        fitted = torch.cat([model(b).argmax(1) for b in x.split(500)]) == y
    in_tail = torch.isin(y, torch.tensor(tail))
    kept = torch.cat([torch.nonzero(y == c).flatten()[:64] for c in range(len(counts))])
    curvature = class_curvature(
        model, nn.CrossEntropyLoss(reduction="none"), [(x[kept], y[kept])],
        {"head": [c for c in range(len(counts)) if c not in tail], "tail": tail}, k=20,
    )  # fmt: skip
    return {
        "method": method, "loss": loss, "seed": seed, "epochs": epochs, "seconds": seconds,
        "recall": recall_by_frequency(predicted, test_y, counts, many=1000 * scale, few=200 * scale),
        "train": {
            "head": 100 * float(fitted[~in_tail].double().mean()),
            "tail": 100 * float(fitted[in_tail].double().mean()),
        },
        "curvature": {
            name: {k: row[k] for k in ("lambda_max", "lambda_min", "saddle_ratio")}
            for name, row in curvature.items()
        },
    }  # fmt: skip


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


def toy(records: Records, where: dict[str, Any], quick: bool) -> None:
    """Two saddles that can be watched: the quadratic's, and one that only the tail's loss has."""
    del quick
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
