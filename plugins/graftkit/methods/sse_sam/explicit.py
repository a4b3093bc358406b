"""The explicit form's state: gradients at the weights, and what the passes away from them have added.

>>> import torch
>>> from graftkit.methods.sse_sam.optimizer import SSESAM
>>> w = torch.nn.Parameter(torch.tensor([1.0, -1.0]))
>>> optimizer = SSESAM([w], lr=0.1, tail_classes=[1], switch_step=10)
>>> optimizer.first_step(w.square(), torch.tensor([0, 1]))
>>> optimizer.parts
('head', 'tail')
"""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from graftkit.methods.sse_sam.arithmetic import Gradients, add_
from graftkit.methods.sse_sam.gradients import Processes, differentiate
from graftkit.methods.sse_sam.parts import split
from graftkit.methods.sse_sam.settings import Settings
from graftkit.methods.sse_sam.sharpening import check_finite, check_sum

__all__ = ["ExplicitStep"]


class ExplicitStep:
    """One step in the making.

    Parameters
    ----------
    losses, targets : Tensor
        The batch at the weights.
    params : sequence of Tensor
        What to differentiate for.
    settings : Settings
        The optimizer's.
    wanted : tuple of str
        The parts to tell apart.
    processes : Processes
        Who shares the step.
    """

    def __init__(
        self,
        losses: Tensor,
        targets: Tensor,
        params: Sequence[Tensor],
        settings: Settings,
        wanted: tuple[str, ...],
        processes: Processes,
    ) -> None:
        self.params, self.settings, self.processes = params, settings, processes
        batch = split(losses, targets, settings.membership)
        self.count = max(batch.count, 1)
        here = [p == "all" or (batch.has_head if p == "head" else batch.has_tail) for p in wanted]
        anywhere = [p for p, yes in zip(wanted, processes.any(here, params[0].device), strict=True) if yes]
        self.gradients: dict[str, Gradients] = {
            part: differentiate(
                [batch.losses],
                [batch.seed(part, settings.tail_weight, self.count)],
                params,
                retain_graph=i + 1 < len(anywhere),
            )
            for i, part in enumerate(anywhere)
        }
        self.norms: dict[str, float] = {}
        self.waiting: tuple[str, ...] = ()
        self.active: str | None = None
        self._added: set[str] = set()
        self._moved: tuple[str, ...] = ()
        self._total: Gradients = [None] * len(params)

    def start(self, moved: Mapping[str, bool], norms: Mapping[str, float]) -> None:
        """Settle which parts need a pass; the others' gradients are their terms already.

        Parameters
        ----------
        moved : mapping of str to bool
            Whether a part has a radius.
        norms : mapping of str to float
            Global norms.

        Raises
        ------
        NonFiniteGradient
            If a norm is not finite.
        """
        check_finite(norms.values(), self.processes, self.params)
        self.norms = dict(norms)
        self._moved = self.waiting = tuple(part for part, moves in moved.items() if moves)
        for part in [p for p in self.gradients if p not in self.waiting]:
            self._total = add_(self._total, self.gradients.pop(part), self.settings.foreach)

    def take(self, part: str) -> Gradients:
        """Hand out a part's gradient for its perturbation and mark it active.

        Parameters
        ----------
        part : str
            One of those waiting.

        Returns
        -------
        list of Tensor or None
            The gradient, no longer held here.
        """
        self.active = part
        self.waiting = tuple(p for p in self.waiting if p != part)
        return self.gradients.pop(part)

    def add(self, losses: Any, targets: Any) -> None:
        """Add the active part's gradient from a pass at the perturbed weights.

        Parameters
        ----------
        losses, targets : Tensor
            The same batch again.
        """
        part = self.active
        if part is None:
            raise RuntimeError("second_step: no part is active")
        batch = split(losses, targets, self.settings.membership)
        seed = batch.seed(part, self.settings.tail_weight, self.count)
        grads = differentiate([batch.losses], [seed], self.params)
        self._total = add_(self._total, grads, self.settings.foreach)
        self._added.add(part)

    @property
    def complete(self) -> bool:
        """Whether every pass has been run."""
        return self._added.issuperset(self._moved)

    def finish(self) -> Gradients:
        """The final gradient.

        Returns
        -------
        list of Tensor or None
            Averaged over the processes.

        Raises
        ------
        RuntimeError
            If a part's pass is missing.
        NonFiniteGradient
            If a pass away from the weights overflowed.
        """
        if missing := [part for part in self._moved if part not in self._added]:
            raise RuntimeError(
                f"step: second_step is missing for {', '.join(missing)}; run it inside `with "
                "optimizer.perturbed(part):` for every part in optimizer.parts"
            )
        total = self.processes.average(self._total, self.params)
        if self._moved:
            check_sum(total, self.processes, self.params, self.settings.foreach)
        return total
