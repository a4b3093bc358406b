"""Small multi-view data and a small detector, shared by the RCPMOD tests."""

from typing import Any

import numpy as np

from graftkit.sklearn import RCPMOD

TINY: dict[str, Any] = {
    "hidden_layer_sizes": (8,),
    "latent_dim": 4,
    "n_epochs": 3,
    "n_neighbors": 3,
    "batch_size": 32,
    "random_state": 0,
}


def tiny(**options: Any) -> RCPMOD:
    """A detector that fits in a blink."""
    return RCPMOD(**{**TINY, **options})


def trained(**options: Any) -> RCPMOD:
    """A detector that has learnt something, within a second."""
    learnt = {"n_epochs": 30, "hidden_layer_sizes": (32,), "latent_dim": 8, "learning_rate": 3e-3}
    return tiny(**{**learnt, **options})


def make_views(
    n: int = 60, dims: tuple[int, ...] = (5, 4), *, missing: float = 0.25, seed: int = 0
) -> list[Any]:
    """Views of the same three groups; rows that miss a view are NaN there, and keep another."""
    rng = np.random.default_rng(seed)
    group = rng.integers(3, size=n)
    views = [rng.normal(size=(3, d))[group] * 3 + rng.normal(size=(n, d)) * 0.3 for d in dims]
    for row in rng.permutation(n)[: int(missing * n)]:
        views[rng.integers(len(dims))][row] = np.nan
    return views


def mask_of(views: list[Any]) -> Any:
    """Which views each row has."""
    return np.column_stack([~np.isnan(view).all(axis=1) for view in views])


def state_of(detector: RCPMOD) -> dict[str, Any]:
    """What an interrupted or refused fit must leave as it was."""
    return dict(vars(detector))


def same_state(detector: RCPMOD, before: dict[str, Any]) -> bool:
    """The same attributes, and the very same objects."""
    return vars(detector).keys() == before.keys() and all(
        vars(detector)[key] is before[key] for key in before
    )
