"""The closure form: ``step(closure)`` asks for per-sample losses as often as it needs them.

Source: specification sections 3.3, 3.5, 3.6 (accumulation).
"""

from typing import Any

from torch import Tensor

from graftkit.core.validation import raise_invalid
from graftkit.methods.sse_sam.arithmetic import add_, any_sharded, scale_
from graftkit.methods.sse_sam.closure import ClosurePasses
from graftkit.methods.sse_sam.closure_arguments import takes_index
from graftkit.methods.sse_sam.gradients import Processes
from graftkit.methods.sse_sam.groups import StepGroups
from graftkit.methods.sse_sam.perturbing import PerturbingOptimizer
from graftkit.methods.sse_sam.sharpening import NonFiniteGradient

__all__ = ["ClosureForm"]


class ClosureForm(PerturbingOptimizer):
    """The part of the optimizer that runs closures."""

    def _step_closures(
        self, closure: Any, targets: Tensor | None, scaler: Any, first: Any = None
    ) -> Tensor | None:
        groups = self._groups()
        wanted, processes = groups.wanted(self._settings.stage1), self._processes(groups.params)
        passes = self._closure_passes(closure, targets, scaler, first, wanted, groups, processes)
        try:
            grads = self._run(passes, wanted, groups, processes)
        except NonFiniteGradient:
            if scaler is None:
                raise
            self._skip(scaler)
            return passes.loss
        self._apply(grads, groups.params, scaler)
        return passes.loss

    def _closure_passes(
        self,
        closure: Any,
        targets: Tensor | None,
        scaler: Any,
        first: Any,
        wanted: tuple[str, ...],
        groups: StepGroups,
        processes: Processes,
    ) -> ClosurePasses:
        closures = list(closure) if isinstance(closure, tuple | list) else [closure]
        if not closures or not all(callable(c) for c in closures):
            raise_invalid("closure", closure, "a function, or a sequence of them", error=TypeError)
        if targets is not None and len(closures) > 1:
            raise_invalid("targets", targets, "None where several closures make up the batch")
        if self._settings.tail_pass == "auto" and wanted == ("all",):
            mode = "full"  # no part to take a subset for
        else:
            mode = self._mode(self._model, all(takes_index(c) for c in closures))
        scale = scaler.scale if scaler is not None else None
        return ClosurePasses(
            closures,
            groups.params,
            self._settings,
            processes,
            mode=mode,
            model=self._model,
            targets=targets,
            scale=scale,
            # Nobody has recorded that call's batch statistics or random numbers.
            first=None if mode == "frozen_stats" or self._settings.preserve_rng else first,
        )

    def accumulate(self, closure: Any, weight: float = 1.0) -> Tensor | None:
        """Add one micro-batch's sharpness-aware gradient, perturbed on its own, for a later ``step()``.

        Cheaper in bookkeeping than ``step([closure, ...])`` and not equal to it: every micro-batch has its
        own perturbation (m-sharpness). Processes communicate in ``step()`` only.

        Parameters
        ----------
        closure : callable
            As in :meth:`step`.
        weight : float, default=1.0
            The micro-batch's weight; the weights of a step should add up to 1.

        Returns
        -------
        Tensor of shape ()
            The micro-batch's mean loss.

        Raises
        ------
        RuntimeError
            If a first_step is pending, or the gradient is not finite.
        ValueError
            If parameters are sharded (FSDP2): no process has a gradient of its own there.
        TypeError
            If the closure returns no per-sample losses.
        """
        if self._explicit is not None:
            raise RuntimeError("accumulate: a first_step is pending; call step() first")
        groups = self._groups()
        if any_sharded(groups.params):
            raise_invalid(
                "params", "FSDP2's", "parameters of one process", fix="Use step([closure, ...]) instead."
            )
        wanted, alone = groups.wanted(self._settings.stage1), Processes(None)
        passes = self._closure_passes(closure, None, None, None, wanted, groups, alone)
        grads = self._run(passes, wanted, groups, alone)
        grads = scale_(grads, float(weight), self._settings.foreach)
        if self._accumulated is not None:
            grads = add_(self._accumulated, grads, self._settings.foreach)
        self._accumulated = grads
        return passes.loss
