"""The fit: passes until `max_iter`, or until the validation metric stops rising.

>>> X = sp.csr_matrix(np.eye(8) + np.eye(8, k=1))
>>> fit_vectors(X, Settings(n_components=4, n_vectors=2, max_iter=2), np.random.default_rng(0)).n_iter
2
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from warnings import warn

import numpy as np
import scipy.sparse as sp

from graftkit.core.progress import progress_bar
from graftkit.core.validation import raise_invalid
from graftkit.methods.dpcml.settings import Settings
from graftkit.methods.dpcml.state import TrainingState
from graftkit.methods.dpcml.stopping import Record, Stopping, Watch, check_scoring

if TYPE_CHECKING:
    from graftkit.methods.dpcml.training import Trainer

__all__ = ["FitResult", "fit_vectors"]

Callback = Callable[[int, Record], Any]


@dataclass
class FitResult:
    """What a fit reached.

    Parameters
    ----------
    state : TrainingState
        Of the last pass, or of the best one where validation was watched.
    history : list of dict
        ``loss``, ``diversity``, ``active`` and, where watched, ``validation`` of each pass.
    n_iter : int
        Passes run.
    best_iter : int or None
        Passes until the best validation value.
    """

    state: TrainingState
    history: list[Record] = field(default_factory=list)
    n_iter: int = 0
    best_iter: int | None = None


def fit_vectors(
    positives: sp.csr_matrix,
    settings: Settings,
    rng: np.random.Generator,
    *,
    owned: sp.csr_matrix | None = None,
    state: TrainingState | None = None,
    n_iter: int | None = None,
    stopping: Stopping | None = None,
    callbacks: Iterable[Callback] = (),
    verbose: int = 0,
    stacklevel: int = 2,
) -> FitResult:
    """Train vectors on interactions.

    Parameters
    ----------
    positives : csr_matrix of shape (n_users, n_items)
        What is learnt.
    settings : Settings
        Hyper-parameters.
    rng : numpy.random.Generator
        All randomness.
    owned : csr_matrix of shape (n_users, n_items) or None, default=None
        What is never a negative; `positives` where None.
    state : TrainingState or None, default=None
        Where to go on from.
    n_iter : int or None, default=None
        Passes; ``settings.max_iter`` where None.
    stopping : Stopping or None, default=None
        Early stopping.
    callbacks : iterable of callable, default=()
        Each is called with the pass (from 0) and its record; a true return ends the fit.
    verbose : int, default=0
        1 shows a progress bar.
    stacklevel : int, default=2
        Frame that warnings point at; 2 is the caller.

    Returns
    -------
    FitResult
        A ``KeyboardInterrupt`` after the first pass ends the fit with a warning, as scikit-learn's MLP does;
        what was reached is returned.

    Raises
    ------
    RuntimeError
        If training diverges or the device is not there.
    ValueError
        If the scoring is unknown, or no held-out interaction is new.
    TypeError
        If the scoring or a callback is no function.
    """
    if not isinstance(callbacks, Iterable):
        raise_invalid("callbacks", callbacks, "a list of functions", error=TypeError)
    callbacks = tuple(callbacks)
    for callback in callbacks:
        if not callable(callback):
            raise_invalid("callbacks", callback, "functions of the pass and its record", error=TypeError)
    if stopping is not None:
        check_scoring(stopping.scoring)
    # torch comes with training, not with the import of this package.
    from graftkit.methods.dpcml.training import Trainer

    owned = positives if owned is None else owned
    trainer = Trainer(positives, owned, settings, rng, state)
    _warn_about_users(trainer, stacklevel)
    total = settings.max_iter if n_iter is None else n_iter
    result = FitResult(trainer.state())
    if not trainer.n_positives:
        return result
    watched = None if stopping is None else Watch(stopping, positives)
    with progress_bar(total=total, desc="DPCML", verbose=verbose) as bar:
        try:
            for epoch in range(total):
                record = trainer.run_epoch()
                ended = watched is not None and watched.look(trainer, record, settings.device)
                result.history.append(record)
                result.n_iter = epoch + 1
                bar.update()
                # A list: every callback is called, also after one that ends the fit.
                asked = [bool(callback(epoch, dict(record))) for callback in callbacks]
                if ended or any(asked):
                    break
        except KeyboardInterrupt:
            if not result.n_iter:
                raise
            warn(
                f"training was interrupted after pass {result.n_iter} of {total}; what it reached is kept",
                UserWarning,
                stacklevel=stacklevel,
            )
    result.state = trainer.state()
    if watched is not None and watched.best is not None:
        result.state, result.best_iter = watched.best, watched.best_iter
    return result


def _warn_about_users(trainer: Trainer, stacklevel: int) -> None:
    n_full = len(trainer.saturated)
    if n_full and trainer.n_positives:
        warn(
            f"{n_full} user(s) own every item: they have no negatives and do not take part in training",
            UserWarning,
            stacklevel=stacklevel + 1,
        )
    elif not trainer.n_positives:
        warn(
            "no user has both a positive and an item without interaction: nothing can be learnt, the vectors "
            "stay where they started",
            UserWarning,
            stacklevel=stacklevel + 1,
        )
