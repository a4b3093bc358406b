"""What each of two gloo processes runs; results come back as files."""

import os
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist

from graftkit.methods.bilt import HierarchicalMetrics
from tests.plugins.bilt.cases import SMALL, batch, head_of


def share(rank: int):
    """Unequal shares of one data set."""
    rows = slice(0, 17) if rank == 0 else slice(17, 20)
    x, y = batch(20, 5, seed=3)
    return head_of(SMALL).eval()(x[rows]), y[rows]


def measure(rank: int, folder: str) -> None:
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    torch.set_num_threads(1)
    store = dist.FileStore(str(Path(folder) / "store"), 2)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=2, timeout=timedelta(seconds=60))
    try:
        metrics = HierarchicalMetrics(SMALL, (1, 2))
        metrics.update(*share(rank))
        results = {"synced": metrics.compute(), "again": metrics.compute()}
        metrics.sync_on_compute = False
        results["local"] = metrics.compute()
        torch.save(results, Path(folder) / f"{rank}.pt")
    finally:
        dist.destroy_process_group()
