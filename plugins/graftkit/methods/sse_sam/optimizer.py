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
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Any, Self

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim import SGD, Optimizer

from graftkit.core.validation import check_bool, raise_invalid
from graftkit.methods.sse_sam.closure import ClosurePasses, takes_index
from graftkit.methods.sse_sam.coupling import coupled_modules, frozen_running_stats
from graftkit.methods.sse_sam.explicit import ExplicitStep
from graftkit.methods.sse_sam.gradients import Processes
from graftkit.methods.sse_sam.linked import LinkedOptimizer
from graftkit.methods.sse_sam.perturbation import Gradients, PerturbedWeights, add_, is_sharded, scale_
from graftkit.methods.sse_sam.replay import ReplayPasses
from graftkit.methods.sse_sam.settings import PART_RADIUS, Settings, check_rho, resolve_tail, switch_step
from graftkit.methods.sse_sam.sharpening import (
    NonFiniteGradient,
    Passes,
    ascent_norms,
    sharpened_gradient,
)
from graftkit.methods.sse_sam.verification import verify_records
from graftkit.methods.sse_sam.watch import Watch

__all__ = ["SSESAM"]

THREE_WAYS = """There are three ways to step:
  1. the unmodified loop:   optimizer.watch(model, criterion)        # once
                            loss = criterion(model(x), y); loss.backward(); optimizer.step()
  2. a closure:             optimizer.step(lambda: (criterion(model(x), y), y))   # per-sample losses
  3. the explicit form:     optimizer.first_step(criterion(model(x), y), y)       # per-sample losses
                            for part in optimizer.parts:
                                with optimizer.perturbed(part):
                                    optimizer.second_step(criterion(model(x), y), y)
                            optimizer.step()"""


class SSESAM(LinkedOptimizer):
    r"""Stage-wise saddle-escaping sharpness-aware minimisation around any torch optimizer.

    Intended to follow the majority out of the overall loss's saddles first and to concentrate on the tail
    afterwards; near a saddle SAM can also be attracted, so look with :func:`class_curvature`. In the
    benchmarks it helped on long schedules that memorise the tail and hurt where the tail was not fitted yet.

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
    _model: nn.Module | None
    _process_group: "dist.ProcessGroup | None"

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

    def _fresh(self) -> None:
        """What lives between calls and belongs in no checkpoint."""
        self._model = None
        self._process_group = None
        self._weights = PerturbedWeights()
        self._watch: Watch | None = None
        self._explicit: ExplicitStep | None = None
        self._accumulated: Gradients | None = None
        self._away = False
        self._verify = False
        self._seed_factor, self._good_steps = 1.0, 0

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
        known = set(inspect.signature(cls.__init__).parameters) - {
            "self",
            "params",
            "base_optimizer",
            "base_kwargs",
        }
        if unknown := sorted(set(kwargs) - known):
            raise_invalid("kwargs", unknown, f"only {', '.join(sorted(known))}", error=TypeError)

        def adopt(groups: list[dict[str, Any]], **base_kwargs: Any) -> Optimizer:
            del groups, base_kwargs
            return optimizer

        return cls(optimizer.param_groups, adopt, **kwargs)  # type: ignore[arg-type]

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

    # -- the unmodified loop ---------------------------------------------------------------------------------

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
            For models that return losses only: the submodule whose output holds the class scores.
        targets_from : str, callable or None, default=None
            Where the targets are: a keyword of the call, or a function of its ``(args, kwargs)``.
        membership : callable, "sample" or None, default=None
            Each target's class decides by default, pixel by pixel for dense targets. "sample" counts a sample
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
        Gradient clipping and unscaling by a common factor are recognised and applied to the final gradient
        too. Between forward and step, inputs must not be changed in place.
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

    # -- the step --------------------------------------------------------------------------------------------

    @torch.no_grad()
    def step(self, closure: Any = None, *, targets: Tensor | None = None, scaler: Any = None) -> Any:
        """Take one step.

        Parameters
        ----------
        closure : callable, sequence of callable, or None, default=None
            ``closure(index=None)`` returns ``(losses, targets)``: one loss an entry on the graph, and
            labels, a bool mask or a share in [0, 1] of the same shape. It runs no ``backward()``. A sequence
            holds one closure a micro-batch. With a watched model a plain torch closure (which runs backward
            and returns the loss) is accepted too.
        targets : Tensor of the losses' shape or None, default=None
            The batch's targets, where known before the forward: subset passes then run nothing twice.
        scaler : torch.amp.GradScaler or None, default=None
            For fp16 with closures; call ``scaler.update()`` afterwards. A parameter named ``grad_scaler``
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
                "GradScaler.step: it cannot drive this optimizer unless it watches the model, "
                "because every pass has "
                "to be repeated under the scale. Call optimizer.watch(model, criterion) once, or "
                "optimizer.step(closure, scaler=scaler)."
            )
        if closure is None and scaler is None and self._watch is not None and not pending:
            self._step_watched(found_inf, grad_scale)
            return None
        if closure is None and not pending:
            raise RuntimeError("step() without a closure, a first_step, or a watched model. " + THREE_WAYS)
        if closure is None:
            grads = self._finish_pending()
            self._apply(grads, scaler)
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
                result = closure()
            if not isinstance(result, tuple | list):
                self._step_watched(None, None)
                return result
            self._watch.clear()
        elif found_inf is not None:
            raise RuntimeError(
                "GradScaler.step: a closure cannot be repeated under it; use step(closure, scaler=scaler)"
            )
        return self._step_closures(closure, targets, scaler)

    def _step_closures(self, closure: Any, targets: Tensor | None, scaler: Any) -> Tensor | None:
        passes = self._closure_passes(closure, targets, scaler)
        try:
            grads = self._run(passes, self._processes())
        except NonFiniteGradient:
            if scaler is None:
                raise
            # The scaler counts the overflow itself when it finds it in the gradients.
            for p in self._params():
                p.grad = torch.full_like(p, math.inf)
            scaler.step(self.base_optimizer)
            return passes.loss
        self._apply(grads, scaler)
        return passes.loss

    def _closure_passes(self, closure: Any, targets: Tensor | None, scaler: Any) -> ClosurePasses:
        closures = list(closure) if isinstance(closure, tuple | list) else [closure]
        if not closures or not all(callable(c) for c in closures):
            raise_invalid("closure", closure, "a function, or a sequence of them", error=TypeError)
        if targets is not None and len(closures) > 1:
            raise_invalid("targets", targets, "None where several closures make up the batch")
        params = self._params()
        mode = self._mode(self._model, all(takes_index(c) for c in closures))
        scale = scaler.scale if scaler is not None else None
        return ClosurePasses(
            closures,
            params,
            self._settings,
            self._processes(),
            mode=mode,
            model=self._model,
            targets=targets,
            scale=scale,
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
        TypeError
            If the closure returns no per-sample losses.
        """
        if self._explicit is not None:
            raise RuntimeError("accumulate: a first_step is pending; call step() first")
        passes = self._closure_passes(closure, None, None)
        passes.processes = Processes(None)
        grads = scale_(self._run(passes, passes.processes), float(weight), self._settings.foreach)
        if self._accumulated is not None:
            grads = add_(self._accumulated, grads, self._settings.foreach)
        self._accumulated = grads
        return passes.loss

    # -- the explicit form -----------------------------------------------------------------------------------

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
        """
        if davda or not isinstance(losses, Tensor) or targets is None:
            raise TypeError(
                "first_step: expected first_step(losses, targets) with per-sample losses, got "
                f"{sorted(davda) or type(losses).__name__}. Head and tail cannot be told apart in one summed "
                "gradient. " + THREE_WAYS
            )
        with torch.enable_grad():
            step = ExplicitStep(
                losses, targets, self._params(), self._settings, self._wanted(), self._processes()
            )
        moved = {part: any(r > 0 for r in self.radius(part)) for part in step.gradients}
        if self._settings.sync_perturbation:
            for part in [p for p, moves in moved.items() if moves]:
                step.gradients[part] = step.processes.average(step.gradients[part], self._params())
        norms = ascent_norms(step.gradients, self._params(), self.adaptive, self._settings.foreach)
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
        try:
            with self._while_away():
                self._weights.ascend(
                    self._params(),
                    step.take(part),
                    rho=self.radius(part),
                    adaptive=self.adaptive,
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

    def _finish_pending(self) -> Gradients:
        explicit, accumulated = self._explicit, self._accumulated
        self._explicit = self._accumulated = None
        if explicit is not None:
            return explicit.finish()
        grads = accumulated if accumulated is not None else []
        return self._processes().average(grads, self._params())

    # -- inside ----------------------------------------------------------------------------------------------

    def radius(self, part: str) -> list[float]:
        """Radius of every parameter for a part, in the present stage.

        Parameters
        ----------
        part : {"head", "tail", "all"}
            The part.

        Returns
        -------
        list of float
            In the order of the parameters that require a gradient; 0 for the head in stage 2.
        """
        key = PART_RADIUS[part]
        off = part != "tail" and self.stage == 2
        return [
            0.0 if off else float(group[key])
            for group in self.param_groups
            for p in group["params"]
            if p.requires_grad
        ]

    @property
    def adaptive(self) -> list[bool]:
        """Whether each parameter's perturbation is scaled by the weights."""
        return [bool(g["adaptive"]) for g in self.param_groups for p in g["params"] if p.requires_grad]

    def _params(self) -> list[Tensor]:
        return [p for group in self.param_groups for p in group["params"] if p.requires_grad]

    def _wanted(self) -> tuple[str, ...]:
        """The parts to differentiate for; one pass over everything where nothing is perturbed."""
        if self._settings.stage1 == "sam" and self.stage == 1:
            return ("all",)
        return (
            ("head", "tail")
            if any(r > 0 for part in ("head", "tail") for r in self.radius(part))
            else ("all",)
        )

    def _mode(self, model: nn.Module | None, indexable: bool) -> str:
        wanted = self._settings.tail_pass
        if wanted == "full" or (wanted == "auto" and (model is None or not indexable)):
            return "full"
        if not indexable:
            raise_invalid(
                "closure",
                "a closure without arguments",
                f"closure(index=None), which tail_pass={wanted!r} needs",
            )
        if wanted == "frozen_stats":
            if model is None:
                raise_invalid("model", None, "the model, whose statistics tail_pass='frozen_stats' records")
            return wanted
        coupled = coupled_modules(model) if model is not None else []
        if not coupled:
            return "subset"
        if wanted == "subset":
            names = ", ".join(coupled[:10]) + (" ..." if len(coupled) > 10 else "")
            raise ValueError(
                f"tail_pass: expected 'auto', 'full' or 'frozen_stats', got 'subset' for a model in "
                f"which samples "
                f"meet: {names}. A pass on some samples would be normalised by those samples' statistics."
            )
        return "full"

    def _processes(self) -> Processes:
        watch = self._watch
        group = self._process_group
        if group is None and watch is not None and watch.ddp is not None:
            group = watch.ddp.process_group
        elif group is None and isinstance(self._model, DistributedDataParallel):
            group = self._model.process_group
        elif group is None and any(is_sharded(p) for p in self._params()):
            group = dist.group.WORLD  # FSDP2: every process of the mesh runs the same passes
        elif group is None and watch is None and dist.is_available() and dist.is_initialized():
            group = dist.group.WORLD
        distributed = any(is_sharded(p) for p in self._params())
        if distributed and not self._settings.sync_perturbation:
            raise ValueError(
                "sync_perturbation: expected True with FSDP2, whose backward averages the gradients "
                "itself, got False"
            )
        return Processes(group, averaged=distributed)

    @contextmanager
    def _while_away(self) -> Iterator[None]:
        frozen: AbstractContextManager[Any] = ExitStack()
        if self._model is not None and self._settings.update_running_stats == "once":
            frozen = frozen_running_stats(self._model)
        self._away = True
        try:
            with frozen:
                yield
        finally:
            self._away = False

    def _run(self, passes: Passes, processes: Processes) -> Gradients:
        return sharpened_gradient(
            passes,
            self._wanted(),
            self._params(),
            self,
            self._settings,
            processes,
            self._weights,
            self._while_away,
        )

    def _apply(self, grads: Gradients, scaler: Any = None) -> None:
        """Hand the final gradient to the base optimizer and count the step."""
        for p, g in zip(self._params(), grads, strict=True):
            if p.grad is not None and g is not None and p.grad is not g and p.grad.layout == g.layout:
                p.grad.copy_(g)  # DDP may hold a view
            else:
                p.grad = g
        if scaler is None:
            self.base_optimizer.step()
        else:
            scaler.step(self.base_optimizer)
        for group in self.param_groups:
            group["completed_steps"] += 1

    def _step_watched(self, found_inf: Tensor | None, grad_scale: Tensor | None) -> None:
        watch = self._watch
        if watch is None:
            raise RuntimeError("step: no watched model")
        if found_inf is not None and float(found_inf) > 0:
            return  # the scaler lowers its scale; the step is not counted
        params, processes = self._params(), self._processes()
        clipped = watch.gradient_factor(lambda t: [g for g in processes.average(list(t), t) if g is not None])
        unscale = 1.0 / float(grad_scale) if grad_scale is not None else 1.0
        scale_([p.grad for p in params], unscale, self._settings.foreach)
        # A model's own loss is normalised inside it, and plain SAM has no part to take a subset for.
        whole = watch.criterion is None or self._wanted() == ("all",)
        mode = "full" if whole else self._mode(watch.inner, True)
        passes = ReplayPasses(
            watch,
            params,
            self._settings,
            processes,
            mode=mode,
            unit=clipped * unscale,
            seed_factor=self._seed_factor if found_inf is not None else 1.0,
        )
        try:
            if self._verify and self.stage == 1 and any(r > 0 for r in self.radius("head")):
                verify_records(passes, params, self._settings, processes)
                self._verify = False
            grads = self._run(passes, processes)
        except NonFiniteGradient:
            if found_inf is None:
                raise
            self._seed_factor, self._good_steps = self._seed_factor / 2, 0
            return
        if found_inf is not None:
            self._good_steps += 1
            if self._good_steps >= 200:
                self._seed_factor, self._good_steps = min(1.0, self._seed_factor * 2), 0
        self._apply(grads)


def _switch(gamma: Any, total_steps: Any, explicit: Any) -> int | None:
    # The constructor's argument has the function's name.
    return switch_step(gamma, total_steps, explicit)


def _needs_closure(optimizer: Optimizer) -> bool:
    parameter = inspect.signature(type(optimizer).step).parameters.get("closure")
    return parameter is not None and parameter.default is inspect.Parameter.empty
