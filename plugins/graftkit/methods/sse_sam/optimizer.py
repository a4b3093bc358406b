r"""SSE-SAM: a sharpness-aware optimizer for long-tailed data that drops into an existing loop.

.. math::
   \varepsilon_P = \rho_P \frac{\nabla L_P(w)}{\lVert\nabla L_P(w)\rVert}, \quad
   g = \nabla L_H(w + [\text{stage 1}]\,\varepsilon_H) + \nabla L_T(w + \varepsilon_T), \quad
   w \leftarrow \mathrm{Base}(w, g)

Paper: Lyu, Xu, Yang, Lyu, Huang, "SSE-SAM: Balancing Head and Tail Classes Gradually through Stage-Wise SAM",
AAAI 2025, arXiv 2412.13715. The update follows the released code (MIT), which perturbs head and tail apart in
both stages; that the paper's first stage is the same, and not plain SAM, is unverified. Differences: passes
that change nothing are skipped, weights come back by copy, batch-norm statistics are updated once, and the
optimizer is a torch optimizer whose state survives checkpoints.

>>> import torch
>>> model, criterion = torch.nn.Linear(2, 3), torch.nn.CrossEntropyLoss()
>>> optimizer = SSESAM(model.parameters(), lr=0.1, tail_classes=[2], switch_step=100)
>>> _ = optimizer.watch(model, criterion)  # the loop stays as it is: zero_grad, forward, backward, step()
"""

import inspect
from collections.abc import Callable, Sequence
from typing import Any, Self

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.optim import SGD, Optimizer

from graftkit.core.validation import check_bool, check_choice, check_iterable, raise_invalid
from graftkit.methods.sse_sam.closure_arguments import call_whole
from graftkit.methods.sse_sam.closure_form import ClosureForm
from graftkit.methods.sse_sam.explicit_form import THREE_WAYS, ExplicitForm
from graftkit.methods.sse_sam.loop_form import LoopForm
from graftkit.methods.sse_sam.observed import wrapped_while_observed
from graftkit.methods.sse_sam.settings import Settings, check_rho, resolve_tail, switch_step
from graftkit.methods.sse_sam.sharpening import NonFiniteGradient

__all__ = ["SSESAM"]


class SSESAM(LoopForm, ClosureForm, ExplicitForm):
    r"""Stage-wise saddle-escaping sharpness-aware minimisation around any torch optimizer.

    Intended to follow the majority out of the overall loss's saddles first and to concentrate on the tail
    afterwards; near a saddle SAM can also be attracted, so look with :func:`class_curvature`. In our runs,
    with logit adjustment and a memorised training set, it moved recall from frequent to rare classes and
    hardly changed the average; with plain cross-entropy, and where the tail was not fitted yet, the rare
    classes lost. Look at the tail's training accuracy first.

    Parameters
    ----------
    params : iterable
        Parameters or parameter groups. Groups may hold their own ``rho_head``, ``rho_tail``, ``adaptive``
        and whatever the base optimizer knows.
    base_optimizer : type, default=torch.optim.SGD
        Takes the step; ``**base_kwargs`` are its arguments.
    rho : float or (float, float), default=(0.05, 0.10)
        Radii of head and tail in weight space; with ``adaptive`` take about ten times more.
    tail_classes : iterable of int or None, default=None
        The tail. Either this, or the next two.
    class_counts : sequence of int or None, default=None
        Training samples a class.
    tail_threshold : float or None, default=None
        The number of samples below which a class belongs to the tail.
    gamma : float in [0, 1] or None, default=0.7
        Share of the training in stage 1; 0 starts in stage 2 (ImbSAM), None or 1 never switches.
    total_steps : int or None, default=None
        Optimizer steps of the whole training, which `gamma` needs.
    switch_step : int or None, default=None
        The step at which stage 2 begins, instead of `gamma`.
    stage1 : {"split", "sam"}, default="split"
        Perturb the parts apart, or the whole loss at once with the head's radius. ``stage1="sam",
        gamma=None`` is plain SAM and needs no tail.
    tail_weight : float, default=1.0
        Weight of the tail's loss in the descent (2.0 is the original ImbSAM repository).
    adaptive : bool, default=False
        Scale the perturbation by the weights, as ASAM does.
    perturb_eps : float, default=1e-12
        Added to gradient norms.
    tail_pass : {"auto", "subset", "full", "frozen_stats"}, default="auto"
        Samples of the repeated passes. "subset" runs each part's own and is exact where samples do not meet
        inside the network; "auto" takes it exactly there; "frozen_stats" is "subset" with batch normalisation
        by the recorded whole batch's statistics: an approximation, in the suite's small network 11 % of the
        gradient's norm off in stage 2 and 48 % in stage 1, so measure before you use it.
    model : torch.nn.Module or None, default=None
        For the closure and explicit forms: lets "auto" look for coupled modules and keeps running statistics
        still while weights are perturbed. ``watch`` knows it anyway.
    ignore_index : int or None, default=None
        A label that counts in neither part nor in the batch size.
    update_running_stats : {"once", "all"}, default="once"
        Update running statistics by the first pass only, or by all.
    preserve_rng : bool, default=False
        Closure form: draw the first pass's random numbers again (``watch`` always does).
    sync_perturbation : bool, default=True
        With several processes: perturb along the averaged gradient (equal to one process on the whole
        batch), or each process along its own (m-sharpness).
    process_group : torch.distributed.ProcessGroup or None, default=None
        Who averages; None is the model's group under DDP, and the default group in the other forms.
    foreach : bool or None, default=None
        Multi-tensor arithmetic; also handed to the base optimizer where it takes it.
    **base_kwargs
        Arguments of the base optimizer: ``lr``, ``momentum``, ``weight_decay`` and so on.

    Attributes
    ----------
    base_optimizer : torch.optim.Optimizer
        Shares ``param_groups`` and ``state`` with this one. Its ``register_step_pre_hook`` sees the final
        gradient, the place for exact clipping.

    Raises
    ------
    ValueError
        If a value is out of range, the tail is missing or given twice, or `gamma` lacks a length.
    TypeError
        If `base_optimizer` is an instance (see :meth:`from_optimizer`) or an argument's type is wrong.

    Notes
    -----
    The step branches on whether the batch has a tail, so it cannot be captured in a CUDA graph. Processes
    with uneven last batches average the means, as DDP does.

    Examples
    --------
    >>> model = torch.nn.Linear(2, 3)
    >>> tail = {"class_counts": [90, 9, 1], "tail_threshold": 5}
    >>> optimizer = SSESAM(model.parameters(), lr=0.1, switch_step=10, **tail)
    >>> optimizer.stage, optimizer.steps_until_switch
    (1, 10)
    """

    _step_supports_amp_scaling = True

    def __init__(
        self,
        params: Any,
        base_optimizer: type[Optimizer] = SGD,
        *,
        rho: float | Sequence[float] = (0.05, 0.10),
        tail_classes: Any = None,
        class_counts: Any = None,
        tail_threshold: float | None = None,
        gamma: float | None = 0.7,
        total_steps: int | None = None,
        switch_step: int | None = None,
        stage1: str = "split",
        tail_weight: float = 1.0,
        adaptive: bool = False,
        perturb_eps: float = 1e-12,
        tail_pass: str = "auto",
        model: nn.Module | None = None,
        ignore_index: int | None = None,
        update_running_stats: str = "once",
        preserve_rng: bool = False,
        sync_perturbation: bool = True,
        process_group: "dist.ProcessGroup | None" = None,
        foreach: bool | None = None,
        **base_kwargs: Any,
    ) -> None:
        if isinstance(base_optimizer, Optimizer):
            raise_invalid(
                "base_optimizer",
                type(base_optimizer).__name__ + " instance",
                "an optimizer class",
                fix="Adopt an instance with SSESAM.from_optimizer(optimizer, ...).",
                error=TypeError,
            )
        if not callable(base_optimizer):
            raise_invalid("base_optimizer", base_optimizer, "an optimizer class", error=TypeError)
        if foreach is not None and "foreach" in inspect.signature(base_optimizer).parameters:
            base_kwargs.setdefault("foreach", foreach)

        def build(groups: list[dict[str, Any]]) -> Optimizer:
            return base_optimizer(groups, **base_kwargs)

        check_choice("stage1", stage1, ("split", "sam"))
        switch = _switch(gamma, total_steps, switch_step)
        head, tail = check_rho(rho)
        group_defaults = {
            "rho_head": head,
            "rho_tail": tail,
            "adaptive": check_bool("adaptive", adaptive),
            "completed_steps": 0,
            "switch_step": switch,
        }
        settings = Settings(
            stage1,
            tail_weight,
            perturb_eps,
            tail_pass,
            update_running_stats,
            preserve_rng,
            sync_perturbation,
            foreach,
            resolve_tail(
                tail_classes,
                class_counts,
                tail_threshold,
                ignore_index=ignore_index,
                needed=not (stage1 == "sam" and switch is None),
            ),
        )
        self._build(params, build, group_defaults, settings, model, process_group)

    def _build(
        self,
        params: Any,
        build: Callable[[list[dict[str, Any]]], Optimizer],
        group_defaults: dict[str, Any],
        settings: Settings,
        model: nn.Module | None,
        process_group: Any,
    ) -> None:
        self._settings = settings
        if model is not None and not isinstance(model, nn.Module):
            raise_invalid("model", model, "a torch module or None", error=TypeError)
        if process_group is not None and not isinstance(process_group, dist.ProcessGroup):
            raise_invalid("process_group", process_group, "a process group or None", error=TypeError)
        check_iterable("params", params, "parameters or parameter groups")
        super().__init__(params, group_defaults)
        self.base_optimizer = build(self.param_groups)
        if _needs_closure(self.base_optimizer):
            raise_invalid(
                "base_optimizer",
                type(self.base_optimizer).__name__,
                "an optimizer whose step() needs no closure (LBFGS evaluates the loss on its own)",
            )
        self.state = self.base_optimizer.state
        self.defaults = {**self.base_optimizer.defaults, **group_defaults}
        self._fresh()
        self._model, self._process_group = model, process_group
        self._link()

    @classmethod
    def from_optimizer(cls, optimizer: Optimizer, **kwargs: Any) -> Self:
        """Wrap an optimizer that exists, with its groups and its state.

        Parameters
        ----------
        optimizer : torch.optim.Optimizer
            The base; use it no longer on its own.
        **kwargs
            Arguments of :class:`SSESAM` other than the base's.

        Returns
        -------
        SSESAM
            Around `optimizer`.

        Raises
        ------
        TypeError
            If `optimizer` is no optimizer, or an argument of the base comes along.

        Examples
        --------
        >>> adam = torch.optim.AdamW(torch.nn.Linear(2, 2).parameters())
        >>> type(SSESAM.from_optimizer(adam, stage1="sam", gamma=None).base_optimizer).__name__
        'AdamW'
        """
        if not isinstance(optimizer, Optimizer):
            raise_invalid("optimizer", optimizer, "a torch.optim.Optimizer", error=TypeError)
        # A host's subclass takes **kwargs; the names are this class's.
        known = set(inspect.signature(SSESAM).parameters) - {"params", "base_optimizer", "base_kwargs"}
        if unknown := sorted(set(kwargs) - known):
            raise_invalid("kwargs", unknown, f"only {', '.join(sorted(known))}", error=TypeError)

        def adopt(groups: list[dict[str, Any]], **base_kwargs: Any) -> Optimizer:
            del groups, base_kwargs
            return optimizer

        return cls(optimizer.param_groups, adopt, **kwargs)  # type: ignore[arg-type]

    @wrapped_while_observed
    @torch.no_grad()
    def step(self, closure: Any = None, *, targets: Tensor | None = None, scaler: Any = None) -> Any:
        """Take one step.

        Parameters
        ----------
        closure : callable, sequence of callable, or None, default=None
            ``closure(index=None)`` returns ``(losses, targets)``: one loss an entry on the graph, and
            labels, a bool mask or a share in [0, 1] of the same shape. It runs no ``backward()``. Subset
            passes hand it row numbers, if its first argument has no default, ``None`` or a slice. A sequence
            holds one closure a micro-batch. With a watched model a plain torch closure (which runs backward
            and returns the loss) is accepted too.
        targets : Tensor of the losses' shape or None, default=None
            The batch's targets, where known before the forward: subset passes then run nothing twice.
        scaler : torch.amp.GradScaler or None, default=None
            For fp16 with closures, or with the explicit form on losses that were scaled by it; call
            ``scaler.update()`` afterwards. A parameter named ``grad_scaler``
            would switch on a deprecated protocol of torch's.

        Returns
        -------
        Tensor of shape () or None
            The mean loss at the weights before the step, or what a torch closure returned.

        Raises
        ------
        RuntimeError
            If no form gives a gradient (never a silent fall-back to the base optimizer), if a gradient is not
            finite, or if a GradScaler drives an optimizer that watches no model.
        """
        found_inf, grad_scale = self.__dict__.get("found_inf"), self.__dict__.get("grad_scale")
        try:
            self._link()
            if self._away:
                raise RuntimeError("step: the weights are perturbed; leave the perturbed(...) context first")
            return self._step(closure, targets, scaler, found_inf, grad_scale)
        except BaseException:
            # torch deletes these on success only; a later step must not mistake them for its own.
            self.__dict__.pop("found_inf", None)
            self.__dict__.pop("grad_scale", None)
            raise
        finally:
            if self._watch is not None:
                self._watch.clear()

    def _step(self, closure: Any, targets: Any, scaler: Any, found_inf: Any, grad_scale: Any) -> Any:
        pending = self._explicit is not None or self._accumulated is not None
        if self._watch is None and found_inf is not None:
            raise RuntimeError(
                "GradScaler.step: it cannot drive this optimizer unless it watches the model, because "
                "every pass has to be repeated under the scale. Call optimizer.watch(model, criterion) "
                "once, or optimizer.step(closure, scaler=scaler)."
            )
        if closure is None and scaler is None and self._watch is not None and not pending:
            self._step_watched(found_inf, grad_scale)
            return None
        if closure is None and not pending:
            raise RuntimeError("step() without a closure, a first_step, or a watched model. " + THREE_WAYS)
        if closure is None:
            try:
                grads = self._finish_pending()
            except NonFiniteGradient:
                if scaler is None:
                    raise
                self._skip(scaler)
                return None
            self._apply(grads, self._params(), scaler)
            return None
        if pending:
            raise RuntimeError(
                "step: a closure was given while first_step or accumulate is pending; call step() alone"
            )
        if (
            self._watch is not None
            and found_inf is None
            and callable(closure)
            and targets is None
            and scaler is None
        ):
            with torch.enable_grad():  # what was recorded before is accumulated micro-batches
                result = call_whole(closure)
            if result is None and all(p.grad is None for p in self._params()):
                return None  # Lightning's way to leave a batch out: no gradients, so no step
            if not isinstance(result, tuple | list):
                self._step_watched(None, None)
                return result
            self._watch.clear()
            return self._step_closures(closure, None, None, result)
        if found_inf is not None:
            raise RuntimeError(
                "GradScaler.step: a closure cannot be repeated under it; use step(closure, scaler=scaler)"
            )
        return self._step_closures(closure, targets, scaler)


def _switch(gamma: Any, total_steps: Any, explicit: Any) -> int | None:
    # The constructor's argument has the function's name.
    return switch_step(gamma, total_steps, explicit)


def _needs_closure(optimizer: Optimizer) -> bool:
    parameter = inspect.signature(type(optimizer).step).parameters.get("closure")
    return parameter is not None and parameter.default is inspect.Parameter.empty
