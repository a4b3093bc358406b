"""What each of two gloo processes runs; results come back as files."""

import os
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor

from graftkit.torch import pixel_auc_loss
from tests.plugins.aucseg.cases import golden

OPTIONS = {
    "square": {},
    "softmax": {"activation": "softmax"},
    "pooled exp": {"surrogate": "exp", "scheme": "ova", "margin": 0.5},
    "weighted": {"weight": True},
}


def shares() -> list[slice]:
    """Unequal: the first 5 of 6 rows, and the last."""
    return [slice(0, 5), slice(5, 6)]


def rows() -> tuple[Tensor, Tensor, Tensor]:
    """The golden case as 6 "images" of one row, the last of them wholly ignored in one case."""
    x, y = golden()
    weight = 1.0 + torch.arange(24).reshape(6, 1, 4) % 3
    return x.detach().permute(0, 2, 1, 3).reshape(6, 4, 1, 4), y.reshape(6, 1, 4), weight


def case(rank: int, ignored: bool, options: dict) -> tuple[Tensor, Tensor]:
    x, y, weight = rows()
    if ignored:
        y[5:] = 255
    mine = shares()[rank]
    options = dict(options)
    if options.pop("weight", False):
        options["weight"] = weight[mine]
    z = x[mine].clone().requires_grad_()
    loss = pixel_auc_loss(z, y[mine], sync=True, **options)
    loss.backward()
    full = torch.zeros_like(x)
    full[mine] = z.grad
    dist.all_reduce(full)
    return loss.detach(), full / 2  # what DistributedDataParallel does to gradients


def run(rank: int, folder: str) -> None:
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    torch.set_num_threads(1)
    store = dist.FileStore(str(Path(folder) / "store"), 2)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=2, timeout=timedelta(seconds=60))
    results = {}
    try:
        for name, options in OPTIONS.items():
            for ignored in (False, True):
                results[f"{name} {ignored}"] = case(rank, ignored, options)
        y = torch.tensor([[0, 1, 9 if rank == 1 else 0]])
        try:
            pixel_auc_loss(torch.zeros(1, 3, 3), y, sync=True)
        except ValueError as error:
            results["bad label"] = str(error)
        torch.save(results, Path(folder) / f"{rank}.pt")
    finally:
        dist.destroy_process_group()
