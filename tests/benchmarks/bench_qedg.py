"""Measure QEDG: a round beside the published loop, growth with the budget, and X1 to X5 of the specification.

    python tests/benchmarks/bench_qedg.py [--only NAMES] [--quick] [--full] [--seeds N] [--out FILE]

Sections: speed, diversity, growth, curve (X1), mechanism (X2), ablation (X3), owner (X4), controls (X5),
cifar. Finished records are skipped, so an interrupted run goes on. The default is one seed of everything but
cifar; ``--full`` is five seeds, and three of cifar, which needs CIFAR-10-LT under GRAFTKIT_DATA. Settings are
those of the specification's experiments; none was chosen on evaluation rows.
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from graftkit.methods.qedg.generation import GeneratedQueries
from graftkit.methods.qedg.losses import pairwise_similarity
from graftkit.methods.qedg.modes import frozen
from graftkit.methods.qedg.pool import Pool, quantise, unit
from graftkit.methods.qedg.settings import QEDGConfig
from graftkit.methods.qedg.transforms import transform_batch
from tests.benchmarks import published_qedg as published
from tests.benchmarks import quality_qedg as quality
from tests.benchmarks.results_io import Records, environment

Where = dict[str, Any]


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", default=",".join(SECTIONS), help="sections, comma-separated")
    parser.add_argument("--quick", action="store_true", help="tiny sizes: that it runs")
    parser.add_argument("--full", action="store_true", help="five seeds, and cifar")
    parser.add_argument("--seeds", type=int, help="seeds of quality")
    parser.add_argument("--out", type=Path, help="another JSON file")
    parser.add_argument("--probe", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args(argv)
    torch.set_num_threads(1)
    if options.probe:
        print(json.dumps(probe(int(options.probe[0]), options.probe[1] == "quick")))
        return
    options.seeds = options.seeds or (5 if options.full else 1)
    names = [name for name in SECTIONS if name in options.only.split(",")]
    if not options.full and options.only == ",".join(SECTIONS):
        names.remove("cifar")
    out = options.out or (Path(tempfile.mkdtemp()) / "qedg.json" if options.quick else None)
    records, where = Records("qedg", out), environment(("torch", "adversarial-robustness-toolbox"))
    for name in names:
        print(f"-- {name}", flush=True)
        SECTIONS[name](records, where, options)
    print(f"{len(records.records)} records in {records.path.name}")


def timed(call: Callable[[], Any], repeats: int) -> float:
    """Median CPU seconds, after a warm-up; a single repeat has none."""
    if repeats > 1:
        call()
    seconds = []
    for _ in range(repeats):
        start = time.process_time()
        call()
        seconds.append(time.process_time() - start)
    return statistics.median(seconds)


def alternately(calls: dict[str, Callable[[], Any]], repeats: int) -> dict[str, float]:
    """Median CPU seconds of calls that take turns, so that a busy machine slows all of them."""
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(repeats):
        for name, call in calls.items():
            seconds[name].append(timed(call, 1))
    # The first turn is the warm-up; a single one has none.
    return {name: statistics.median(found[1:] or found) for name, found in seconds.items()}


def bare_passes(source: GeneratedQueries, substitute: nn.Module) -> None:
    """What no loop can leave out: forward and backward passes of generator and substitute, nothing else."""
    latent = torch.randn(source.config.batch_size, source.config.latent)
    trained = [weight for weight in source.generator.parameters() if weight.requires_grad]
    for step in range(1, source.config.g_steps + 1):
        scores = substitute(source.generator(latent))
        if step < source.config.g_steps:
            torch.autograd.grad(scores.sum(), trained)


def speed(records: Records, where: Where, options: argparse.Namespace) -> None:
    """One round without training, ours and the published loop, by part."""
    for shape in ((1, 8, 8),) if options.quick else ((1, 8, 8), (1, 28, 28), (3, 32, 32)):
        key = "speed/" + "x".join(map(str, shape))
        if records.has(key):
            continue
        # tau = 1: every image is asked about in both.
        config = QEDGConfig(
            batch_size=32 if options.quick else 256, latent=64, width=16, g_steps=2 if options.quick else 20,
            loop_transform="none", query_transform="turns", tau=1.0,
        )  # fmt: skip
        target, substitute = (quality.convolutional(shape, 10, seed).eval() for seed in (0, 1))
        source = GeneratedQueries(shape, 10, config, 0, torch.device("cpu"))
        pool = Pool(config.batch_size, shape, quantised=True)
        images = published.generate(substitute, shape, 10, config)

        def filter_and_query(
            images: Tensor = images,
            substitute: Any = substitute,
            target: Any = target,
            c: QEDGConfig = config,
        ) -> None:
            random = torch.Generator().manual_seed(1)
            stored = quantise(transform_batch(c.query_transform, images, random, each=True))
            with torch.no_grad():
                substitute(unit(stored)).softmax(1).amax(1)
                target(unit(stored)).argmax(1)

        def whole_round(
            source: Any = source, substitute: Any = substitute, target: Any = target, pool: Pool = pool
        ) -> None:
            candidates = source.propose(0, substitute, 1.0, pool)
            with torch.no_grad():
                target(unit(candidates.images)).argmax(1)

        def published_round(
            substitute: Any = substitute, target: Any = target, shape: Any = shape, c: QEDGConfig = config
        ) -> None:
            published.filter_and_query(published.generate(substitute, shape, 10, c), substitute, target, c)

        repeats = 1 if options.quick else 3
        ask = lambda s=substitute, t=target, i=images, c=config: published.filter_and_query(i, s, t, c)  # noqa: E731
        with frozen(substitute):
            seconds = {
                "filter and query": timed(filter_and_query, repeats),
                "filter and query, published": timed(ask, repeats),
                **alternately(
                    {
                        "round": whole_round,
                        "round, published": published_round,
                        "passes": lambda g=source, s=substitute: bare_passes(g, s),
                    },
                    1 if options.quick else 4,
                ),
            }
        records.add(
            key, where, section="speed", shape=list(shape), batch=config.batch_size, steps=config.g_steps,
            seconds=seconds,
        )  # fmt: skip


def diversity(records: Records, where: Where, options: argparse.Namespace) -> None:
    """The closed form beside the pair loop (float64) and beside the B x B matrices (seconds)."""
    batch = 32 if options.quick else 256
    key = f"diversity/{batch}"
    if records.has(key):
        return
    images = torch.rand(batch, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    t = torch.randint(10, (batch,), generator=torch.Generator().manual_seed(1))
    expected = published.pair_loop(images, t)
    apart = abs(float(pairwise_similarity(images.double(), t, 10)) - expected) / expected
    leaf = images.clone().requires_grad_(True)
    seconds = {
        "closed form": timed(lambda: pairwise_similarity(leaf, t, 10).backward(), 5),
        "matrix a class": timed(lambda: published.diversity(leaf, t, 10).backward(), 5),
    }
    records.add(key, where, section="diversity", batch=batch, apart=apart, seconds=seconds)


def probe(budget: int, quick: bool) -> dict[str, float]:
    """One audit in a process of its own: seconds by part, and peak memory."""
    import graftkit.methods.qedg.campaign as loop

    spent = {"training": 0.0}
    fit = loop.fit_substitute

    def fitted(*args: Any) -> int:
        start = time.process_time()
        steps = fit(*args)
        spent["training"] += time.process_time() - start
        return steps

    loop.fit_substitute = fitted
    task = quality.digits(0)
    changes = {"tau": 1.0, "transfer_rows": 0, **({"g_steps": 2, "final_rounds": 1} if quick else {})}
    start = time.process_time()
    result = quality.audit(task, budget, 0, baselines=(), changes=changes, eval_every=budget)
    total = time.process_time() - start
    return {
        "cpu_seconds": total,
        "training": spent["training"],
        "queries": result.ledger["attack_queries"],
        "peak_gib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20,
    }


def growth(records: Records, where: Where, options: argparse.Namespace) -> None:
    """Whole audits from 250 to 4,000 queries, each in a fresh process."""
    for budget in (100, 200) if options.quick else (250, 500, 1000, 2000, 4000):
        key = f"growth/{budget}"
        if records.has(key):
            continue
        command = [sys.executable, __file__, "--probe", str(budget), "quick" if options.quick else "default"]
        done = subprocess.run(
            command, capture_output=True, text=True, check=True, env={**os.environ, "OMP_NUM_THREADS": "1"}
        )
        records.add(key, where, section="growth", budget=budget, **json.loads(done.stdout))


def by_seed(name: str, cases: Callable[[bool], dict[str, Callable[[int, bool], dict[str, Any]]]]) -> Any:
    """A section whose cases are run for each seed."""

    def section(records: Records, where: Where, options: argparse.Namespace) -> None:
        seeds = 3 if name == "cifar" and options.full else options.seeds
        for seed in range(seeds):
            for case, run in cases(options.quick).items():
                key = f"{name}/{case}/{seed}"
                if records.has(key):
                    continue
                start = time.process_time()
                figures = run(seed, options.quick)
                seconds = time.process_time() - start
                records.add(
                    key, where, section=name, case=case, seed=seed, cpu_seconds=seconds, figures=figures
                )

    return section


SECTIONS: dict[str, Callable[[Records, Where, argparse.Namespace], None]] = {
    "speed": speed,
    "diversity": diversity,
    "growth": growth,
    "curve": by_seed("curve", quality.curve_cases),
    "mechanism": by_seed("mechanism", quality.mechanism_cases),
    "ablation": by_seed("ablation", quality.ablation_cases),
    "owner": by_seed("owner", quality.owner_cases),
    "controls": by_seed("controls", quality.control_cases),
    "cifar": by_seed("cifar", quality.cifar_cases),
}

if __name__ == "__main__":
    main()
