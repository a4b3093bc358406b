"""What every form of a step shares: radii, parts, processes, the passes' kind, the base optimizer's turn.

Source: specification sections 1.2, 1.4, 3.4, 3.6.
"""

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from graftkit.core.validation import raise_invalid
from graftkit.methods.sse_sam.arithmetic import Gradients, any_sharded
from graftkit.methods.sse_sam.coupling import coupled_modules
from graftkit.methods.sse_sam.explicit import ExplicitStep
from graftkit.methods.sse_sam.gradients import Processes
from graftkit.methods.sse_sam.groups import StepGroups
from graftkit.methods.sse_sam.linked import LinkedOptimizer
from graftkit.methods.sse_sam.perturbation import PerturbedWeights
from graftkit.methods.sse_sam.sharpening import Passes, sharpened_gradient
from graftkit.methods.sse_sam.watch import Watch

__all__ = ["PerturbingOptimizer"]


class _Away:
    """The time during which an optimizer's weights are perturbed."""

    def __init__(self, optimizer: "PerturbingOptimizer") -> None:
        self._optimizer = optimizer

    def __enter__(self) -> None:
        self._optimizer._away = True

    def __exit__(self, *raised: object) -> None:
        self._optimizer._away = False


class PerturbingOptimizer(LinkedOptimizer):
    """An optimizer that moves its weights away, looks at the gradient there, and brings them back."""

    _process_group: "dist.ProcessGroup | None"

    def _fresh(self) -> None:
        """Reset what lives between calls and belongs in no checkpoint."""
        self._model = None
        self._process_group = None
        self._weights = PerturbedWeights()
        self._watch: Watch | None = None
        self._explicit: ExplicitStep | None = None
        self._accumulated: Gradients | None = None
        self._away = False
        self._verify = False
        self._seed_factor, self._good_steps = 1.0, 0

    def radius(self, part: str) -> list[float]:
        """Radius of every parameter for a part, in the present stage.

        Parameters
        ----------
        part : {"head", "tail", "all"}
            The part.

        Returns
        -------
        list of float
            In the order of the parameters that require a gradient; 0 for the head in stage 2.
        """
        return self._groups().radius(part)

    def _groups(self) -> StepGroups:
        return StepGroups(self.param_groups, self.stage)

    def _params(self) -> list[Tensor]:
        return self._groups().params

    def _mode(self, model: nn.Module | None, indexable: bool) -> str:
        wanted = self._settings.tail_pass
        if wanted == "full" or (wanted == "auto" and (model is None or not indexable)):
            return "full"
        if not indexable:
            raise_invalid(
                "closure",
                "a closure without arguments",
                f"closure(index=None), which tail_pass={wanted!r} needs",
            )
        if wanted == "frozen_stats":
            if model is None:
                raise_invalid("model", None, "the model, whose statistics tail_pass='frozen_stats' records")
            return wanted
        coupled = coupled_modules(model) if model is not None else []
        if not coupled:
            return "subset"
        if wanted == "subset":
            names = ", ".join(coupled[:10]) + (" ..." if len(coupled) > 10 else "")
            raise ValueError(
                "tail_pass: expected 'auto', 'full' or 'frozen_stats', got 'subset' for a model in which "
                f"samples meet: {names}. A pass on some samples would be normalised by those samples' "
                "statistics."
            )
        return "full"

    def _processes(self, params: Sequence[Tensor]) -> Processes:
        group, watch = self._process_group, self._watch
        sharded = any_sharded(params)
        if group is None and watch is not None and watch.ddp is not None:
            group = watch.ddp.process_group
        elif group is None and isinstance(self._model, DistributedDataParallel):
            group = self._model.process_group
        elif group is None and sharded:
            group = dist.group.WORLD  # FSDP2: every process of the mesh runs the same passes
        elif group is None and watch is None and dist.is_available() and dist.is_initialized():
            group = dist.group.WORLD
        if sharded and not self._settings.sync_perturbation:
            raise ValueError(
                "sync_perturbation: expected True with FSDP2, whose backward averages the gradients "
                "itself, got False"
            )
        return Processes(group, averaged=sharded)

    def _while_away(self) -> "_Away":
        return _Away(self)

    def _run(
        self, passes: Passes, wanted: tuple[str, ...], groups: StepGroups, processes: Processes
    ) -> Gradients:
        return sharpened_gradient(
            passes,
            wanted,
            groups,
            self._settings,
            processes,
            self._weights,
            self._while_away,
        )

    def _skip(self, scaler: Any) -> None:
        """Show the scaler an overflow, which it counts and leaves the weights alone."""
        for p in self._params():
            p.grad = torch.full_like(p, math.inf)
        scaler.step(self.base_optimizer)

    def _apply(self, grads: Gradients, params: Sequence[Tensor], scaler: Any = None) -> None:
        """Hand the final gradient to the base optimizer and count the step."""
        shared = dist.is_available() and dist.is_initialized()  # DDP may hold a view of .grad
        for p, g in zip(params, grads, strict=True):
            if shared and p.grad is not None and g is not None and p.grad.layout == g.layout:
                if p.grad is not g:
                    p.grad.copy_(g)
            else:
                p.grad = g
        if scaler is None:
            self.base_optimizer.step()
        else:
            scaler.step(self.base_optimizer)
        for group in self.param_groups:
            group["completed_steps"] += 1
