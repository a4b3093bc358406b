"""The quality runs of HGOE's benchmark: data, arms, one training run.

Every arm of one seed shares split, initial weights, batches of ID graphs and test batches, so differences
are paired. Nothing is selected: epochs, rates and all settings are fixed here, none was tuned on these data.
"""

import os
import shutil
import tempfile
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch_geometric.data import Data, InMemoryDataset
from torch_geometric.datasets import TUDataset
from torch_geometric.loader import DataLoader
from torch_geometric.transforms import Compose

from graftkit.methods.hgoe.pixels import digit_images, image_graphs, patch_images
from graftkit.methods.hgoe.streams import stream
from graftkit.pyg import (
    BoundaryAwareOELoss,
    EnergyGIN,
    GOODDLite,
    GraphSVDD,
    HGOEConfig,
    HGOEHarmonize,
    HGOEStructuralEncoding,
    OutlierExposureDataset,
    OutlierExposureLoader,
    fit_outlier_exposure,
    ood_metrics,
    score_graphs,
)
from graftkit.pyg.hgoe_graphs import to_data_list
from tests.plugins.hgoe.families import generate_family

ARMS = ("base", "external", "internal", "HGOE", "official", "unweighted", "shuffled")
BOUND = "alike"  # external graphs of the test's own kinds: no rival, a bound
DETECTORS = ("energy", "svdd", "good-d")
TU = {"AIDS->DHFR": ("AIDS", "DHFR"), "BZR->COX2": ("BZR", "COX2")}
EPOCHS = {"AIDS->DHFR": 20, "BZR->COX2": 60, "near": 40, "far": 40, "pixels": 40}
NAMES = ("AIDS", "BZR", "COX2", "DHFR", "NCI1")
ID_FAMILIES = ("two blocks", "core", "small world")
SCENARIOS = {
    "near": (("random", "clustered", "four blocks"), ("tree", "grid", "hub")),
    "far": (("tree", "grid", "hub"), ("preferential", "regular", "geometric")),
}  # scenario: (test OOD, external)

Graphs = list[Data]


class Stored(InMemoryDataset):
    """Graphs packed once, so that batches are gathered instead of collated."""

    def __init__(self, graphs: Graphs) -> None:
        super().__init__(None)
        self.data, self.slices = self.collate(graphs)


class Task:
    """One split: ID train and test, OOD test sets, external sets, and what the model reads from a graph."""

    def __init__(
        self, train: Graphs, test: Graphs, ood: dict[str, Graphs], external: dict[str, Graphs], read: Any,
        alike: dict[str, Graphs] | None = None,
    ) -> None:  # fmt: skip
        self.train, self.external, self.read, self.alike = train, external, read, alike or {}
        self.seen = Stored([read(graph) for graph in train])
        self.test = [read(graph) for graph in test]
        self.ood = {name: [read(graph) for graph in graphs] for name, graphs in ood.items()}
        self.width = int(self.seen[0].x.shape[1])
        self.structural = int(self.seen[0].x_s.shape[1])
        self.classes = int(max(int(graph.y) for graph in train)) + 1


@cache
def tu_graphs(root: str, name: str) -> tuple[Data, ...]:
    """A TU data set through PyG's own class, every node feature 1 as published, encodings added."""
    with tempfile.TemporaryDirectory() as folder:
        shutil.copytree(Path(root) / "tu" / name, Path(folder) / name, copy_function=shutil.copyfile)
        (Path(folder) / name).chmod(0o755)
        dataset = TUDataset(folder, name)
        graphs = [HGOEHarmonize("constant")(graph) for graph in dataset]
    for graph in graphs:
        for key in ("edge_attr",):
            if key in graph:
                del graph[key]
    return tuple(graphs)


def tu_task(pair: str, seed: int, quick: bool = False) -> Task:
    """90 % of the ID set to train on; the rest and as many graphs of the OOD set, drawn by seed, to test."""
    root = os.environ["GRAFTKIT_DATA"]
    inside, outside = TU[pair]
    graphs = list(tu_graphs(root, inside))
    order = torch.randperm(len(graphs), generator=stream(seed, "split")).tolist()
    if quick:
        order = order[:100]
    cut = round(0.9 * len(order))
    strange = tu_graphs(root, outside)
    drawn = torch.randperm(len(strange), generator=stream(seed, "ood"))[: len(order) - cut].tolist()
    names = [name for name in NAMES if name not in (inside, outside)][: 1 if quick else None]
    return Task(
        [graphs[k] for k in order[:cut]],
        [graphs[k] for k in order[cut:]],
        {outside: [strange[k] for k in drawn]},
        {name: list(tu_graphs(root, name)) for name in names},
        HGOEStructuralEncoding(),
    )


def family_task(scenario: str, seed: int, quick: bool = False) -> Task:
    """Experiment A of the specification."""
    train, test = (20, 10) if quick else (100, 50)

    def made(name: str, count: int, part: int, label: int = 0) -> Graphs:
        return to_data_list(generate_family(name, count, seed=10 * seed + part), y=torch.tensor([label]))

    strange, external = SCENARIOS[scenario]
    read = Compose([HGOEHarmonize("structural", 8, 12), HGOEStructuralEncoding(8, 12)])
    return Task(
        [g for k, name in enumerate(ID_FAMILIES) for g in made(name, train, 0, k)],
        [g for k, name in enumerate(ID_FAMILIES) for g in made(name, test, 1, k)],
        {scenario: [g for name in strange for g in made(name, test, 2)]},
        {name: made(name, train, 3) for name in external},
        read,
        {name: made(name, train, 4) for name in strange},
    )


class WithStructure:
    """Brightness beside the encoding, both in ``x``."""

    def __call__(self, data: Data) -> Data:
        data = HGOEStructuralEncoding(8, 9)(data)
        data.x = torch.cat([data.x, data.x_s], 1)
        return data


def pixel_task(seed: int, quick: bool = False) -> Task:
    """Experiment B of the specification: digits 0 to 4 as pixel graphs."""
    images, labels = digit_images()
    rng = np.random.default_rng(seed)
    train_count, test_count = (20, 10) if quick else (120, 50)

    def graphs(chosen: np.ndarray, threshold: Any, y: np.ndarray | None = None) -> Graphs:
        listed = to_data_list(image_graphs(chosen, threshold))
        for k, graph in enumerate(listed):
            graph.y = torch.tensor([0 if y is None else int(y[k])])
        return listed

    rows = [rng.permutation(np.flatnonzero(labels == digit)) for digit in range(10)]
    train = np.concatenate([r[:train_count] for r in rows[:5]])
    test = np.concatenate([r[train_count : train_count + test_count] for r in rows[:5]])
    other = np.concatenate([r[:test_count] for r in rows[5:]])
    unseen = np.concatenate([r[test_count : test_count + train_count] for r in rows[5:]])

    def shuffled(chosen: np.ndarray) -> np.ndarray:
        return rng.permuted(images[chosen].reshape(len(chosen), -1), axis=1).reshape(-1, 8, 8)

    patches, threshold = patch_images(5 * train_count, seed)
    return Task(
        graphs(images[train], 4, labels[train]),
        graphs(images[test], 4, labels[test]),
        {
            "thin": graphs(images[test], 10),
            "invert": graphs(16 - images[test], 4),
            "shuffle": graphs(shuffled(test), 4),
            "newclass": graphs(images[other], 4),
        },
        {"photographs": graphs(patches, threshold)},
        WithStructure(),
        {
            "thin": graphs(images[train], 10),
            "invert": graphs(16 - images[train], 4),
            "shuffle": graphs(shuffled(train), 4),
            "newclass": graphs(images[unseen], 4),
        },
    )


def outliers_of(task: Task, arm: str, seed: int) -> Graphs:
    """Training outliers of an arm; none for the base."""
    inside = arm in ("internal", "HGOE", "unweighted")
    outside = arm in ("external", "HGOE", "unweighted", "shuffled", BOUND)
    if arm == "base":
        return []
    config = HGOEConfig(
        rate_external=0.5 if outside else 0.0, rate_internal=0.5 if inside else 0.0, leak="drop",
        rw_dim=8, degree_dim=12,
    )  # fmt: skip
    if arm == "official":
        outside, config = True, HGOEConfig.official(rw_dim=8, degree_dim=12)
    sets = task.alike if arm == BOUND else task.external
    made = OutlierExposureDataset(task.train, sets if outside else {}, config, seed=seed)
    graphs = [made[k] for k in range(len(made))]
    if arm == "shuffled":
        graphs += shuffled_copies(task.train, len(task.train) - len(graphs), seed)
    read = [task.read(graph) for graph in graphs]
    for graph in read:
        graph.y = torch.tensor([-1])
        for key in ("source", "edge_attr"):
            if key in graph:
                del graph[key]
    return read


def shuffled_copies(graphs: Graphs, count: int, seed: int) -> Graphs:
    """The control: ID graphs with as many edges as they have, at random places, features kept."""
    generator = stream(seed, "shuffled")
    result = []
    for k in torch.randperm(len(graphs), generator=generator)[:count].tolist():
        n, edges = graphs[k].num_nodes, graphs[k].num_edges // 2
        low, high = torch.tril_indices(n, n, -1).flip(0)
        chosen = torch.randperm(len(low), generator=generator)[:edges]
        pair = torch.stack([low[chosen], high[chosen]])
        copied = Data(edge_index=torch.cat([pair, pair.flip(0)], 1), y=torch.tensor([-1]))
        if graphs[k].x is None:
            copied.num_nodes = n
        else:
            copied.x = graphs[k].x
        result.append(copied)
    return result


def make_detector(name: str, task: Task, seed: int) -> Any:
    makers: dict[str, Callable[[], Any]] = {
        "energy": lambda: EnergyGIN(task.width, task.classes, seed=seed),
        "svdd": lambda: GraphSVDD(task.width, seed=seed),
        "good-d": lambda: GOODDLite(task.width, task.structural, seed=seed),
    }
    return makers[name]()


def run(task: Task, detector_name: str, arm: str, seed: int, epochs: int, outliers: Graphs) -> dict[str, Any]:
    """Train one arm and test it on every OOD set."""
    detector = make_detector(detector_name, task, seed)
    start = time.perf_counter()
    # The base has a loader too, of the ID graphs' own order, so that all arms see the same ID batches.
    loader = OutlierExposureLoader(
        task.seen, Stored(outliers) if outliers else task.seen, batch_size=128, seed=seed
    )
    loss = None if arm == "base" else BoundaryAwareOELoss(gamma=0.0 if arm == "unweighted" else 2.0)
    optimizer = torch.optim.Adam(detector.parameters(), lr=1e-3)
    fit_outlier_exposure(detector, loader, loss, optimizer, epochs)
    seconds = time.perf_counter() - start
    result = {}
    for name, strange in task.ood.items():
        both = [Data(**{k: g[k] for k in ("x", "x_s", "edge_index")}) for g in [*task.test, *strange]]
        order = torch.randperm(len(both), generator=stream(seed, "test"))
        truth = order >= len(task.test)
        scores = score_graphs(detector, DataLoader([both[k] for k in order.tolist()], batch_size=128))
        result[name] = {**ood_metrics(truth, scores), "id": len(task.test), "ood": len(strange)}
    return {"metrics": result, "seconds": seconds, "epochs": epochs, "outliers": len(outliers)}
