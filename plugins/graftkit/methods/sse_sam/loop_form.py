"""The unmodified loop: ``watch`` once, then ``zero_grad``, forward, ``backward`` and ``step()`` as always.

Beyond the paper and the released code, which need a rewritten loop.

>>> import torch
>>> from graftkit.methods.sse_sam.optimizer import SSESAM
>>> model, criterion = torch.nn.Linear(2, 3), torch.nn.CrossEntropyLoss()
>>> SSESAM(model.parameters(), tail_classes=[2], switch_step=9).watch(model, criterion) is criterion
True
"""

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from graftkit.core.validation import check_bool
from graftkit.methods.sse_sam.arithmetic import scale_
from graftkit.methods.sse_sam.perturbing import PerturbingOptimizer
from graftkit.methods.sse_sam.replay import ReplayPasses
from graftkit.methods.sse_sam.sharpening import NonFiniteGradient
from graftkit.methods.sse_sam.verification import verify_records
from graftkit.methods.sse_sam.watch import Watch

__all__ = ["LoopForm"]

SMALLEST_SEED = 2.0**-24  # of the loss scale, in repeats; a finite one of today's scalers fits many times
GOOD_STEPS = 200  # after so many steps without overflow, repeats run under the whole loss scale again


class LoopForm(PerturbingOptimizer):
    """The part of the optimizer that follows a loop by hooks and repeats its calls."""

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Reset the gradients, and forget the watched calls that they came from.

        Parameters
        ----------
        set_to_none : bool, default=True
            As in torch.
        """
        super().zero_grad(set_to_none)
        if self._watch is not None:
            self._watch.forget_used()

    def watch(
        self,
        model: nn.Module,
        criterion: Any,
        *,
        output_module: str | nn.Module | None = None,
        targets_from: str | Callable[..., Any] | None = None,
        membership: Callable[[Any], Tensor] | str | None = None,
        verify: bool = True,
    ) -> Any:
        """Follow an unmodified loop: ``zero_grad``, forward, ``backward``, ``step()`` as always.

        Parameters
        ----------
        model : torch.nn.Module
            As the loop calls it (its DDP wrapper where there is one).
        criterion : torch.nn.Module, callable or None
            What the loop calls on the model's output, any sum over samples up to a normaliser. ``None`` where
            the model returns its own loss: an output with ``loss`` and ``logits``, labels in the call.
        output_module : str, torch.nn.Module or None, default=None
            For models that return losses only: the submodule whose output holds the class scores, called
            once in each forward.
        targets_from : str, callable or None, default=None
            Where the targets are: a keyword of the call, or a function of its ``(args, kwargs)``.
        membership : callable, "sample" or None, default=None
            Each target's class decides by default, pixel by pixel for dense targets; of soft targets the
            mass on the tail, where one column is the probability of class 1 of two. "sample" counts a sample
            as tail where any of its labels is; a function of the targets gives the tail's share in [0, 1], of
            shape (B,) or the targets'.
        verify : bool, default=True
            Repeat the first stage-1 step's gradient once, to make sure that nothing but the watched calls
            contributes to it: an extra loss term would silently vanish in stage 1.

        Returns
        -------
        torch.nn.Module or None
            The criterion to call: the same object, or a wrapper around a plain function.

        Raises
        ------
        RuntimeError
            If this optimizer watches already, or another one watches the model.
        ValueError
            If the model does not hold the optimizer's parameters, or `output_module` is none of its modules.
        TypeError
            If an argument is of the wrong type.

        Notes
        -----
        Clipping by norm and unscaling multiply all gradients alike; the factor is read from a few small
        gradients, which are followed, and the final gradient is multiplied too. Any other change is refused
        where it shows in those few, and goes unnoticed where it does not: clip by value in
        ``base_optimizer.register_step_pre_hook``. Between forward and step, inputs must not be changed in
        place. What is no sample's own (an auxiliary head's loss inside the model's, in stage 2 any further
        term) goes with the head.
        """
        if self._watch is not None:
            raise RuntimeError("watch: this optimizer watches a model already; call unwatch() first")
        frozen = self._settings.tail_pass == "frozen_stats"
        self._watch = Watch(
            model,
            criterion,
            self._params(),
            output_module=output_module,
            targets_from=targets_from,
            membership=membership,
            frozen_stats=frozen,
        )
        self._verify = check_bool("verify", verify)
        return self._watch.criterion

    def unwatch(self) -> None:
        """Remove the hooks that :meth:`watch` set."""
        if self._watch is not None:
            self._watch.close()
            self._watch = None

    def _step_watched(self, found_inf: Tensor | None, grad_scale: Tensor | None) -> None:
        watch = self._watch
        if watch is None:
            raise RuntimeError("step: no watched model")
        if found_inf is not None and float(found_inf) > 0:
            return  # the scaler lowers its scale; the step is not counted
        groups = self._groups()
        params, wanted = groups.params, groups.wanted(self._settings.stage1)
        processes = self._processes(params)
        factor = 1.0
        if processes.size > 1 or not watch.probes.untouched:
            factor = watch.probes.factor(processes)
        watch.probes.follow_used(params, processes)
        unscale = 1.0 / float(grad_scale) if grad_scale is not None else 1.0
        scale_([p.grad for p in params], unscale, self._settings.foreach)
        # A model's own loss is normalised inside it, and plain SAM has no part to take a subset for.
        everything = wanted == ("all",)
        full = watch.criterion is None or everything
        passes = ReplayPasses(
            watch,
            params,
            self._settings,
            processes,
            mode="full" if full else self._mode(watch.inner, True),
            whole=everything and self._settings.tail_weight == 1,
            head_moves=groups.moves("head"),
            unit=factor * unscale,
            seed_factor=self._seed_factor if found_inf is not None else 1.0,
        )
        try:
            if self._verify and groups.moves("head"):
                verify_records(passes, params, self._settings, processes)
                self._verify = False
            grads = self._run(passes, wanted, groups, processes)
        except NonFiniteGradient as error:
            if found_inf is None:
                raise
            if self._seed_factor <= SMALLEST_SEED:
                raise NonFiniteGradient(
                    f"repeated passes stay non-finite at {self._seed_factor:.1g} of the loss scale, so the "
                    "scale is not the reason: the model overflows at the perturbed weights. The weights are "
                    "as before the step. Take smaller radii (rho) or a wider type."
                ) from error
            self._seed_factor, self._good_steps = self._seed_factor / 2, 0
            return
        if found_inf is not None:
            self._good_steps += 1
            if self._good_steps >= GOOD_STEPS:
                self._seed_factor, self._good_steps = min(1.0, self._seed_factor * 2), 0
        self._apply(grads, params)
