"""Adaptive weights of a detector's parts (GOOD-D): the spread of their ID scores in the epoch before.

First epoch: 1. Then ``w_p = std_p^alpha``, divided by their mean. At test
``s = sum_p (s_p - mean_p) / std_p``. Source: `jweihe/HGOE@2cf8c82`, run.py.

>>> balance = PartBalance(("a", "b"), alpha=1.0)
>>> balance.see({"a": torch.tensor([0.0, 2.0]), "b": torch.tensor([0.0, 6.0])})
>>> balance.end_epoch()
>>> balance.weights()
{'a': 0.5, 'b': 1.5}
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from graftkit.core.validation import check_number

__all__ = ["PartBalance"]


class PartBalance(nn.Module):
    """Running ID statistics of several scores.

    Parameters
    ----------
    names : sequence of str
        The parts.
    alpha : float, default=0.0
        Exponent; 0 gives equal weights.

    Raises
    ------
    TypeError
        If `alpha` is no number.
    ValueError
        If it is negative.
    """

    statistics: Tensor

    def __init__(self, names: Sequence[str], alpha: float = 0.0) -> None:
        super().__init__()
        self.names = tuple(names)
        self.alpha = check_number("alpha", alpha, low=0)
        self.register_buffer("statistics", torch.tensor([[0.0, 1.0]] * len(self.names)))
        self._seen: dict[str, list[Tensor]] = {name: [] for name in self.names}

    def see(self, scores: Mapping[str, Tensor]) -> None:
        """Note the scores of an ID batch.

        Parameters
        ----------
        scores : mapping of str to Tensor of shape (B,)
            By part.
        """
        for name in self.names:
            self._seen[name].append(scores[name].detach())

    def end_epoch(self) -> None:
        """Make this epoch's mean and standard deviation those in use."""
        for k, name in enumerate(self.names):
            if self._seen[name]:
                values = torch.cat(self._seen[name])
                self.statistics[k, 0] = values.mean()
                self.statistics[k, 1] = values.std(correction=0).clamp(min=1e-6)
            self._seen[name] = []

    def weights(self) -> dict[str, float]:
        """Weights of the parts; their mean is 1.

        Returns
        -------
        dict of str to float
            By part.
        """
        powers = self.statistics[:, 1] ** self.alpha
        return dict(zip(self.names, (powers / powers.mean()).tolist(), strict=True))

    def combine(self, scores: Mapping[str, Tensor]) -> Tensor:
        """Sum of the standardised parts.

        Parameters
        ----------
        scores : mapping of str to Tensor of shape (B,)
            By part.

        Returns
        -------
        Tensor of shape (B,)
            Scores.
        """
        parts: Any = [
            (scores[name] - self.statistics[k, 0]) / self.statistics[k, 1]
            for k, name in enumerate(self.names)
        ]
        return torch.stack(parts).sum(0)
