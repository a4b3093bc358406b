r"""Row-wise optimizers for tables of which a step touches few rows.

``lazy_adam`` is Adam whose moments and rows change only where the step names a row (its gradient may be 0:
the penalty names every vector of a user out of bounds); the bias correction
uses the *global* step count, so that rare rows do not take full steps. ``adam`` is the dense one of the
public code: rows without a gradient go on by momentum. ``adagrad`` is row-wise too. Repeated rows of a
gradient are added up before the one step they get.

>>> table = torch.tensor([[0.3, -0.2]], dtype=torch.float64)
>>> rows = RowOptimizer(table, "lazy_adam", learning_rate=0.1)
>>> _ = rows.step(torch.tensor([0]), torch.tensor([[0.5, -1.0]], dtype=torch.float64))
>>> [round(x, 6) for x in table[0].tolist()]
[0.2, -0.1]
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.optim.adam import adam

__all__ = ["RowOptimizer", "add_up_rows"]

BETA1, BETA2, EPSILON = 0.9, 0.999, 1e-8


def add_up_rows(rows: Tensor, gradients: Tensor) -> tuple[Tensor, Tensor]:
    """Distinct rows with the sums of their gradients.

    Parameters
    ----------
    rows : Tensor of int, shape (m,)
        Row numbers, repeats allowed.
    gradients : Tensor of shape (m, d)
        One gradient each.

    Returns
    -------
    rows : Tensor of int, shape (k,)
        Distinct and ascending.
    gradients : Tensor of shape (k, d)
        Sums.
    """
    distinct, place = torch.unique(rows, return_inverse=True)
    total = gradients.new_zeros(len(distinct), gradients.shape[1])
    return distinct, total.index_add_(0, place, gradients)


class RowOptimizer:
    """One table and its optimizer state; steps write into the table.

    Parameters
    ----------
    table : Tensor of shape (n, d)
        Parameters, changed in place.
    kind : {"lazy_adam", "adam", "adagrad"}
        The rule.
    learning_rate : float
        Step size.
    weight_decay : float, default=0.0
        L2 added to the gradient of what a step changes.
    constrain : callable or None, default=None
        Projection of the changed rows.
    state : dict of str to Tensor or None, default=None
        ``moment1`` and ``moment2`` of shape (n, d) to go on from.
    n_steps : int, default=0
        Steps done before.
    """

    def __init__(
        self,
        table: Tensor,
        kind: str,
        *,
        learning_rate: float,
        weight_decay: float = 0.0,
        constrain: Callable[[Tensor], Tensor] | None = None,
        state: dict[str, Tensor] | None = None,
        n_steps: int = 0,
    ) -> None:
        self.table = table
        self.kind = kind
        self.learning_rate = learning_rate
        self.weight_decay = weight_decay
        self.constrain = constrain
        self.n_steps = n_steps
        state = state or {}
        self.moment1 = state.get("moment1", torch.zeros_like(table))
        self.moment2 = state.get("moment2", torch.zeros_like(table))

    def step(self, rows: Tensor, gradients: Tensor, everywhere: Tensor | None = None) -> Tensor:
        """Take one step with the gradient of some rows.

        Parameters
        ----------
        rows : Tensor of int, shape (m,)
            Row numbers, repeats allowed.
        gradients : Tensor of shape (m, d)
            What each adds to the gradient.
        everywhere : Tensor of shape (n, d) or None, default=None
            Gradient of the whole table to add to, for ``"adam"`` only; it is overwritten.

        Returns
        -------
        Tensor of int, shape (k,)
            The rows that changed.
        """
        self.n_steps += 1
        if self.kind == "adam":
            total = torch.zeros_like(self.table) if everywhere is None else everywhere
            self._move_all(total.index_add_(0, rows, gradients))
            if self.constrain is not None:
                self.table.copy_(self.constrain(self.table))
            return torch.arange(len(self.table), device=rows.device)
        rows, gradients = add_up_rows(rows, gradients)
        old = self.table.index_select(0, rows)
        first, second = self.moment1.index_select(0, rows), self.moment2.index_select(0, rows)
        new = self._move(old, gradients, first, second)
        if self.constrain is not None:
            new = self.constrain(new)
        self.moment1.index_copy_(0, rows, first)
        self.moment2.index_copy_(0, rows, second)
        self.table.index_copy_(0, rows, new)
        return rows

    def _move_all(self, gradient: Tensor) -> None:
        """PyTorch's Adam on the whole table: its fused form passes over the memory once.

        That form ignores strides: tables that are not contiguous get the plain one.
        """
        tables = (self.table, gradient, self.moment1, self.moment2)
        adam(
            [self.table],
            [gradient],
            [self.moment1],
            [self.moment2],
            [],
            # The count before this step; the function adds one to it.
            [torch.tensor(float(self.n_steps - 1), device=self.table.device)],
            fused=all(table.is_contiguous() for table in tables),
            amsgrad=False,
            beta1=BETA1,
            beta2=BETA2,
            lr=self.learning_rate,
            weight_decay=self.weight_decay,
            eps=EPSILON,
            maximize=False,
        )

    def _move(self, old: Tensor, gradient: Tensor, first: Tensor, second: Tensor) -> Tensor:
        """Update the moments in place and return the moved rows."""
        if self.weight_decay:
            gradient = gradient + self.weight_decay * old
        if self.kind == "adagrad":
            second.addcmul_(gradient, gradient)
            return torch.addcdiv(old, gradient, second.sqrt().add_(EPSILON), value=-self.learning_rate)
        first.mul_(BETA1).add_(gradient, alpha=1 - BETA1)
        second.mul_(BETA2).addcmul_(gradient, gradient, value=1 - BETA2)
        spread = (second / (1 - BETA2**self.n_steps)).sqrt_().add_(EPSILON)
        rate = self.learning_rate / (1 - math.pow(BETA1, self.n_steps))
        return torch.addcdiv(old, first, spread, value=-rate)
