"""Train mmsegmentation on street scenes with a long tail: cross-entropy, with weights, with AUCSeg.

CamVid (with ``--data`` or ``GRAFTKIT_DATA``) or generated scenes. You will see a table of IoU by group of
classes and of the pixel AUC that the loss stands for, and a figure: picture, truth, predictions, and what
the memory bank pasted. The runs are short: arg-max IoU of the tail stays near zero while its ranking already
differs. Weighted cross-entropy costs nothing and is hard to beat; it combines with AUCSeg.

    python examples/aucseg.py [--data DIR] [--seed N] [--quick] [--out DIR]
"""

import argparse
import os
import tempfile
import time
import warnings
import zipfile
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure
from mmengine.config import Config
from mmengine.runner import Runner
from rich.console import Console
from rich.table import Table
from torch import Tensor
from tqdm import tqdm

from graftkit.methods.aucseg import data as scenes
from graftkit.torch import count_pixels

CONFIG = Path(__file__).resolve().parent / "configs" / "aucseg" / "small.py"
COLUMNS = ("mIoU", "mIoU.head", "mIoU.middle", "mIoU.tail", "pixelAUC", "pixelAUC.tail")


def main(argv: list[str] | None = None) -> dict[str, Any]:
    """Run the example and return the row of the tour's table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, default=os.getenv("GRAFTKIT_DATA") or None, help="real data")
    parser.add_argument("--seed", type=int, default=0, help="seed of weights and batches")
    parser.add_argument("--quick", action="store_true", help="fewer iterations, under a minute")
    parser.add_argument("--out", type=Path, default=Path("out"), help="folder for the figure")
    options = parser.parse_args(argv)
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # mmsegmentation's own
        name, classes, groups = _unpack(options.data, Path(folder))
        counts = count_pixels(Path(folder).glob("train/labels/*.png"), len(classes)).double()
        weights = (counts.sum() / counts.clamp(min=1)).sqrt().tolist()
        meta = {"classes": classes, "palette": [[k, k, k] for k in range(len(classes))]}
        ce, weighted = ({"type": "CrossEntropyLoss", "class_weight": w} for w in (None, weights))
        # AUCSeg in a config: a loss beside cross-entropy, and a hook.
        auc = {"type": "AUCSegLoss", "loss_weight": 1.0}
        whole = {"sample_ratio": 1, "resize_ratio": 1}
        bank = {"type": "TMemoryBankHook", "tail_classes": groups["tail"], **whole}
        arms = {"CE": ([ce], []), "weighted CE": ([weighted], []), "CE + AUCSeg": ([ce, auc], [bank]),
                "weighted CE + AUCSeg": ([weighted, auc], [bank])}  # fmt: skip
        figures, runners = {}, {}
        for arm, (losses, hooks) in tqdm(arms.items(), desc="losses"):
            cfg = Config.fromfile(CONFIG)
            for loader in (cfg.train_dataloader, cfg.val_dataloader):
                loader.dataset.update(data_root=folder, metainfo=meta)
            cfg.model.decode_head.update(loss_decode=losses, num_classes=len(classes))
            cfg.val_evaluator = [{"type": t, "groups": groups} for t in ("GroupIoUMetric", "PixelAUCMetric")]
            cfg.custom_hooks, cfg.randomness = hooks, {"seed": options.seed}
            cfg.train_cfg.max_iters = iterations = 12 if options.quick else cfg.iterations
            cfg.work_dir, cfg.experiment_name = f"{folder}/work", f"{arm}-{time.time_ns()}"
            runners[arm] = Runner.from_cfg(cfg)
            runners[arm].train()  # validates at its end
            hub = runners[arm].message_hub
            figures[arm] = {column: hub.get_scalar(f"val/{column}").current() for column in COLUMNS}
        seconds = time.perf_counter() - start
        options.out.mkdir(parents=True, exist_ok=True)
        _figure(runners, torch.tensor(groups["tail"]), path := options.out / "aucseg.png")
    table = Table("loss", *COLUMNS, title=f"{name}, {iterations} iterations, in per cent")
    for arm, values in figures.items():
        table.add_row(arm, *(f"{values[c]:.1f}" for c in COLUMNS))
    Console().print(table)
    best, ours = max(("CE", "weighted CE"), key=lambda a: figures[a]["pixelAUC"]), "weighted CE + AUCSeg"
    return {
        "method": "AUCSeg", "host": "mmsegmentation", "data": name, "metric": "pixel AUC, %",
        "baseline": f"{best} {figures[best]['pixelAUC']:.1f}", "ours": f"{figures[ours]['pixelAUC']:.1f}",
        "seconds": round(seconds, 1), "figure": str(path), "figures": figures,
    }  # fmt: skip


def _unpack(data: str | Path | None, folder: Path) -> tuple[str, tuple[str, ...], dict[str, list[int]]]:
    archive = Path(data) / "camvid" / "camvid_240x180.zip" if data else None
    if archive is not None and archive.exists():
        zipfile.ZipFile(archive).extractall(folder)
        return "CamVid", scenes.CAMVID_CLASSES, scenes.CAMVID_GROUPS
    for split, n, seed in (("train", 120, 0), ("val", 40, 1)):
        scenes.write_split(folder / split, *scenes.street_scenes(n, (90, 120), seed))
    return "generated scenes", scenes.SCENE_CLASSES, scenes.SCENE_GROUPS


def _figure(runners: dict[str, Runner], tail: Tensor, path: Path) -> None:
    """The validation picture with most of the tail, and a training picture with all of it pasted."""
    loader = runners["CE"].val_dataloader
    batch = max(loader, key=lambda b: torch.isin(b["data_samples"][0].gt_sem_seg.data, tail).sum())
    panels = {"picture": batch["inputs"][0], "truth": batch["data_samples"][0].gt_sem_seg.data[0]}
    for arm, runner in runners.items():
        panels[arm] = runner.model.eval().val_step(batch)[0].pred_sem_seg.data[0]
    bank = next(h.bank for h in runners["CE + AUCSeg"].hooks if hasattr(h, "bank"))
    item = runners["CE"].train_dataloader.dataset[0]
    panels["pasted, picture"], panels["pasted, labels"], _ = bank.paste(
        item["inputs"], item["data_samples"].gt_sem_seg.data[0], present=[]
    )
    figure = Figure(figsize=(14, 6), layout="constrained")
    for axis, (title, values) in zip(figure.subplots(2, 4).flat, panels.items(), strict=True):
        picture = values.flip(0).permute(1, 2, 0) if values.ndim == 3 else values % 255
        axis.imshow(picture, cmap="tab20", vmax=19)
        axis.set(title=title, xticks=[], yticks=[])
    figure.savefig(path, dpi=120)


if __name__ == "__main__":
    main()
