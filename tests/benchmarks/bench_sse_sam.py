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

from graftkit.torch import SSESAM
from tests.benchmarks.models_sse_sam import MODELS, many_tensors
from tests.benchmarks.published_sse_sam import PublishedSSESAM
from tests.benchmarks.quality_sse_sam import quality
from tests.benchmarks.results_io import Records, environment
from tests.benchmarks.saddles_sse_sam import toy

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


if __name__ == "__main__":
    main()
