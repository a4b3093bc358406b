r"""The score of DPCML: the smallest squared distance over a user's vectors.

.. math:: s(u, i) = \min_{c \le C_u} \lVert p_u^c - q_i \rVert^2

(P1, equation 3; smaller is better.) On the unit sphere that is :math:`2 - 2 \max_c p_u^c \cdot q_i`.

>>> distances, winners = min_distances(torch.tensor([[[0.6, 0.0], [0.0, 0.8]]]), torch.tensor([[0.0, 1.0]]))
>>> round(float(distances[0, 0]), 6), int(winners[0, 0])
(0.04, 1)
"""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["candidate_distances", "exact_distances", "gather_rows", "min_distances"]


def gather_rows(table: Tensor, index: Tensor) -> Tensor:
    """Rows of a table for an index of several axes.

    Parameters
    ----------
    table : Tensor of shape (n, d)
        The table.
    index : Tensor of int, shape (...)
        Row numbers.

    Returns
    -------
    Tensor of shape (..., d)
        ``table[index]``.
    """
    return table.index_select(0, index.reshape(-1)).view(*index.shape, table.shape[1])


def candidate_distances(users: Tensor, items: Tensor) -> Tensor:
    """Squared distances between each user's vectors and that user's own candidates.

    Parameters
    ----------
    users : Tensor of shape (B, C, d)
        User vectors.
    items : Tensor of shape (B, S, d)
        Candidates.

    Returns
    -------
    Tensor of shape (B, C, S)
        By one batched product; never below 0.
    """
    # A norm squared: the reduction of a square would write the squares out first.
    p_square = torch.linalg.vector_norm(users, dim=2, keepdim=True).square_()
    q_square = torch.linalg.vector_norm(items, dim=2).square_().unsqueeze(1)
    found = torch.baddbmm(p_square + q_square, users, items.transpose(1, 2), alpha=-2)
    return found.clamp_(min=0)


def min_distances(users: Tensor, items: Tensor) -> tuple[Tensor, Tensor]:
    """Scores of every item for some users, and the vector that each rests on.

    Parameters
    ----------
    users : Tensor of shape (b, C, d)
        User vectors, short users padded by repetition.
    items : Tensor of shape (n_items, d)
        Item vectors.

    Returns
    -------
    scores : Tensor of shape (b, n_items)
        Squared distances.
    winners : Tensor of int, shape (b, n_items)
        Position of the nearest vector, the first on ties.
    """
    b, c, d = users.shape
    flat = users.reshape(b * c, d)
    base = flat.square().sum(1, keepdim=True) + items.square().sum(1)
    found = torch.addmm(base, flat, items.T, alpha=-2).clamp_(min=0).view(b, c, -1)
    scores, winners = found.min(dim=1)
    return scores, winners


def exact_distances(users: Tensor, items: Tensor) -> tuple[Tensor, Tensor]:
    """Scores of one item a row from differences, free of the cancellation of the product form.

    Parameters
    ----------
    users : Tensor of shape (m, C, d)
        User vectors, short users padded by repetition.
    items : Tensor of shape (m, d)
        One item a row.

    Returns
    -------
    scores : Tensor of shape (m,)
        Squared distances.
    winners : Tensor of int, shape (m,)
        Position of the nearest vector, the first on ties.
    """
    found = (users - items.unsqueeze(1)).square().sum(2)
    scores, winners = found.min(dim=1)
    return scores, winners
