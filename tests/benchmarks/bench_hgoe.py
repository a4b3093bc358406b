"""Measure HGOE: estimation, sampling and encoding beside graph-by-graph loops, scale, training, quality.

    python tests/benchmarks/bench_hgoe.py [--only NAMES] [--quick] [--full] [--seeds N] [--out FILE]

Sections: estimation, sampling, encoding, scale, training, tu, families, pixels. Finished records are
skipped, so an interrupted run goes on. The default is one seed of quality; ``--full`` is five. ``tu``
needs the TU data sets under GRAFTKIT_DATA.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from graftkit.methods.hgoe.adjacency import aligned_mean
from graftkit.methods.hgoe.alignment import nearest_features
from graftkit.methods.hgoe.drawing import realise
from graftkit.methods.hgoe.encodings import random_walk, structural_encoding
from graftkit.methods.hgoe.exposure import plan_exposure
from graftkit.methods.hgoe.graphons import usvt
from graftkit.methods.hgoe.graphs import PackedGraphs
from graftkit.methods.hgoe.mixup import Mixtures
from graftkit.methods.hgoe.sampling import sample_mixtures
from graftkit.methods.hgoe.settings import HGOEConfig
from graftkit.pyg.hgoe_graphs import read_graphs, to_data_list
from tests.benchmarks import published_hgoe as published
from tests.benchmarks.results_io import Records, environment, forget_peak, resident

Where = dict[str, Any]


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    sections: dict[str, Callable[[Records, Where, argparse.Namespace], None]] = {
        "estimation": estimation, "sampling": sampling, "encoding": encoding, "scale": scale,
        "training": training, "tu": tu, "families": families, "pixels": pixels,
    }  # fmt: skip
    parser.add_argument("--only", default=",".join(sections), help="sections, separated by commas")
    parser.add_argument("--quick", action="store_true", help="a smoke test; its figures mean nothing")
    parser.add_argument("--full", action="store_true", help="five seeds of quality")
    parser.add_argument("--seeds", type=int, default=1, help="seeds of quality")
    parser.add_argument("--detectors", default="energy,svdd,good-d", help="of quality, separated by commas")
    parser.add_argument("--out", type=Path, default=None, help="JSON file instead of results/hgoe.json")
    parser.add_argument("--probe", nargs=2, metavar=("TASK", "GRAPHS"), help=argparse.SUPPRESS)
    options = parser.parse_args(argv)
    torch.set_num_threads(1)
    if options.probe:
        print(json.dumps(probe(options.probe[0], int(options.probe[1]))))
        return
    options.seeds = 5 if options.full else options.seeds
    records = Records("hgoe", options.out)
    where = environment(("torch", "torch-geometric", "scikit-learn"))
    chosen = options.only.split(",")
    for name in chosen:
        if name not in ("tu", "families", "pixels"):
            sections[name](records, where, options)
    # Seed by seed, so that an interrupted run has whole seeds.
    for seed in range(options.seeds):
        options.seed = seed
        for name in chosen:
            if name in ("tu", "families", "pixels"):
                sections[name](records, where, options)


def random_graphs(count: int, mean_nodes: int, seed: int = 0) -> PackedGraphs:
    """Sizes a third around the mean, two random edges a node, both directions, a few repeats."""
    rng = np.random.default_rng(seed)
    n = rng.integers(mean_nodes * 2 // 3, mean_nodes * 4 // 3 + 1, count)
    start = np.cumsum(n) - n
    owner = np.repeat(np.arange(count), 2 * n)
    u, v = (start[owner] + (rng.random(len(owner)) * n[owner]).astype(np.int64) for _ in range(2))
    edges = np.stack([np.stack([u, v], 1), np.stack([v, u], 1)], 1).reshape(-1, 2).T
    return PackedGraphs(torch.from_numpy(edges.copy()), torch.from_numpy(n))


def timed(call: Callable[[], Any], repeats: int) -> list[float]:
    """CPU seconds of each repeat after one to warm up: the machine is shared, the wall clock says little."""
    call()
    seconds = []
    for _ in range(repeats):
        start = time.process_time()
        call()
        seconds.append(time.process_time() - start)
    return seconds


# -- synthesis -------------------------------------------------------------------------------------------


def estimation(records: Records, where: Where, options: argparse.Namespace) -> None:
    """Mean aligned adjacency: ours, the loop, PyG's dense batches; equality first."""
    cases = (
        [(100, 15)] if options.quick else [(1000, 15), (1000, 30), (1000, 100), (10_000, 15), (10_000, 30)]
    )
    for count, nodes in cases:
        key = f"estimation/{count}/{nodes}"
        if records.has(key):
            continue
        graphs = random_graphs(count, nodes)
        lists, data = published.as_lists(graphs), to_data_list(graphs)
        ours = aligned_mean(graphs, nodes)
        apart = np.abs(ours.numpy() - published.mean_by_loop(lists, nodes, ties=True)).max()
        calls = {
            "ours": lambda g=graphs, n=nodes: aligned_mean(g, n),
            "ours, from Data": lambda g=data, n=nodes: aligned_mean(read_graphs(g), n),
            "numpy loop": lambda g=lists, n=nodes: published.mean_by_loop(g, n),
            "numpy loop, our order": lambda g=lists, n=nodes: published.mean_by_loop(g, n, ties=True),
            "loop over Data": lambda g=data, n=nodes: published.mean_by_data(g, n),
            "to_dense_adj": lambda g=graphs, n=nodes: published.mean_by_dense_batches(g, n),
        }
        repeats = 2 if options.quick else 5
        seconds = {name: timed(call, repeats) for name, call in calls.items()}
        records.add(
            key, where, section="estimation", graphs=count, nodes=nodes, apart=float(apart),
            repeats=repeats, seconds={k: statistics.median(v) for k, v in seconds.items()},
            usvt=statistics.median(timed(lambda m=ours: usvt(m, 0.2), repeats)),
        )  # fmt: skip


def sampling(records: Records, where: Where, options: argparse.Namespace) -> None:
    """Graphs from one graphon: ours and the loop, with the mean edge count of each."""
    cases = [(200, 29)] if options.quick else [(5000, 29), (5000, 100)]
    for count, nodes in cases:
        key = f"sampling/{count}/{nodes}"
        if records.has(key):
            continue
        w = usvt(aligned_mean(random_graphs(500, nodes), nodes), 0.01)
        calls = {
            "ours": lambda w=w, c=count, n=nodes: sample_mixtures(
                [w], Mixtures.of_one(c, n), torch.Generator().manual_seed(0)
            ),
            "numpy loop": lambda w=w, c=count: published.sample_by_loop(w.numpy(), c, 0),
            "loop to Data": lambda w=w, c=count: published.data_by_loop(w.numpy(), c, 0),
        }
        calls["ours, to Data"] = lambda draw=calls["ours"]: to_data_list(draw())
        edges = {
            "ours": calls["ours"]().edge_index.shape[1] / 2 / count,
            "numpy loop": statistics.mean(e.shape[1] / 2 for e, _ in calls["numpy loop"]()),
        }
        repeats = 2 if options.quick else 5
        seconds = {name: statistics.median(timed(call, repeats)) for name, call in calls.items()}
        records.add(
            key, where, section="sampling", graphs=count, nodes=nodes, seconds=seconds, edges=edges,
            expected=float(w.sum()) / 2,
        )  # fmt: skip


def encoding(records: Records, where: Where, options: argparse.Namespace) -> None:
    """Random walks beside the loop and PyG's AddRandomWalkPE; nearest features."""
    from torch_geometric.transforms import AddRandomWalkPE

    count = 50 if options.quick else 1000
    key = f"encoding/{count}"
    if not records.has(key):
        graphs = random_graphs(count, 30)
        lists, data = published.as_lists(graphs), to_data_list(graphs)
        walk = AddRandomWalkPE(16, "pe")
        calls = {
            "ours": lambda: random_walk(graphs, 16),
            "loop": lambda: published.walks_by_loop(lists, 16),
            "AddRandomWalkPE": lambda: [walk(graph) for graph in data],
        }
        seconds = {name: statistics.median(timed(call, 2)) for name, call in calls.items()}
        apart = float(
            (random_walk(graphs, 16) - torch.from_numpy(np.concatenate(calls["loop"]()))).abs().max()
        )
        records.add(key, where, section="encoding", graphs=count, nodes=30, seconds=seconds, apart=apart)
    queries, pool = (200, 500) if options.quick else (10_000, 20_000)
    key = f"alignment/{queries}/{pool}"
    if not records.has(key):
        q, p, f = (
            torch.rand(n, 32, generator=torch.Generator().manual_seed(n)) for n in (queries, pool, pool)
        )
        seconds = {"ours": statistics.median(timed(lambda: nearest_features(q, p, f), 2))}
        records.add(key, where, section="alignment", queries=queries, pool=pool, seconds=seconds)


def probe(task: str, count: int) -> dict[str, float]:
    """One task in a process of its own: seconds and the growth of its peak memory."""
    graphs = random_graphs(count, 30)
    if task == "synthesis":
        labels = torch.arange(count) % 3
        config = HGOEConfig(subgroups=labels, rate_external=0.0, rate_internal=1.0, threshold=0.01)
        graphs = PackedGraphs(graphs.edge_index, graphs.num_nodes, torch.ones(int(graphs.num_nodes.sum()), 1))
    before = forget_peak()
    start, cpu = time.perf_counter(), time.process_time()
    if task == "estimation":
        aligned_mean(graphs, 30)
    elif task == "synthesis":
        realise(plan_exposure(graphs, {}, config, seed=0))
    else:
        structural_encoding(graphs)
    seconds, cpu = time.perf_counter() - start, time.process_time() - cpu
    grown = (resident("VmHWM") - before) / 1024
    return {"seconds": seconds, "cpu_seconds": cpu, "extra_gib": grown / 2**20}


def scale(records: Records, where: Where, options: argparse.Namespace) -> None:
    """Growth with the number of graphs; each case in a fresh process."""
    cases = [("estimation", 500)] if options.quick else [
        *(("estimation", n) for n in (1000, 10_000, 100_000)), ("synthesis", 10_000), ("synthesis", 50_000),
        ("encoding", 10_000),
    ]  # fmt: skip
    for task, count in cases:
        key = f"scale/{task}/{count}"
        if records.has(key):
            continue
        done = subprocess.run(
            [sys.executable, __file__, "--probe", task, str(count)],
            capture_output=True, text=True, check=True, env={**os.environ, "OMP_NUM_THREADS": "1"},
        )  # fmt: skip
        records.add(key, where, section="scale", task=task, graphs=count, **json.loads(done.stdout))


# -- training --------------------------------------------------------------------------------------------


def training(records: Records, where: Where, options: argparse.Namespace) -> None:
    """An epoch with exposure beside one without, and the loader beside PyG's."""
    from torch_geometric.loader import DataLoader

    from graftkit.pyg import BoundaryAwareOELoss, OutlierExposureLoader, fit_outlier_exposure
    from tests.benchmarks import quality_hgoe as quality

    task = quality.family_task("near", 0, options.quick)
    outliers = quality.Stored(quality.outliers_of(task, "HGOE", 0))
    for name in quality.DETECTORS:
        key = f"training/{name}"
        if records.has(key):
            continue
        seconds: dict[str, float] = {}
        for arm, loss in (("base", None), ("HGOE", BoundaryAwareOELoss())):
            detector = quality.make_detector(name, task, 0)
            loader = OutlierExposureLoader(task.seen, outliers, batch_size=64)
            steps = [step if loss else step[0] for step in loader]  # batches ready: the step alone
            detector.prepare(loader.id_loader())
            optimizer = torch.optim.Adam(detector.parameters(), lr=1e-3)
            epoch = lambda d=detector, s=steps, o=optimizer, q=loss: fit_outlier_exposure(d, s, q, o, 1)  # noqa: E731
            seconds[arm] = statistics.median(timed(epoch, 2 if options.quick else 7))
        records.add(key, where, section="training", detector=name, batch=64, seconds=seconds)
    key = "loader"
    if not records.has(key):
        plain = [list(task.seen), list(outliers)]
        calls = {
            "ours": lambda: list(OutlierExposureLoader(task.seen, outliers, batch_size=64)),
            "two DataLoaders": lambda: [
                list(DataLoader(side, batch_size=64, shuffle=True)) for side in plain
            ],
        }
        seconds = {
            name: statistics.median(timed(call, 2 if options.quick else 5)) for name, call in calls.items()
        }
        records.add(key, where, section="loader", graphs=len(task.seen), batch=64, seconds=seconds)


# -- quality ---------------------------------------------------------------------------------------------


def tu(records: Records, where: Where, options: argparse.Namespace) -> None:
    if not os.environ.get("GRAFTKIT_DATA"):
        print("tu: skipped, GRAFTKIT_DATA is not set")
        return
    from tests.benchmarks import quality_hgoe as quality

    for pair in quality.TU:
        compare(records, where, options, pair, lambda s, q, p=pair: quality.tu_task(p, s, q))


def families(records: Records, where: Where, options: argparse.Namespace) -> None:
    from tests.benchmarks import quality_hgoe as quality

    arms = (*quality.ARMS, quality.BOUND)
    for scenario in quality.SCENARIOS:
        make = lambda s, q, c=scenario: quality.family_task(c, s, q)  # noqa: E731
        compare(records, where, options, scenario, make, arms=arms)


def pixels(records: Records, where: Where, options: argparse.Namespace) -> None:
    from tests.benchmarks import quality_hgoe as quality

    arms = ("base", "external", "internal", "HGOE", "official", quality.BOUND)
    compare(records, where, options, "pixels", quality.pixel_task, ("energy", "svdd"), arms)


def compare(
    records: Records, where: Where, options: argparse.Namespace, data: str, make: Callable[[int, bool], Any],
    detectors: tuple[str, ...] | None = None, arms: tuple[str, ...] | None = None,
) -> None:  # fmt: skip
    """All arms and detectors of one seed."""
    from tests.benchmarks import quality_hgoe as quality

    seed, task = options.seed, None
    for arm in arms or quality.ARMS:
        outliers = None
        for name in detectors or quality.DETECTORS:
            if name not in options.detectors.split(","):
                continue
            key = f"quality/{data}/{name}/{arm}/{seed}"
            if records.has(key):
                continue
            task = task or make(seed, options.quick)
            outliers = quality.outliers_of(task, arm, seed) if outliers is None else outliers
            epochs = 2 if options.quick else quality.EPOCHS[data]
            record = quality.run(task, name, arm, seed, epochs, outliers)
            records.add(key, where, section="quality", data=data, detector=name, arm=arm, seed=seed, **record)


if __name__ == "__main__":
    main()
