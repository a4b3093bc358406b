"""Norm constraints: users on the sphere, items in the ball (P1, section 4; the public code's form).

A zero vector stays zero, where the public code divides by its norm. Vectors inside the ball come back bit
for bit.

>>> project(torch.tensor([[3.0, 4.0], [0.3, 0.4]]), "ball", 1.0)
tensor([[0.6000, 0.8000],
        [0.3000, 0.4000]])
"""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["project"]


def project(rows: Tensor, rule: str | None, radius: float) -> Tensor:
    """Vectors that obey a norm constraint.

    Parameters
    ----------
    rows : Tensor of shape (m, d)
        Vectors.
    rule : {"sphere", "ball"} or None
        Norm exactly `radius`, norm at most `radius`, or anything.
    radius : float
        The norm.

    Returns
    -------
    Tensor of shape (m, d)
        A new tensor, or `rows` itself where nothing is asked for.
    """
    if rule is None:
        return rows
    norm = torch.linalg.vector_norm(rows, dim=1, keepdim=True)
    if rule == "ball":
        # A factor of exactly 1 leaves the inside alone.
        return rows * torch.where(norm > radius, radius / norm, torch.ones_like(norm))
    return rows * torch.where(norm > 0, radius / norm.clamp(min=torch.finfo(rows.dtype).tiny), norm)
