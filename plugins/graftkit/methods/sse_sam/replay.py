r"""Passes of the unmodified loop: recorded calls are repeated, the tail's part by its rows of the output.

For a criterion that is a sum over samples up to a normaliser,

.. math::
   g_T(w) = J(w)^\top \big[\partial L / \partial \text{out}\big]_T, \qquad
   g_H(w) = \nabla L(w) - g_T(w)

so no per-sample loss is needed: the user's own loss is differentiated with respect to the model's output, the
tail's rows are kept, and pushed back through the model. A pass on some samples puts its rows among the
recorded outputs of the others before calling the criterion, whose normaliser (mean, class weights,
``ignore_index``) stays the whole batch's. Both tail passes draw the same random numbers, so the sum
:math:`g + [g_T(w + \varepsilon_T) - g_T(w)]` carries little noise and stays unbiased.

Beyond the paper and the released code, which need a rewritten loop.
"""

from collections.abc import Sequence
from contextlib import ExitStack

import torch
from torch import Tensor
from torch.autograd.graph import GradientEdge

from graftkit.core.validation import raise_invalid
from graftkit.methods.sse_sam.calls import LossTerm, ModelCall, find_logits, find_losses
from graftkit.methods.sse_sam.classes import on_the_grid_of, spread_over
from graftkit.methods.sse_sam.coupling import frozen_running_stats
from graftkit.methods.sse_sam.gradients import Processes, differentiate
from graftkit.methods.sse_sam.parts import part_weight
from graftkit.methods.sse_sam.perturbation import Gradients, add_, scale_, subtract_
from graftkit.methods.sse_sam.settings import Settings
from graftkit.methods.sse_sam.surroundings import with_random_state
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
    unit : float
        What a repeated gradient is multiplied by to be in the units of ``.grad``.
    seed_factor : float
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
        unit: float = 1.0,
        seed_factor: float = 1.0,
    ) -> None:
        self.watch, self.params, self.settings, self.processes = watch, params, settings, processes
        self.mode, self.unit, self.seed_factor = mode, unit, seed_factor
        self.calls = _usable_calls(watch)
        self._shares = [[self._share(call, term) for term in call.used] for call in self.calls]
        self._grads: Gradients = [p.grad for p in params]

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
        shares = [share for call in self._shares for share in call]
        device = self.params[0].device
        here = [any(bool((s < 1).any()) for s in shares), any(bool((s > 0).any()) for s in shares)]
        has_head, has_tail = self.processes.any(here, device)
        if not has_tail:
            return {"head": self._repeat("head", 1.0) if local else own}
        if not has_head:
            return {"tail": self._repeat("tail", weight) if local else scale_(own, weight, foreach)}
        tail = self._repeat("tail", 1.0)
        if local:
            return {"head": self._repeat("head", 1.0), "tail": scale_(tail, weight, foreach)}
        tail = self.processes.average(tail, self.params)
        return {"head": subtract_(own, tail, foreach), "tail": scale_(tail, weight, foreach)}

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
        return [own if g is None else g for g, own in zip(grads, self._grads, strict=True)]

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
        total: Gradients = [None] * len(self.params)
        for call, shares in zip(self.calls, self._shares, strict=True):
            weights = [part_weight(part, share, tail_weight) for share in shares]
            rows = self._rows(weights)
            if rows is not None and len(rows) == 0:
                if not self.processes.averaged:
                    continue
                rows = rows.new_zeros(1)  # a sharded pass is a collective; the sample's weight is 0
            output, seed = self._seeded_output(call, weights, rows)
            total = add_(total, differentiate([output], [seed], self.params), self.settings.foreach)
        return scale_(total, self.unit / self.seed_factor, self.settings.foreach)

    def _rows(self, weights: list[Tensor]) -> Tensor | None:
        """The samples that a pass needs; ``None`` for all."""
        if self.mode == "full":
            return None
        needed = torch.stack([(w != 0).reshape(len(w), -1).any(1) for w in weights]).any(0)
        rows = torch.nonzero(needed).flatten()
        return None if len(rows) == len(needed) else rows

    def _seeded_output(
        self, call: ModelCall, weights: list[Tensor], rows: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Repeat one forward and give what its backward starts from."""
        watch = self.watch
        args, kwargs = (call.args, call.kwargs) if rows is None else call.select(rows)
        with ExitStack() as stack:
            stack.enter_context(torch.enable_grad())
            stack.enter_context(watch.paused())
            stack.enter_context(with_random_state(call.random))
            if self.settings.update_running_stats == "once":
                stack.enter_context(frozen_running_stats(watch.inner))
            if self.mode == "frozen_stats" and call.statistics is not None:
                stack.enter_context(call.statistics.replayed())
            with call.autocast.again():
                returned = watch.inner(*args, **kwargs)
            output = watch.captured if watch.output_module is not None else find_logits(returned)
            if output is None:
                raise RuntimeError(
                    "output_module: it was called in the forward pass, but not in its repetition"
                )
            if watch.criterion is None:
                losses = find_losses(returned)
                seeds = [t.weight * self.seed_factor for t in call.terms if t.weight is not None]
                live = [
                    loss for loss, term in zip(losses, call.terms, strict=True) if term.weight is not None
                ]
                slope = _slope_of_own_losses(live, output, seeds)
                return output, slope * spread_over(weights[0], output)
            return output, self._criterion_slope(call, output.detach(), weights, rows)

    def _criterion_slope(
        self, call: ModelCall, output: Tensor, weights: list[Tensor], rows: Tensor | None
    ) -> Tensor:
        """Derivative of the user's loss by the output, weighted by each row's share of the part."""
        watch, recorded = self.watch, call.output
        if watch.criterion is None or recorded is None:
            raise RuntimeError("a call without criterion or output cannot be repeated")
        total = torch.zeros_like(output)
        for term, weight in zip(call.used, weights, strict=True):
            leaf = output.detach().requires_grad_()
            whole = leaf if rows is None else recorded.index_copy(0, rows, leaf.to(recorded.dtype))
            with term.autocast.again() if term.autocast is not None else ExitStack():
                if isinstance(term.place, int):
                    args = tuple(whole if i == term.place else a for i, a in enumerate(term.args))
                    loss = watch.criterion(*args, **term.kwargs)
                else:
                    loss = watch.criterion(*term.args, **{term.place: whole}, **term.kwargs)
            seed = term.weight * self.seed_factor if term.weight is not None else None
            (slope,) = torch.autograd.grad(loss, leaf, seed)
            picked = weight if rows is None else weight.index_select(0, rows)
            total += slope * spread_over(picked, output)
        return total

    def _share(self, call: ModelCall, term: LossTerm) -> Tensor:
        """The tail's share of each entry of one loss."""
        output = call.output
        if output is None:
            raise RuntimeError("a call without output cannot be repeated")
        targets, custom, lookup = term.targets, self.watch.membership, self.settings.membership
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
                share = lookup.of_labels(targets, getattr(self.watch.criterion, "ignore_index", -100))
            if custom == "sample":
                share = share.reshape(len(share), -1).any(1) if share.dtype == torch.bool else share
        share = share.to(output.device).to(output.dtype if output.is_floating_point() else torch.float32)
        share = on_the_grid_of(share, output)
        spread_over(share, output)  # a shape that does not fit fails here, before anything has moved
        return share


def _slope_of_own_losses(losses: list[Tensor], output: Tensor, seeds: list[Tensor]) -> Tensor:
    """Derivative of a model's own losses by its scores, also where a host cast the scores afterwards."""
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
        "name the "
        "submodule that makes them: watch(..., output_module=...)"
    )


def _usable_calls(watch: Watch) -> list[ModelCall]:
    if any(term.weight is not None for term in watch.foreign):
        raise RuntimeError(
            "criterion: it was called on a tensor that is not the watched model's output itself, so "
            "the step cannot "
            "be repeated. Move what lies between (a view, a cast, an interpolation) into the model "
            "or the criterion, "
            "or name the submodule that makes the scores: watch(..., output_module=...)."
        )
    if not watch.calls:
        raise RuntimeError(
            "watch: the model was not called in train mode with gradients since the last step, so "
            "there is nothing to "
            "repeat. Call the watched model itself (or its DDP wrapper), not a copy or a submodule."
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
                f"cannot be "
                "repeated. Work on a copy, or change it after step()."
            )
    return calls
