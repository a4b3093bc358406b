"""One check at the first step of a watched loop: repeating the calls gives the gradient that is there.

Stage 1 takes the whole gradient from repeated calls, so a loss term besides the watched criterion would
vanish without a word. The check costs one pass, once.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from graftkit.methods.sse_sam.arithmetic import Gradients
from graftkit.methods.sse_sam.gradients import Processes
from graftkit.methods.sse_sam.replay import ReplayPasses
from graftkit.methods.sse_sam.settings import Settings
from graftkit.methods.sse_sam.sharpening import ascent_norms, check_finite

__all__ = ["verify_records"]


def _dense(grad: Tensor) -> Tensor:
    return grad.to_dense() if grad.is_sparse else grad


def verify_records(
    passes: ReplayPasses, params: Sequence[Tensor], settings: Settings, processes: Processes
) -> None:
    """Make sure that the recorded calls explain the whole gradient, or stage 1 would drop the rest.

    Parameters
    ----------
    passes : ReplayPasses
        The records.
    params : sequence of Tensor
        The weights, with the user's gradient.
    settings : Settings
        The optimizer's.
    processes : Processes
        Who shares the step.

    Raises
    ------
    RuntimeError
        If they do not.
    """
    repeated = passes.whole()
    own: Gradients = [p.grad if p.grad is not None else torch.zeros_like(p) for p in params]
    explained: Gradients = [None if again is None else g for g, again in zip(own, repeated, strict=True)]
    gap: Gradients = [
        None if again is None or mine is None else _dense(again) - _dense(mine)
        for mine, again in zip(own, repeated, strict=True)
    ]
    plain = [False] * len(params)
    norms = ascent_norms({"gap": gap, "own": explained}, params, plain, settings.foreach)
    check_finite(norms.values(), processes, params)
    rough = passes.in_low_precision or min(p.dtype.itemsize for p in params) < 4
    if norms["gap"] > (5e-2 if rough else 1e-2) * norms["own"]:
        share = norms["gap"] / norms["own"] if norms["own"] else float("inf")
        raise RuntimeError(
            "watch: repeating the recorded calls gives another gradient than backward() left (relative "
            f"difference {share:.2g}). Something besides the watched criterion contributes (another loss "
            "term, gradients that were not zeroed, a change of gradients), or the forward pass is not "
            "repeatable. Stage 1 would drop it. Put the term into the criterion or into "
            "base_optimizer.register_step_pre_hook; watch(..., verify=False) skips this check."
        )
