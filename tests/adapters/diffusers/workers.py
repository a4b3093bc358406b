"""What other processes run: a share of one extraction into a shared folder, or one that is to be killed."""

import os
from pathlib import Path

import torch
import torch.distributed as dist


def run(rank: int, folder: str) -> None:
    """Extract; a FileStore, so that no port is needed."""
    os.environ.update(GLOO_SOCKET_IFNAME="lo", RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE="2")
    torch.set_num_threads(1)
    store = dist.FileStore(str(Path(folder) / "store"), 2)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=2)
    from graftkit.diffusers import extract_features
    from tests.adapters.diffusers.extraction_cases import ARGUMENTS, make_pipe, pictures

    try:
        cache = extract_features(make_pipe(), pictures(), Path(folder) / "cache", **ARGUMENTS)
        (Path(folder) / f"count-{rank}").write_text(str(len(cache)))
    finally:
        dist.destroy_process_group()


def slowly(folder: str) -> None:
    """Extract one image at a time, a second or more each from the second on."""
    torch.set_num_threads(1)
    import time

    from graftkit.diffusers import extract_features
    from tests.adapters.diffusers.extraction_cases import ARGUMENTS, make_pipe, pictures

    class Slow(list):
        def __getitem__(self, index):
            time.sleep(3 * (index > 0))
            return super().__getitem__(index)

    extract_features(make_pipe(), Slow(pictures()), folder, **{**ARGUMENTS, "batch_size": 1})
