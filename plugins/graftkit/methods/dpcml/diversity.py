r"""Diversity control (DCRS): the vectors of a user neither coincide nor drift apart.

With squared distances :math:`D_{ab}` between the C vectors of a user and bounds :math:`\delta_1 \le
\delta_2`:

- ``mean`` (P1, equations 6 and 7): :math:`\delta = \frac{1}{2C(C-1)} \sum_{a,b} D_{ab}`, *half* the mean
  distance, and :math:`\psi = (\delta_1 - \delta)_+ + (\delta - \delta_2)_+`;
- ``pairwise`` (both public codes): :math:`\psi = C^{-2} \sum_{a \ne b} (\delta_1 - D_{ab})_+ + (D_{ab} -
  \delta_2)_+`.

A bound means different things in the two: 0.25 is a pair distance in the second, half a mean in the first.
Users with one vector have a penalty of 0 and no gradient.

>>> import torch
>>> three = torch.tensor([[[0.5, 0.1], [-0.2, 0.4], [0.3, -0.6]]])
>>> round(float(diversity(three, torch.tensor([3]))), 6)
0.393333
"""

from __future__ import annotations

import torch
from torch import Tensor

from graftkit.methods.dpcml.distances import candidate_distances

__all__ = ["diversity", "diversity_penalty"]


def diversity(vectors: Tensor, counts: Tensor) -> Tensor:
    """Half the mean squared distance between a user's vectors.

    Parameters
    ----------
    vectors : Tensor of shape (m, C, d)
        Vectors of m users, short users padded.
    counts : Tensor of int, shape (m,)
        How many of them are each user's own.

    Returns
    -------
    Tensor of shape (m,)
        0 for users with one vector.
    """
    distances, own = _pair_distances(vectors, counts)
    pairs = (counts * (counts - 1)).clamp(min=1).to(vectors.dtype)
    return (distances * own).sum((1, 2)) / (2 * pairs)


def diversity_penalty(
    vectors: Tensor, counts: Tensor, *, form: str, delta_min: float, delta_max: float
) -> tuple[Tensor, Tensor]:
    """Penalty of each user and its gradient.

    Parameters
    ----------
    vectors : Tensor of shape (m, C, d)
        Vectors of m users, short users padded.
    counts : Tensor of int, shape (m,)
        How many of them are each user's own.
    form : {"pairwise", "mean"}
        The public code's form or the paper's.
    delta_min, delta_max : float
        Bounds.

    Returns
    -------
    penalty : Tensor of shape (m,)
        Not negative.
    gradient : Tensor of shape (m, C, d)
        Of each user's penalty; 0 in padding.
    """
    distances, own = _pair_distances(vectors, counts)
    if form == "mean":
        pairs = (2 * counts * (counts - 1)).clamp(min=1).to(vectors.dtype)
        delta = (distances * own).sum((1, 2)) / pairs
        several = (counts > 1).to(vectors.dtype)
        penalty = ((delta_min - delta).clamp(min=0) + (delta - delta_max).clamp(min=0)) * several
        side = ((delta > delta_max).to(vectors.dtype) - (delta < delta_min).to(vectors.dtype)) * several
        pull = own * (side / pairs)[:, None, None]
    else:
        square = counts.square().to(vectors.dtype)[:, None, None]
        below, above = delta_min - distances, distances - delta_max
        penalty = ((below.clamp(min=0) + above.clamp(min=0)) * own / square).sum((1, 2))
        pull = ((above > 0).to(vectors.dtype) - (below > 0).to(vectors.dtype)) * own / square
    # Each unordered pair stands twice in the sum, and each distance differentiates to 2 (p_a - p_b): the
    # pulls' graph Laplacian times the vectors, in one product.
    return penalty, torch.bmm(4 * (torch.diag_embed(pull.sum(2)) - pull), vectors)


def _pair_distances(vectors: Tensor, counts: Tensor) -> tuple[Tensor, Tensor]:
    """Squared distances, and 1 where a pair is of two different vectors of the user."""
    width = vectors.shape[1]
    place = torch.arange(width, device=vectors.device)
    valid = place < counts.unsqueeze(1)
    own = valid.unsqueeze(1) & valid.unsqueeze(2) & (place.unsqueeze(0) != place.unsqueeze(1))
    return candidate_distances(vectors, vectors), own.to(vectors.dtype)
