"""What the parameter groups say at the start of a step: parameters, radii, kinds.

Read anew in every step and once only, so that nothing of it can be stale: groups may be added, radii and
stages set, parameters frozen, moved or given another dtype between any two steps.

>>> import torch
>>> weights = [torch.nn.Parameter(torch.ones(2))]
>>> group = {"params": weights, "rho_head": 0.1, "rho_tail": 0.2, "adaptive": False}
>>> groups = StepGroups([group], stage=2)
>>> groups.radius("tail"), groups.moves("head")
([0.2], False)
"""

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from graftkit.methods.sse_sam.settings import PART_RADIUS

__all__ = ["StepGroups"]


class StepGroups:
    """The parameters that require a gradient, with one radius and one kind each.

    Parameters
    ----------
    groups : sequence of dict
        The optimizer's parameter groups.
    stage : {1, 2}
        The stage of the step.

    Attributes
    ----------
    params : list of Tensor
        In the groups' order.
    adaptive : list of bool
        Whether each parameter's perturbation is scaled by the weights.
    """

    def __init__(self, groups: Sequence[dict[str, Any]], stage: int) -> None:
        self._groups, self._stage = groups, stage
        self.params: list[Tensor] = []
        self.adaptive: list[bool] = []
        self._counts: list[int] = []
        for group in groups:
            mine = [p for p in group["params"] if p.requires_grad]
            self.params += mine
            self.adaptive += [bool(group["adaptive"])] * len(mine)
            self._counts.append(len(mine))

    def radius(self, part: str) -> list[float]:
        """Radius of every parameter for a part.

        Parameters
        ----------
        part : {"head", "tail", "all"}
            The part.

        Returns
        -------
        list of float
            In the order of the parameters; 0 for the head in stage 2.
        """
        if part != "tail" and self._stage == 2:
            return [0.0] * len(self.params)
        radii: list[float] = []
        for group, count in zip(self._groups, self._counts, strict=True):
            radii += [float(group[PART_RADIUS[part]])] * count
        return radii

    def moves(self, part: str) -> bool:
        """Tell whether a part is perturbed anywhere.

        Parameters
        ----------
        part : {"head", "tail", "all"}
            The part.

        Returns
        -------
        bool
            ``False`` where every group's radius is 0, and for the head in stage 2.
        """
        if part != "tail" and self._stage == 2:
            return False
        return any(group[PART_RADIUS[part]] > 0 for group in self._groups)

    def wanted(self, stage1: str) -> tuple[str, ...]:
        """The parts to differentiate for; one pass over everything where nothing is perturbed.

        Parameters
        ----------
        stage1 : {"split", "sam"}
            What stage 1 does.

        Returns
        -------
        tuple of str
            ``("head", "tail")`` or ``("all",)``.
        """
        if stage1 == "sam" and self._stage == 1:
            return ("all",)
        return ("head", "tail") if self.moves("tail") or self.moves("head") else ("all",)
