r"""What EDGE is compared with: other scores of the same logits, and energy-bounded outlier exposure.

.. math::
    L = L_{BCE} + w \big( \mathrm{mean}_i \max(0, m_{id} - E_i)^2
        + \mathrm{mean}_j \max(0, O_j - m_{oe})^2 \big)

The bounded form is that of Liu et al., NeurIPS 2020 ("Energy-based Out-of-distribution Detection"), with
JointEnergy in place of the single-label energy, so its signs are turned round. Two margins must be set,
where EDGE's hinge is relative and has one.

Scores: higher = more in-distribution, all of them. "Sum of probabilities" is our reading of summed MSP for
labels that do not exclude one another (a softmax sums to one); unverified against the paper's tables.

>>> import torch
>>> [round(float(score(torch.tensor([0.0, 2.0]))), 3) for score in SCORES.values()]
[2.82, 2.0, 1.381, 0.881]
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

from graftkit.core.validation import check_number, raise_invalid
from graftkit.methods.edge.energies import joint_energy, widened
from graftkit.methods.edge.rows import check_targets, outlier_rows

__all__ = ["SCORES", "EnergyBoundedLoss", "max_logit", "max_softmax", "probability_sum"]


def max_logit(logits: Tensor, *, dim: int = -1) -> Tensor:
    """Largest logit over the labels.

    Parameters
    ----------
    logits : Tensor of shape (..., C)
        Logits.
    dim : int, default=-1
        The axis of the labels.

    Returns
    -------
    Tensor of shape (...)
        Higher = more in-distribution.
    """
    return widened(logits).amax(dim)


def probability_sum(logits: Tensor, *, dim: int = -1) -> Tensor:
    """Sum of the labels' probabilities: the expected number of labels.

    Parameters
    ----------
    logits : Tensor of shape (..., C)
        Logits.
    dim : int, default=-1
        The axis of the labels.

    Returns
    -------
    Tensor of shape (...)
        Higher = more in-distribution.
    """
    return widened(logits).sigmoid().sum(dim)


def max_softmax(logits: Tensor, *, dim: int = -1) -> Tensor:
    """Largest softmax probability, as if labels excluded one another.

    Parameters
    ----------
    logits : Tensor of shape (..., C)
        Logits.
    dim : int, default=-1
        The axis of the labels.

    Returns
    -------
    Tensor of shape (...)
        Higher = more in-distribution.
    """
    return widened(logits).softmax(dim).amax(dim)


SCORES: dict[str, Callable[[Tensor], Tensor]] = {
    "JointEnergy": joint_energy,
    "MaxLogit": max_logit,
    "MSP-sum": probability_sum,
    "MSP": max_softmax,
}


class EnergyBoundedLoss(nn.Module):
    """Binary cross-entropy with JointEnergy held above one bound on known rows, below another on outliers.

    Parameters
    ----------
    weight : float, default=0.01
        Weight of the two squared hinges, 0 or above.
    margin_id : float, default=8.0
        Known rows below this JointEnergy pay.
    margin_oe : float, default=1.0
        Outliers above this JointEnergy pay.

    Raises
    ------
    TypeError
        If an argument is no number.
    ValueError
        If one is out of range, or `margin_id` is not above `margin_oe`.

    Examples
    --------
    >>> import torch
    >>> targets = torch.tensor([[1.0, 0.0], [-1.0, -1.0]])
    >>> loss = EnergyBoundedLoss()(torch.zeros(2, 2, requires_grad=True), targets)
    """

    def __init__(self, weight: float = 0.01, margin_id: float = 8.0, margin_oe: float = 1.0) -> None:
        super().__init__()
        self.weight = check_number("weight", weight, low=0)
        self.margin_id = check_number("margin_id", margin_id)
        self.margin_oe = check_number("margin_oe", margin_oe)
        if self.margin_id <= self.margin_oe:
            raise_invalid("margin_id", margin_id, f"more than margin_oe={self.margin_oe:g}")

    def forward(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Loss of a batch in which rows of -1 are outliers.

        Parameters
        ----------
        logits : Tensor of shape (B, C)
            Known rows and outliers, in any order.
        targets : Tensor of shape (B, C)
            In [0, 1]; all -1 for an outlier.

        Returns
        -------
        Tensor of shape ()
            On the graph also where a side is empty.
        """
        wide = widened(logits)
        check_targets(wide, targets)
        outlier = outlier_rows(targets)
        known, outliers = wide[~outlier], wide[outlier]
        loss = wide.sum() * 0
        if len(known):
            loss = loss + functional.binary_cross_entropy_with_logits(known, targets[~outlier].to(wide.dtype))
            loss = loss + self.weight * torch.relu(self.margin_id - joint_energy(known)).square().mean()
        if len(outliers):
            loss = loss + self.weight * torch.relu(joint_energy(outliers) - self.margin_oe).square().mean()
        return loss
