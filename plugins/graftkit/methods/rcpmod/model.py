r"""The frozen model that scores and explains new rows.

.. math:: s_i = \frac{1}{|P_i|} \sum_{(a,b) \in P_i} s_i^{ab}

:math:`P_i` are the pairs in which row i has at least one view.

Source: RCPMOD (ACM MM 2024), public code; specification sections 1.2 and 1.9. Differs from the public code:
membership is an explicit mask (the code takes a score of exactly 0 for "not in this pair").
"""

from collections.abc import Hashable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from joblib import Parallel, delayed

from graftkit.methods.rcpmod.scaling import ViewScaler
from graftkit.methods.rcpmod.scores import PairScorer

__all__ = ["Explanation", "FittedPairs"]

FloatArray = npt.NDArray[np.float64]
BoolArray = npt.NDArray[np.bool_]

SCORE_CHUNK = 4096
FARTHEST = 1e100  # squares of what lies beyond overflow


@dataclass(frozen=True)
class Explanation:
    """An additive account of the outlier scores: the parts of a row sum to its score.

    Parameters
    ----------
    reconstruction : ndarray of shape (n, V)
        What each view's reconstruction error adds; NaN where the view is missing.
    consistency : ndarray of shape (n, n_pairs)
        What the disagreement of each pair adds; NaN where the row has no view of the pair. With one view
        missing it rests on borrowed neighbours and says nothing about a mismatch.
    score : ndarray of shape (n,)
        The outlier score, larger is more outlying.
    view_names : tuple
        Names of the columns of `reconstruction`.
    pair_names : tuple of tuple
        Names of the columns of `consistency`.
    """

    reconstruction: FloatArray
    consistency: FloatArray
    score: FloatArray
    view_names: tuple[Hashable, ...]
    pair_names: tuple[tuple[Hashable, Hashable], ...]

    @property
    def largest(self) -> list[Hashable | tuple[Hashable, Hashable]]:
        """For each row the view, or pair of views, that adds most to its score."""
        names: list[Any] = [*self.view_names, *self.pair_names]
        parts = np.concatenate((self.reconstruction, self.consistency), axis=1)
        return [names[i] for i in np.nanargmax(parts, axis=1)]


@dataclass(frozen=True)
class FittedPairs:
    """A trained model as plain arrays.

    Parameters
    ----------
    names : tuple of hashable
        View names.
    scalers : tuple of ViewScaler
        One a view.
    pairs : tuple of (int, int)
        View positions of each pair.
    scorers : tuple of PairScorer
        One a pair.
    """

    names: tuple[Hashable, ...]
    scalers: tuple[ViewScaler, ...]
    pairs: tuple[tuple[int, int], ...]
    scorers: tuple[PairScorer, ...]

    def score(
        self, arrays: list[npt.NDArray[np.floating]], mask: BoolArray, *, n_jobs: int | None = None
    ) -> FloatArray:
        """Outlier scores of rows, larger is more outlying.

        Parameters
        ----------
        arrays : list of ndarray, each of shape (n, p_v)
            Raw views; rows of a missing view are not read.
        mask : ndarray of bool, shape (n, V)
            Which views each row has, at least one a row.
        n_jobs : int or None, default=None
            Workers, as in joblib; the result does not depend on it.

        Returns
        -------
        ndarray of shape (n,)
            Each row's score depends on that row alone.
        """
        return self.explain(arrays, mask, n_jobs=n_jobs).score

    def explain(
        self, arrays: list[npt.NDArray[np.floating]], mask: BoolArray, *, n_jobs: int | None = None
    ) -> Explanation:
        """Split outlier scores into what each view and each pair adds.

        Parameters
        ----------
        arrays : list of ndarray, each of shape (n, p_v)
            Raw views.
        mask : ndarray of bool, shape (n, V)
            Which views each row has.
        n_jobs : int or None, default=None
            Workers, as in joblib.

        Returns
        -------
        Explanation
            Parts that sum to the score.
        """
        chunks = [slice(start, start + SCORE_CHUNK) for start in range(0, len(mask), SCORE_CHUNK)]
        done = Parallel(n_jobs=n_jobs, prefer="threads")(
            delayed(self._explain_chunk)([array[chunk] for array in arrays], mask[chunk]) for chunk in chunks
        )
        reconstruction, consistency, score = (np.concatenate(parts) for parts in zip(*done, strict=True))
        pair_names = tuple((self.names[a], self.names[b]) for a, b in self.pairs)
        return Explanation(reconstruction, consistency, score, self.names, pair_names)

    def _explain_chunk(
        self, arrays: list[npt.NDArray[np.floating]], mask: BoolArray
    ) -> tuple[FloatArray, FloatArray, FloatArray]:
        with np.errstate(over="ignore"):
            xs = [scaler.transform(array) for scaler, array in zip(self.scalers, arrays, strict=True)]
        for x, observed, name in zip(xs, mask.T, self.names, strict=True):
            far = np.abs(x[observed]).max(initial=0.0)
            if not far <= FARTHEST:
                raise ValueError(
                    f"view {name!r}: expected values within {FARTHEST:g} times the range seen in fit, got "
                    f"one {far:g} times as far"
                )
        member = np.column_stack([mask[:, a] | mask[:, b] for a, b in self.pairs])
        share = 1.0 / member.sum(axis=1)
        reconstruction = np.zeros(mask.shape)
        consistency = np.full(member.shape, np.nan)
        score = np.zeros(len(mask))
        for p, ((a, b), scorer) in enumerate(zip(self.pairs, self.scorers, strict=True)):
            rows = np.flatnonzero(member[:, p])
            if not len(rows):
                continue
            observed = mask[rows][:, [a, b]]
            errors, contrast = scorer.components((xs[a][rows], xs[b][rows]), observed)
            by_view, by_pair = scorer.parts(errors, contrast)
            # A missing view's error repeats the observed one's, so its part belongs to that view.
            borrowed = np.where(observed, by_view, 0.0) + np.where(~observed, by_view, 0.0)[:, ::-1]
            for side, view in enumerate((a, b)):
                reconstruction[rows, view] += borrowed[:, side] * share[rows]
            consistency[rows, p] = by_pair * share[rows]
            score[rows] += scorer.score(errors, contrast) * share[rows]
        reconstruction[~mask] = np.nan
        return reconstruction, consistency, score
