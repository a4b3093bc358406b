"""The explicit form: ``first_step``, ``perturbed(part)``, ``second_step`` in a loop that owns its forwards.

Source: specification section 3.3.
"""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor

from graftkit.methods.sse_sam.arithmetic import Gradients
from graftkit.methods.sse_sam.coupling import frozen_running_stats
from graftkit.methods.sse_sam.explicit import ExplicitStep
from graftkit.methods.sse_sam.perturbing import PerturbingOptimizer
from graftkit.methods.sse_sam.sharpening import ascent_norms

__all__ = ["THREE_WAYS", "ExplicitForm"]

THREE_WAYS = """There are three ways to step:
  1. the unmodified loop:   optimizer.watch(model, criterion)        # once
                            loss = criterion(model(x), y); loss.backward(); optimizer.step()
  2. a closure:             optimizer.step(lambda: (criterion(model(x), y), y))   # per-sample losses
  3. the explicit form:     optimizer.first_step(criterion(model(x), y), y)       # per-sample losses
                            for part in optimizer.parts:
                                with optimizer.perturbed(part):
                                    optimizer.second_step(criterion(model(x), y), y)
                            optimizer.step()"""


class ExplicitForm(PerturbingOptimizer):
    """The part of the optimizer that is driven pass by pass."""

    def first_step(self, losses: Any = None, targets: Any = None, **davda: Any) -> None:
        """Differentiate a batch's losses at the weights; :attr:`parts` then says which passes are needed.

        Parameters
        ----------
        losses : Tensor of any shape
            Per-sample losses on the graph.
        targets : Tensor of the losses' shape
            Labels, mask or share of the tail, of the same shape.
        **davda
            Refused: ``first_step(zero_grad=True)`` of other implementations has no per-sample losses.

        Raises
        ------
        TypeError
            If the losses are missing, with the lines that are right.
        RuntimeError
            If another batch waits for its ``step()``; one whose passes are not complete is given up.
        """
        if davda or not isinstance(losses, Tensor) or targets is None:
            raise TypeError(
                "first_step: expected first_step(losses, targets) with per-sample losses, got "
                f"{sorted(davda) or type(losses).__name__}. Head and tail cannot be told apart in one "
                "summed "
                "gradient. " + THREE_WAYS
            )
        if self._accumulated is not None or (self._explicit is not None and self._explicit.complete):
            raise RuntimeError(
                "first_step: another batch waits for its step(), and would be lost; call step() first. "
                "Micro-batches of one step go through accumulate(closure, weight) or step([closure, ...])."
            )
        groups = self._groups()
        params, wanted = groups.params, groups.wanted(self._settings.stage1)
        with torch.enable_grad():
            step = ExplicitStep(losses, targets, params, self._settings, wanted, self._processes(params))
        moved = {part: groups.moves(part) for part in step.gradients}
        if self._settings.sync_perturbation:
            for part in [p for p, moves in moved.items() if moves]:
                step.gradients[part] = step.processes.average(step.gradients[part], params)
        norms = ascent_norms(step.gradients, params, groups.adaptive, self._settings.foreach)
        step.start(moved, norms)
        self._explicit = step

    @property
    def parts(self) -> tuple[str, ...]:
        """The parts whose pass :meth:`perturbed` still awaits: of ("head", "tail"), or ("all",) for SAM."""
        return () if self._explicit is None else self._explicit.waiting

    @property
    def is_perturbed(self) -> bool:
        """Whether the weights are away at this moment."""
        return self._away

    @contextmanager
    def perturbed(self, part: str) -> Iterator[None]:
        """Move the weights along a part's gradient for the duration of the context.

        Parameters
        ----------
        part : str
            One of :attr:`parts`.

        Yields
        ------
        None
            On exit, also by an exception, the weights are bitwise what they were.

        Raises
        ------
        RuntimeError
            If the part awaits no pass or the weights are away already.
        """
        step = self._explicit
        if self._away or step is None or part not in step.waiting:
            reason = (
                "the weights are perturbed already"
                if self._away
                else ("first_step has not been called" if step is None else f"awaited are {step.waiting}")
            )
            raise RuntimeError(f"perturbed({part!r}): {reason}")
        groups = self._groups()
        try:
            with self._still_statistics(), self._while_away():
                self._weights.ascend(
                    groups.params,
                    step.take(part),
                    rho=groups.radius(part),
                    adaptive=groups.adaptive,
                    norm=step.norms[part],
                    eps=self._settings.eps,
                    foreach=self._settings.foreach,
                )
                with torch.enable_grad():
                    yield
        finally:
            self._weights.restore()
            step.active = None

    def second_step(self, losses: Any, targets: Any) -> None:
        """Add the gradient of the active part at the perturbed weights.

        Parameters
        ----------
        losses, targets : Tensor of any one shape
            As in :meth:`first_step`, from a forward inside :meth:`perturbed`.

        Raises
        ------
        RuntimeError
            If no :meth:`perturbed` context is active.
        """
        if self._explicit is None or not self._away:
            raise RuntimeError("second_step: call it inside `with optimizer.perturbed(part):`")
        self._explicit.add(losses, targets)

    def _still_statistics(self) -> AbstractContextManager[None]:
        """The loop's own forwards leave running statistics alone, where the model is known."""
        if self._model is None or self._settings.update_running_stats == "all":
            return nullcontext()
        return frozen_running_stats(self._model)

    def _finish_pending(self) -> Gradients:
        explicit, accumulated = self._explicit, self._accumulated
        self._explicit = self._accumulated = None
        if explicit is not None:
            return explicit.finish()
        grads = accumulated if accumulated is not None else []
        params = self._params()
        return self._processes(params).average(grads, params)
