"""The boundary-aware outlier exposure loss.

With p = sigma(s) and s the score of an outlier, higher = more out-of-distribution:

    l(s) = -(2 - p)^gamma log p = (1 + sigma(-s))^gamma (-log sigma(s))

The boundary is s = 0. Every outlier is pushed outwards; far ones stop mattering, and the weight runs from 1
to ``2^gamma`` with gradient flowing through it. Source: `jweihe/HGOE@2cf8c82`, utils/loss.py, whose function
returns the negative and is multiplied by -1; here the sign is inside and the weight positive. That code adds
1e-10 inside the logarithm, which removes the gradient below about s = -23 in float32; the stable form keeps
it. Whether the paper's formula has a further term that suppresses intruders is unverified.

>>> round(float(boundary_aware_loss(torch.zeros(1, dtype=torch.float64), gamma=2.0)), 5)
1.55958
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from graftkit.core.validation import check_bool, check_choice, check_number, raise_invalid

__all__ = ["BoundaryAwareOELoss", "boundary_aware_loss"]

Scores = Tensor | Mapping[str, Tensor]


def boundary_aware_loss(scores: Tensor, gamma: float = 2.0, *, detach_weight: bool = False) -> Tensor:
    """Loss of each outlier.

    Parameters
    ----------
    scores : Tensor of any shape
        s, higher = more out-of-distribution.
    gamma : float, default=2.0
        Exponent of the weight; 0 gives binary cross-entropy, ``softplus(-s)``.
    detach_weight : bool, default=False
        Stop the gradient through ``(2 - p)^gamma``.

    Returns
    -------
    Tensor of the shape of `scores`
        Losses, >= 0.
    """
    weight = (1 + torch.sigmoid(-scores)) ** gamma
    return (weight.detach() if detach_weight else weight) * -F.logsigmoid(scores)


class BoundaryAwareOELoss(nn.Module):
    """Loss of a batch of outlier graphs, to be added to the detector's own.

    ``loss = id_loss + criterion(outlier_scores)``. The sign is inside, so the weight is positive.

    Parameters
    ----------
    gamma : float, default=2.0
        Exponent of the weight, >= 0.
    weight : float, default=1.0
        beta, >= 0.
    calibration : {"standardize", "quantile"} or None, default=None
        None uses scores as they are, as published. Otherwise the loss sees ``(s - b) / t`` with running
        statistics of the ID scores: mean and standard deviation, or 95 % quantile and standard deviation.
        An addition, not the paper's.
    reduction : {"mean", "sum", "none"}, default="mean"
        Over the outlier batch.
    higher_is_ood : bool, default=True
        False for scores that fall with strangeness; they are mirrored.
    detach_weight : bool, default=False
        Stop the gradient through the boundary weight.
    gate : (float, float) or None, default=None
        ``(q, T)``: multiply each outlier's loss by a detached ``sigma((s - Q_q(s_id)) / T)``, which takes
        weight from outliers deep among the ID graphs. An addition that is not HGOE.

    Raises
    ------
    TypeError
        If an argument has the wrong type.
    ValueError
        If an argument is out of range.

    Examples
    --------
    >>> criterion = BoundaryAwareOELoss(gamma=0.0)
    >>> round(float(criterion(torch.zeros(4))), 4)
    0.6931
    """

    def __init__(
        self,
        gamma: float = 2.0,
        weight: float = 1.0,
        calibration: str | None = None,
        reduction: str = "mean",
        higher_is_ood: bool = True,
        detach_weight: bool = False,
        gate: tuple[float, float] | None = None,
    ) -> None:
        super().__init__()
        self.gamma = check_number("gamma", gamma, low=0)
        self.weight = check_number("weight", weight, low=0)
        self.calibration = check_choice("calibration", calibration, (None, "standardize", "quantile"))
        self.reduction = check_choice("reduction", reduction, ("mean", "sum", "none"))
        self.higher_is_ood = check_bool("higher_is_ood", higher_is_ood)
        self.detach_weight = check_bool("detach_weight", detach_weight)
        if gate is not None:
            if not isinstance(gate, tuple | list) or len(gate) != 2:
                raise_invalid("gate", gate, "None or a pair (quantile, temperature)", error=TypeError)
            gate = (
                check_number("gate", gate[0], low=0, high=1),
                check_number("gate", gate[1], low=0, closed="()"),
            )
        self.gate = gate
        # Per part of the score: running location, running scale, smallest scale allowed.
        self._running: dict[str, Tensor] = {}

    def forward(
        self,
        scores: Scores,
        id_scores: Scores | None = None,
        part_weights: Mapping[str, float] | None = None,
    ) -> Tensor:
        """Loss of one outlier batch.

        Parameters
        ----------
        scores : Tensor of shape (B,) or mapping of them
            Scores of the outliers; a detector with several parts gives one vector a part.
        id_scores : Tensor of shape (B_id,) or mapping of them, default=None
            Scores of the ID batch; needed for `calibration` and `gate` only, never differentiated.
        part_weights : mapping of str to float or None, default=None
            Weight of each part; 1 where it is not given.

        Returns
        -------
        Tensor of shape () or (B,)
            The loss; an empty batch gives 0 with zero gradient.

        Raises
        ------
        TypeError
            If scores are no floating-point tensors.
        ValueError
            If a shape is wrong, a score is not finite, parts do not match, or `id_scores` is needed.
        """
        parts = _as_parts("scores", scores)
        reference = None if id_scores is None else _as_parts("id_scores", id_scores)
        if reference is not None and reference.keys() != parts.keys():
            raise_invalid("id_scores", sorted(reference), f"the parts {sorted(parts)}")
        if part_weights is not None and not isinstance(part_weights, Mapping):
            raise_invalid(
                "part_weights", part_weights, "a mapping of parts to weights, or None", error=TypeError
            )
        unknown = set(part_weights or {}) - set(parts)
        if unknown:
            raise_invalid("part_weights", sorted(unknown), f"parts among {sorted(parts)}")
        total: Tensor | None = None
        for name, value in parts.items():
            part = self._part(name, value, None if reference is None else reference[name].detach())
            part = part * (part_weights or {}).get(name, 1.0)
            total = part if total is None else total + part
        if total is None:
            raise_invalid("scores", scores, "at least one part")
        return self.weight * total

    def _part(self, name: str, scores: Tensor, reference: Tensor | None) -> Tensor:
        sign = 1.0 if self.higher_is_ood else -1.0
        value = sign * scores
        reference = None if reference is None else sign * reference
        if self.calibration is not None:
            location, scale = self._statistics(name, reference)
            value = (value - location) / scale
            reference = None if reference is None else (reference - location) / scale
        losses = boundary_aware_loss(value, self.gamma, detach_weight=self.detach_weight)
        if self.gate is not None:
            if reference is None or not len(reference):
                raise_invalid("id_scores", None, "the scores of an ID batch, for gate")
            threshold = torch.quantile(reference, self.gate[0])
            losses = losses * torch.sigmoid((value.detach() - threshold) / self.gate[1])
        if self.reduction == "none":
            return losses
        if self.reduction == "sum" or not len(losses):
            return losses.sum()
        return losses.mean()

    def _statistics(self, name: str, reference: Tensor | None) -> tuple[Tensor, Tensor]:
        known = self._running.get(name)
        if reference is None or not len(reference) or not self.training:
            if known is None:
                raise_invalid("id_scores", None, f"the scores of an ID batch, for {self.calibration=}")
            return known[0], known[1]
        location = reference.mean() if self.calibration == "standardize" else torch.quantile(reference, 0.95)
        scale = reference.std(correction=0)
        if known is None:
            floor = (0.1 * scale).clamp(min=1e-6)
        else:
            known = known.to(reference.device)
            location, scale = 0.9 * known[0] + 0.1 * location, 0.9 * known[1] + 0.1 * scale
            floor = known[2]
        # A scale that shrinks with training would blow the loss up.
        self._running[name] = torch.stack([location, torch.maximum(scale, floor), floor]).detach()
        return self._running[name][0], self._running[name][1]

    def get_extra_state(self) -> dict[str, Tensor]:
        """The running statistics, for ``state_dict``.

        Returns
        -------
        dict of str to Tensor of shape (3,)
            Location, scale and floor of each part.
        """
        return {name: value.clone() for name, value in self._running.items()}

    def set_extra_state(self, state: Any) -> None:
        """Take the running statistics from ``load_state_dict``.

        Parameters
        ----------
        state : dict of str to Tensor of shape (3,)
            What `get_extra_state` gave.
        """
        self._running = {str(name): value.clone() for name, value in dict(state).items()}

    def extra_repr(self) -> str:
        """The arguments, for ``repr``.

        Returns
        -------
        str
            ``name=value`` pairs.
        """
        names = ("gamma", "weight", "calibration", "reduction", "higher_is_ood", "detach_weight", "gate")
        return ", ".join(f"{name}={getattr(self, name)!r}" for name in names)


def _as_parts(name: str, scores: Scores) -> dict[str, Tensor]:
    parts = dict(scores) if isinstance(scores, Mapping) else {"score": scores}
    for part, value in parts.items():
        label = name if len(parts) == 1 else f"{name}[{part!r}]"
        if not isinstance(value, Tensor) or not value.is_floating_point():
            raise_invalid(label, value, "a floating-point tensor, one score a graph", error=TypeError)
        if value.dim() != 1:
            raise_invalid(label, value, "shape (B,), one score a graph")
        if not bool(torch.isfinite(value).all()):
            position = int((~torch.isfinite(value)).nonzero()[0, 0])
            raise ValueError(f"{label}: expected finite scores, got {float(value[position])} at {position}")
    return parts
