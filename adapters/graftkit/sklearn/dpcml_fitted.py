"""What a fit has reached: its attributes, one way to take them over, files and pickles."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Self
from warnings import warn

import numpy as np
import numpy.typing as npt
import scipy.sparse as sp

from graftkit.core.devices import check_device
from graftkit.methods.dpcml import Ranker
from graftkit.methods.dpcml.folding import fold_in_rows
from graftkit.methods.dpcml.ids import check_ids
from graftkit.methods.dpcml.interactions import read_interactions
from graftkit.methods.dpcml.serialization import read_model, restore_generator, write_model
from graftkit.methods.dpcml.snapshots import pack_model, unpack_model
from graftkit.methods.dpcml.state import TrainingState
from graftkit.methods.dpcml.vectors import assign_vectors
from sklearn.base import clone
from sklearn.utils.validation import check_is_fitted, validate_data

__all__ = ["FittedMixin"]

IntArray = npt.NDArray[np.int64]
FloatArray = npt.NDArray[np.floating[Any]]


class FittedMixin:
    """The fitted state of `DPCML`."""

    n_users_: int
    n_features_in_: int
    user_vectors_: FloatArray
    user_ptr_: IntArray
    item_vectors_: FloatArray
    interactions_: sp.csr_matrix | None
    item_counts_: FloatArray
    assignment: Any
    n_vectors: int
    user_norm: str | None
    max_norm: float
    device: str
    _ranker: Ranker
    _most: int
    n_vectors_per_user_: IntArray
    history_: list[dict[str, float]]
    n_iter_: int
    best_iter_: int | None
    store_interactions: bool
    scoring: Any
    random_state: Any
    n_jobs: int | None
    feature_names_in_: npt.NDArray[Any]
    _state: TrainingState
    _rng_state: dict[str, Any]

    def _install(
        self,
        form: Any,
        state: TrainingState,
        rng: np.random.Generator,
        matrix: sp.csr_matrix,
        item_counts: FloatArray,
        *,
        history: list[dict[str, float]],
        n_iter: int,
        best_iter: int | None,
    ) -> None:
        """Take over what a fit has reached, all at once."""
        fitted: dict[str, Any] = {
            "user_vectors_": state.user_vectors,
            "user_ptr_": state.user_ptr,
            "item_vectors_": state.item_vectors,
            "n_vectors_per_user_": np.diff(state.user_ptr),
            "n_users_": len(state.user_ptr) - 1,
            "n_features_in_": len(state.item_vectors),
            "interactions_": matrix if self.store_interactions else None,
            "item_counts_": item_counts,
            "history_": history,
            "n_iter_": n_iter,
            "best_iter_": best_iter,
            "_state": state,
            "_rng_state": rng.bit_generator.state,
            "_most": self.n_vectors
            if isinstance(self.assignment, str)
            else int(np.diff(state.user_ptr).max()),
        }
        fitted["_ranker"] = self._ranker_of(state.user_vectors, state.user_ptr, state.item_vectors)
        if form is not self:
            if hasattr(form, "feature_names_in_"):
                fitted["feature_names_in_"] = form.feature_names_in_
            elif hasattr(self, "feature_names_in_"):
                del self.feature_names_in_
        self.__dict__.update(fitted)

    def save(self, path: str | Path) -> None:
        """Write the fitted model to one npz file, without pickle.

        Parameters
        ----------
        path : str or Path
            The file; replaced in one step.

        Raises
        ------
        NotFittedError
            If the estimator is not fitted.
        """
        check_is_fitted(self, "user_vectors_")
        arrays = pack_model(self._state, self.interactions_, self.item_counts_)
        if hasattr(self, "feature_names_in_"):
            arrays["feature_names"] = self.feature_names_in_.astype(str)
        parameters = self.get_params(deep=False)  # type: ignore[attr-defined]
        # What JSON cannot hold is replaced by what it came to: numbers of vectors, the generator's state.
        if not isinstance(self.assignment, str):
            parameters["assignment"] = self.n_vectors_per_user_.tolist()
        if callable(self.scoring):
            parameters["scoring"] = "ndcg@10"
        if not isinstance(self.random_state, int | np.integer):
            parameters["random_state"] = None
        meta = {
            "parameters": parameters,
            "history": self.history_,
            "n_iter": self.n_iter_,
            "best_iter": self.best_iter_,
            "n_steps": self._state.n_steps,
            "generator": self._rng_state,
        }
        write_model(path, arrays, meta)

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read what `save` wrote; nothing in the file is executed.

        An `assignment` that was no name comes back as an array, a `scoring` that was a function as
        ``"ndcg@10"``, a `random_state` that was no int as None; training goes on from the stored generator.
        Where the model's device is not there, queries run on the CPU, with a warning.

        Parameters
        ----------
        path : str or Path
            The file.

        Returns
        -------
        DPCML
            Fitted.

        Raises
        ------
        ValueError
            If the file is no such model, is damaged, or comes from a newer major version.
        FileNotFoundError
            If there is no file.
        """
        arrays, meta = read_model(path)
        name = Path(path).name
        try:
            state, interactions, counts = unpack_model(arrays, name=name)
            state.n_steps = int(meta["n_steps"])
            parameters = dict(meta["parameters"])
            if isinstance(parameters["assignment"], list):
                parameters["assignment"] = np.array(parameters["assignment"], dtype=np.int64)
            model = cls(**parameters)
            form = clone(model)
            rng = restore_generator(meta["generator"])
            reached = {"history": meta["history"], "n_iter": int(meta["n_iter"])}
            reached["best_iter"] = meta["best_iter"]
        except (KeyError, TypeError) as error:
            raise ValueError(f"{name}: expected a fitted DPCML, got something else ({error!r})") from error
        if "feature_names" in arrays:
            names = arrays["feature_names"]
            if names.shape != counts.shape or names.dtype.kind != "U":
                raise ValueError(
                    f"{name}: expected {len(counts)} feature names, got {names.size} of another kind"
                )
            form.feature_names_in_ = names.astype(object)
        model._install(form, state, rng, interactions, counts, **reached)
        return model

    def _ranker_of(self, vectors: FloatArray, ptr: IntArray, items: FloatArray) -> Ranker:
        """A ranker on the estimator's device; a model that came from elsewhere may lack it here."""
        device = self.device
        try:
            check_device(device, error=RuntimeError)
        except RuntimeError as error:
            warn(f"{error}; queries run on the CPU", UserWarning, stacklevel=4)
            device = "cpu"
        return Ranker(vectors, ptr, items, device)

    def __getstate__(self) -> dict[str, Any]:
        # The ranker holds torch tensors over the same arrays; it is built again on loading.
        state: dict[str, Any] = dict(super().__getstate__())  # type: ignore[call-overload]
        state.pop("_ranker", None)
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)  # type: ignore[misc]
        if hasattr(self, "user_vectors_"):
            self._ranker = self._ranker_of(self.user_vectors_, self.user_ptr_, self.item_vectors_)

    def _shape(self) -> tuple[int, int]:
        return self.n_users_, self.n_features_in_

    def _seen(self, what: str) -> sp.csr_matrix:
        if self.interactions_ is None:
            raise ValueError(
                f"{what} needs the training interactions, but store_interactions=False did not keep them"
            )
        return self.interactions_

    def _item_ids(self, name: str, ids: Any) -> IntArray:
        return check_ids(name, ids, self.n_features_in_, self._shape())

    def _read(self, form: Any, X: Any, *, reset: bool) -> sp.csr_matrix:
        """Check a matrix in scikit-learn's way, then read it as interactions."""
        given = tuple(getattr(X, "shape", ()))
        if not reset and len(given) == 2 and given != self._shape() and given == self._shape()[::-1]:
            raise ValueError(
                f"X has {given[1]} features, but DPCML is expecting {self.n_features_in_} features as input: "
                f"{given} is the shape of the training matrix, users x items = {self._shape()}, transposed"
            )
        checked = validate_data(form, X, reset=reset, accept_sparse=["csr", "csc", "coo"], dtype="numeric")
        return read_interactions(checked)

    def _counts_for(self, counts: IntArray) -> IntArray:
        """Numbers of vectors of users who were not in training; a given array says nothing about them."""
        rule = self.assignment if isinstance(self.assignment, str) or callable(self.assignment) else "bpa"
        return assign_vectors(counts, rule, self.n_vectors)

    def _fold_in(self, matrix: sp.csr_matrix) -> tuple[npt.NDArray[np.float64], IntArray]:
        counts = self._counts_for(np.diff(matrix.indptr).astype(np.int64))
        return fold_in_rows(
            matrix,
            self.item_vectors_,
            np.minimum(counts, self._most),
            rule=self.user_norm,
            radius=self.max_norm,
            weights=self.item_counts_,
        )

    def _folded_ranker(self, matrix: sp.csr_matrix) -> Ranker:
        vectors, ptr = self._fold_in(matrix)
        vectors = vectors.astype(self.item_vectors_.dtype)
        return Ranker(vectors, ptr, self.item_vectors_, str(self._ranker.device))
