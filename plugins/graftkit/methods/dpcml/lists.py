"""Lists of items: what may stand in one, how many are made at once, the best of a row of distances.

>>> allowed_items(6, only=np.array([4, 1, 4, 2]), never=np.array([2])).tolist()
[1, 4]
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["allowed_items", "block_size", "top_items"]

IntArray = npt.NDArray[np.int64]
BLOCK_BYTES = 6 * 2**20


def allowed_items(
    n_items: int, only: IntArray | None = None, never: IntArray | None = None
) -> IntArray | None:
    """What an allow list and a deny list leave.

    Parameters
    ----------
    n_items : int
        Number of items.
    only : ndarray of int, shape (k,), or None, default=None
        Allow list; everything where None.
    never : ndarray of int, shape (m,), or None, default=None
        Deny list.

    Returns
    -------
    ndarray of int, shape (j,), or None
        Distinct and ascending; None where neither list was given.
    """
    if only is None and never is None:
        return None
    left = np.arange(n_items) if only is None else np.unique(only)
    return left if never is None else np.setdiff1d(left, never)


def block_size(width: int, n_items: int, itemsize: int) -> int:
    """Users a block.

    Parameters
    ----------
    width : int
        Vectors a user.
    n_items : int
        Items scored.
    itemsize : int
        Bytes a number.

    Returns
    -------
    int
        At least 1; the block's scores take about 6 MB.
    """
    return max(1, BLOCK_BYTES // (max(width, 1) * max(n_items, 1) * itemsize))


def top_items(distances: Tensor, n: int) -> tuple[Tensor, Tensor]:
    """Columns of the n smallest entries of each row, ties by column.

    Parameters
    ----------
    distances : Tensor of shape (b, n_items)
        Infinity marks what may not be chosen.
    n : int
        At most the number of columns.

    Returns
    -------
    columns : Tensor of int, shape (b, n)
        Ascending by distance, then by column.
    values : Tensor of shape (b, n)
        Their distances.
    """
    import torch

    kept = min(n + 1, distances.shape[1])
    values, columns = torch.topk(distances, kept, dim=1, largest=False)
    # topk leaves the order of ties open: rows with one among their best, or at the cut, are sorted in full.
    tied = ((values[:, 1:] == values[:, :-1]) & torch.isfinite(values[:, 1:])).any(dim=1)
    values, columns = values[:, :n].clone(), columns[:, :n].clone()
    for row in tied.nonzero().squeeze(1).tolist():
        ordered, place = torch.sort(distances[row], stable=True)
        values[row], columns[row] = ordered[:n], place[:n]
    return columns, values
