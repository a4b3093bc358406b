"""Gradients without touching ``.grad``, and their average over processes.

``torch.autograd.grad`` leaves ``.grad`` and DistributedDataParallel's reducer alone: two backwards on one
forward, synchronised by DDP, give a wrong result without any error (specification section 3.6). Distributed
tensors (FSDP2) need ``backward()``, whose result is collected and put aside.

>>> w = torch.nn.Parameter(torch.ones(2))
>>> differentiate([(w * w).sum()], [None], [w])
[tensor([2., 2.])]
"""

from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch._utils import _flatten_dense_tensors, _unflatten_dense_tensors

from graftkit.methods.sse_sam.arithmetic import Gradients, any_sharded

__all__ = ["Processes", "differentiate"]

_ENGINE: Any = torch.autograd.Variable._execution_engine
_TYPES = {Tensor, torch.nn.Parameter}


def differentiate(
    outputs: Sequence[Tensor],
    grad_outputs: Sequence[Tensor | None],
    params: Sequence[Tensor],
    *,
    retain_graph: bool = False,
) -> Gradients:
    """Differentiate outputs with respect to parameters.

    Parameters
    ----------
    outputs : sequence of Tensor
        What to differentiate; those without a graph are left out.
    grad_outputs : sequence of Tensor or None
        The gradient that arrives at each; ``None`` for a scalar's 1.
    params : sequence of Tensor
        Leaves that require a gradient.
    retain_graph : bool, default=False
        Whether another backward follows on the same graph.

    Returns
    -------
    list of Tensor or None
        One gradient a parameter, ``None`` for unused ones.
    """
    heads, seeds = list(outputs), list(grad_outputs)
    if not all(o.requires_grad for o in heads):
        live = [(o, g) for o, g in zip(outputs, grad_outputs, strict=True) if o.requires_grad]
        heads, seeds = [o for o, _ in live], [g for _, g in live]
    if not heads or not params:
        return [None] * len(params)
    if not any_sharded(params):
        if _plain([*params, *heads, *seeds]):
            # The engine itself: what torch.autograd.grad adds for subclasses, batched gradients and the
            # threads of other devices takes a share of a small model's step that one notices.
            found = _ENGINE.run_backward(
                tuple(heads),
                tuple(seeds),
                retain_graph,
                False,
                tuple(params),
                allow_unreachable=True,
                accumulate_grad=False,
            )
        else:
            found = torch.autograd.grad(heads, params, seeds, retain_graph=retain_graph, allow_unused=True)
        return _in_own_memory(found)
    kept = [p.grad for p in params]
    try:
        for p in params:
            p.grad = None
        torch.autograd.backward(heads, seeds, retain_graph=retain_graph)
        return [p.grad for p in params]
    finally:
        for p, grad in zip(params, kept, strict=True):
            p.grad = grad


def _plain(tensors: Sequence[Tensor | None]) -> bool:
    """Whether all are tensors on the CPU, and neither a type nor a mode overrides torch's functions."""
    return (
        {type(t) for t in tensors} <= _TYPES
        and all(t is not None and t.device.type == "cpu" for t in tensors)
        and not torch._C._len_torch_function_stack()
    )


def _in_own_memory(grads: Sequence[Tensor | None]) -> Gradients:
    """Give every gradient memory of its own, as ``backward()`` does, because they are worked on in place.

    Two parameters that are added share one gradient tensor, and that of a plain sum repeats one number.
    """
    taken: set[int] = set()
    own: Gradients = list(grads)
    for i, grad in enumerate(grads):
        if grad is not None and grad.layout is torch.strided and grad.numel() > 0:
            repeats = not grad.is_contiguous() and any(
                stride == 0 and size > 1 for stride, size in zip(grad.stride(), grad.shape, strict=True)
            )
            place = grad.data_ptr()
            if repeats or place in taken:
                own[i] = grad.clone(memory_format=torch.contiguous_format)
            taken.add(place)
    return own


class Processes:
    """The processes that share a step: averages gradients and settles what all must agree on.

    Parameters
    ----------
    group : torch.distributed.ProcessGroup or None
        ``None`` for a single process; every method is then the identity.
    averaged : bool, default=False
        Whether backward averages the gradients already, as FSDP2's does.
    """

    def __init__(self, group: "dist.ProcessGroup | None", *, averaged: bool = False) -> None:
        self.group, self.averaged = group, averaged
        self.size = dist.get_world_size(group) if group is not None else 1

    def average(self, grads: Gradients, params: Sequence[Tensor]) -> Gradients:
        """Average a gradient over the processes, one flat all-reduce for each dtype.

        Parameters
        ----------
        grads : list of Tensor or None
            This process's; ``None`` counts as zero and every process joins.
        params : sequence of Tensor
            Give shape and dtype to what is missing.

        Returns
        -------
        list of Tensor or None
            The mean; ``None`` where no process had a gradient.
        """
        if self.size == 1 or self.averaged:
            return grads
        dense = [torch.zeros_like(p) if g is None else g.to_dense() if g.is_sparse else g
                 for g, p in zip(grads, params, strict=True)]  # fmt: skip
        present = torch.tensor([g is not None for g in grads], dtype=torch.uint8, device=params[0].device)
        dist.all_reduce(present, op=dist.ReduceOp.MAX, group=self.group)
        buckets: dict[torch.dtype, list[int]] = {}
        for i, g in enumerate(dense):
            buckets.setdefault(g.dtype, []).append(i)
        for indices in buckets.values():
            tensors = [dense[i] for i in indices]
            flat = _flatten_dense_tensors(tensors)
            dist.all_reduce(flat, group=self.group)
            flat /= self.size
            for i, mean in zip(indices, _unflatten_dense_tensors(flat, tensors), strict=True):
                dense[i] = mean
        return [g if seen else None for g, seen in zip(dense, present.tolist(), strict=True)]

    def any(self, flags: Sequence[bool], device: torch.device) -> tuple[bool, ...]:
        """Tell for each flag whether it holds on any process.

        Parameters
        ----------
        flags : sequence of bool
            This process's.
        device : torch.device
            Where the collective runs.

        Returns
        -------
        tuple of bool
            The same on every process.
        """
        if self.size == 1:
            return tuple(flags)
        shared = torch.tensor(flags, dtype=torch.uint8, device=device)
        dist.all_reduce(shared, op=dist.ReduceOp.MAX, group=self.group)
        return tuple(bool(flag) for flag in shared.tolist())
