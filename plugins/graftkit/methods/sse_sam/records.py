"""Whether what was recorded can be repeated at all, and the message that says why not.

A watched loop that called the criterion on something else, forgot ``backward()``, or changed its inputs in
place would otherwise train on wrong gradients without a word.
"""

from graftkit.methods.sse_sam.calls import ModelCall
from graftkit.methods.sse_sam.watch import Watch

__all__ = ["usable_calls"]


def usable_calls(watch: Watch) -> list[ModelCall]:
    """List the calls that took part in a backward since the last step.

    Parameters
    ----------
    watch : Watch
        The records.

    Returns
    -------
    list of ModelCall
        At least one.

    Raises
    ------
    RuntimeError
        If there is none, the criterion was called on another tensor than the output, or something that the
        repetition needs was changed in place.
    """
    if not watch.calls:
        raise RuntimeError(
            "watch: the model was not called in train mode with gradients since the last step, so there "
            "is nothing to repeat. Call the watched model itself (or its DDP wrapper), not a copy or a "
            "submodule; to keep some layers still, put those into eval mode and not the model."
        )
    if any(term.weight is not None for term in watch.foreign):
        raise RuntimeError(
            "criterion: it was called on a tensor that is not the watched model's output itself, so the "
            "step cannot be repeated. Move what lies between (a view, a cast, an interpolation) into the "
            "model or the criterion, or name the submodule that makes the scores: watch(..., "
            "output_module=...)."
        )
    calls = [call for call in watch.calls if call.used]
    if not calls:
        reason = (
            "backward() was not called on its loss"
            if any(call.terms for call in watch.calls)
            else "its criterion was never called (use the one that watch() returned where it was a function)"
        )
        raise RuntimeError(f"watch: the model was called since the last step, but {reason}")
    for call in calls:
        changed = call.versions.changed() + [
            name for term in call.used if term.versions is not None for name in term.versions.changed()
        ]
        if changed:
            raise RuntimeError(
                f"watch: {', '.join(changed)} changed in place between forward and step, so the call "
                "cannot be repeated. Work on a copy, or change it after step()."
            )
    return calls
