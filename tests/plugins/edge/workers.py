"""What each of two gloo processes runs; results come back as files."""

import os
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from graftkit.torch import EDGELoss, joint_energy

OPTIONS = {"k": 2, "margin": 1.0}
KNOWN = 6


def net() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 3))


def outliers(rank: int) -> int:
    return 5 - 2 * rank


def inputs(rank: int) -> Tensor:
    return torch.randn(KNOWN + outliers(rank), 4, generator=torch.Generator().manual_seed(10 + rank))


def targets(rank: int) -> Tensor:
    known = (torch.rand(KNOWN, 3, generator=torch.Generator().manual_seed(20 + rank)) < 0.5).float()
    return torch.cat([known, -torch.ones(outliers(rank), 3)])


def run(rank: int, folder: str) -> None:
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    torch.set_num_threads(1)
    store = dist.FileStore(str(Path(folder) / "store"), 2)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=2, timeout=timedelta(seconds=60))
    try:
        model, criterion = DistributedDataParallel(net()), EDGELoss(**OPTIONS)
        logits = model(inputs(rank))
        criterion(logits, targets(rank)).backward()
        results = {
            "gradients": [p.grad.clone() for p in model.parameters()],
            "k_used": criterion.last.k_used,
            "n_oe": criterion.last.n_oe,
            "lowest": float(joint_energy(logits.detach())[:KNOWN].min()),
        }
        model.zero_grad()
        rows = slice(0, KNOWN) if rank == 1 else slice(None)  # process 1 sees known rows only
        criterion(model(inputs(rank)[rows]), targets(rank)[rows]).backward()
        results["gradients alone"] = [p.grad.clone() for p in model.parameters()]
        torch.save(results, Path(folder) / f"{rank}.pt")
    finally:
        dist.destroy_process_group()
