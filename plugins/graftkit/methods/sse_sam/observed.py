"""A step that torch's wrapper goes around only while somebody looks.

The wrapper runs hooks and labels the step for the profiler. Of a small model's step it takes a share that one
notices, and nearly always for nothing.

>>> optimizer = torch.optim.SGD([torch.ones(1, requires_grad=True)], lr=0.1)
>>> is_observed(optimizer)
False
>>> handle = optimizer.register_step_pre_hook(lambda *_: None)
>>> is_observed(optimizer)
True
"""

import functools
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

import torch
from torch.optim import Optimizer
from torch.optim.optimizer import _global_optimizer_post_hooks, _global_optimizer_pre_hooks

__all__ = ["is_observed", "wrapped_while_observed"]

P = ParamSpec("P")
R = TypeVar("R")


def is_observed(optimizer: Optimizer) -> bool:
    """Whether a hook on an optimizer's step, or a profiler, is there.

    Parameters
    ----------
    optimizer : torch.optim.Optimizer
        Any.

    Returns
    -------
    bool
        ``True`` for its own hooks, those of all optimizers, and a running profiler.
    """
    return bool(
        optimizer._optimizer_step_pre_hooks
        or optimizer._optimizer_step_post_hooks
        or _global_optimizer_pre_hooks
        or _global_optimizer_post_hooks
        or torch._C._autograd._profiler_enabled()
    )


def wrapped_while_observed(step: Callable[P, R]) -> Callable[P, R]:
    """Decorate an optimizer's ``step``; hooks see its arguments as they were given.

    Parameters
    ----------
    step : callable
        The method.

    Returns
    -------
    callable
        Of the same signature.
    """
    wrapped: Callable[P, R] = Optimizer.profile_hook_step(step)

    @functools.wraps(step)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        optimizer: Any = args[0]
        return wrapped(*args, **kwargs) if is_observed(optimizer) else step(*args, **kwargs)

    call.hooked = True  # type: ignore[attr-defined]  # or torch would wrap it once more
    return call
