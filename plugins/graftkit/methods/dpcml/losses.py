r"""Loss of a batch of positives and its gradient in closed form.

With :math:`\ell_{ij} = \max(0, m + s(u,i) - s(u,j))` over the S candidates j of a positive (P1, equation 4),
the loss of the positive is

- ``uniform``, ``popular``: their sum (DPCML1);
- ``hard``: the largest, that of the nearest candidate (DPCML2);
- ``dihars``: the mean of the k largest, k = ceil(beta S), or its form with a learned threshold
  :math:`g_u + \frac1k \sum_j \tau \log(1 + e^{(\ell_{ij} - g_u) / \tau})`.

A batch's loss is the mean over its positives. The gradient touches only the nearest vector of the user to the
positive and to each selected candidate, the positive and these candidates.

Differs from the public code, which sums over the batch. The two forms of ``dihars`` are **reconstructed**:
of P2 only the abstract could be read; they follow from its goal, the one-way partial AUC.

>>> import torch
>>> users, items = torch.tensor([[0.6, 0.0], [0.0, 0.8]]), torch.tensor([[0.6, 0.1], [-0.4, 0.4]])
>>> batch = torch.tensor([[0, 1]]), torch.tensor([0]), torch.tensor([[1]])
>>> step = triplet_gradients(users, items, *batch, margin=1.0)
>>> round(float(step.losses[0]), 6)
0.69
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from graftkit.methods.dpcml.distances import candidate_distances, gather_rows

__all__ = ["BatchGradient", "smooth_excess", "triplet_gradients"]

TAU = 0.1


@dataclass(frozen=True)
class BatchGradient:
    """Losses of a batch, and the gradient of their mean as rows that may repeat.

    Parameters
    ----------
    losses : Tensor of shape (B,)
        Loss of each positive.
    user_rows, user_gradients : Tensor of shape (m,) and (m, d)
        Rows of the user table, and what each adds to the gradient there.
    item_rows, item_gradients : Tensor of shape (k,) and (k, d)
        The same for items.
    thresholds : Tensor of shape (B,) or None
        Gradient with respect to each positive's threshold.
    n_active : Tensor, 0-d
        Selected candidates inside the margin.
    """

    losses: Tensor
    user_rows: Tensor
    user_gradients: Tensor
    item_rows: Tensor
    item_gradients: Tensor
    thresholds: Tensor | None
    n_active: Tensor


def triplet_gradients(
    user_table: Tensor,
    item_table: Tensor,
    rows: Tensor,
    positives: Tensor,
    negatives: Tensor,
    *,
    margin: float,
    sampling: str = "hard",
    n_selected: int = 1,
    thresholds: Tensor | None = None,
) -> BatchGradient:
    """Losses and gradient of one batch.

    Parameters
    ----------
    user_table : Tensor of shape (n_rows, d)
        Vectors of all users.
    item_table : Tensor of shape (n_items, d)
        Vectors of all items.
    rows : Tensor of int, shape (B, C)
        Rows of each positive's user, the last one repeated for short users.
    positives : Tensor of int, shape (B,)
        Items.
    negatives : Tensor of int, shape (B, S)
        Candidates.
    margin : float
        Margin of the hinge.
    sampling : {"hard", "uniform", "dihars", "popular"}, default="hard"
        Which candidates count.
    n_selected : int, default=1
        k of ``"dihars"``.
    thresholds : Tensor of shape (B,) or None, default=None
        Each positive's threshold; gives ``"dihars"`` its threshold form.

    Returns
    -------
    BatchGradient
        Of the mean over the batch.
    """
    size, n_candidates = negatives.shape
    p = gather_rows(user_table, rows)
    q = gather_rows(item_table, torch.cat((positives.unsqueeze(1), negatives), dim=1))
    distances = candidate_distances(p, q)
    near, near_vector = distances[:, :, 0].min(dim=1)
    far = distances[:, :, 1:]
    slope = None
    if sampling == "hard":
        hardest = far.reshape(size, -1).argmin(dim=1)
        chosen = hardest.remainder(n_candidates).unsqueeze(1)
        far_vector = hardest.div(n_candidates, rounding_mode="floor").unsqueeze(1)
        gap = far.reshape(size, -1).gather(1, hardest.unsqueeze(1))
        hinge = (near.unsqueeze(1) + margin - gap).clamp_(min=0)
        losses, weights = hinge[:, 0], (hinge > 0).to(p.dtype)
    else:
        far_score, far_vector = far.min(dim=1)
        if sampling == "dihars" and thresholds is None and n_selected < n_candidates:
            far_score, chosen = far_score.topk(n_selected, dim=1, largest=False)
            far_vector = far_vector.gather(1, chosen)
        else:
            chosen = torch.arange(n_candidates, device=p.device).expand(size, n_candidates)
        hinge = (near.unsqueeze(1) + margin - far_score).clamp_(min=0)
        weights = (hinge > 0).to(p.dtype)
        if sampling != "dihars":
            losses = hinge.sum(dim=1)
        elif thresholds is None:
            losses = hinge.mean(dim=1)
            weights = weights / n_selected
        else:
            excess, share = smooth_excess(hinge - thresholds.unsqueeze(1))
            losses = thresholds + excess.sum(dim=1) / n_selected
            weights = weights * share / n_selected
            slope = (1 - share.sum(dim=1) / n_selected) / size
    # From here on only what lies inside the margin.
    who, which = weights.nonzero(as_tuple=True)
    weight = (weights[who, which] * (2 / size)).unsqueeze(1)
    candidate, vector = chosen[who, which], far_vector[who, which]
    d, width = p.shape[2], p.shape[1]
    flat_p, flat_q = p.view(-1, d), q.view(-1, d)
    away = gather_rows(flat_q, who * (n_candidates + 1) + candidate + 1)
    away = away.sub_(gather_rows(flat_p, who * width + vector)).mul_(weight)
    pull = weights.sum(dim=1)
    active = pull.nonzero().squeeze(1)
    total = (pull[active] * (2 / size)).unsqueeze(1)
    nearest = near_vector[active]
    towards = gather_rows(flat_p, active * width + nearest)
    towards = towards.sub_(gather_rows(flat_q, active * (n_candidates + 1))).mul_(total)
    user_gradients = torch.cat((towards, away))
    return BatchGradient(
        losses=losses,
        user_rows=torch.cat((rows[active, nearest], rows[who, vector])),
        user_gradients=user_gradients,
        item_rows=torch.cat((positives[active], negatives[who, candidate])),
        item_gradients=-user_gradients,
        thresholds=slope,
        n_active=torch.as_tensor(len(who)),
    )


def smooth_excess(x: Tensor, tau: float = TAU) -> tuple[Tensor, Tensor]:
    r"""Smoothed :math:`\max(0, x)`, :math:`\tau \log(1 + e^{x / \tau})`, and its derivative.

    Parameters
    ----------
    x : Tensor of shape (...)
        Losses less their threshold.
    tau : float, default=0.1
        Width of the smoothing.

    Returns
    -------
    value : Tensor of shape (...)
        The smoothed excess.
    slope : Tensor of shape (...)
        In (0, 1).
    """
    return torch.nn.functional.softplus(x / tau) * tau, torch.sigmoid(x / tau)
