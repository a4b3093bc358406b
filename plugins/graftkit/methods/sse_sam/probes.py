"""By what common factor gradients were multiplied between ``backward()`` and ``step()``.

Norm clipping and unscaling multiply all gradients alike; the final gradient is then multiplied too. A few
small gradients are copied as backward leaves them, and compared at the step.
"""

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor

from graftkit.methods.sse_sam.arithmetic import is_sharded
from graftkit.methods.sse_sam.gradients import Processes
from graftkit.methods.sse_sam.hooks import Hook

__all__ = ["GradientProbes"]

N_PROBES = 4


class GradientProbes:
    """Copies of a few small gradients from all over the model, as backward left them.

    Parameters
    ----------
    params : sequence of Tensor
        The optimizer's.
    """

    def __init__(self, params: Sequence[Tensor]) -> None:
        self._left: dict[int, tuple[Tensor, Tensor, int]] = {}
        self._handles: list[torch.utils.hooks.RemovableHandle] = []
        self._follow(params)

    def _follow(self, params: Sequence[Tensor]) -> None:
        """Follow the smallest parameter of each quarter: some of a model may have no part in its loss."""
        self.close()
        plain = [p for p in params if p.requires_grad and p.layout is torch.strided and not is_sharded(p)]
        bounds = [len(plain) * i // N_PROBES for i in range(N_PROBES + 1)]
        quarters = [plain[start:stop] for start, stop in pairwise(bounds) if start < stop]
        self._probes = [min(quarter, key=Tensor.numel) for quarter in quarters]
        hook = Hook(self, "_arrived")
        self._handles = [p.register_post_accumulate_grad_hook(hook) for p in self._probes]

    def follow_used(self, params: Sequence[Tensor], processes: Processes) -> None:
        """Follow others from the next step on, where the followed ones had no part in this one.

        Parameters
        ----------
        params : sequence of Tensor
            The optimizer's, with their gradients.
        processes : Processes
            Who shares the step; their gradients are averaged, so that all follow the same.
        """
        if (self._left and processes.size == 1) or any(map(_has_part, self._probes)):
            return
        if used := [p for p in params if _has_part(p)]:
            self._follow(used)

    def _arrived(self, param: Tensor) -> None:
        grad = param.grad
        if grad is not None and grad.layout is torch.strided:
            self._left[id(param)] = (grad.detach().clone(), grad, grad._version)

    def clear(self) -> None:
        """Forget the copies."""
        self._left.clear()

    def close(self) -> None:
        """Remove the hooks."""
        self.clear()
        for handle in self._handles:
            handle.remove()
        self._handles.clear()

    @property
    def reset(self) -> bool:
        """Whether the followed gradients have been zeroed, or set to ``None``, since backward left them."""
        if not self._left:
            return False
        kept = [(p.grad, self._left[id(p)]) for p in self._probes if id(p) in self._left]
        return bool(kept) and all(
            g is None or (g._version != version and not bool(g.any()) and bool(before.any()))
            for g, (before, _, version) in kept
        )

    @property
    def untouched(self) -> bool:
        """Whether the followed gradients are the tensors that backward left, never written to since."""
        probes = [(p.grad, self._left.get(id(p))) for p in self._probes]
        return all(kept is None or (g is kept[1] and g._version == kept[2]) for g, kept in probes)

    def factor(self, processes: Processes) -> float:
        """By what common factor the gradients were multiplied after backward (clipping, unscaling).

        Parameters
        ----------
        processes : Processes
            Who averaged the gradients meanwhile.

        Returns
        -------
        float
            1.0 where nothing was changed.

        Raises
        ------
        RuntimeError
            If the gradients were changed in another way.
        """
        left = [self._left[id(p)][0] if id(p) in self._left else None for p in self._probes]
        # A collective: every process joins, also where it has not used a parameter that others have.
        averaged = processes.average(list(left), self._probes)
        pairs = [
            (before, p.grad.detach())
            for before, p in zip(averaged, self._probes, strict=True)
            if before is not None and p.grad is not None
        ]
        if not pairs:
            return 1.0
        rough = min(before.dtype.itemsize for before, _ in pairs) < 4
        then = torch.cat([before.flatten().double() for before, _ in pairs])
        now = torch.cat([grad.flatten().double() for _, grad in pairs])
        if torch.equal(then, now):
            return 1.0
        square = then.dot(then)
        factor = float(then.dot(now) / square) if square > 0 else 1.0
        if not torch.isfinite(now).all() or not torch.isfinite(then).all():
            return factor if factor == factor else 1.0  # the finiteness check of the step will tell
        if (now - factor * then).norm() > (2e-2 if rough else 1e-4) * now.norm() + 1e-300:
            raise RuntimeError(
                "gradients were changed between backward() and step() by more than a common factor (norm "
                "clipping and unscaling are a common factor; clipping by value, noise or centring are "
                "not), so head and tail cannot be told apart in them. Change the final gradient instead: "
                "optimizer.base_optimizer.register_step_pre_hook(...)."
            )
        return 1.0 if abs(factor - 1) < 1e-6 else factor


def _has_part(param: Tensor) -> bool:
    """Whether a parameter has a gradient that is not zero; loops may zero it and not remove it."""
    grad = param.grad
    return grad is not None and grad.layout is torch.strided and bool(grad.any())
