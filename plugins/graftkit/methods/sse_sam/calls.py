"""The calls of model and criterion since the last step, as an unmodified loop made them.

Only references are kept: inputs, the output's values without its graph, targets, and how strongly the
user's backward weighted each loss (accumulation factors and loss scales included).
"""

import weakref
from collections.abc import Callable, Mapping, MutableMapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from graftkit.core.validation import raise_invalid
from graftkit.methods.sse_sam.coupling import RecordedStatistics
from graftkit.methods.sse_sam.structures import Versions, map_tensors, with_items
from graftkit.methods.sse_sam.surroundings import Autocast, RandomState

__all__ = ["LossTerm", "ModelCall", "find_logits"]


@dataclass
class LossTerm:
    """One criterion call, or one loss that the model returned itself.

    Attributes
    ----------
    targets : object
        What says which samples are of the tail.
    loss : weakref to Tensor
        The loss; it must not keep its graph alive.
    args, kwargs : tuple, dict
        The criterion's, with ``None`` where the model's output was; unused for a model's own losses.
    place : int or str
        Where the output was.
    versions : Versions or None
        Of the criterion's other arguments.
    autocast : Autocast or None
        The state at the call.
    weight : Tensor or None
        What the user's backward sent into this loss; ``None`` before it.
    within : list of LossTerm
        Losses of the same call that were computed from this one, as a total from its terms.
    """

    targets: Any
    loss: "weakref.ref[Tensor]"
    args: tuple[Any, ...] = ()
    kwargs: dict[str, Any] = field(default_factory=dict)
    place: int | str = 0
    versions: Versions | None = None
    autocast: Autocast | None = None
    weight: Tensor | None = None
    within: "list[LossTerm]" = field(default_factory=list)

    @property
    def counts(self) -> bool:
        """Whether a backward took it, and not merely went through it from a loss that it is part of."""
        return self.weight is not None and all(term.weight is None for term in self.within)

    def listen(self, loss: Tensor, before: Callable[[], object]) -> None:
        """Remember what backward sends into the loss.

        Parameters
        ----------
        loss : Tensor
            The loss itself.
        before : callable
            Called first, when the backward has not reached any parameter from this loss.
        """

        def arrived(grad: Tensor | None) -> None:
            if grad is None:
                return  # DDP hands nothing on to a loss that its user left out
            before()
            self.weight = grad.detach().clone() if self.weight is None else self.weight + grad.detach()

        loss.register_hook(arrived)


@dataclass
class ModelCall:
    """One call of the watched model in train mode.

    Attributes
    ----------
    args, kwargs : tuple, dict
        References to what the model was called on.
    versions : Versions
        Of those.
    random : RandomState
        The generators before the call.
    autocast : Autocast
        The autocast state of the call.
    statistics : RecordedStatistics or None
        Batch statistics of the call, for ``tail_pass="frozen_stats"``.
    output : Tensor or None
        The output's values, without graph.
    output_ref : weakref to Tensor or None
        The output itself, to recognise it.
    output_version : int
        Its version counter.
    terms : list of LossTerm
        What was computed from it.
    """

    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    versions: Versions
    random: RandomState
    autocast: Autocast
    statistics: RecordedStatistics | None = None
    output: Tensor | None = None
    output_ref: "weakref.ref[Tensor] | None" = None
    output_version: int = 0
    terms: list[LossTerm] = field(default_factory=list)

    @property
    def used(self) -> list[LossTerm]:
        """The terms that took part in a backward."""
        return [term for term in self.terms if term.counts]

    @property
    def dead(self) -> bool:
        """Whether nothing can come of this call any more: no backward so far, and no graph left."""
        if self.used:
            return False
        losses = [term.loss() for term in self.terms]
        output = self.output_ref() if self.output_ref is not None else None
        return output is None and all(loss is None for loss in losses)

    def select(self, rows: Tensor) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The call's arguments, reduced to some samples.

        Parameters
        ----------
        rows : Tensor of shape (n,), int64
            Positions along the first dimension.

        Returns
        -------
        (tuple, dict)
            Tensors (and lists) as long as the output's first dimension are indexed, the rest is kept.
        """
        size = self.output.shape[0] if self.output is not None else -1

        def pick(value: Any) -> Any:
            if isinstance(value, Tensor) and value.ndim > 0 and value.shape[0] == size:
                return value.index_select(0, rows.to(value.device))
            return value

        def walk(value: Any) -> Any:
            if (
                isinstance(value, list)
                and len(value) == size
                and not any(isinstance(v, Tensor) for v in value)
            ):
                return [value[i] for i in rows.tolist()]
            if isinstance(value, list):
                return [walk(item) for item in value]
            if isinstance(value, MutableMapping):
                return with_items(value, walk)
            return map_tensors(value, pick)

        return tuple(walk(a) for a in self.args), {key: walk(v) for key, v in self.kwargs.items()}


def find_logits(output: Any) -> Tensor:
    """The tensor that a criterion is called on.

    Parameters
    ----------
    output : object
        What the model returned.

    Returns
    -------
    Tensor
        `output` itself, or its ``logits``.

    Raises
    ------
    TypeError
        If it is neither a tensor nor a mapping or object with ``logits``.
    """
    if isinstance(output, Tensor):
        return output
    found = output.get("logits") if isinstance(output, Mapping) else getattr(output, "logits", None)
    if not isinstance(found, Tensor):
        raise_invalid(
            "model output",
            output,
            "a tensor, or a mapping or object with 'logits'",
            fix="Otherwise name the submodule that makes the class scores: watch(..., output_module=...).",
            error=TypeError,
        )
    return found
