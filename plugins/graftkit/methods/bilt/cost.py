r"""AIGDL's corrected distances and the risk scores that follow from them.

.. math::
    \Delta = \mathrm{rownorm}_2\big(W \odot (1 - I)\big), \qquad \tilde D = \beta \Delta - D, \qquad
    s_k = \sum_j \tilde D_{kj}\, p_j

Decide for the largest score; with :math:`\beta = 0` that is conditional risk minimisation. Source: Lu et al.,
AAAI 2025, "Adaptive Intra-Granularity Difference Learning" (specification section 1.4). The paper prints
:math:`p(y = k | x)` inside the sum over j, a misprint. Differs from the public code: D is a buffer, never a
parameter; the diagonal of :math:`\Delta` is 0 in every variant.

A row of :math:`\Delta` has norm 1, so for :math:`\beta < 1/\sqrt 2` no correction can put a farther level of
the tree before a nearer one (our derivation, specification section 1.7): a tie-breaker, no new tree.
The starts 1/C and 1, both in public code, give the same :math:`\Delta`, but its gradient with respect to a
row of W is inverse to that row's norm: from 1/C it moves, from 1 it hardly does at the same rate.

>>> corrected_cost(torch.ones(2, 2), torch.tensor([[0.0, 1.0], [1.0, 0.0]]), beta=0.5)
tensor([[ 0.0000, -0.5000],
        [-0.5000,  0.0000]])
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from graftkit.core.random import torch_generator
from graftkit.methods.bilt.distances import distance_rows, expected_distance, lca_distance
from graftkit.methods.bilt.scoring import (
    TINY,
    being_recorded,
    corrected_closeness,
    corrected_cost,
    difference,
    risk_scores,
)

__all__ = ["FactoredCost", "FullCost", "LowRankCost", "corrected_cost", "cost_rows", "difference"]


class FullCost(nn.Module):
    """A level's corrected distances with one learnable number a pair, as published.

    Parameters
    ----------
    lineage : Tensor of shape (h, C)
        The level's ancestors (``LabelTree.lineage``).
    beta : float
        Size of the correction.
    detach : bool
        True keeps the probabilities of the correction out of the gradient.
    identity : bool
        True adds the identity to Delta in the score, as the public CIFAR code does.
    """

    closeness: Tensor

    def __init__(self, lineage: Tensor, beta: float, *, detach: bool = False, identity: bool = False) -> None:
        super().__init__()
        size = lineage.shape[1]
        self.beta, self.detach, self.identity = beta, detach, identity
        self.weight = nn.Parameter(torch.full((size, size), 1 / size))
        self.register_buffer("closeness", -lca_distance(lineage), persistent=False)

    @property
    def distance(self) -> Tensor:
        """Tree distances; what is kept is `closeness`, the same with a minus sign."""
        return -self.closeness

    def forward(self, probabilities: Tensor) -> tuple[Tensor, Tensor]:
        """Score every class.

        Parameters
        ----------
        probabilities : Tensor of shape (N, C)
            Rows that sum to 1.

        Returns
        -------
        tuple of (Tensor of shape (N, C), Tensor of shape (C, C))
            Scores, and the matrix that made them.
        """
        # Made anew every time, in evaluation too: a write through `.data` would leave a kept matrix stale.
        weight = self.weight.to(torch.promote_types(self.weight.dtype, torch.float32))
        closeness = self.closeness.to(weight.dtype)
        plain = not (self.detach or self.identity or being_recorded())
        if plain and torch.is_grad_enabled() and weight.dtype == probabilities.dtype:
            return risk_scores(probabilities, weight, closeness, self.beta)
        cost = corrected_closeness(weight, closeness, self.beta).to(probabilities.dtype)
        if self.detach:
            closeness = closeness.to(probabilities.dtype)
            scores = probabilities.detach() @ (cost - closeness).T + probabilities @ closeness.T
        else:
            scores = probabilities @ cost.T
        return (scores + self.beta * probabilities if self.identity else scores), cost


class FactoredCost(NamedTuple):
    """Rows of the correction as products, ``left @ right.T`` without its diagonal; D comes from the tree."""

    left: Tensor
    right: Tensor
    lineage: Tensor


class LowRankCost(nn.Module):
    """A level's corrected distances with W = U V^T, so that no C x C matrix exists.

    This departs from the paper: it is for levels of many thousands of classes.

    Parameters
    ----------
    lineage : Tensor of shape (h, C)
        The level's ancestors.
    sizes : tuple of int
        Nodes at each of these levels.
    beta : float
        Size of the correction.
    rank : int
        Columns of U and V.
    detach : bool, default=False
        As in `FullCost`.
    """

    lineage: Tensor

    def __init__(self, lineage: Tensor, sizes: tuple[int, ...], beta: float, rank: int,
                 *, detach: bool = False) -> None:  # fmt: skip
        super().__init__()
        self.beta, self.sizes, self.detach = beta, sizes, detach
        # Equal columns would stay equal under training: a fixed, private start tells them apart.
        noise = torch.rand(2, lineage.shape[1], rank, generator=torch_generator(rank), device="cpu")
        self.left = nn.Parameter(0.5 + noise[0])
        self.right = nn.Parameter(0.5 + noise[1])
        self.register_buffer("lineage", lineage, persistent=False)

    def forward(self, probabilities: Tensor) -> tuple[Tensor, FactoredCost]:
        """Score every class.

        Parameters
        ----------
        probabilities : Tensor of shape (N, C)
            Rows that sum to 1.

        Returns
        -------
        tuple of (Tensor of shape (N, C), FactoredCost)
            Scores, and the factors that made them.
        """
        left, right = self.left.to(probabilities.dtype), self.right.to(probabilities.dtype)
        diagonal = (left * right).sum(1)
        # |row k of U V^T|^2 = u_k (V^T V) u_k^T; less the diagonal entry.
        norm = ((left @ (right.T @ right)) * left).sum(1) - diagonal.square()
        scaled = left * (self.beta * norm.clamp_min(TINY).rsqrt())[:, None]
        source = probabilities.detach() if self.detach else probabilities
        correction = (source @ right) @ scaled.T - source * (scaled * right).sum(1)
        scores = correction - expected_distance(probabilities, self.lineage, self.sizes)
        return scores, FactoredCost(scaled, right, self.lineage)


def cost_rows(cost: Tensor | FactoredCost, classes: Tensor) -> Tensor:
    """Rows of the corrected distances, without gradient.

    Parameters
    ----------
    cost : Tensor of shape (C, C) or FactoredCost
        What the score modules return.
    classes : Tensor of shape (N,)
        The rows wanted.

    Returns
    -------
    Tensor of shape (N, C)
        Values.
    """
    if isinstance(cost, Tensor):
        return cost.detach().index_select(0, classes)
    rows = cost.left.detach()[classes] @ cost.right.detach().T
    rows.scatter_(1, classes[:, None], 0)
    return rows - distance_rows(cost.lineage, classes).to(rows.dtype)
