"""Hyper-parameters of DPCML, and the published configurations.

Sources: P1 (NeurIPS 2022) appendix C.4 and the authors' scripts. The defaults differ: a jittered start,
row-wise Adam with a larger batch and learning rate, a mean hinge and DCRS weighted against it as in equation
8.

>>> Settings(n_vectors=3).sampling
'hard'
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from graftkit.core.validation import check_choice, check_integer, check_number, raise_invalid

__all__ = ["PRESETS", "Settings"]

ASSIGNMENTS = ("bpa", "apa")
SAMPLINGS = ("hard", "uniform", "dihars", "popular")
OPTIMIZERS = ("lazy_adam", "adam", "adagrad")

_OFFICIAL: dict[str, Any] = {
    "n_components": 100,
    "n_vectors": 5,
    "margin": 1.0,
    "init": "random",
    "optimizer": "adam",
    "learning_rate": 1e-3,
    "batch_size": 256,
    "max_iter": 100,
    "dcrs": "pairwise",
    "dcrs_weight": 10.0,
    "dcrs_scale": "full",
}
# The public code splits each positive into 10 separate triplets, so that one of its epochs is ten passes
# with one candidate each.
_TRIPLETS: dict[str, Any] = {"sampling": "uniform", "n_negatives": 1, "max_iter": 1000}
_HARD: dict[str, Any] = {"sampling": "hard", "n_negatives": 10}

PRESETS: dict[str, dict[str, Any]] = {
    "unis": {**_OFFICIAL, **_TRIPLETS, "n_vectors": 1, "dcrs": None},
    "hars": {**_OFFICIAL, **_HARD, "n_vectors": 1, "dcrs": None},
    "dpcml1": {**_OFFICIAL, **_TRIPLETS, "delta_min": 0.1, "delta_max": 0.35},
    "dpcml2": {**_OFFICIAL, **_HARD, "delta_min": 0.05, "delta_max": 0.25},
}
"""Published settings on Steam-200k, by the paper's names."""


@dataclass(frozen=True)
class Settings:
    """Checked hyper-parameters; the estimator's docstring says what each does.

    Parameters
    ----------
    n_components : int, default=100
        Width d of the vectors.
    n_vectors : int, default=5
        Vectors a user, or the most that ``"apa"`` gives.
    assignment : {"bpa", "apa"}, callable or array of int, shape (n_users,), default="bpa"
        How many vectors each user gets.
    margin : float, default=1.0
        Margin of the hinge.
    sampling : {"hard", "uniform", "dihars", "popular"}, default="hard"
        What becomes of the candidates of a positive.
    n_negatives : int, default=10
        Candidates a positive.
    beta : float, default=0.3
        Share of the candidates that ``"dihars"`` keeps.
    dihars_mode : {"topk", "threshold"}, default="topk"
        Exact mean of the largest losses, or the learned threshold.
    dcrs : {"pairwise", "mean"} or None, default="pairwise"
        Form of the diversity penalty.
    dcrs_weight : float, default=1.0
        Weight eta of the diversity penalty.
    delta_min, delta_max : float, default=0.05, 0.5
        Its lower and upper bound.
    dcrs_scale : {"paper", "code", "full"}, default="paper"
        Mean over the batch's users, the public code's weight in expectation, or its whole-table term.
    init : {"jitter", "random"}, default="jitter"
        Start of the user vectors.
    user_norm, item_norm : {"sphere", "ball"} or None, default="sphere", "ball"
        Norm constraints.
    max_norm : float, default=1.0
        Radius of the constraints.
    optimizer : {"lazy_adam", "adam", "adagrad"}, default="lazy_adam"
        Row-wise Adam, dense Adam, row-wise Adagrad.
    learning_rate : float, default=3e-3
        Step size.
    batch_size : int, default=1024
        Positives a step.
    max_iter : int, default=100
        Passes over the positives.
    weight_decay : float, default=0.0
        L2 added to the gradient.
    dtype : {"float32", "float64"}, default="float32"
        Precision of the vectors.
    device : str, default="cpu"
        torch device.

    Raises
    ------
    ValueError
        If a value is out of range, or `delta_min` exceeds `delta_max`.
    TypeError
        If a value is of the wrong type.
    """

    n_components: int = 100
    n_vectors: int = 5
    assignment: str | Callable[[np.ndarray[Any, Any]], Any] | Any = "bpa"
    margin: float = 1.0
    sampling: str = "hard"
    n_negatives: int = 10
    beta: float = 0.3
    dihars_mode: str = "topk"
    dcrs: str | None = "pairwise"
    dcrs_weight: float = 1.0
    delta_min: float = 0.05
    delta_max: float = 0.5
    dcrs_scale: str = "paper"
    init: str = "jitter"
    user_norm: str | None = "sphere"
    item_norm: str | None = "ball"
    max_norm: float = 1.0
    optimizer: str = "lazy_adam"
    learning_rate: float = 3e-3
    batch_size: int = 1024
    max_iter: int = 100
    weight_decay: float = 0.0
    dtype: str = "float32"
    device: str = "cpu"

    def __post_init__(self) -> None:
        for name in ("n_components", "n_vectors", "n_negatives", "batch_size", "max_iter"):
            check_integer(name, getattr(self, name), low=1)
        for name in ("margin", "learning_rate", "max_norm"):
            check_number(name, getattr(self, name), low=0, closed="()")
        for name in ("dcrs_weight", "delta_min", "delta_max", "weight_decay"):
            check_number(name, getattr(self, name), low=0)
        check_number("beta", self.beta, low=0, high=1, closed="(]")
        if self.delta_min > self.delta_max:
            raise_invalid("delta_min", self.delta_min, f"a number <= delta_max, which is {self.delta_max:g}")
        if isinstance(self.assignment, str):
            check_choice("assignment", self.assignment, ASSIGNMENTS)
        check_choice("sampling", self.sampling, SAMPLINGS)
        check_choice("dihars_mode", self.dihars_mode, ("topk", "threshold"))
        check_choice("dcrs", self.dcrs, ("pairwise", "mean", None))
        check_choice("dcrs_scale", self.dcrs_scale, ("paper", "code", "full"))
        check_choice("init", self.init, ("jitter", "random"))
        for name in ("user_norm", "item_norm"):
            check_choice(name, getattr(self, name), ("sphere", "ball", None))
        check_choice("optimizer", self.optimizer, OPTIMIZERS)
        check_choice("dtype", self.dtype, ("float32", "float64"))
        if not isinstance(self.device, str):
            raise_invalid("device", self.device, "the name of a torch device, a str", error=TypeError)

    @property
    def n_selected(self) -> int:
        """Candidates of a positive that enter its loss."""
        if self.sampling == "hard":
            return 1
        if self.sampling == "dihars":
            # 0.07 * 100 is 7.000000000000001 in floats; the tolerance keeps ceil at 7.
            return max(1, int(np.ceil(self.beta * self.n_negatives - 1e-9)))
        return self.n_negatives

    @property
    def has_threshold(self) -> bool:
        """Whether a threshold is learnt for each user."""
        return self.sampling == "dihars" and self.dihars_mode == "threshold"
