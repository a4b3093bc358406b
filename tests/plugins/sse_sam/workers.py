"""What each of two gloo processes runs; results come back as files."""

import copy
import os
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel

from graftkit.torch import SSESAM
from tests.plugins.sse_sam.loops import counted, mixed_batches, weights

SWITCH = 2


def net() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(5, 8), nn.LayerNorm(8), nn.Tanh(), nn.Linear(8, 4)).double()


def batches() -> list[tuple[Tensor, Tensor]]:
    """Batches of 12, of which each process sees a half; in some a process, or both, sees no tail."""
    result = []
    for k, (x, y) in enumerate(mixed_batches(n=5)):
        y = y.clone()
        if k in (0, 3):
            y[6:] = y[6:].clamp(max=2)  # the second process has no tail
        if k == 4:
            y = y.clamp(max=2)  # nobody has
        result.append((x, y))
    return result


def optimizer_for(module: nn.Module, **kwargs) -> SSESAM:
    options = {"lr": 0.3, "momentum": 0.9, "tail_classes": [3], "switch_step": SWITCH, **kwargs}
    return SSESAM(module.parameters(), **options)


def halves(rank: int, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    rows = slice(0, 6) if rank == 0 else slice(6, 12)
    return x[rows], y[rows]


def closure_of(model: nn.Module, x: Tensor, y: Tensor):
    def closure(index: Tensor | None = None) -> tuple[Tensor, Tensor]:
        a, b = (x, y) if index is None else (x[index], y[index])
        return F.cross_entropy(model(a), b, reduction="none"), b

    return closure


def closures(rank: int, **kwargs) -> Tensor:
    model = net()
    ddp = DistributedDataParallel(model)
    optimizer = optimizer_for(model, model=ddp, **kwargs)
    for x, y in batches():
        optimizer.step(closure_of(ddp, *halves(rank, x, y)))
    return weights(model)


def copied(rank: int) -> Tensor:
    """An optimizer that knows its DDP model, copied before it steps."""
    model = net()
    optimizer = optimizer_for(model, model=DistributedDataParallel(model))
    model, optimizer = copy.deepcopy((model, optimizer))
    for x, y in batches():
        optimizer.step(closure_of(model, *halves(rank, x, y)))
    return weights(model)


def explicit(rank: int, **kwargs) -> Tensor:
    model = net()
    ddp = DistributedDataParallel(model)
    optimizer = optimizer_for(model, **kwargs)
    for x, y in batches():
        closure = closure_of(ddp, *halves(rank, x, y))
        optimizer.first_step(*closure())
        for part in optimizer.parts:
            with optimizer.perturbed(part):
                optimizer.second_step(*closure())
        optimizer.step()
    return weights(model)


def loop(
    rank: int,
    *,
    accumulate: bool = False,
    inner: bool = False,
    clip: float | None = None,
    views: bool = False,
    **kwargs,
) -> Tensor:
    model = net()
    ddp = DistributedDataParallel(model, gradient_as_bucket_view=views)
    criterion = nn.CrossEntropyLoss()
    optimizer = optimizer_for(model, **kwargs)
    optimizer.watch(model if inner else ddp, criterion)
    for x, y in batches():
        x, y = halves(rank, x, y)
        optimizer.zero_grad()
        if accumulate:
            with ddp.no_sync():
                (criterion(ddp(x[:3]), y[:3]) / 2).backward()
            (criterion(ddp(x[3:]), y[3:]) / 2).backward()
        else:
            criterion(ddp(x), y).backward()
        if clip is not None:
            torch.nn.utils.clip_grad_norm_(model.parameters(), clip)
        places = [p.grad.data_ptr() for p in model.parameters()]
        optimizer.step()
        if places != [p.grad.data_ptr() for p in model.parameters()]:
            raise RuntimeError("a gradient has left the memory that DDP may look at")
    return weights(model)


class Branching(nn.Module):
    """The first process's samples use one more layer."""

    def __init__(self) -> None:
        super().__init__()
        self.body = net()
        with torch.random.fork_rng():
            torch.manual_seed(1)
            self.extra = nn.Linear(5, 4).double()

    def forward(self, x: Tensor) -> Tensor:
        first = x[:, 4] == 0
        output = self.body(x)
        if bool(first.any()):
            output = output.index_add(0, torch.nonzero(first).flatten(), self.extra(x[first]))
        return output


def branching_batches() -> list[tuple[Tensor, Tensor]]:
    result = batches()
    for x, _ in result:
        x[:6, 4] = 0
    return result


def accumulated(rank: int) -> Tensor:
    """Each process perturbs by its own micro-batch; they meet in step()."""
    model = net()
    optimizer = optimizer_for(model)
    for x, y in batches():
        optimizer.accumulate(closure_of(model, *halves(rank, x, y)))
        optimizer.step()
    return weights(model)


def never_used(rank: int) -> bool:
    """A parameter that no process uses keeps no gradient, so that weight decay leaves it alone."""
    model = net()
    model.register_parameter("spare", nn.Parameter(torch.ones(2, dtype=torch.float64)))
    optimizer = optimizer_for(model, weight_decay=0.1)
    optimizer.step(closure_of(model, *halves(rank, *batches()[0])))
    return model.spare.grad is None and bool((model.spare == 1).all())


def unused(rank: int, **kwargs) -> Tensor:
    model = Branching()
    ddp = DistributedDataParallel(model, find_unused_parameters=True)
    criterion = nn.CrossEntropyLoss()
    optimizer = optimizer_for(model, **kwargs)
    optimizer.watch(ddp, criterion)
    for x, y in branching_batches():
        x, y = halves(rank, x, y)
        optimizer.zero_grad()
        criterion(ddp(x), y).backward()
        optimizer.step()
    return weights(model)


def sharded_accumulation(rank: int) -> Tensor:
    from torch.distributed.fsdp import fully_shard

    model = net()
    fully_shard(model, mesh=dist.init_device_mesh("cpu", (2,)))
    optimizer_for(model).accumulate(closure_of(model, *halves(rank, *batches()[0])))
    return torch.zeros(1)


def work_of_stage_2(rank: int, *, tail: bool, **kwargs) -> float:
    """Forward+backward units of one watched step of stage 2, with a third of tail samples or without any."""
    model = net()
    ddp = DistributedDataParallel(model)
    criterion = nn.CrossEntropyLoss()
    optimizer = optimizer_for(model, **{**kwargs, "switch_step": 0})
    optimizer.watch(ddp, criterion)
    x, _ = halves(rank, *batches()[0])
    y = torch.tensor([0, 1, 2, 0, 3, 3] if tail else [0, 1, 2, 0, 1, 2])
    with counted(model[0], len(x)) as work:
        criterion(ddp(x), y).backward()
        optimizer.step()
    return work.units


def sharded(rank: int, *, form: str = "closure", nested: bool = False, **kwargs) -> Tensor:
    from torch.distributed.fsdp import fully_shard

    mesh = dist.init_device_mesh("cpu", (2,))
    model = net()
    if nested:
        fully_shard(model[0], mesh=mesh)
    fully_shard(model, mesh=mesh)
    criterion = nn.CrossEntropyLoss()
    optimizer = optimizer_for(model, **kwargs)
    if form == "loop":
        optimizer.watch(model, criterion)
    for x, y in batches():
        x, y = halves(rank, x, y)
        if form == "loop":
            optimizer.zero_grad()
            criterion(model(x), y).backward()
            optimizer.step()
        else:
            optimizer.step(closure_of(model, x, y))
    return torch.cat([p.detach().full_tensor().flatten() for p in model.parameters()])


def one_bad_rank(rank: int) -> Tensor:
    model = net()
    optimizer = optimizer_for(model, sync_perturbation=False)
    x, y = halves(rank, *batches()[0])
    factor = float("nan") if rank == 1 else 1.0
    optimizer.step(lambda: (F.cross_entropy(model(x), y, reduction="none") * factor, y))
    return weights(model)


def run(rank: int, folder: str, cases: dict) -> None:
    """Run every case in one pair of processes: starting a pair is what costs."""
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    torch.set_num_threads(1)
    store = dist.FileStore(str(Path(folder) / "store"), 2)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=2, timeout=timedelta(seconds=60))
    results = {}
    try:
        for name, (case, kwargs) in cases.items():
            try:
                results[name] = globals()[case](rank, **kwargs)
            except (RuntimeError, ValueError) as error:
                results[name] = f"{type(error).__name__}: {error}"
        torch.save(results, Path(folder) / f"{rank}.pt")
    finally:
        dist.destroy_process_group()
