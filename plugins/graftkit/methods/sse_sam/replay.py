r"""Passes of the unmodified loop: recorded calls are repeated, the tail's part by its rows of the output.

For a criterion that is a sum over samples up to a normaliser,

.. math::
   g_T(w) = J(w)^\top \big[\partial L / \partial \text{out}\big]_T, \qquad
   g_H(w) = \nabla L(w) - g_T(w)

so no per-sample loss is needed: the user's own loss is differentiated with respect to the model's output, the
tail's rows are kept, and pushed back through the model. A pass on some samples puts its rows among the
recorded outputs of the others before calling the criterion, whose normaliser (mean, class weights,
``ignore_index``) stays the whole batch's. Both tail passes draw the same random numbers, so the sum
:math:`g + [g_T(w + \varepsilon_T) - g_T(w)]` carries little noise and stays unbiased. What belongs to no
sample's scores, such as an auxiliary head's loss inside the model's own, is in :math:`g - g_T` and goes with
the head.

Beyond the paper and the released code, which need a rewritten loop.
"""

from collections.abc import Sequence
from functools import cached_property

import torch
from torch import Tensor

from graftkit.methods.sse_sam.arithmetic import Gradients, add_, scale_, subtract_
from graftkit.methods.sse_sam.calls import LossTerm, ModelCall, find_logits
from graftkit.methods.sse_sam.classes import spread_over
from graftkit.methods.sse_sam.coupling import frozen_running_stats, has_statistics
from graftkit.methods.sse_sam.gradients import Processes, differentiate
from graftkit.methods.sse_sam.own_losses import find_losses, slope_of_losses
from graftkit.methods.sse_sam.parts import part_weight
from graftkit.methods.sse_sam.records import usable_calls
from graftkit.methods.sse_sam.settings import Settings
from graftkit.methods.sse_sam.shares import share_of
from graftkit.methods.sse_sam.surroundings import NOTHING, with_random_state
from graftkit.methods.sse_sam.watch import Watch

__all__ = ["ReplayPasses"]


class ReplayPasses:
    """Gradients from the user's own backward and from repeated calls.

    Parameters
    ----------
    watch : Watch
        The records.
    params : sequence of Tensor
        The optimizer's parameters; their ``.grad`` is the user's gradient and is worked on in place.
    settings : Settings
        The optimizer's.
    processes : Processes
        Who shares the step.
    mode : {"full", "subset", "frozen_stats"}
        On which samples passes run.
    whole : bool, default=False
        Whether no part will be asked for, only everything.
    head_moves : bool, default=True
        Whether the head's gradient will be asked for away from the weights too.
    unit : float, default=1.0
        What a repeated gradient is multiplied by to be in the units of ``.grad``.
    seed_factor : float, default=1.0
        What the recorded loss weights are multiplied by during repeats, to keep fp16 in range.

    Raises
    ------
    RuntimeError
        If the records do not allow the step to be repeated; the message says why.
    """

    def __init__(
        self,
        watch: Watch,
        params: Sequence[Tensor],
        settings: Settings,
        processes: Processes,
        *,
        mode: str,
        whole: bool = False,
        head_moves: bool = True,
        unit: float = 1.0,
        seed_factor: float = 1.0,
    ) -> None:
        self.watch, self.params, self.settings, self.processes = watch, params, settings, processes
        self.mode, self.unit, self.seed_factor = mode, unit, seed_factor
        self.head_moves = head_moves
        self.calls = usable_calls(watch)
        self._shares = (
            None if whole else [[share_of(t, c, watch, settings) for t in c.used] for c in self.calls]
        )
        self._grads: Gradients = [p.grad for p in params]
        self._found: dict[tuple[int, str, float, str], tuple[list[Tensor] | None, Tensor | None]] = {}

    def at_weights(self, wanted: tuple[str, ...]) -> dict[str, Gradients]:
        """The user's gradient, split where parts are wanted.

        Parameters
        ----------
        wanted : tuple of str
            ``("head", "tail")`` or ``("all",)``.

        Returns
        -------
        dict of str to list of Tensor or None
            A gradient a part, for those parts that have a sample anywhere.
        """
        weight, foreach = self.settings.tail_weight, self.settings.foreach
        own = self._grads
        local = self.processes.size > 1 and not self.settings.sync_perturbation
        if wanted == ("all",):
            if local:
                return {"all": self.perturbed("all")}
            if weight != 1:
                extra = scale_(self._repeat("tail", 1.0), weight - 1, foreach)
                own = add_(own, self.processes.average(extra, self.params), foreach)
            return {"all": own}
        shares = [share for call in self._shares or [] for share in call]
        if self.mode == "full":
            here = any(bool((s > 0).any()) for s in shares)
        else:
            found = [self._chosen(k, "tail", 1.0)[1] for k in range(len(self.calls))]
            here = any(len(s) > 0 for s in shares) and any(rows is None or rows.numel() for rows in found)
        anywhere = self.processes.any([here], self.params[0].device)
        # DDP has averaged the user's gradient: a direction of this process's own needs another pass.
        repeat_head = local and self.head_moves
        if not anywhere[0]:
            return {"head": self._repeat("head", 1.0) if repeat_head else own}
        tail = self._repeat("tail", 1.0)
        if repeat_head:
            return {"head": self._repeat("head", 1.0), "tail": scale_(tail, weight, foreach)}
        # Also where all samples are of the tail: what no sample accounts for is left, and must not be lost.
        average = self.processes.average(tail, self.params)
        head = subtract_(own, average, foreach)
        return {"head": head, "tail": scale_(tail if local else average, weight, foreach)}

    def perturbed(self, part: str) -> Gradients:
        """Gradient of one part where the weights are now.

        Parameters
        ----------
        part : {"head", "tail", "all"}
            The part.

        Returns
        -------
        list of Tensor or None
            Parameters that the output does not depend on (a criterion's own, an auxiliary loss's) keep the
            user's gradient.
        """
        grads = self._repeat(part, self.settings.tail_weight)
        if part == "tail":
            return grads
        # Where another process's samples do use the parameter, this one contributes nothing.
        used = self.processes.any([g is not None for g in grads], self.params[0].device)
        return [own if not yes else g for g, own, yes in zip(grads, self._grads, used, strict=True)]

    def whole(self) -> Gradients:
        """The user's gradient once more, from repeated full passes: what :meth:`SSESAM.watch` verifies.

        Returns
        -------
        list of Tensor or None
            Averaged over the processes.
        """
        mode, self.mode = self.mode, "full"
        try:
            return self.processes.average(self._repeat("all", 1.0), self.params)
        finally:
            self.mode = mode

    @property
    def in_low_precision(self) -> bool:
        """Whether a recorded call ran under autocast."""
        return any(call.autocast.enabled for call in self.calls)

    def _repeat(self, part: str, tail_weight: float) -> Gradients:
        total: Gradients | None = None
        for k, call in enumerate(self.calls):
            weights, rows = self._chosen(k, part, tail_weight)
            nobody = rows is not None and rows.numel() == 0
            if rows is not None and nobody:
                if not self.processes.averaged:
                    continue
                rows = rows.new_zeros(1)  # a sharded pass is a collective; the sample's weight is 0
            outputs, seeds = self._repeated_call(
                call,
                weights,
                rows,
                rest=part != "tail",
                whole_samples=not nobody and (part == "head" or (part == "tail" and tail_weight == 1)),
            )
            grads = differentiate(outputs, seeds, self.params)
            total = grads if total is None else add_(total, grads, self.settings.foreach)
        if total is None:
            return [None] * len(self.params)
        return scale_(total, self.unit / self.seed_factor, self.settings.foreach)

    @cached_property
    def _still(self) -> bool:
        """Whether repeated passes must leave running statistics alone; asked once a step."""
        return self.settings.update_running_stats == "once" and has_statistics(self.watch.inner)

    def _chosen(self, k: int, part: str, tail_weight: float) -> tuple[list[Tensor] | None, Tensor | None]:
        """Weights and samples of one part of a call, found once a step: its passes come in pairs."""
        key = (k, part, tail_weight, self.mode)
        if key not in self._found:
            weights = self._weights(k, part, tail_weight)
            self._found[key] = weights, self._rows(weights)
        return self._found[key]

    def _weights(self, k: int, part: str, tail_weight: float) -> list[Tensor] | None:
        """Weight of each entry of each loss of a call; ``None`` where all count fully."""
        if part == "all" and tail_weight == 1:
            return None
        if self._shares is None:
            raise RuntimeError(f"no shares were read, so the {part} cannot be told apart")
        return [part_weight(part, share, tail_weight) for share in self._shares[k]]

    def _rows(self, weights: list[Tensor] | None) -> Tensor | None:
        """The samples that a pass needs; ``None`` for all."""
        if self.mode == "full" or weights is None:
            return None
        needed = [w != 0 if w.ndim == 1 else (w != 0).reshape(len(w), -1).any(1) for w in weights]
        union = needed[0] if len(needed) == 1 else torch.stack(needed).any(0)
        rows = union.nonzero().view(-1)
        return None if rows.numel() == union.numel() else rows

    def _repeated_call(
        self,
        call: ModelCall,
        weights: list[Tensor] | None,
        rows: Tensor | None,
        *,
        rest: bool,
        whole_samples: bool,
    ) -> tuple[list[Tensor], list[Tensor | None]]:
        """Repeat one forward and give what its backward starts from, with or without the rest of the loss."""
        watch = self.watch
        args, kwargs = (call.args, call.kwargs) if rows is None else call.select(rows)
        still = frozen_running_stats(watch.inner) if self._still else NOTHING
        recorded = call.statistics if self.mode == "frozen_stats" else None
        with torch.enable_grad(), watch.paused(), with_random_state(call.random), still:
            with recorded.replayed() if recorded is not None else NOTHING, call.autocast.again():
                returned = watch.repeat(watch.inner, args, kwargs)
            if watch.criterion is None:
                losses, seeds = self._own_losses(call, returned)
                if weights is None:
                    return losses, seeds
                output = self._output(returned)
                slope = slope_of_losses(losses, output, seeds)
                # Sequence models score (B, tokens, classes); images have their classes first.
                weight = spread_over(weights[0], output, classes_last=output.ndim == 3)
                if rest:
                    # The whole loss, less what the scores' gradient does not weigh fully.
                    return [*losses, output], [*seeds, slope * (weight - 1)]
                return [output], [slope * weight]
            output = self._output(returned)
            if rows is not None:
                _check_rows(output, call, len(rows))
            if weights is None:
                terms = [self._loss(term, output) for term in call.used]
                return terms, [self._seed(term) for term in call.used]
            # Samples that were picked because they are wholly of the part need no weight of their own.
            weigh = rows is None or not whole_samples or not self._binary(call, weights)
            return [output], [self._slope(call, output.detach(), weights if weigh else None, rows)]

    def _output(self, returned: object) -> Tensor:
        watch = self.watch
        output = watch.captured if watch.output_module is not None else find_logits(returned)
        if output is None:
            raise RuntimeError("output_module: it was called in the forward pass, but not in its repetition")
        return output

    def _own_losses(self, call: ModelCall, returned: object) -> tuple[list[Tensor], list[Tensor | None]]:
        pairs = zip(find_losses(returned), call.terms, strict=True)
        live = [(loss, term) for loss, term in pairs if term.counts]
        return [loss for loss, _ in live], [self._seed(term) for _, term in live]

    def _seed(self, term: LossTerm) -> Tensor | None:
        if term.weight is None or self.seed_factor == 1:
            return term.weight
        return term.weight * self.seed_factor

    def _loss(self, term: LossTerm, scores: Tensor) -> Tensor:
        """Call the criterion once more, on other scores in the output's place."""
        criterion = self.watch.criterion
        if criterion is None:
            raise RuntimeError("a call without a criterion cannot be repeated")
        with term.autocast.again() if term.autocast is not None else NOTHING:
            if isinstance(term.place, int):
                args = tuple(scores if i == term.place else a for i, a in enumerate(term.args))
                loss: Tensor = self.watch.repeat(criterion, args, term.kwargs)
            else:
                loss = self.watch.repeat(criterion, term.args, {term.place: scores, **term.kwargs})
        return loss

    def _binary(self, call: ModelCall, weights: list[Tensor]) -> bool:
        """Whether the samples that were picked are wholly of the part, and no other is at all."""
        targets = call.used[0].targets
        return (
            len(weights) == 1
            and weights[0].ndim == 1
            and not callable(self.watch.membership)
            and isinstance(targets, Tensor)
            and not targets.is_floating_point()
        )

    def _slope(
        self, call: ModelCall, output: Tensor, weights: list[Tensor] | None, rows: Tensor | None
    ) -> Tensor:
        """Derivative of the user's loss by the output, weighted by each row's share of the part."""
        recorded = call.output
        if recorded is None:
            raise RuntimeError("a call without output cannot be repeated")
        total: Tensor | None = None
        for i, term in enumerate(call.used):
            leaf = output.detach().requires_grad_()
            scores = leaf if rows is None else recorded.index_copy(0, rows, leaf.to(recorded.dtype))
            (slope,) = differentiate([self._loss(term, scores)], [self._seed(term)], [leaf])
            if slope is None:
                raise RuntimeError("criterion: its loss does not depend on the model's output")
            if weights is not None:
                picked = weights[i] if rows is None else weights[i].index_select(0, rows)
                slope = slope * spread_over(picked, output)
            total = slope if total is None else total + slope
        return total if total is not None else torch.zeros_like(output)


def _check_rows(output: Tensor, call: ModelCall, n_rows: int) -> None:
    """A pass on some samples must give what these samples gave in the recorded pass, in shape at least."""
    recorded = call.output
    if recorded is not None and output.shape != (n_rows, *recorded.shape[1:]):
        raise RuntimeError(
            f"tail_pass: on {n_rows} of {len(recorded)} samples the model gave an output of shape "
            f"{tuple(output.shape)} instead of {(n_rows, *recorded.shape[1:])}. Samples are picked along the "
            "first dimension of the tensors in the model's arguments, their lists and mappings; where that "
            "does not fit, take tail_pass='full'."
        )
