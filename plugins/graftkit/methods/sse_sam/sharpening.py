r"""The update itself: from passes to the gradient that the base optimizer steps along.

.. math::
   \text{stage 1: } g = \nabla L_H(w + \varepsilon_H) + \nabla L_T(w + \varepsilon_T), \qquad
   \text{stage 2: } g = \nabla L_H(w) + \nabla L_T(w + \varepsilon_T)

A part of radius 0 keeps its gradient at ``w``: that *is* its term, so no pass is spent on it.

Source: SSE-SAM (AAAI 2025, arXiv 2412.13715), released code; specification section 1.2.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Protocol

import torch
from torch import Tensor

from graftkit.methods.sse_sam.arithmetic import Gradients, add_
from graftkit.methods.sse_sam.gradients import Processes
from graftkit.methods.sse_sam.groups import StepGroups
from graftkit.methods.sse_sam.perturbation import PerturbedWeights, all_finite, gradient_norm, norm_value
from graftkit.methods.sse_sam.settings import Settings

__all__ = [
    "NonFiniteGradient",
    "Passes",
    "ascent_norms",
    "check_finite",
    "check_sum",
    "sharpened_gradient",
]


class NonFiniteGradient(RuntimeError):
    """A gradient at the weights or away from them held NaN or infinity; the weights are as before."""


class Passes(Protocol):
    """Where gradients come from: closures, or the repetition of recorded calls."""

    def at_weights(self, wanted: tuple[str, ...]) -> dict[str, Gradients]:
        """Gradients at ``w`` of the wanted parts that have a sample."""

    def perturbed(self, part: str) -> Gradients:
        """Gradient of a part where the weights are now."""


def ascent_norms(
    grads: Mapping[str, Gradients], params: Sequence[Tensor], adaptive: Sequence[bool], foreach: bool | None
) -> dict[str, float]:
    """Global norm of each part's gradient, read in one synchronisation.

    Parameters
    ----------
    grads : mapping of str to list of Tensor or None
        The parts.
    params : sequence of Tensor
        The weights.
    adaptive : sequence of bool
        One a parameter.
    foreach : bool or None
        Multi-tensor arithmetic, plain, or decided by the tensors.

    Returns
    -------
    dict of str to float
        The norms.
    """
    if not grads:
        return {}
    if len(grads) == 1 or params[0].device.type == "cpu":
        return {part: norm_value(params, g, adaptive, foreach) for part, g in grads.items()}
    norms = [gradient_norm(params, g, adaptive, foreach) for g in grads.values()]
    values = torch.stack([n.to(device=params[0].device, dtype=torch.float64) for n in norms]).tolist()
    return dict(zip(grads, values, strict=True))


def sharpened_gradient(
    passes: Passes,
    wanted: tuple[str, ...],
    groups: StepGroups,
    settings: Settings,
    processes: Processes,
    weights: PerturbedWeights,
    away: Callable[[], AbstractContextManager[None]],
) -> Gradients:
    """Run the passes of one step.

    Parameters
    ----------
    passes : Passes
        Where gradients come from.
    wanted : tuple of str
        ``("head", "tail")``, or ``("all",)`` for plain SAM and for steps without any perturbation.
    groups : StepGroups
        The weights, with one radius and one kind each.
    settings : Settings
        The optimizer's.
    processes : Processes
        Who shares the step.
    weights : PerturbedWeights
        Moves the weights and brings them back.
    away : callable
        Makes the context that is entered while weights are away.

    Returns
    -------
    list of Tensor or None
        The gradient, averaged over the processes.

    Raises
    ------
    NonFiniteGradient
        If a gradient is not finite, on every process alike.
    """
    foreach, params, adaptive = settings.foreach, groups.params, groups.adaptive
    grads = passes.at_weights(wanted)
    moved = [part for part in grads if groups.moves(part)]
    if settings.sync_perturbation:
        for part in moved:
            grads[part] = processes.average(grads[part], params)
    # What is not moved goes into the sum below, whose check is enough for it.
    norms = ascent_norms({part: grads[part] for part in moved}, params, adaptive, foreach)
    if moved:
        check_finite(norms.values(), processes, params)
    total: Gradients | None = None
    for part in [p for p in grads if p not in moved]:
        kept = grads.pop(part)
        total = kept if total is None else add_(total, kept, foreach)
    for part in moved:
        try:
            with away():
                weights.ascend(
                    params,
                    grads.pop(part),
                    rho=groups.radius(part),
                    adaptive=adaptive,
                    norm=norms[part],
                    eps=settings.eps,
                    foreach=foreach,
                )
                term = passes.perturbed(part)
        finally:
            weights.restore()
        total = term if total is None else add_(total, term, foreach)
        del term
    total = processes.average(total if total is not None else [None] * len(params), params)
    # The norms at the weights are finite; the passes away from them may still have overflowed.
    check_sum(total, processes, params, foreach)
    return total


def check_sum(total: Gradients, processes: Processes, params: Sequence[Tensor], foreach: bool | None) -> None:
    """Raise on every process where a step's final gradient is not finite on any process.

    Parameters
    ----------
    total : list of Tensor or None
        The gradient.
    processes : Processes
        Who shares the step.
    params : sequence of Tensor
        The weights.
    foreach : bool or None
        Multi-tensor arithmetic, plain, or decided by the tensors.

    Raises
    ------
    NonFiniteGradient
        The message says that nothing has changed.
    """
    finite = all_finite(params, total, foreach)
    if finite and processes.size == 1:
        return
    # The norm is read for the message only.
    norm = 0.0 if finite else norm_value(params, total, (), foreach)
    check_finite([norm if finite or not math.isfinite(norm) else math.inf], processes, params)


def check_finite(norms: Iterable[float], processes: Processes, params: Sequence[Tensor]) -> None:
    """Raise on every process where a norm on any process is not finite.

    Parameters
    ----------
    norms : iterable of float
        This process's.
    processes : Processes
        Who shares the step.
    params : sequence of Tensor
        The weights, for their device.

    Raises
    ------
    NonFiniteGradient
        The message says that nothing has changed.
    """
    values = list(norms)
    bad = not all(map(math.isfinite, values))
    if processes.any([bad], params[0].device)[0] if processes.size > 1 else bad:
        raise NonFiniteGradient(
            f"non-finite gradient (norms {', '.join(f'{v:g}' for v in values)}): the weights are as "
            "before the step and the step is not counted. With fp16 use a GradScaler."
        )
