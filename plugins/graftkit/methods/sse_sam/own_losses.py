"""Losses that a model returns itself, and how they depend on its class scores.

>>> import torch
>>> scores = torch.ones(2, 2, requires_grad=True)
>>> losses = find_losses({"loss_main": scores.sum(), "acc": torch.ones(())})
>>> slope_of_losses(losses, scores, [None]).tolist()
[[1.0, 1.0], [1.0, 1.0]]
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import GradientEdge

from graftkit.core.validation import describe
from graftkit.methods.sse_sam.structures import tensors_in

__all__ = ["find_losses", "hides_scores", "slope_of_losses", "totals_of"]


def find_losses(output: Any) -> list[Tensor]:
    """The losses that a model returned itself, always in the same order.

    Parameters
    ----------
    output : object
        A tensor, an object with ``loss``, or a mapping whose keys hold "loss".

    Returns
    -------
    list of Tensor
        Those that carry a graph.

    Raises
    ------
    TypeError
        If there is none.
    """
    if isinstance(output, Tensor):
        found = [output]
    elif isinstance(output, Mapping):
        found = [t for key, value in output.items() if "loss" in str(key) for _, t in tensors_in(value, "")]
    else:
        found = [t for _, t in tensors_in(getattr(output, "loss", None), "")]
    losses = [t for t in found if t.requires_grad]
    if not losses:
        raise TypeError(
            "criterion: None means that the model returns its own loss, but its output "
            f"{describe(output)} holds no 'loss' with a graph. Pass the criterion, or call the model with "
            "labels."
        )
    return losses


def hides_scores(output: Any) -> bool:
    """Whether a model's output holds losses, but no ``logits``.

    Parameters
    ----------
    output : object
        What the model returned.

    Returns
    -------
    bool
        ``True`` where class scores must be found elsewhere.
    """
    found = output.get("logits") if isinstance(output, dict) else getattr(output, "logits", None)
    return not isinstance(found, Tensor)


def totals_of(losses: list[Tensor]) -> list[list[int]]:
    """Which of a model's losses were computed from which: a total beside its terms must not count twice.

    Parameters
    ----------
    losses : list of Tensor
        On the graph, which is kept.

    Returns
    -------
    list of list of int
        For each loss the places of those that depend on it; of one tensor given twice, the first counts.
    """
    found: list[list[int]] = [[] for _ in losses]
    if len(losses) > 1:
        for i, total in enumerate(losses):
            ones = torch.ones_like(total)
            slopes = torch.autograd.grad(total, losses, ones, retain_graph=True, allow_unused=True)
            for k, slope in enumerate(slopes):
                if slope is not None and (k > i if losses[k] is total else k != i):
                    found[k].append(i)
    return found


def slope_of_losses(losses: list[Tensor], output: Tensor, seeds: list[Tensor | None]) -> Tensor:
    """Differentiate a model's own losses by its scores, also where a host cast the scores afterwards.

    Parameters
    ----------
    losses : list of Tensor
        On the graph, which is kept.
    output : Tensor of shape (B, ...)
        The scores.
    seeds : list of Tensor or None
        How strongly each loss counts; ``None`` for 1.

    Returns
    -------
    Tensor of the scores' shape
        The derivative.

    Raises
    ------
    RuntimeError
        If no loss depends on the scores.
    """
    (slope,) = torch.autograd.grad(losses, [output], seeds, retain_graph=True, allow_unused=True)
    if slope is not None:
        return slope
    node, place = output.grad_fn, 0
    while node is not None and node.name().startswith("ToCopyBackward"):
        # accelerate hands out float32 copies of what the loss was computed from; a cast's derivative is 1.
        node, place = node.next_functions[0]
        edge = GradientEdge(node, place)
        (slope,) = torch.autograd.grad(losses, [edge], seeds, retain_graph=True, allow_unused=True)
        if slope is not None:
            return slope.to(output.dtype)
    raise RuntimeError(
        "model output: the model's own loss does not depend on its class scores as it returned them; "
        "name the submodule that makes them: watch(..., output_module=...)"
    )
