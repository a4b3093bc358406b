"""A threshold by the share of graphs that it labels.

>>> contamination_threshold(torch.arange(10.0), 0.2)
7.0
"""

import torch
from torch import Tensor

__all__ = ["contamination_threshold"]


def contamination_threshold(scores: Tensor, contamination: float) -> float:
    """The score that ``round(contamination * n)`` graphs exceed, ties aside.

    Parameters
    ----------
    scores : Tensor of shape (n,)
        Scores, n >= 1.
    contamination : float
        The share, in (0, 0.5].

    Returns
    -------
    float
        The threshold.
    """
    above = round(contamination * len(scores))
    return float(torch.sort(scores, descending=True).values[min(above, len(scores) - 1)])
