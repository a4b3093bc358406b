"""Many independent Bernoulli draws at the cost of their successes.

Points of a Poisson process with ``-log(1 - p)`` points a draw on average hit a draw with probability
``1 - exp(log(1 - p)) = p``, each draw apart from all others. So a row of m draws gets
``Poisson(-m log(1 - p))`` points at uniform places, and the draws that have one succeed. Where p is above
one half the failures are placed instead, and what is left succeeds.

The law is that of separate draws, not an approximation of it. The published code draws a number for every
pair of nodes; this way round is no part of it.

>>> (row, count, turn), = successes(np.array([1.0]), np.array([3]), torch.Generator().manual_seed(0))
>>> row.tolist(), count.tolist(), turn.tolist()
([0], [3], [0, 1, 2])
"""

from collections.abc import Iterator

import numpy as np
import torch

__all__ = ["successes"]

BLOCK = 32_768  # points placed at a time: they stay in the processor's cache


def successes(
    chances: np.ndarray, turns: np.ndarray, generator: torch.Generator
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Successes among ``turns[s]`` draws with probability ``chances[s]``, for every row s.

    Parameters
    ----------
    chances : ndarray of shape (S,)
        Probabilities, float64 in [0, 1].
    turns : ndarray of shape (S,)
        Draws of each row.
    generator : torch.Generator
        A private generator; it advances.

    Yields
    ------
    rows, counts : ndarray of shape (R,)
        Some rows, each in one block, and how many entries of `turn` belong to each.
    turn : ndarray of shape (sum of counts,)
        Numbers of the draws that succeeded. One may come more than once: they are a set.
    """
    likely = chances > 0.5
    rare = np.where(likely, 1 - chances, chances)
    rate = np.maximum(-np.log1p(-rare), 0) * turns
    points = torch.poisson(torch.from_numpy(rate), generator=generator).numpy().astype(np.int64)
    for rows in _blocks(np.flatnonzero(~likely), points):
        yield rows, points[rows], _places(turns[rows], points[rows], generator)
    for rows in _blocks(np.flatnonzero(likely), turns):
        yield rows, *_others(turns[rows], points[rows], _places(turns[rows], points[rows], generator))


def _blocks(rows: np.ndarray, weight: np.ndarray) -> list[np.ndarray]:
    """The rows in pieces of about `BLOCK` in weight; where they are cut does not change what is drawn."""
    piece = np.cumsum(weight[rows]) // BLOCK
    return np.split(rows, np.flatnonzero(piece[1:] != piece[:-1]) + 1) if len(rows) else []


def _places(turns: np.ndarray, points: np.ndarray, generator: torch.Generator) -> np.ndarray:
    """A uniform draw of its row for each point."""
    u = torch.rand(int(points.sum()), generator=generator, dtype=torch.float64).numpy()
    u *= np.repeat(turns.astype(np.float64), points)
    return u.astype(np.int64)


def _others(turns: np.ndarray, points: np.ndarray, turn: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """How many draws of each row no point hit, and which."""
    start = np.cumsum(turns) - turns
    left = np.ones(int(turns.sum()), dtype=bool)
    left[turn + np.repeat(start, points)] = False
    kept = np.flatnonzero(left)
    counts = np.diff(np.searchsorted(kept, start), append=len(kept))
    return counts, kept - np.repeat(start, counts)
