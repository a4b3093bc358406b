"""CamVid in mmengine's Runner: the shipped config with one arm's losses and hooks, trained and measured."""

import tempfile
import time
import zipfile
from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmengine.runner import Runner

from graftkit.methods.aucseg import count_pixels
from graftkit.methods.aucseg.data import CAMVID_CLASSES, CAMVID_GROUPS, load_camvid

CONFIGS = Path(__file__).resolve().parents[2] / "examples" / "configs" / "aucseg"
AUC = {"type": "AUCSegLoss", "loss_weight": 1.0}
BANK = {
    "type": "TMemoryBankHook",
    "tail_classes": [CAMVID_CLASSES[c] for c in CAMVID_GROUPS["tail"]],
    "sample_ratio": 1,
    "resize_ratio": 1,
}
# Losses and hooks by arm; "weighted" stands for cross-entropy with weights 1/sqrt(frequency). mmseg's focal
# loss cannot take part: on a CPU, 1.4.2 multiplies scores (N, C) with labels (N,) and stops.
ARMS: dict[str, tuple[list[Any], list[Any]]] = {
    "CE": (["CE"], []),
    "CE + AUC + bank": (["CE", AUC], [BANK]),
    "weighted CE": (["weighted"], []),
    "weighted CE + AUC + bank": (["weighted", AUC], [BANK]),
    "CE + AUC": (["CE", AUC], []),
    "CE + bank": (["CE"], [BANK]),
    "CE + Lovasz": (["CE", {"type": "LovaszLoss", "reduction": "none"}], []),
}
MORE_ARMS: dict[str, tuple[list[Any], list[Any]]] = {
    "weighted CE + AUC": (["weighted", AUC], []),
    "weighted CE + bank": (["weighted"], [BANK]),
}
NORM = {"type": "BN", "requires_grad": True}
ARCHITECTURES: dict[str, dict[str, Any] | None] = {
    "ResNet-18, 16 channels": None,  # as in base.py
    "Fast-SCNN, narrow": {
        "backbone": {
            "type": "FastSCNN",
            "downsample_dw_channels": (16, 24),
            "global_in_channels": 32,
            "global_block_channels": (32, 48, 64),
            "global_block_strides": (2, 2, 1),
            "global_out_channels": 64,
            "higher_in_channels": 32,
            "lower_in_channels": 64,
            "fusion_out_channels": 64,
            "out_indices": (0, 1, 2),
            "norm_cfg": NORM,
            "align_corners": False,
        },
        "decode_head": {
            "type": "DepthwiseSeparableFCNHead",
            "in_channels": 64,
            "channels": 64,
            "concat_input": False,
            "num_classes": len(CAMVID_CLASSES),
            "in_index": -1,
            "norm_cfg": NORM,
            "align_corners": False,
            "dropout_ratio": 0.0,
        },
    },
}


def unpack(archive: Path) -> Path:
    """CamVid as folders, for mmseg's own loaders."""
    folder = Path(tempfile.mkdtemp(prefix="camvid"))
    with zipfile.ZipFile(archive) as file:
        file.extractall(folder)
    return folder


def class_weights(archive: Path) -> list[float]:
    """1/sqrt(frequency) over the training labels, mean 1."""
    counts = count_pixels(load_camvid(archive, "train")[1], len(CAMVID_CLASSES)).double()
    weights = (counts / counts.sum()).rsqrt()
    return [round(w, 6) for w in (weights / weights.mean()).tolist()]


def train(
    arm: str, architecture: str, seed: int, folder: Path, weights: list[float], iterations: int
) -> dict[str, Any]:
    """Train one arm and measure the last iteration on the validation pictures."""
    cfg = Config.fromfile(CONFIGS / "base.py")
    losses, hooks = {**ARMS, **MORE_ARMS}[arm]
    named = {
        "CE": {"type": "CrossEntropyLoss"},
        "weighted": {"type": "CrossEntropyLoss", "class_weight": weights},
    }
    chosen = ARCHITECTURES[architecture]
    if chosen is not None:
        cfg.model.backbone, cfg.model.decode_head = chosen["backbone"], dict(chosen["decode_head"])
    cfg.model.decode_head.loss_decode = [named[loss] if isinstance(loss, str) else loss for loss in losses]
    cfg.custom_hooks = hooks
    for loader in (cfg.train_dataloader, cfg.val_dataloader):
        loader.dataset.data_root = str(folder)
    cfg.train_cfg.update(max_iters=iterations, val_interval=10**9)
    warm, decay = cfg.param_scheduler
    warm.end = decay.begin = iterations // 4
    decay.end = iterations
    cfg.val_evaluator.per_class = True
    groups = {"tail": cfg.val_evaluator.groups.tail}
    cfg.val_evaluator = [cfg.val_evaluator, {"type": "PixelAUCMetric", "groups": groups}]
    cfg.default_hooks.update(checkpoint=None, logger=None)
    cfg.randomness = {"seed": seed}
    cfg.log_level = "ERROR"
    with tempfile.TemporaryDirectory() as work:
        cfg.work_dir = work
        cfg.experiment_name = f"{arm}-{architecture}-{seed}-{time.time_ns()}".replace(" ", "").replace(
            ",", ""
        )
        runner = Runner.from_cfg(cfg)
        wall, cpu = time.perf_counter(), time.process_time()
        runner.train()
        seconds, cpu_seconds = time.perf_counter() - wall, time.process_time() - cpu
        metrics = runner.val()
    keep = {name: round(float(value), 3) for name, value in metrics.items()}
    return {
        "section": "quality",
        "arm": arm,
        "architecture": architecture,
        "seed": seed,
        "iterations": iterations,
        "seconds": round(seconds, 1),
        "cpu_seconds": round(cpu_seconds, 1),
        "metrics": keep,
    }
