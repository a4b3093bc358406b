"""Train mmsegmentation with AUCSeg in several processes, under mmengine's own launcher.

    python examples/distributed/aucseg.py --no-bank                        # one process
    torchrun --nproc-per-node 2 examples/distributed/aucseg.py --no-bank   # two, the same result

``sync=True`` compares pixels over the pictures of all processes. With the memory bank results differ: each
process has a bank of its own, filled from its part of the batches. The network has group normalisation,
since torch has no synchronised batch normalisation for CPUs; on GPUs set ``sync_bn = "torch"`` in a config.
"""

import argparse
import os
import tempfile
import warnings
from pathlib import Path

import torch
import torch.distributed as dist
from mmengine.config import Config
from mmengine.dist import get_dist_info, is_main_process
from mmengine.model import is_model_wrapper
from mmengine.runner import Runner
from safetensors.torch import save_file

from graftkit.methods.aucseg import data as scenes

CONFIG = Path(__file__).resolve().parents[1] / "configs" / "aucseg" / "small.py"
GROUP_NORM = {"type": "GN", "num_groups": 4}
BATCH = 8


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--iterations", type=int, default=8)
    parser.add_argument("--no-bank", action="store_true", help="paste nothing")
    parser.add_argument("--out", type=Path, default=Path("out"), help="folder for the weights")
    options = parser.parse_args(argv)
    several = "LOCAL_RANK" in os.environ
    if several and not torch.cuda.is_available():
        dist.init_process_group("gloo")  # mmengine's launcher would ask for a GPU; it takes what is there
    rank, world = get_dist_info()

    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # mmsegmentation's own
        scenes.write_split(Path(folder) / "train", *scenes.street_scenes(40, random_state=0))
        cfg = Config.fromfile(CONFIG)
        data = cfg.train_dataloader
        data.batch_size = BATCH // world  # the sampler deals pictures out in turn: one global batch for all
        data.dataset.data_root = folder
        data.dataset.metainfo = {
            "classes": scenes.SCENE_CLASSES,
            "palette": [[k, k, k] for k in range(len(scenes.SCENE_CLASSES))],
        }
        # Random transforms would draw in another order in each process.
        data.dataset.pipeline = [
            {"type": t} for t in ("LoadImageFromFile", "LoadAnnotations", "PackSegInputs")
        ]
        cfg.model.data_preprocessor.size = (48, 64)
        cfg.model.backbone.update(base_channels=8, stem_channels=8, norm_cfg=GROUP_NORM)
        cfg.model.decode_head.update(
            in_channels=32, num_classes=len(scenes.SCENE_CLASSES), norm_cfg=GROUP_NORM,
            loss_decode=[{"type": "CrossEntropyLoss"}, {"type": "AUCSegLoss", "sync": True}],
        )  # fmt: skip
        bank = {"type": "TMemoryBankHook", "tail_classes": ["sign", "pedestrian"], "sample_ratio": 1}
        cfg.custom_hooks = [] if options.no_bank else [bank]
        cfg.val_dataloader = cfg.val_cfg = cfg.val_evaluator = None
        cfg.optim_wrapper.optimizer = {"type": "SGD", "lr": 0.05, "momentum": 0.9}
        cfg.param_scheduler = []
        cfg.train_cfg.max_iters = options.iterations
        cfg.launcher = "pytorch" if several else "none"
        if not torch.cuda.is_available():
            cfg.model_wrapper_cfg = {"type": "MMDistributedDataParallel", "device_ids": None}
        cfg.work_dir, cfg.experiment_name = f"{folder}/work", f"aucseg-{rank}"
        runner = Runner.from_cfg(cfg)
        runner.train()
    model = runner.model.module if is_model_wrapper(runner.model) else runner.model
    if is_main_process():
        print(f"{options.iterations} iterations, {world} process(es)")
        options.out.mkdir(parents=True, exist_ok=True)
        save_file(model.state_dict(), options.out / "aucseg_weights.safetensors")
    if several:
        dist.destroy_process_group()


if __name__ == "__main__":
    main()
