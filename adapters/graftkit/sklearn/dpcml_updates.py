"""Going on with a fitted DPCML: new interactions, new users, new items."""

from __future__ import annotations

from typing import Any, Self

import numpy as np

from graftkit.core.devices import check_device
from graftkit.core.validation import check_bool
from graftkit.methods.dpcml import fit_vectors
from graftkit.methods.dpcml.interactions import check_positives, item_counts, merge_interactions
from graftkit.methods.dpcml.serialization import restore_generator
from graftkit.sklearn.dpcml_training import TrainingMixin
from sklearn.base import clone

__all__ = ["UpdatesMixin"]


class UpdatesMixin(TrainingMixin):
    """Incremental fitting."""

    def partial_fit(self, X: Any, y: Any = None, *, allow_growth: bool = False) -> Self:  # noqa: ARG002
        """Pass once over interactions, starting where the last call ended; nothing stops early here.

        Parameters
        ----------
        X : array-like or sparse matrix of shape (n_users, n_items)
            Interactions to learn, old or new; what was seen before is never drawn as a negative.
        y : object, default=None
            Ignored.
        allow_growth : bool, default=False
            `X` may have more rows or columns than before: new users and items at the end.

        Returns
        -------
        DPCML
            The fitted estimator.

        Raises
        ------
        ValueError
            If the shape or the column names do not match what was fitted, there is no positive, or a
            setting is out of range or cannot change after a fit.
        TypeError
            If `allow_growth` is no boolean.
        RuntimeError
            If training diverges.
        """
        check_bool("allow_growth", allow_growth)
        settings = self._settings()
        check_device(settings.device, error=RuntimeError)
        if not hasattr(self, "_state"):
            return self._fit(X, settings, n_iter=1)
        self._state.check(settings)
        X = X if hasattr(X, "shape") else np.asarray(X)
        form = self._form_for(X, allow_growth)
        matrix = self._read(form, X, reset=form is not self)
        check_positives("X", matrix)
        rng = restore_generator(self._rng_state)
        state, owned = self._state, matrix
        if form is not self:
            new_counts = np.diff(matrix.indptr)[self.n_users_ :].astype(np.int64)
            n_new_items = matrix.shape[1] - self.n_features_in_
            state = state.grown(self._counts_for(new_counts), n_new_items, settings, rng)
        if self.interactions_ is not None:
            owned = merge_interactions(self.interactions_, matrix)
        result = fit_vectors(
            matrix, settings, rng, owned=owned, state=state, n_iter=1, verbose=int(self.verbose), stacklevel=3
        )
        counts = item_counts(owned)
        if self.interactions_ is None:  # what was seen before is known by its counts alone
            counts[: self.n_features_in_] += self.item_counts_
        self._install(
            form,
            result.state,
            rng,
            owned,
            counts,
            history=[*self.history_, *result.history],
            n_iter=self.n_iter_ + result.n_iter,
            best_iter=None,
        )
        return self

    def _form_for(self, X: Any, allow_growth: bool) -> Any:
        """What checks `X`: the estimator itself, or a clone without a shape where `X` may grow it."""
        shape, given = self._shape(), tuple(X.shape)
        if len(given) != 2 or given == shape:
            return self
        grows = all(a >= b for a, b in zip(given, shape, strict=True))
        if not grows or not allow_growth:
            fix = (
                "Pass allow_growth=True to add users or items"
                if grows
                else "Rows are users, columns are items"
            )
            # scikit-learn's own words where the columns differ.
            columns = (
                f"X has {given[1]} features, but DPCML is expecting {shape[1]} features as input; "
                if given[1] != shape[1]
                else "X: "
            )
            raise ValueError(
                f"{columns}expected a matrix users x items of shape {shape}, got {given}. {fix} "
                f"(allow_growth={allow_growth})"
            )
        if hasattr(self, "feature_names_in_") and hasattr(X, "columns"):
            known, first = self.feature_names_in_.tolist(), list(X.columns[: shape[1]])
            if first != known:
                wrong = next(pair for pair in zip(first, known, strict=True) if pair[0] != pair[1])
                raise ValueError(
                    "X: expected the fitted columns first, then new ones, got "
                    f"{wrong[0]!r} where {wrong[1]!r} was fitted"
                )
        return clone(self)
