"""What training changes: vectors, optimizer moments and the generator, as plain NumPy arrays.

The start is a choice (specification 1.5): ``random`` draws user vectors from N(0, 0.01^2) as the public code
does, which after the projection are independent directions; ``jitter``, the default, draws one direction a
user and independent noise of relative length 0.3 a vector. Items come from N(0, 1/d).

>>> start = TrainingState.initial(np.array([2, 1]), 3, Settings(n_components=4), np.random.default_rng(0))
>>> start.user_vectors.shape, start.item_vectors.shape
((3, 4), (3, 4))
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from graftkit.core.validation import raise_invalid
from graftkit.methods.dpcml.folding import constrained
from graftkit.methods.dpcml.settings import Settings
from graftkit.methods.dpcml.vectors import pointers

__all__ = ["TrainingState"]

FloatArray = npt.NDArray[np.floating[Any]]
IntArray = npt.NDArray[np.int64]
JITTER = 0.3


@dataclass
class TrainingState:
    """Vectors and everything needed to go on training.

    Parameters
    ----------
    user_vectors : ndarray of shape (n_rows, d)
        All users' vectors, user after user.
    user_ptr : ndarray of int, shape (n_users + 1,)
        Where each user's rows begin.
    item_vectors : ndarray of shape (n_items, d)
        One vector an item.
    thresholds : ndarray of shape (n_users, 1)
        Learned thresholds of DiHarS's threshold form.
    moments : dict of str to ndarray
        Optimizer moments by table and name, each of its table's shape.
    n_steps : int
        Optimizer steps done.
    """

    user_vectors: FloatArray
    user_ptr: IntArray
    item_vectors: FloatArray
    thresholds: FloatArray
    moments: dict[str, FloatArray] = field(default_factory=dict)
    n_steps: int = 0

    @classmethod
    def initial(
        cls, n_vectors: IntArray, n_items: int, settings: Settings, rng: np.random.Generator
    ) -> TrainingState:
        """Draw the start.

        Parameters
        ----------
        n_vectors : ndarray of int, shape (n_users,)
            Vectors of each user.
        n_items : int
            Number of items.
        settings : Settings
            Width, start and constraints.
        rng : numpy.random.Generator
            Where draws come from.

        Returns
        -------
        TrainingState
            Projected.
        """
        ptr = pointers(n_vectors)
        state = cls(
            user_vectors=_start_users(n_vectors, settings, rng),
            user_ptr=ptr,
            item_vectors=_start_items(n_items, settings, rng),
            thresholds=np.zeros((len(n_vectors), 1), dtype=settings.dtype),
        )
        state.moments = {
            f"{table}/{name}": np.zeros_like(value)
            for table, value in state.tables().items()
            for name in ("moment1", "moment2")
        }
        return state

    def tables(self) -> dict[str, FloatArray]:
        """The parameter tables by name.

        Returns
        -------
        dict of str to ndarray
            ``user``, ``item`` and ``threshold``, each of shape (n, d) or (n_users, 1).
        """
        return {"user": self.user_vectors, "item": self.item_vectors, "threshold": self.thresholds}

    def copy(self) -> TrainingState:
        """A state that shares no array with this one.

        Returns
        -------
        TrainingState
            A deep copy.
        """
        return copy.deepcopy(self)

    def check(self, settings: Settings) -> None:
        """Refuse settings that this state cannot go on with.

        Parameters
        ----------
        settings : Settings
            What training is to go on with.

        Raises
        ------
        ValueError
            If the width or the precision of the vectors has changed.
        """
        fixed = {"n_components": self.item_vectors.shape[1], "dtype": str(self.item_vectors.dtype)}
        for name, value in fixed.items():
            given = getattr(settings, name)
            if given != value:
                fix = "It cannot change between calls of partial_fit; call fit"
                raise_invalid(name, given, f"{value!r}, that of the fitted vectors", fix=fix)

    def grown(
        self, n_vectors: IntArray, n_items: int, settings: Settings, rng: np.random.Generator
    ) -> TrainingState:
        """A copy with new users and new items at the end, freshly drawn.

        Parameters
        ----------
        n_vectors : ndarray of int, shape (n_new_users,)
            Vectors of each new user.
        n_items : int
            Number of new items.
        settings : Settings
            Width, start and constraints.
        rng : numpy.random.Generator
            Where draws come from.

        Returns
        -------
        TrainingState
            Old rows as they were; the new ones have no moments yet.
        """
        new = TrainingState.initial(n_vectors, n_items, settings, rng)
        return replace(
            self,
            user_vectors=np.concatenate((self.user_vectors, new.user_vectors)),
            user_ptr=np.concatenate((self.user_ptr, self.user_ptr[-1] + new.user_ptr[1:])),
            item_vectors=np.concatenate((self.item_vectors, new.item_vectors)),
            thresholds=np.concatenate((self.thresholds, new.thresholds)),
            moments={name: np.concatenate((self.moments[name], new.moments[name])) for name in self.moments},
        )


def _start_users(n_vectors: IntArray, settings: Settings, rng: np.random.Generator) -> FloatArray:
    width, total = settings.n_components, int(n_vectors.sum())
    if settings.init == "random":
        rows = rng.normal(0.0, 0.01, (total, width))
    else:
        direction = _unit(rng.normal(size=(len(n_vectors), width)))
        noise = _unit(rng.normal(size=(total, width)))
        rows = settings.max_norm * (np.repeat(direction, n_vectors, axis=0) + JITTER * noise)
    return _projected(rows, settings.user_norm, settings)


def _start_items(n_items: int, settings: Settings, rng: np.random.Generator) -> FloatArray:
    rows = rng.normal(0.0, settings.n_components**-0.5, (n_items, settings.n_components))
    return _projected(rows, settings.item_norm, settings)


def _unit(rows: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    unit: npt.NDArray[np.float64] = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    return unit


def _projected(rows: npt.NDArray[np.float64], rule: str | None, settings: Settings) -> FloatArray:
    projected: FloatArray = constrained(rows, rule, settings.max_norm).astype(settings.dtype)
    return projected
