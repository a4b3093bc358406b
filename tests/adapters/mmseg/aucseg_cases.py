"""A config of the shipped family over generated street scenes, small enough to train in seconds."""

import os
import signal
import warnings
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import Runner

with warnings.catch_warnings():  # mmcv-lite says what it lacks
    warnings.simplefilter("ignore")
    import mmseg.models  # noqa: F401

from graftkit.methods.aucseg.data import SCENE_CLASSES, SCENE_GROUPS, street_scenes, write_split

CONFIGS = Path(__file__).resolve().parents[3] / "examples" / "configs" / "aucseg"


@HOOKS.register_module(force=True)
class Spy(Hook):
    """Keeps what each iteration saw and gave; kills the process at a chosen one."""

    priority = "LOW"

    def __init__(self, kill_at: int | None = None) -> None:
        self.kill_at = kill_at
        self.outputs: list[dict[str, Any]] = []
        self.labels: list[torch.Tensor] = []
        self.inputs: list[torch.Tensor] = []
        self.validations: list[dict[str, float]] = []

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None) -> None:
        del batch_idx
        self.outputs.append({name: float(value) for name, value in outputs.items()})
        self.labels.append(torch.stack([s.gt_sem_seg.data[0] for s in data_batch["data_samples"]]))
        self.inputs.append(torch.stack(list(data_batch["inputs"])))
        if self.kill_at is not None and runner.iter + 1 == self.kill_at:
            os.kill(os.getpid(), signal.SIGKILL)

    def after_val_epoch(self, runner, metrics=None) -> None:
        del runner
        self.validations.append(dict(metrics))


def write_scenes(folder: Path, n: int = 16) -> Path:
    """Scenes as mmseg wants them: {train,val}/{images,labels}."""
    for split, seed in (("train", 0), ("val", 1)):
        write_split(folder / split, *street_scenes(n, random_state=seed))
    return folder


def scene_config(
    data: Path, work: Path, arm: str | Path = "ce_auc_bank", iterations: int = 6, **changes: Any
) -> Config:
    """The shipped config of an arm, or of a file: these scenes, no random transforms, a tiny network."""
    cfg = Config.fromfile(arm if isinstance(arm, Path) else CONFIGS / f"{arm}.py")
    for loader in (cfg.train_dataloader, cfg.val_dataloader):
        loader.dataset.data_root = str(data)
        loader.dataset.metainfo = {"classes": SCENE_CLASSES, "palette": [[k, k, k] for k in range(6)]}
        loader.dataset.pipeline = [t for t in loader.dataset.pipeline if not t["type"].startswith("Random")]
    cfg.train_dataloader.batch_size = 4
    cfg.model.data_preprocessor.size = (48, 64)
    cfg.model.backbone.update(base_channels=4, stem_channels=4)
    cfg.model.decode_head.update(in_channels=16, channels=8, num_classes=6)
    cfg.val_evaluator.groups = SCENE_GROUPS
    cfg.train_cfg.update(max_iters=iterations, val_interval=1000)
    cfg.param_scheduler = []
    cfg.default_hooks.logger = {"type": "LoggerHook", "interval": 1, "log_metric_by_epoch": False}
    cfg.default_hooks.checkpoint.interval = 3
    bank = next((hook for hook in cfg.get("custom_hooks", []) if hook["type"] == "TMemoryBankHook"), None)
    if bank is not None:
        bank.update(tail_classes=["sign", "pedestrian"], log_interval=2)
    cfg.custom_hooks = [*cfg.get("custom_hooks", []), {"type": "Spy"}]
    cfg.work_dir, cfg.log_level = str(work), "ERROR"
    cfg.experiment_name = f"{work.name}-{iterations}-{os.getpid()}-{torch.randint(10**9, ()).item()}"
    cfg.merge_from_dict(changes)
    return cfg


def hook_of(runner: Runner, name: str) -> Any:
    return next(hook for hook in runner.hooks if type(hook).__name__ == name)


def trained(cfg: Config) -> Runner:
    runner = Runner.from_cfg(cfg)
    runner.train()
    return runner


def until_killed(cfg_text: str, kill_at: int) -> None:
    """In a process of its own: train, and die without a goodbye."""
    torch.set_num_threads(1)
    cfg = Config.fromstring(cfg_text, ".py")
    cfg.custom_hooks[-1]["kill_at"] = kill_at
    trained(cfg)


def weights(runner: Runner) -> torch.Tensor:
    model = getattr(runner.model, "module", runner.model)
    return torch.cat([p.detach().flatten() for p in model.parameters()])


def two_processes(rank: int, cfg_text: str, port: int, folder: str) -> None:
    """One rank of two under mmengine's own launcher; what it saw goes to a file."""
    os.environ.update(
        RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE="2", MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port),
        GLOO_SOCKET_IFNAME="lo",
    )  # fmt: skip
    torch.set_num_threads(1)
    torch.cuda.set_device = lambda _: None  # mmengine's launcher asks for a CUDA device, gloo needs none
    runner = trained(Config.fromstring(cfg_text, ".py"))
    bank, spy = hook_of(runner, "TMemoryBankHook").bank, hook_of(runner, "Spy")
    torch.save(
        {
            "weights": weights(runner),
            "seed": bank.seed,
            "counts": bank.counts,
            "patches": [p["image"] for kept in bank.state_dict()["patches"] for p in kept],
            "generator": bank.generator.get_state(),
            "losses": [o["decode.loss_auc"] for o in spy.outputs],
            "iter": runner.iter,
        },
        Path(folder) / f"{rank}.pt",
    )
    torch.distributed.destroy_process_group()
