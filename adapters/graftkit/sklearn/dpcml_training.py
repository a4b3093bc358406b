"""Training of DPCML on a matrix or on pairs of ids, up to a fitted state."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Self

import numpy as np

from graftkit.core.devices import check_device
from graftkit.core.random import numpy_generator
from graftkit.methods.dpcml import Settings, Stopping, fit_vectors
from graftkit.methods.dpcml.interactions import (
    check_positives,
    from_pairs,
    item_counts,
    matching_interactions,
)
from graftkit.methods.dpcml.partition import hold_out_share
from graftkit.methods.dpcml.state import TrainingState
from graftkit.methods.dpcml.vectors import assign_vectors
from graftkit.sklearn.dpcml_fitted import FittedMixin
from sklearn.base import clone

__all__ = ["TrainingMixin"]


class TrainingMixin(FittedMixin):
    """Fitting from the start."""

    early_stopping: bool
    validation_fraction: float
    patience: int | None
    tol: float
    verbose: Any

    def fit(
        self,
        X: Any,
        y: Any = None,  # noqa: ARG002
        *,
        X_val: Any = None,
        callbacks: Iterable[Callable[[int, dict[str, float]], Any]] | None = None,
    ) -> Self:
        """Train on interactions; a failed fit leaves the estimator as it was.

        An interrupt (Ctrl-C) after the first pass ends the fit with a warning and keeps what was reached, as
        scikit-learn's MLP does; before that it leaves the estimator as it was.

        Parameters
        ----------
        X : array-like, DataFrame or sparse matrix of shape (n_users, n_items)
            Values above 0 are positives.
        y : object, default=None
            Ignored.
        X_val : array-like or sparse matrix of shape (n_users, n_items), or None, default=None
            Held-out interactions; `scoring` is recorded on them, and with ``early_stopping=True`` decides.
        callbacks : iterable of callable, or None, default=None
            ``callback(epoch, record)`` after each pass; a true return ends the fit.

        Returns
        -------
        DPCML
            The fitted estimator.

        Raises
        ------
        ValueError
            If a setting or a matrix is not as described, or there is no positive.
        TypeError
            If a setting is of the wrong type, or a callback no function.
        RuntimeError
            If training diverges or the device is not there.
        """
        return self._fit(X, self._settings(), X_val=X_val, callbacks=callbacks)

    def fit_interactions(
        self, users: Any, items: Any, *, n_users: int | None = None, n_items: int | None = None
    ) -> Self:
        """Train on two arrays of ids.

        Parameters
        ----------
        users, items : array-like of int, shape (nnz,)
            Who had what.
        n_users, n_items : int or None, default=None
            Shape; the largest id plus one where None.

        Returns
        -------
        DPCML
            The fitted estimator.

        Raises
        ------
        ValueError
            If the arrays do not fit together or to the shape.
        TypeError
            If ids are not integers.
        """
        return self._fit(from_pairs(users, items, n_users, n_items), self._settings())

    def _fit(
        self,
        X: Any,
        settings: Settings,
        *,
        n_iter: int | None = None,
        X_val: Any = None,
        callbacks: Any = None,
    ) -> Self:
        check_device(settings.device, error=RuntimeError)
        form = clone(self)
        matrix = self._read(form, X, reset=True)
        check_positives("X", matrix)
        rng = numpy_generator(self.random_state)
        positives, stopping = matrix, None
        options = {"scoring": self.scoring, "patience": self.patience, "tol": self.tol}
        if X_val is not None:
            held = matching_interactions(X_val, matrix.shape, "X_val")
            stopping = Stopping(held, keep_best=self.early_stopping, **options)
        elif self.early_stopping and n_iter is None:
            positives, held = hold_out_share(matrix, self.validation_fraction, rng)
            stopping = Stopping(held, **options)
        # The rule for the number of vectors reads all that a user has.
        n_vectors = assign_vectors(
            np.diff(matrix.indptr).astype(np.int64), settings.assignment, settings.n_vectors
        )
        state = TrainingState.initial(n_vectors, matrix.shape[1], settings, rng)
        result = fit_vectors(
            positives,
            settings,
            rng,
            state=state,
            n_iter=n_iter,
            stopping=stopping,
            callbacks=() if callbacks is None else callbacks,
            verbose=int(self.verbose),
            stacklevel=4,
        )
        self._install(
            form,
            result.state,
            rng,
            matrix,
            item_counts(matrix),
            history=result.history,
            n_iter=result.n_iter,
            best_iter=result.best_iter,
        )
        return self

    def _settings(self) -> Settings:
        raise NotImplementedError  # the estimator's, which knows its arguments
