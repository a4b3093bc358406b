"""Early stopping: the best pass by a metric of held-out interactions.

>>> Stopping(sp.csr_matrix(np.eye(3)), scoring="mrr").patience
5
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import scipy.sparse as sp

from graftkit.core.validation import raise_invalid
from graftkit.methods.dpcml.metrics import evaluate, parse_metric
from graftkit.methods.dpcml.ranking import Ranker
from graftkit.methods.dpcml.state import TrainingState

if TYPE_CHECKING:
    from graftkit.methods.dpcml.training import Trainer

__all__ = ["Stopping", "Watch", "check_scoring"]

Record = dict[str, float]
MOST_VALIDATION_USERS = 2000


@dataclass(frozen=True)
class Stopping:
    """How a fit looks at held-out interactions.

    Parameters
    ----------
    held : csr_matrix of shape (n_users, n_items)
        Validation interactions.
    scoring : str or callable, default="ndcg@10"
        A metric's name, or a function of (ranker, training matrix, held-out matrix); larger is better.
    patience : int or None, default=5
        Passes without a rise before the fit ends; None never ends it early.
    tol : float, default=0.0
        What counts as a rise.
    keep_best : bool, default=True
        Return the best pass; False records the metric and returns the last pass.
    """

    held: sp.csr_matrix
    scoring: str | Callable[[Ranker, sp.csr_matrix, sp.csr_matrix], float] = "ndcg@10"
    patience: int | None = 5
    tol: float = 0.0
    keep_best: bool = True


def check_scoring(scoring: Any) -> None:
    """Refuse what a fit cannot be watched by.

    Parameters
    ----------
    scoring : str or callable
        What came.

    Raises
    ------
    ValueError
        If a name is unknown.
    TypeError
        If it is neither a name nor a function.
    """
    if isinstance(scoring, str):
        parse_metric(scoring)
    elif not callable(scoring):
        raise_invalid("scoring", scoring, "a metric's name or a function", error=TypeError)


class Watch:
    """The best pass so far, by a validation metric on a fixed subset of users.

    Parameters
    ----------
    stopping : Stopping
        How to look.
    positives : csr_matrix of shape (n_users, n_items)
        What is trained on, and so not ranked.

    Raises
    ------
    ValueError
        If a metric finds nothing held out that is not trained on.
    """

    def __init__(self, stopping: Stopping, positives: sp.csr_matrix) -> None:
        self.stopping = stopping
        self.positives = positives
        new = stopping.held - stopping.held.multiply(positives)
        new.eliminate_zeros()
        users = np.flatnonzero(np.diff(new.tocsr().indptr))
        if not len(users) and isinstance(stopping.scoring, str):
            raise ValueError(
                "X_val: expected a validation interaction that X does not have, got none: what was "
                "trained on is not ranked"
            )
        if len(users) > MOST_VALIDATION_USERS:
            # A generator of its own: to watch a fit must not change it.
            users = np.sort(np.random.default_rng(0).choice(users, MOST_VALIDATION_USERS, replace=False))
        self.users = users.astype(np.int64)
        self.best: TrainingState | None = None
        self.best_value, self.best_iter, self.epoch = -np.inf, 0, 0

    def look(self, trainer: Trainer, record: Record, device: str) -> bool:
        """Judge a pass.

        Parameters
        ----------
        trainer : Trainer
            After the pass.
        record : dict of str to float
            Gets ``validation``.
        device : str
            torch device to rank on.

        Returns
        -------
        bool
            True ends the fit.
        """
        state = trainer.state()
        ranker = Ranker(state.user_vectors, state.user_ptr, state.item_vectors, device)
        scoring = self.stopping.scoring
        if isinstance(scoring, str):
            value = evaluate(
                ranker.score,
                self.positives,
                self.stopping.held,
                [scoring],
                users=self.users,
                item_vectors=state.item_vectors,
            )[scoring]
        else:
            value = float(scoring(ranker, self.positives, self.stopping.held))
        record["validation"] = value
        if np.isnan(value):  # no rise, and no bar that a later pass could not take
            value = -np.inf
        self.epoch += 1
        if not self.stopping.keep_best:
            return False
        if self.best is None or value > self.best_value + self.stopping.tol:
            self.best, self.best_value, self.best_iter = state, value, self.epoch
        patience = self.stopping.patience
        return patience is not None and self.epoch - self.best_iter >= patience
