"""Hooks that let an unmodified loop be repeated: what was called, on what, and what came of it.

``watch(model, criterion)`` records while the loop runs ``forward`` and ``backward`` as always; calls under
``no_grad`` or in eval mode are not recorded. References are freed at every step, also after an exception.
"""

import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.module import _has_any_global_hook
from torch.nn.parallel import DistributedDataParallel

from graftkit.core.validation import describe, raise_invalid
from graftkit.methods.sse_sam.calls import LossTerm, ModelCall, find_logits
from graftkit.methods.sse_sam.coupling import RecordedStatistics
from graftkit.methods.sse_sam.hooks import FunctionCriterion, Hook
from graftkit.methods.sse_sam.own_losses import find_losses, hides_scores, totals_of
from graftkit.methods.sse_sam.probes import GradientProbes
from graftkit.methods.sse_sam.structures import Versions
from graftkit.methods.sse_sam.surroundings import Autocast, random_state

__all__ = ["TARGET_NAMES", "Watch"]

TARGET_NAMES = ("labels", "label", "targets", "target")
_WATCHED: "weakref.WeakKeyDictionary[nn.Module, weakref.ref[Watch]]" = weakref.WeakKeyDictionary()


class Watch:
    """Records of one model and its criterion.

    Parameters
    ----------
    model : torch.nn.Module
        The model as the loop calls it.
    criterion : torch.nn.Module, callable or None
        What the loop calls on the output; ``None`` where the model returns its own loss.
    params : sequence of Tensor
        The optimizer's parameters.
    output_module : str, torch.nn.Module or None
        The submodule whose output holds the class scores, for models that return losses only.
    targets_from : str, callable or None
        The keyword, or a function of ``(args, kwargs)``, that gives the targets.
    membership : callable, "sample" or None
        A function of the targets that gives the tail's share, of shape (B,) or the targets'.
    frozen_stats : bool
        Whether to record batch statistics.
    """

    def __init__(
        self,
        model: nn.Module,
        criterion: Any,
        params: Sequence[Tensor],
        *,
        output_module: str | nn.Module | None = None,
        targets_from: str | Callable[..., Any] | None = None,
        membership: Callable[[Any], Tensor] | str | None = None,
        frozen_stats: bool = False,
    ) -> None:
        if not isinstance(model, nn.Module):
            raise_invalid("model", model, "a torch.nn.Module", error=TypeError)
        if criterion is not None and not callable(criterion):
            raise_invalid("criterion", criterion, "a module, a function, or None", error=TypeError)
        if targets_from is not None and not (isinstance(targets_from, str) or callable(targets_from)):
            raise_invalid(
                "targets_from", targets_from, "a keyword or a function of (args, kwargs)", error=TypeError
            )
        if membership is not None and membership != "sample" and not callable(membership):
            raise_invalid(
                "membership", membership, "a function of the targets, 'sample', or None", error=TypeError
            )
        other = _WATCHED.get(model)
        if other is not None and other() is not None:
            raise RuntimeError(
                "watch: this model is already watched by another optimizer; call its unwatch() first. "
                "Two optimizers cannot both repeat its passes."
            )
        mine = {id(p) for p in params}
        if not any(id(p) in mine for p in model.parameters()):
            raise_invalid("model", type(model).__name__, "the model whose parameters this optimizer holds")
        self.model = model
        self.ddp = model if isinstance(model, DistributedDataParallel) else None
        inner = self.ddp.module if self.ddp is not None else model
        self.inner: nn.Module = inner
        self.output_module = self._find_module(output_module)
        self.criterion: nn.Module | None = None
        if criterion is not None:
            self.criterion = criterion if isinstance(criterion, nn.Module) else FunctionCriterion(criterion)
        self.targets_from, self.membership = targets_from, membership
        self.frozen_stats = frozen_stats
        self.device = next(p for p in params).device
        self.calls: list[ModelCall] = []
        self.foreign: list[LossTerm] = []
        self.captured: Tensor | None = None
        self._open: ModelCall | None = None
        self._paused = False
        self.probes = GradientProbes(params)
        self._handles = [
            model.register_forward_pre_hook(Hook(self, "_before_model"), with_kwargs=True),
            model.register_forward_hook(Hook(self, "_after_model"), with_kwargs=True),
        ]
        if self.output_module is not None:
            self._handles.append(self.output_module.register_forward_hook(Hook(self, "_after_output_module")))
        if self.criterion is not None:
            hook = Hook(self, "_after_criterion")
            self._handles.append(self.criterion.register_forward_hook(hook, with_kwargs=True))
        # Ids of torch's handles differ over all modules.
        self._ours = {handle.id for handle in self._handles}
        _WATCHED[model] = weakref.ref(self)

    def close(self) -> None:
        """Remove every hook and reference."""
        self.clear()
        self.probes.close()
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        _WATCHED.pop(self.model, None)

    def clear(self) -> None:
        """Free what was recorded."""
        self.calls.clear()
        self.foreign.clear()
        self.probes.clear()
        self.captured = self._open = None

    def forget_used(self) -> None:
        """Free the calls whose gradients were zeroed; a forward that still waits for its backward stays."""
        if self.calls:
            self.calls = [call for call in self.calls if not call.used]
        if self.foreign:
            self.foreign = [term for term in self.foreign if term.weight is None]
        self.probes.clear()

    def forget_reset(self) -> None:
        """Forget earlier backwards, if their gradients were reset by another than the optimizer."""
        if self.probes.reset:
            for term in [*self.foreign, *(term for call in self.calls for term in call.terms)]:
                term.weight = None
            self.probes.clear()

    def repeat(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Call the watched model or its criterion once more, past the hooks of this watch.

        Parameters
        ----------
        module : torch.nn.Module
            The inner model, or the criterion.
        args, kwargs : tuple, dict
            What to call it on.

        Returns
        -------
        object
            What it returns. Where anything else is hooked to it, or to all modules, or where it is compiled,
            it is called as always, and the hooks of this watch, which is paused, do nothing.
        """
        after, before = module._forward_hooks, module._forward_pre_hooks
        if (
            self._ours.issuperset(after)
            and self._ours.issuperset(before)
            and not (module._backward_hooks or module._backward_pre_hooks)
            and module._compiled_call_impl is None
            and not (_has_any_global_hook() or torch._C._get_tracing_state() is not None)
            and type(module).__call__ is nn.Module.__call__
            and type(module)._call_impl is nn.Module._call_impl
            and module is not self.output_module
        ):
            return module.forward(*args, **kwargs)
        return module(*args, **kwargs)

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Record nothing inside the context.

        Yields
        ------
        None
        """
        self._paused = True
        try:
            yield
        finally:
            self._paused = False
            self.captured = None

    def targets_of(self, args: tuple[Any, ...], kwargs: dict[str, Any], skip: int | str | None) -> Any:
        """Find the targets among a call's arguments.

        Parameters
        ----------
        args, kwargs : tuple, dict
            The call's.
        skip : int, str or None
            Where the model's output is.

        Returns
        -------
        object
            The targets, or ``None``.
        """
        if callable(self.targets_from):
            return self.targets_from(args, kwargs)
        if isinstance(self.targets_from, str):
            return kwargs.get(self.targets_from)
        for name in TARGET_NAMES if kwargs else ():
            if name != skip and kwargs.get(name) is not None:
                return kwargs[name]
        if self.criterion is None:
            return None
        for place, value in [*enumerate(args), *kwargs.items()]:
            if place != skip and isinstance(value, Tensor):
                return value
        return None

    def _find_module(self, wanted: str | nn.Module | None) -> nn.Module | None:
        modules: dict[str, nn.Module] = dict(self.inner.named_modules())
        if isinstance(wanted, str):
            if wanted not in modules:
                some = ", ".join(repr(n) for n in list(modules)[-5:] if n)
                raise_invalid("output_module", wanted, f"the name of a submodule, such as {some}")
            wanted = modules[wanted]
        if wanted is self.inner:
            return None  # what the model returns, as without the argument
        if wanted is not None and not any(module is wanted for module in modules.values()):
            raise_invalid("output_module", type(wanted).__name__, "a submodule of the watched model")
        return wanted

    def _recording(self) -> bool:
        return not self._paused and torch.is_grad_enabled() and self.model.training

    def _before_model(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        del module
        self._close_statistics()
        self._open = None
        if not self._paused:
            self.captured = None
        if not self._recording():
            return
        if self.ddp is None:
            # Watched below its DDP wrapper: the wrapper that runs right now averages the gradients.
            self.ddp = getattr(DistributedDataParallel, "_active_ddp_module", None)
        if self.calls:
            self.calls = [call for call in self.calls if not call.dead]
        statistics = RecordedStatistics(self.inner) if self.frozen_stats else None
        if statistics is not None:
            statistics.start()
        self._open = ModelCall(
            args,
            dict(kwargs),
            Versions({"args": args, **kwargs}),
            random_state(self.device),
            Autocast.now(self.device),
            statistics,
        )

    def _close_statistics(self) -> None:
        if self._open is not None and self._open.statistics is not None:
            self._open.statistics.stop()

    def _after_output_module(self, module: nn.Module, args: Any, output: Any) -> None:
        del module, args
        if self.captured is not None and self._open is not None:
            raise RuntimeError(
                "output_module: expected one call of it in each forward, got a second, and the first's "
                "scores would be of no part. Name a module that makes all scores at once."
            )
        if self._paused or self._open is not None:
            self.captured = find_logits(output)

    def _after_model(self, module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        del module
        self._close_statistics()
        call, self._open = self._open, None
        captured, self.captured = self.captured, (self.captured if self._paused else None)
        if call is None:
            return
        if self.output_module is not None:
            if captured is None:
                raise RuntimeError(
                    "output_module: expected a submodule that the model calls, but it was not called in "
                    "this forward (a direct call of its forward() runs no hooks)"
                )
            scores = captured
        elif self.criterion is None and hides_scores(output):
            raise TypeError(
                f"model output: the model returned losses only ({describe(output)}), so its class scores "
                "are hidden. Say where they are made and where the labels are: watch(model, "
                "output_module=..., targets_from=...)."
            )
        else:
            scores = find_logits(output)
        call.output, call.output_ref = scores.detach(), weakref.ref(scores)
        call.output_version = scores._version
        self.calls.append(call)
        if self.criterion is None:
            targets = self.targets_of(args, kwargs, None)
            if targets is None:
                raise ValueError(
                    "targets: expected them among the model's keyword arguments as one of "
                    f"{', '.join(TARGET_NAMES)}, got {', '.join(kwargs) or 'no keyword at all'}. Say "
                    "where they are: watch(..., targets_from=...)."
                )
            losses = find_losses(output)
            call.terms += [LossTerm(targets, weakref.ref(loss)) for loss in losses]
            for term, totals in zip(call.terms, totals_of(losses), strict=True):
                term.within = [call.terms[i] for i in totals]
            for term, loss in zip(call.terms, losses, strict=True):
                term.listen(loss, Hook(self, "forget_reset"))

    def _find_output(
        self, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[int | str, Tensor, ModelCall] | None:
        """Where among a criterion's arguments a recorded call's output is."""
        places: list[tuple[int | str, Any]] = [*enumerate(args), *kwargs.items()]
        found = [
            (place, value, call)
            for place, value in places
            if isinstance(value, Tensor)
            for call in self.calls
            if call.output_ref is not None and call.output_ref() is value
        ]
        if len(found) > 1:
            raise RuntimeError(
                f"criterion: expected one output of the watched model, got {len(found)} (at "
                f"{', '.join(str(place) for place, _, _ in found)}), and a repeated pass gives one. Call the "
                "model once on both inputs (torch.cat), or let it return the loss: watch(model, None)."
            )
        return found[0] if found else None

    def _after_criterion(
        self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], loss: Any
    ) -> None:
        del module
        if (
            self._paused
            or not torch.is_grad_enabled()
            or not isinstance(loss, Tensor)
            or not loss.requires_grad
        ):
            return
        found = self._find_output(args, kwargs)
        if found is None:
            term = LossTerm(None, weakref.ref(loss))
            term.listen(loss, Hook(self, "forget_reset"))
            self.foreign.append(term)
            return
        place, scores, call = found
        if scores._version != call.output_version:
            raise RuntimeError(
                "model output was changed in place between the model and the criterion, so the call "
                "cannot be repeated"
            )
        targets = self.targets_of(args, kwargs, place)
        if targets is None:
            raise ValueError(
                "targets: expected a tensor beside the model's output in the criterion's call, found "
                "none. Say where they are: watch(..., targets_from=...)."
            )
        rest = tuple(None if i == place else _settled(a) for i, a in enumerate(args))
        named = {k: _settled(v) for k, v in kwargs.items() if k != place}
        term = LossTerm(
            targets, weakref.ref(loss), rest, named, place, Versions({"criterion args": rest, **named}),
            Autocast.now(self.device),
        )  # fmt: skip
        term.listen(loss, Hook(self, "forget_reset"))
        call.terms.append(term)


def _settled(value: Any) -> Any:
    """An argument without its graph, which is gone when the criterion is called again."""
    made = isinstance(value, Tensor) and value.requires_grad and not value.is_leaf
    return value.detach() if made else value
