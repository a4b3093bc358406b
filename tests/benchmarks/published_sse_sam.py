"""The published schedule of SSE-SAM, four forwards and four backwards a step, written from its description.

Own code after specification sections 1.2 and 1.6 (the released repository is MIT; nothing is copied). It
keeps the published costs and habits on purpose: it perturbs in both stages (by 0 in the second), restores by
subtraction, and lets batch normalisation see every pass.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn


class PublishedSSESAM:
    """Head and tail perturbed apart around a base optimizer; the stage is the caller's."""

    def __init__(
        self,
        model: nn.Module,
        base: torch.optim.Optimizer,
        rho_head: float,
        rho_tail: float,
        tiny: float = 1e-16,
    ) -> None:
        self.params = [p for p in model.parameters() if p.requires_grad]
        self.base, self.rho_head, self.rho_tail, self.tiny = base, rho_head, rho_tail, tiny

    def step(self, losses: Callable[[], Tensor], tail: Tensor, *, stage: int) -> Tensor:
        """One step; `losses` runs a forward and gives one loss a sample, `tail` marks the tail's."""
        total = [torch.zeros_like(p) for p in self.params]
        mean = torch.zeros(())
        for part, rho in ((~tail, self.rho_head if stage == 1 else 0.0), (tail, self.rho_tail)):
            first = losses()
            mean = first.mean().detach()
            grads = self._backward((first * part).sum() / len(first))
            norm = torch.sqrt(sum((g * g).sum() for g in grads))  # type: ignore[arg-type]
            moves = [rho * g / (norm + self.tiny) for g in grads]
            with torch.no_grad():
                for p, e in zip(self.params, moves, strict=True):
                    p.add_(e)
            second = losses()
            for into, g in zip(total, self._backward((second * part).sum() / len(second)), strict=True):
                into += g
            with torch.no_grad():
                for p, e in zip(self.params, moves, strict=True):
                    p.sub_(e)
        for p, g in zip(self.params, total, strict=True):
            p.grad = g
        self.base.step()
        return mean

    def _backward(self, loss: Tensor) -> list[Tensor]:
        for p in self.params:
            p.grad = None
        loss.backward(retain_graph=True)
        return [torch.zeros_like(p) if p.grad is None else p.grad.clone() for p in self.params]
