r"""The potential-outlier memory bank: recent rows whose two views agree least.

The :math:`\max(1, \lfloor \rho |A| \rfloor)` rows of smallest similarity in a batch's complete rows A
join a first-in, first-out queue of at most M blocks; from the next step on they are negatives of every
anchor, which lowers the pull on rows believed to be mismatched.

Source: RCPMOD (ACM MM 2024), public code; specification section 1.6 (b). Differs from the public code:
only rows complete in the pair enter (the code stores zero vectors for missing views), and indices are
kept in place of copies. Unverified: whether the paper masks a row's own copies; they are not masked
here, since they are the mechanism. No gain from the bank is claimed: `bench_rcpmod.py` has its ablation.

>>> import numpy as np
>>> bank = OutlierMemory(capacity=2, fraction=0.34)
>>> bank.push(np.array([4, 7, 9]), np.array([0.9, -0.2, 0.4]))
>>> bank.rows
array([7])
"""

from collections import deque

import numpy as np
import numpy.typing as npt

__all__ = ["OutlierMemory"]


class OutlierMemory:
    r"""First-in, first-out queue of row indices.

    Parameters
    ----------
    capacity : int
        The largest number of blocks, M; 0 turns the bank off.
    fraction : float
        The share of a batch's complete rows that enters, :math:`\rho`.
    """

    def __init__(self, capacity: int, fraction: float) -> None:
        self.capacity = capacity
        self.fraction = fraction
        self.blocks: deque[npt.NDArray[np.int64]] = deque(maxlen=capacity)

    @property
    def rows(self) -> npt.NDArray[np.int64]:
        """Row indices in the bank, oldest block first, of shape (n_stored,)."""
        if not self.blocks:
            return np.empty(0, dtype=np.int64)
        return np.concatenate(self.blocks)

    def push(self, rows: npt.NDArray[np.int64], similarity: npt.NDArray[np.floating]) -> None:
        """Store the least similar rows of a batch as one block.

        Parameters
        ----------
        rows : ndarray of shape (n_complete,)
            Indices of the batch's rows that are observed in both views.
        similarity : ndarray of shape (n_complete,)
            Inner product of each row's two unit latents; ties go to the row that comes first.
        """
        if self.capacity == 0 or not len(rows):
            return
        # The addend undoes rounding: 0.29 of 100 rows is 29.
        count = max(1, int(self.fraction * len(rows) + 1e-9))
        chosen = np.argsort(similarity, kind="stable")[:count]
        self.blocks.append(np.asarray(rows, dtype=np.int64)[chosen])
