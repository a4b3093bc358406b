"""Measure BiLT: cost of head and loss, end to end, trees at scale, memory, quality beside its rivals.

    python tests/benchmarks/bench_bilt.py [--only cost,end,tree,growth,memory,quality,recovery]
        [--data digits,gaussian,omniglot,cifar10] [--quick] [--full] [--out FILE]

Finished records are skipped, so an interrupted run goes on. ``--full`` adds seeds (10 for the small data sets
in any case, 5 in place of 3 for pictures) and repeats. Pictures and taxonomies need GRAFTKIT_DATA. Nothing is
tuned.
"""

import argparse
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from graftkit.methods.bilt import BiLTLoss, HierarchicalHead, LabelTree
from tests.benchmarks.published_bilt import PublishedBiLT
from tests.benchmarks.quality_bilt import TRAINED, recovery, run
from tests.benchmarks.results_io import Records, environment, forget_peak, resident

# Classes by level of the four papers' data, coarse to fine.
TABLES = {
    "FGVC-Aircraft": (30, 70, 100),
    "CIFAR-100": (2, 4, 8, 20, 100),
    "iNaturalist-2019": (3, 4, 9, 34, 57, 72, 1010),
    "tieredImageNet-H": (2, 5, 21, 35, 86, 159, 270, 422, 510, 584, 607, 608),
}
FEATURES = 512
DATA = ["digits", "gaussian", "omniglot", "cifar10"]
Step = Callable[[], None]


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    sections = {
        "cost": cost,
        "end": end_to_end,
        "tree": taxonomies,
        "growth": growth,
        "memory": memory,
        "quality": quality,
        "recovery": deltas,
    }
    parser.add_argument("--only", default=",".join(sections), help="sections, separated by commas")
    parser.add_argument("--data", default=",".join(DATA), help="of the section quality")
    parser.add_argument("--quick", action="store_true", help="a smoke test, the figures mean nothing")
    parser.add_argument("--full", action="store_true", help="more seeds and repeats")
    parser.add_argument("--out", type=Path, default=None, help="JSON file instead of results/bilt.json")
    parser.add_argument("--probe", default=None, help=argparse.SUPPRESS)
    options = parser.parse_args(argv)
    torch.set_num_threads(1)
    if options.probe:
        probe(options.probe)
        return
    records = Records("bilt", options.out)
    DATA[:] = options.data.split(",")
    where = environment(("torch", "timm"))
    for name in options.only.split(","):
        sections[name](records, where, options.quick, options.full)


# -- cost --------------------------------------------------------------------------------------------


def nested_tree(sizes: tuple[int, ...]) -> LabelTree:
    """A tree with given classes by level: children spread evenly."""
    row = torch.arange(sizes[-1])
    rows = [row]
    for coarse, fine in zip(sizes[-2::-1], sizes[:0:-1], strict=True):
        row = (torch.arange(fine) * coarse // fine)[row]
        rows.append(row)
    return LabelTree.from_levels(torch.stack(rows[::-1]))


def turns(steps: dict[str, Step], repeats: int, budget: float) -> dict[str, float]:
    """Median CPU seconds of a step, rivals taking turns; the first round warms up."""
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    started = time.perf_counter()
    for k in range(repeats + 1):
        if k > 3 and time.perf_counter() - started > budget:
            break
        for name, step in steps.items():
            start = time.process_time()
            step()
            if k:
                seconds[name].append(time.process_time() - start)
    return {name: statistics.median(values) for name, values in seconds.items()}


def heads(tree: LabelTree, batch: int, only: str | None = None) -> dict[str, Step]:
    """Forward and backward of head and loss, for each rival."""
    g = torch.Generator().manual_seed(0)
    x = torch.randn(batch, FEATURES, generator=g)
    y = torch.randint(0, tree.num_classes, (batch,), generator=g)
    criterion = BiLTLoss(tree)

    def step_of(**options: Any) -> Step:
        head = HierarchicalHead(FEATURES, tree, **options)

        def step() -> None:
            head.zero_grad()
            criterion(head(x.requires_grad_()), y).backward()

        return step

    def published_step_of() -> Step:
        published = PublishedBiLT(FEATURES, tree)

        def step() -> None:
            published.zero_grad()
            published.loss(x.requires_grad_(), y).backward()

        return step

    builders: dict[str, Callable[[], Step]] = {
        "flat head": lambda: step_of(levels="finest", aigdl=False),
        "parallel heads": lambda: step_of(chain=False, aigdl=False),
        "published procedure": published_step_of,
        "ours": step_of,
        "ours, no matrix (rank 8)": lambda: step_of(rank=8),
    }
    return {name: build() for name, build in builders.items() if only in (None, name)}


def cost(records: Records, where: dict[str, Any], quick: bool, full: bool) -> None:
    for name, sizes in TABLES.items():
        for batch in (64, 256):
            key = f"cost/{name}/{batch}"
            if records.has(key) or (quick and (batch == 256 or name != "CIFAR-100")):
                continue
            seconds = turns(heads(nested_tree(sizes), batch), 2 if quick else 30, 60 if full else 15)
            records.add(
                key, where, section="cost", data=name, batch=batch, seconds=seconds, load=os.getloadavg()[0]
            )


def end_to_end(records: Records, where: dict[str, Any], quick: bool, full: bool) -> None:
    """A whole training step with a timm model, flat head beside ours."""
    from graftkit.timm import wrap_timm

    cases = [("resnet18", 224, 16, "FGVC-Aircraft"), ("resnet18", 224, 16, "iNaturalist-2019"),
             ("test_vit", 160, 64, "FGVC-Aircraft"), ("test_resnet", 64, 64, "FGVC-Aircraft")]  # fmt: skip
    for base, pixels, batch, data in cases:
        key = f"end/{base}/{pixels}/{data}"
        if records.has(key) or (quick and base != "test_resnet"):
            continue
        tree, g = nested_tree(TABLES[data]), torch.Generator().manual_seed(0)
        x = torch.randn(batch, 3, pixels, pixels, generator=g)
        y = torch.randint(0, tree.num_classes, (batch,), generator=g)

        def step_of(
            options: dict[str, Any], tree: Any = tree, x: Any = x, y: Any = y, base: str = base
        ) -> Step:
            model, criterion = wrap_timm(base, tree, **options), BiLTLoss(tree)
            optimizer = torch.optim.SGD(model.param_groups(), momentum=0.9)

            def step() -> None:
                optimizer.zero_grad()
                criterion(model(x), y).backward()
                optimizer.step()

            return step

        steps = {"flat head": step_of({"levels": "finest", "aigdl": False}), "ours": step_of({})}
        seconds = turns(steps, 2 if quick else 20, 120 if full else 40)
        records.add(key, where, section="end", model=base, pixels=pixels, batch=batch, data=data,
                    seconds=seconds, load=os.getloadavg()[0])  # fmt: skip


# -- trees -------------------------------------------------------------------------------------------


def taxonomies(records: Records, where: dict[str, Any], quick: bool, full: bool) -> None:  # noqa: ARG001
    folder = Path(os.environ.get("GRAFTKIT_DATA", "nowhere")) / "taxonomies"
    for file in sorted(folder.glob("*_isa.txt")):
        key = f"tree/{file.stem}"
        if records.has(key):
            continue
        start = time.process_time()
        tree = LabelTree.from_edges(file)
        built = time.process_time()
        distance = tree.distance()
        done = time.process_time()
        records.add(key, where, section="tree", data=file.stem.removesuffix("_isa"), levels=tree.num_levels,
                    classes=tree.num_classes, nodes=sum(tree.sizes), build_seconds=built - start,
                    distance_seconds=done - built, distance_bytes=distance.numel() * 4)  # fmt: skip


def growth(records: Records, where: dict[str, Any], quick: bool, full: bool) -> None:  # noqa: ARG001
    """Building from edges, and a step of the head without a matrix, as classes grow."""
    for leaves in (1000,) if quick else (1000, 4000, 16000, 64000):
        key = f"growth/{leaves}"
        if records.has(key):
            continue
        edges = [("r", f"a{k}") for k in range(leaves // 100)]
        edges += [(f"a{k // 10}", f"b{k}") for k in range(leaves // 10)]
        edges += [(f"b{k // 10}", f"c{k}") for k in range(leaves)]
        start = time.process_time()
        tree = LabelTree.from_edges(edges)
        built = time.process_time() - start
        g = torch.Generator().manual_seed(0)
        x, y = torch.randn(64, 64, generator=g), torch.randint(0, leaves, (64,), generator=g)
        head, criterion = HierarchicalHead(64, tree, neck=None, rank=8), BiLTLoss(tree)
        seconds = turns({"step": lambda h=head, c=criterion, x=x, y=y: c(h(x), y).backward()}, 3, 60)
        records.add(key, where, section="growth", leaves=leaves, nodes=sum(tree.sizes), build_seconds=built,
                    step_seconds=seconds["step"],
                    parameters=sum(p.numel() for p in head.costs.parameters()))  # fmt: skip


def probe(case: str) -> None:
    """In a process of its own: peak memory beyond what stood before the first step, in bytes."""
    name, leaves = case.rsplit(",", 1)
    tree = nested_tree((10, 100, int(leaves)))
    before = forget_peak()
    step = heads(tree, 64, only=name)[name]
    for _ in range(3):
        step()
    print(resident("VmHWM") - before)


def memory(records: Records, where: dict[str, Any], quick: bool, full: bool) -> None:  # noqa: ARG001
    for leaves in (1010,) if quick else (1010, 4096, 10000):
        for name in ("flat head", "published procedure", "ours", "ours, no matrix (rank 8)"):
            key = f"memory/{leaves}/{name}"
            if records.has(key) or (leaves == 10000 and name == "published procedure"):
                continue
            command = [sys.executable, __file__, "--probe", f"{name},{leaves}"]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            records.add(key, where, section="memory", leaves=leaves, head=name, extra_bytes=int(done.stdout))


# -- quality -----------------------------------------------------------------------------------------


def quality(records: Records, where: dict[str, Any], quick: bool, full: bool) -> None:
    folder = Path(os.environ.get("GRAFTKIT_DATA", "nowhere"))
    for data in DATA:
        made = data in ("digits", "gaussian")
        if not made and not folder.is_dir():
            print(f"{data}: skipped, GRAFTKIT_DATA names no folder")
            continue
        for seed in range(1 if quick else 10 if made else 5 if full else 3):
            for arm in TRAINED[:2] if quick else TRAINED:
                if records.has(f"quality/{data}/{arm}/{seed}"):
                    continue
                for name, record in run(data, arm, seed, quick=quick).items():
                    records.add(f"quality/{data}/{name}/{seed}", where, **record)


def deltas(records: Records, where: dict[str, Any], quick: bool, full: bool) -> None:  # noqa: ARG001
    for seed in range(1 if quick else 10):
        if not records.has(f"recovery/{seed}"):
            records.add(f"recovery/{seed}", where, **recovery(seed, quick=quick))


if __name__ == "__main__":
    main()
