"""Ranking in blocks: scores of some users for all items by one product, and the best n of each.

A block of b users costs one (b C, d + 2) x (d + 2, n_items) product (the two extra columns carry the squared
norms), a minimum over C, a mask and a partial sort; its size is chosen so that it stays far below 64 MB and
within a processor's cache. Ties go to the smaller item id.

>>> users, items = np.array([[0.6, 0.0], [0.0, 0.8]]), np.array([[0.6, 0.1], [0.0, 1.0], [-0.4, 0.4]])
>>> Ranker(users, np.array([0, 2]), items).top(np.array([0]), 2)[0].tolist()
[[0, 1]]
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import scipy.sparse as sp
from joblib import Parallel, delayed, effective_n_jobs

from graftkit.methods.dpcml.lists import block_size, top_items
from graftkit.methods.dpcml.vectors import padded_rows

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["Ranker"]

IntArray = npt.NDArray[np.int64]
FloatArray = npt.NDArray[np.floating[Any]]
TASKS = 4


class Ranker:
    """Scores and best items of users given by ragged vectors.

    Parameters
    ----------
    user_vectors : ndarray of shape (n_rows, d)
        All users' vectors.
    user_ptr : ndarray of int, shape (n_users + 1,)
        Where each user's rows begin.
    item_vectors : ndarray of shape (n_items, d)
        One vector an item.
    device : str, default="cpu"
        torch device.
    """

    def __init__(
        self, user_vectors: FloatArray, user_ptr: IntArray, item_vectors: FloatArray, device: str = "cpu"
    ) -> None:
        import torch

        self.device = torch.device(device)
        self._users = torch.as_tensor(np.ascontiguousarray(user_vectors)).to(self.device)
        self._items = torch.as_tensor(np.ascontiguousarray(item_vectors)).to(self.device)
        self._ptr = user_ptr
        square = self._items.square().sum(1, keepdim=True)
        self._extended = torch.cat((self._items, square, torch.ones_like(square)), dim=1).T.contiguous()

    @property
    def n_items(self) -> int:
        """Number of items."""
        return len(self._items)

    def distances(self, users: IntArray, items: IntArray | None = None) -> Tensor:
        """Squared distances of some users to all or some items.

        Parameters
        ----------
        users : ndarray of int, shape (b,)
            Users.
        items : ndarray of int, shape (m,), or None, default=None
            Items; all where None.

        Returns
        -------
        Tensor of shape (b, n_items) or (b, m)
            Smaller is better.
        """
        import torch

        rows = torch.from_numpy(padded_rows(self._ptr, users))
        p = self._users[rows.reshape(-1).to(self.device)]
        square = p.square().sum(1, keepdim=True)
        left = torch.cat((-2 * p, torch.ones_like(square), square), dim=1)
        right = self._extended
        if items is not None:
            # A copy: what comes from joblib may be a read-only file.
            right = right[:, torch.tensor(items, device=self.device)]
        found = (left @ right).view(len(users), rows.shape[1], -1)
        if rows.shape[1] == 1:
            return found[:, 0].clamp_(min=0)
        # Slice after slice, since the middle axis is short.
        best = torch.minimum(found[:, 0], found[:, 1])
        for c in range(2, rows.shape[1]):
            torch.minimum(best, found[:, c], out=best)
        return best.clamp_(min=0)

    def score(self, users: IntArray) -> FloatArray:
        """Scores of some users for all items; larger is better.

        Parameters
        ----------
        users : ndarray of int, shape (b,)
            Users.

        Returns
        -------
        ndarray of shape (b, n_items)
            Negative squared distances.
        """
        parts = [distances.neg_().cpu().numpy() for _, distances in self.blocks(users)]
        if not parts:
            return np.zeros((0, self.n_items), dtype=np.asarray(self._items[:0].cpu()).dtype)
        scores: FloatArray = np.concatenate(parts)
        return scores

    def blocks(
        self,
        users: IntArray,
        seen: sp.csr_matrix | None = None,
        *,
        items: IntArray | None = None,
        batch_size: int | None = None,
    ) -> Iterator[tuple[slice, Tensor]]:
        """Run over users in blocks; seen items have distance infinity.

        Parameters
        ----------
        users : ndarray of int, shape (m,)
            Users.
        seen : csr_matrix of shape (m, n_items) or None, default=None
            What to mask, one row for each entry of `users`.
        items : ndarray of int, shape (k,), or None, default=None
            Only these items, ascending.
        batch_size : int or None, default=None
            Users a block; None keeps a block small.

        Yields
        ------
        block : slice
            Positions in `users`.
        distances : Tensor of shape (b, n_items) or (b, k)
            Squared distances.
        """
        import torch

        n_columns = self.n_items if items is None else len(items)
        size = batch_size or self._block_size(users, n_columns)
        if seen is not None and items is not None:
            seen = seen[:, items]
        for start in range(0, len(users), size):
            block = slice(start, min(start + size, len(users)))
            found = self.distances(users[block], items)
            if seen is not None:
                first, last = seen.indptr[block.start], seen.indptr[block.stop]
                count = np.diff(seen.indptr[block.start : block.stop + 1])
                places = np.repeat(np.arange(len(count)) * n_columns, count) + seen.indices[first:last]
                found.view(-1)[torch.from_numpy(places).to(self.device)] = torch.inf
            yield block, found

    def _block_size(self, users: IntArray, n_columns: int) -> int:
        width = int((self._ptr[users + 1] - self._ptr[users]).max()) if len(users) else 1
        return block_size(width, n_columns, self._items.element_size())

    def top(
        self,
        users: IntArray,
        n: int,
        seen: sp.csr_matrix | None = None,
        *,
        items: IntArray | None = None,
        batch_size: int | None = None,
        n_jobs: int | None = None,
    ) -> tuple[IntArray, FloatArray]:
        """The n nearest items of each user.

        Parameters
        ----------
        users : ndarray of int, shape (m,)
            Users.
        n : int
            Items wanted.
        seen : csr_matrix of shape (m, n_items) or None, default=None
            What to leave out.
        items : ndarray of int, shape (k,), or None, default=None
            Only these items, ascending.
        batch_size : int or None, default=None
            Users a block.
        n_jobs : int or None, default=None
            Workers, as in joblib. Blocks are the same for any number of them, so results are too.

        Returns
        -------
        ids : ndarray of int, shape (m, n)
            Best first; -1 where fewer than n are left.
        scores : ndarray of shape (m, n)
            Negative squared distances; ``-inf`` where fewer are left.
        """
        size = batch_size or self._block_size(users, self.n_items if items is None else len(items))
        n_blocks = max(1, -(-len(users) // size))
        # Each task carries the tables: a few tasks a worker, of whole blocks.
        workers = effective_n_jobs(n_jobs)
        step = size * (n_blocks if workers == 1 else -(-n_blocks // (TASKS * workers)))
        parts = [slice(start, start + step) for start in range(0, max(len(users), 1), step)]
        done = Parallel(n_jobs=n_jobs, prefer="threads")(
            delayed(self._top)(users[part], n, None if seen is None else seen[part], items, size)
            for part in parts
        )
        ids, scores = (np.concatenate(found) for found in zip(*done, strict=True))
        return ids, scores

    def _top(
        self, users: IntArray, n: int, seen: sp.csr_matrix | None, items: IntArray | None, size: int
    ) -> tuple[IntArray, FloatArray]:
        n_columns = self.n_items if items is None else len(items)
        kept = min(n, n_columns)
        ids = np.full((len(users), n), -1, dtype=np.int64)
        scores = np.full((len(users), n), -np.inf, dtype=np.asarray(self._items[:0].cpu()).dtype)
        for block, distances in self.blocks(users, seen, items=items, batch_size=size):
            if not kept:
                break
            columns, values = top_items(distances, kept)
            found = columns.cpu().numpy()
            if items is not None:
                found = items[found]
            value = values.cpu().numpy()
            ids[block, :kept] = np.where(np.isinf(value), -1, found)
            scores[block, :kept] = -value
        return ids, scores

    def pairs(self, users: IntArray, items: IntArray) -> tuple[FloatArray, IntArray]:
        """Scores of user-item pairs from exact differences, and the vector that each rests on.

        Parameters
        ----------
        users, items : ndarray of int, shape (m,)
            Pairs.

        Returns
        -------
        scores : ndarray of shape (m,)
            Negative squared distances.
        vectors : ndarray of int, shape (m,)
            Position of the nearest of the user's vectors.
        """
        import torch

        from graftkit.methods.dpcml.distances import exact_distances

        width = int(np.diff(self._ptr).max())
        size = block_size(width, self._items.shape[1], self._items.element_size())
        scores, vectors = [], []
        for start in range(0, max(len(users), 1), size):
            part = slice(start, start + size)
            rows = torch.from_numpy(padded_rows(self._ptr, users[part], width)).to(self.device)
            chosen = self._items[torch.from_numpy(items[part]).to(self.device)]
            found, winner = exact_distances(self._users[rows], chosen)
            scores.append(-found.cpu().numpy())
            vectors.append(winner.cpu().numpy())
        return np.concatenate(scores), np.concatenate(vectors)
