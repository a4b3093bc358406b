"""Teach a detector of unknown graphs with outliers: real ones of other data, and ones made between subgroups.

AIDS is known and DHFR comes unknown (with ``--data`` or ``GRAFTKIT_DATA``), or scikit-learn's digits as
pixel graphs and their negatives. A table of the arms, a histogram of scores, a sheet of graphons. One seed.

    python examples/hgoe.py [--data DIR] [--seed N] [--quick] [--out DIR]
"""

import argparse
import os
import shutil
import tempfile
import time
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch_geometric.datasets import TUDataset
from torch_geometric.loader import DataLoader
from tqdm import tqdm

import graftkit.pyg as hg
from graftkit.methods.hgoe.pixels import digit_images, image_graphs, patch_images
from graftkit.pyg.hgoe_graphs import to_data_list

ARMS = {"base": None, "external": (0.5, 0.0), "internal": (0.0, 0.5), "HGOE": (0.5, 0.5)}  # rates


def main(argv: list[str] | None = None) -> dict[str, Any]:
    """Run the example and return the row of the tour's table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--data", type=Path, default=os.getenv("GRAFTKIT_DATA") or None, help="real data")
    parser.add_argument("--seed", type=int, default=0, help="seed of split, outliers and weights")
    parser.add_argument("--quick", action="store_true", help="fewer graphs and epochs, under a minute")
    parser.add_argument("--out", type=Path, default=Path("out"), help="folder for the figures")
    options = parser.parse_args(argv)
    plt.switch_backend("Agg")
    start = time.perf_counter()
    real = options.data and (Path(options.data) / "tu" / "AIDS").exists()
    name, known, unknown, external = _molecules(Path(options.data)) if real else _digits(options.seed)
    order = torch.randperm(len(known), generator=torch.Generator().manual_seed(options.seed)).tolist()
    kept = [known[k] for k in order[: 200 if options.quick else None]]
    cut = round(0.9 * len(kept))
    train, test = kept[:cut], (kept[cut:], unknown[: len(kept) - cut])
    truth = np.repeat([0, 1], [len(side) for side in test])
    scores, figures = {}, {}
    for arm, rates in tqdm(ARMS.items(), desc="arms"):
        detector = hg.EnergyGIN(train[0].num_features, 1 + max(int(g.y) for g in train), seed=options.seed)
        shuffler = torch.Generator().manual_seed(options.seed)
        loader: Any = DataLoader(train, batch_size=128, shuffle=True, generator=shuffler)
        if rates:  # what changes: outliers, a loader that gives pairs, a loss
            config = hg.HGOEConfig(*rates, leak="drop")
            outliers = hg.OutlierExposureDataset(train, external, config, seed=options.seed)
            loader = hg.OutlierExposureLoader(train, outliers, batch_size=128, seed=options.seed)
        loss = hg.BoundaryAwareOELoss() if rates else None
        hg.fit_outlier_exposure(detector, loader, loss, epochs=25 if options.quick else 15)
        scores[arm] = np.concatenate([hg.score_graphs(detector, DataLoader(side, 128)) for side in test])
        figures[arm] = hg.ood_metrics(truth, scores[arm])
    table = Table("outliers", *figures["base"], title=f"energy detector on {name}, one seed")
    for arm, values in figures.items():
        table.add_row(arm, *(f"{value:.3f}" for value in values.values()))
    Console().print(table)
    _draw(scores, truth, hg.GraphonMixup(seed=options.seed).fit(train), options.out)
    best = max((arm for arm in figures if arm != "HGOE"), key=lambda arm: figures[arm]["AUROC"])
    beside, ours = (f"{figures[arm]['AUROC']:.3f}" for arm in (best, "HGOE"))
    row = {"method": "HGOE", "host": "PyTorch Geometric", "data": name, "metric": "AUROC", "figures": figures}
    row |= {"baseline": f"{best} {beside}", "ours": ours, "seconds": round(time.perf_counter() - start, 1)}
    return {**row, "figure": str(options.out / "hgoe.png")}


def _molecules(data: Path) -> tuple[str, list[Any], list[Any], dict[str, list[Any]]]:
    constant = hg.HGOEHarmonize("constant")  # every node feature 1, as published
    with tempfile.TemporaryDirectory() as folder:
        sets = {}
        for name in ("AIDS", "DHFR", "BZR", "COX2"):
            raw = Path(folder) / name / "raw"
            raw.mkdir(parents=True)
            for file in (data / "tu" / name / "raw").iterdir():
                shutil.copyfile(file, raw / file.name)
            sets[name] = list(TUDataset(folder, name, transform=constant))
    return "AIDS, unknown DHFR", sets.pop("AIDS"), sets.pop("DHFR"), sets


def _digits(seed: int) -> tuple[str, list[Any], list[Any], dict[str, list[Any]]]:
    structure = hg.HGOEHarmonize("structural", 8, 9)
    images, labels = digit_images()
    low, labels = images[labels < 5], labels[labels < 5]
    pictures = ((low, 4), (16 - low, 4), patch_images(400, seed))
    known, negatives, patches = (list(map(structure, to_data_list(image_graphs(*p)))) for p in pictures)
    for graph, label in zip(known, labels, strict=True):
        graph.y = torch.tensor([int(label)])
    return "digits, unknown negatives", known, negatives, {"photographs": patches}


def _draw(scores: dict[str, np.ndarray], truth: np.ndarray, mixup: Any, folder: Path) -> None:
    """The histogram; then the subgroups' graphons and, below each, a graph drawn between two of them."""
    folder.mkdir(parents=True, exist_ok=True)
    figure, axes = plt.subplots(1, 2, figsize=(9, 3), layout="constrained")
    for axis, arm in zip(axes, ("base", "HGOE"), strict=True):
        axis.hist([scores[arm][truth == k] for k in (0, 1)], 30, label=["known", "unknown"])
        axis.set(title=arm, xlabel="score")
        axis.legend()
    figure.savefig(folder / "hgoe.png", dpi=120)
    figure, axes = plt.subplots(2, len(mixup.graphons_), figsize=(9, 6), layout="constrained", squeeze=False)
    for k, graphon in enumerate(mixup.graphons_):
        axes[0, k].imshow(graphon.matrix, vmin=0, vmax=1).axes.set_title(f"{graphon.num_graphs} graphs")
        graph = mixup()
        place = np.exp(2j * np.pi * np.arange(graph.num_nodes) / graph.num_nodes)
        ends = place[graph.edge_index.numpy()]
        axes[1, k].plot(ends.real, ends.imag, color="0.6")
        axes[1, k].plot(place.real, place.imag, "o")
    figure.savefig(folder / "hgoe_graphons.png", dpi=120)


if __name__ == "__main__":
    main()
