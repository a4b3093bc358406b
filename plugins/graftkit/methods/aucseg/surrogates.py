r"""What a pair of pixels costs, summed over all pairs without forming one.

For score map i let :math:`a_i` be the mean of its scores over the pixels of its own class, :math:`R_i`
the mean over its rivals and :math:`a'_i, R'_i` the same means of the squares. Rivals are the other
present classes, each with weight :math:`1/(K-1)` whatever its size ("ovo"), or all their pixels pooled
("ova"). Averaged over all pairs of an own pixel and a rival pixel,

.. math::
    \text{square: } & \tfrac12\big[(\gamma - a_i + R_i)^2 + (a'_i - a_i^2) + (R'_i - R_i^2)\big] \\
    \text{hinge: } & \gamma - a_i + R_i \quad (\gamma \ge 1) \\
    \text{exp: } & \overline{e^{-\gamma s}}_{own} \cdot \overline{e^{\gamma s}}_{rivals}

and the loss is the mean over i. The first is the squared shortfall of the mean gap plus two variances.

Source: Han et al., "AUCSeg: AUC-oriented Pixel-level Long-tail Semantic Segmentation", NeurIPS 2024
(arXiv 2409.20398), through its public code; the closed forms are ours (specification section 1.3). Differs
from the public code: its hinge loss lacks a factor and its "ova" is a sum, not a mean. Unverified, since
the paper's body could not be read: whether the factor 1/2 and the sigmoid scores are in its text.

>>> import torch
>>> own, rivals = torch.tensor([[0.5], [0.25]]), torch.tensor([[0.5], [0.25]])  # all scores 0.5
>>> surrogate_loss("square", own, rivals, margin=1.0)
tensor([0.5000])
"""

from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["SURROGATES", "Slopes", "own_feature", "rival_feature", "surrogate_loss", "surrogate_slopes"]

SURROGATES = ("square", "hinge", "exp")


def own_feature(surrogate: str, scores: Tensor, margin: float) -> Tensor:
    """What is averaged over a class's own pixels.

    Parameters
    ----------
    surrogate : {"square", "hinge", "exp"}
        The surrogate.
    scores : Tensor of shape (...)
        Scores.
    margin : float
        The margin.

    Returns
    -------
    Tensor of shape (...)
        The scores, or ``exp(-margin * scores)``.
    """
    return (scores * -margin).exp_() if surrogate == "exp" else scores


def rival_feature(surrogate: str, scores: Tensor, margin: float) -> Tensor:
    """What is averaged over the pixels of the other classes.

    Parameters
    ----------
    surrogate : {"square", "hinge", "exp"}
        The surrogate.
    scores : Tensor of shape (...)
        Scores.
    margin : float
        The margin.

    Returns
    -------
    Tensor of shape (...)
        The scores, or ``exp(margin * scores)``.
    """
    return (scores * margin).exp_() if surrogate == "exp" else scores


def surrogate_loss(surrogate: str, own: Tensor, rivals: Tensor, margin: float) -> Tensor:
    """The mean over all pairs, for each score map.

    Parameters
    ----------
    surrogate : {"square", "hinge", "exp"}
        The surrogate.
    own, rivals : Tensor of shape (2, K)
        Means of the features and of their squares, for each of K score maps.
    margin : float
        The margin.

    Returns
    -------
    Tensor of shape (K,)
        Never negative.
    """
    a, a2, r, r2 = own[0], own[1], rivals[0], rivals[1]
    if surrogate == "square":
        # Rounding may push a variance below zero by an ulp.
        variances = (a2 - a.square()).clamp(min=0) + (r2 - r.square()).clamp(min=0)
        return 0.5 * ((margin - a + r).square() + variances)
    if surrogate == "hinge":
        return margin - a + r
    return a * r


@dataclass(frozen=True)
class Slopes:
    """The loss's derivative by a score: ``own = c + k * own_feature``, ``rival = c + k * rival_feature``.

    All of shape (K,), to be multiplied by a pixel's share in its mean.
    """

    own_constant: Tensor
    own_factor: Tensor
    rival_constant: Tensor
    rival_factor: Tensor


def surrogate_slopes(surrogate: str, own: Tensor, rivals: Tensor, margin: float) -> Slopes:
    """The derivative's coefficients for each score map.

    Parameters
    ----------
    surrogate : {"square", "hinge", "exp"}
        The surrogate.
    own, rivals : Tensor of shape (K,)
        Means of the features.
    margin : float
        The margin.

    Returns
    -------
    Slopes
        Four tensors of shape (K,).
    """
    zero, one = torch.zeros_like(own), torch.ones_like(own)
    if surrogate == "square":
        return Slopes(-margin - rivals, one, margin - own, one)
    if surrogate == "hinge":
        return Slopes(-one, zero, one, zero)
    return Slopes(zero, -margin * rivals, zero, margin * own)
