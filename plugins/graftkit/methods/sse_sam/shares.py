r"""How much of each recorded target is of the tail, in the shape of the scores that it belongs to.

.. math:: m_i = [y_i \in T], \qquad \text{or the mass that a soft target puts on } T

Source: specification section 3.3 (membership), for the recorded calls of an unmodified loop.
"""

import torch
from torch import Tensor

from graftkit.core.validation import raise_invalid
from graftkit.methods.sse_sam.calls import LossTerm, ModelCall
from graftkit.methods.sse_sam.classes import on_the_grid_of, spread_over
from graftkit.methods.sse_sam.settings import Settings
from graftkit.methods.sse_sam.watch import Watch

__all__ = ["share_of"]


def share_of(term: LossTerm, call: ModelCall, watch: Watch, settings: Settings) -> Tensor:
    """Read the tail's share of each entry of one loss.

    Parameters
    ----------
    term : LossTerm
        The loss, whose targets decide.
    call : ModelCall
        The call that the loss was computed from.
    watch : Watch
        Says how membership is read where the classes do not decide.
    settings : Settings
        The optimizer's, with the tail's classes.

    Returns
    -------
    Tensor of shape (B,), (B, ...) or the scores' own
        Shares in [0, 1].

    Raises
    ------
    RuntimeError
        If the call has no output.
    ValueError
        If targets are no tensor, the shares are outside [0, 1], or the shapes do not belong together.
    """
    output = call.output
    if output is None:
        raise RuntimeError("a call without output cannot be repeated")
    targets, custom, lookup = term.targets, watch.membership, settings.membership
    if callable(custom):
        share = custom(targets)
        if not isinstance(share, Tensor) or not bool(((share >= 0) & (share <= 1)).all()):
            raise_invalid("membership", share, "a tensor of tail shares in [0, 1]")
    elif lookup is None:
        return output.new_zeros(len(output))
    else:
        if not isinstance(targets, Tensor):
            raise_invalid(
                "targets",
                targets,
                "a tensor of labels",
                fix="Say how to read them: watch(..., targets_from=...).",
            )
        if targets.is_floating_point():
            share = lookup.of_soft_targets(targets)
        elif targets.dtype == torch.bool:
            share = targets
        else:
            share = lookup.of_labels(targets, getattr(watch.criterion, "ignore_index", -100))
        if custom == "sample":
            share = share.reshape(len(share), -1).any(1) if share.dtype == torch.bool else share
    share = share.to(output.device).to(output.dtype if output.is_floating_point() else torch.float32)
    share = on_the_grid_of(share, output)
    spread_over(share, output)  # a shape that does not fit fails here, before anything has moved
    return share
