"""Passes of the closure form: the optimizer asks for per-sample losses as often as it needs them.

``closure(index=None)`` returns ``(losses, targets)`` without calling ``backward()``. Full passes take one
forward for both gradients at the weights; subset passes run each part on its own samples only, and where
``targets`` are known beforehand nothing runs twice.

Work in forward+backward units, ``t`` the tail's share of the batch:

=====================  ===========  =============
passes                 stage 1      stage 2
=====================  ===========  =============
full                   3.67         2.67
subset                 2 + t        1 + 2t
subset, targets known  2            1 + t
=====================  ===========  =============

Source: specification sections 1.4, 3.3, 3.6.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from graftkit.core.validation import raise_invalid
from graftkit.methods.sse_sam.arithmetic import Gradients, add_, scale_, subtract_
from graftkit.methods.sse_sam.closure_arguments import Closure, call_whole
from graftkit.methods.sse_sam.coupling import RecordedStatistics, frozen_running_stats, has_statistics
from graftkit.methods.sse_sam.gradients import Processes, differentiate
from graftkit.methods.sse_sam.parts import OnePart, SplitLosses, split, tail_share
from graftkit.methods.sse_sam.settings import Settings
from graftkit.methods.sse_sam.surroundings import random_state, with_random_state

__all__ = ["ClosurePasses"]


class ClosurePasses:
    """Gradients of the parts at the weights and away from them, from one closure or several.

    Parameters
    ----------
    closures : sequence of callable
        One a micro-batch; together they are the batch.
    params : sequence of Tensor
        What to differentiate for.
    settings : Settings
        The optimizer's.
    processes : Processes
        Who shares the step.
    mode : {"full", "subset", "frozen_stats"}
        On which samples the passes run.
    model : torch.nn.Module or None
        Whose running statistics to leave alone in repeated passes.
    targets : Tensor or None
        The batch's targets where they are known beforehand (one closure only).
    scale : callable or None
        A GradScaler's ``scale``.
    first : tuple or None
        What the only closure returned at the weights, where it has run already.
    """

    def __init__(
        self,
        closures: Sequence[Closure],
        params: Sequence[Tensor],
        settings: Settings,
        processes: Processes,
        *,
        mode: str,
        model: nn.Module | None,
        targets: Tensor | None = None,
        scale: Callable[[Tensor], Tensor] | None = None,
        first: Any = None,
    ) -> None:
        self.closures, self.params, self.settings, self.processes = closures, params, settings, processes
        self.mode, self.model, self.targets = mode, model, targets
        self.scale, self._first = scale, first
        self.loss: Tensor | None = None
        self._count = 0
        self._rows: list[dict[str, Tensor]] = []
        self._random: list[Any] = []
        self._expected: dict[str, OnePart] = {}
        self._statistics = (
            [RecordedStatistics(model) for _ in closures] if mode == "frozen_stats" and model else []
        )
        self._passes_run = 0

    def at_weights(self, wanted: tuple[str, ...]) -> dict[str, Gradients]:
        """Gradients at the current weights of those wanted parts that have a sample anywhere.

        Parameters
        ----------
        wanted : tuple of str
            ``("head", "tail")`` or ``("all",)``.

        Returns
        -------
        dict of str to list of Tensor or None
            A gradient a part, divided by the whole batch.
        """
        if wanted == ("all",) and len(self.closures) == 1 and self.processes.size == 1:
            return {"all": self._forward_whole()}
        self._present: set[str] = set()
        if self.targets is not None and self.mode == "subset" and wanted != ("all",):
            found = self._known_parts(self.targets)
        else:
            found = self._forward_all(wanted)
        flags = self.processes.any([p in self._present for p in wanted], self.params[0].device)
        missing: Gradients = [None] * len(self.params)
        return {p: found.get(p, list(missing)) for p, anywhere in zip(wanted, flags, strict=True) if anywhere}

    def perturbed(self, part: str) -> Gradients:
        """Gradient of one part where the weights are now.

        Parameters
        ----------
        part : {"head", "tail", "all"}
            The part.

        Returns
        -------
        list of Tensor or None
            Divided by the whole batch.
        """
        total: Gradients | None = None
        for k in range(len(self.closures)):
            rows = self._rows[k].get(part) if self.mode != "full" and part != "all" else None
            if rows is not None and rows.numel() == 0:
                if self.processes.size == 1:
                    continue
                rows = torch.zeros(1, dtype=torch.long)  # every process runs as many forwards
            batch = self._call(k, rows, part)  # a dummy sample has weight 0 in the part it does not belong to
            grads = self._gradient(batch, part)
            total = grads if total is None else add_(total, grads, self.settings.foreach)
        return total if total is not None else [None] * len(self.params)

    def _forward_whole(self) -> Gradients:
        """The one pass of one closure where no part is told apart."""
        batch = self._call(0, None)
        self._count = _counted(batch.count)
        self.loss = batch.sum() / self._count
        self._rows.append({})
        return self._gradient(batch, "all")

    def _forward_all(self, wanted: tuple[str, ...]) -> dict[str, Gradients]:
        """One forward over everything; both backwards share its graph where passes are full."""
        found: dict[str, Gradients] = {}
        provisional, count = 0, 0
        losses: Tensor | float = 0.0
        for k in range(len(self.closures)):
            with self._statistics[k].recording() if self._statistics else ExitStack():
                batch = self._call(k, None)
            # The batch's size is known after the last micro-batch; until then a guess keeps fp16 in range.
            self._count = provisional = provisional or max(batch.count, 1) * len(self.closures)
            count += batch.count
            losses = batch.sum() if k == 0 else losses + batch.sum()
            self._rows.append(self._split_rows(batch) if self.mode != "full" else {})
            parts = [p for p in wanted if p == "all" or (batch.has_head if p == "head" else batch.has_tail)]
            self._present.update(parts)
            if self.processes.averaged:
                parts = list(wanted)  # a sharded backward is a collective: every process runs it
            for part, grads in self._gradients_of(k, batch, parts).items():
                found[part] = add_(found[part], grads, self.settings.foreach) if part in found else grads
        self._count = _counted(count)
        self.loss = torch.as_tensor(losses / count)
        for grads in found.values():
            scale_(grads, provisional / count, self.settings.foreach)
        return found

    def _gradients_of(self, k: int, batch: SplitLosses, parts: list[str]) -> dict[str, Gradients]:
        if len(parts) < 2 or self.mode == "full":
            return {p: self._gradient(batch, p, retain_graph=i + 1 < len(parts)) for i, p in enumerate(parts)}
        # Subset: the whole gradient from the graph that exists, the tail's from its own few rows.
        head = self._gradient(batch, "all", tail_weight=1.0)
        rows = self._rows[k]["tail"]
        rows = rows if rows.numel() else torch.zeros(1, dtype=torch.long)
        tail = self._gradient(self._call(k, rows), "tail", tail_weight=1.0)
        head = subtract_(head, tail, self.settings.foreach)
        return {"head": head, "tail": scale_(tail, self.settings.tail_weight, self.settings.foreach)}

    def _known_parts(self, targets: Tensor) -> dict[str, Gradients]:
        share, counted = tail_share(targets, targets.shape, self.settings.membership)
        if targets.numel() == 0:
            raise_invalid("targets", targets, "at least one sample: this is an empty batch")
        self._count = targets.numel() if counted is None else int(counted.sum())
        self._rows.append(_rows_of(share, counted))
        if share.dtype == torch.bool and share.ndim == 1:
            for part, rows in self._rows[0].items():
                if rows.numel():
                    self._expected[part] = OnePart(targets[rows], share[rows], part)
        found: dict[str, Gradients] = {}
        loss: Tensor | float = 0.0
        for part in ("head", "tail"):
            rows = self._rows[0][part]
            if rows.numel() == 0 and self.processes.size == 1:
                continue
            batch = self._call(0, rows if rows.numel() else torch.zeros(1, dtype=torch.long), part)
            if rows.numel() or self.processes.averaged:
                found[part] = self._gradient(batch, part)
            if rows.numel():
                self._present.add(part)
                loss = loss + batch.sum(part) / self._count
        self.loss = torch.as_tensor(loss)
        return found

    def _gradient(
        self, batch: SplitLosses, part: str, *, retain_graph: bool = False, tail_weight: float | None = None
    ) -> Gradients:
        weight = self.settings.tail_weight if tail_weight is None else tail_weight
        seed = batch.seed(part, weight, self._count)
        if self.scale is not None:
            seed = self.scale(seed)
        return differentiate([batch.losses], [seed], self.params, retain_graph=retain_graph)

    def _split_rows(self, batch: SplitLosses) -> dict[str, Tensor]:
        return _rows_of(batch.membership, batch.counted)

    def _call(self, k: int, rows: Tensor | None, part: str = "all") -> SplitLosses:
        """Run one closure, the first time as it is, later without touching what it has touched already."""
        closure = self.closures[k]
        first = len(self._random) <= k
        with torch.enable_grad():
            if not self.settings.preserve_rng and (first or not (self._still or self._statistics)):
                if first:
                    self._random.append(None)
                result = self._returned(closure, rows)
            else:
                with self._repeating(k, first=first, subset=rows is not None):
                    result = self._returned(closure, rows)
        if not isinstance(result, (tuple, list)) or len(result) != 2:
            raise TypeError(
                "closure: expected (losses, targets) with per-sample losses (reduction='none') and "
                f"without a call of backward(), got {type(result).__name__}. A loop that calls backward() "
                "itself needs optimizer.watch(model, criterion)."
            )
        expected = self._expected.get(part) if rows is not None else None
        return split(result[0], result[1], self.settings.membership, expected)

    def _returned(self, closure: Closure, rows: Tensor | None) -> Any:
        if rows is not None:
            return closure(rows)
        if self._first is not None:
            result, self._first = self._first, None
            return result
        return call_whole(closure)

    @cached_property
    def _still(self) -> bool:
        """Whether repeated passes must leave running statistics alone; asked once a step."""
        model = self.model
        return model is not None and self.settings.update_running_stats == "once" and has_statistics(model)

    @contextmanager
    def _repeating(self, k: int, *, first: bool, subset: bool) -> Iterator[None]:
        with ExitStack() as stack:
            if first:
                kept = random_state(self.params[0].device) if self.settings.preserve_rng else None
                self._random.append(kept)
            else:
                if self.settings.preserve_rng:
                    stack.enter_context(with_random_state(self._random[k]))
                if self._still and self.model is not None:
                    stack.enter_context(frozen_running_stats(self.model))
                if self._statistics and subset:
                    stack.enter_context(self._statistics[k].replayed())
            yield


def _counted(count: int) -> int:
    if count == 0:
        raise_invalid("targets", "ignored entries only", "at least one entry that counts")
    return count


def _rows_of(share: Tensor, counted: Tensor | None) -> dict[str, Tensor]:
    """Positions along the batch that carry anything of the head, or of the tail."""
    if share.dtype == torch.bool and share.ndim == 1 and counted is None:
        return {"head": (~share).nonzero().view(-1), "tail": share.nonzero().view(-1)}
    head, tail = share < 1, share > 0
    if counted is not None:
        head, tail = head & counted, tail & counted
    return {
        "head": torch.nonzero(head.reshape(len(head), -1).any(1)).flatten(),
        "tail": torch.nonzero(tail.reshape(len(tail), -1).any(1)).flatten(),
    }
