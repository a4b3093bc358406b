"""Model selection for recommenders: entries are held out, not rows."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from joblib import Parallel, delayed

from graftkit.core.validation import check_integer, check_iterable, raise_invalid
from graftkit.methods.dpcml.interactions import read_interactions
from graftkit.methods.dpcml.metrics import parse_metric
from graftkit.sklearn.dpcml_metrics import ranking_metrics
from sklearn.base import clone

__all__ = ["cross_validate_ranking"]


def cross_validate_ranking(
    estimator: Any,
    X: Any,
    splitter: Any,
    *,
    scoring: str | Sequence[str] = "ndcg@10",
    param_grid: Mapping[str, Sequence[Any]] | Sequence[Mapping[str, Sequence[Any]]] | None = None,
    n_jobs: int | None = None,
    return_estimator: bool = False,
) -> dict[str, Any]:
    """Evaluate a recommender by splits of the interactions, over a grid of parameters if one is given.

    The counterpart of ``cross_validate`` and ``GridSearchCV``, whose splits of rows would test on users that
    were never trained. A split of three parts trains on the first and tests on the last; the middle one goes
    to ``fit`` as ``X_val`` where the estimator stops early, and is masked in the test.

    Parameters
    ----------
    estimator : DPCML
        Cloned for each fit.
    X : array-like or sparse matrix of shape (n_users, n_items)
        Interactions.
    splitter : object with ``split(X)``, or iterable of tuples
        ``LeaveOneOut``, ``PerUserRatioSplit``, ``TemporalSplit``, or (train, test) and (train, val, test)
        matrices.
    scoring : str or sequence of str, default="ndcg@10"
        Metrics; the first ranks a grid.
    param_grid : dict or list of dict, or None, default=None
        As in ``ParameterGrid``.
    n_jobs : int or None, default=None
        Fits at once, through joblib.
    return_estimator : bool, default=False
        Return the fitted estimators.

    Returns
    -------
    dict
        Without a grid ``test_<metric>``, ``fit_time`` and ``score_time``, arrays of shape (n_splits,), and
        ``estimator``. With one ``params``, ``mean_test_<metric>``, ``std_test_<metric>`` and
        ``rank_test_<metric>`` of shape (n_candidates,), ``mean_fit_time``, ``best_index`` and
        ``best_params``.

    Raises
    ------
    ValueError
        If a metric is unknown, or the splitter yields anything but two or three matrices, or nothing to
        test on.
    TypeError
        If `splitter` can neither split nor be run over, or another argument is of a wrong type.
    """
    from sklearn.model_selection import ParameterGrid

    if not hasattr(estimator, "set_params"):
        raise_invalid("estimator", estimator, "a recommender as DPCML", error=TypeError)
    if n_jobs is not None:
        check_integer("n_jobs", n_jobs)
    if isinstance(scoring, str):
        names = [scoring]
    else:
        names = list(check_iterable("scoring", scoring, "names of metrics"))
    if not names:
        raise_invalid("scoring", scoring, "a metric or more")
    for name in names:
        parse_metric(name)
    splits = _splits(splitter, X)
    candidates: Iterable[dict[str, Any]] = (
        [{}] if param_grid is None else _candidates(ParameterGrid, param_grid)
    )
    jobs = [(parameters, split) for parameters in candidates for split in splits]
    done = Parallel(n_jobs=n_jobs)(
        delayed(_fit_and_score)(clone(estimator).set_params(**parameters), split, names)
        for parameters, split in jobs
    )
    values = {name: np.array([found[name] for found, *_ in done]) for name in names}
    fit_time, score_time = (np.array([entry[i] for entry in done]) for i in (1, 2))
    if param_grid is None:
        results: dict[str, Any] = {f"test_{name}": value for name, value in values.items()}
        results.update(fit_time=fit_time, score_time=score_time)
        if return_estimator:
            results["estimator"] = [entry[3] for entry in done]
        return results
    results = {"params": list(candidates)}
    for name, value in values.items():
        table = value.reshape(-1, len(splits))
        results[f"mean_test_{name}"], results[f"std_test_{name}"] = table.mean(axis=1), table.std(axis=1)
        order = -results[f"mean_test_{name}"]
        results[f"rank_test_{name}"] = 1 + (order[:, None] > order).sum(axis=1)
    results["mean_fit_time"] = fit_time.reshape(-1, len(splits)).mean(axis=1)
    best = int(results[f"mean_test_{names[0]}"].argmax())
    results.update(best_index=best, best_params=results["params"][best])
    return results


def _candidates(grid: Any, param_grid: Any) -> list[dict[str, Any]]:
    check_iterable("param_grid", param_grid, "a mapping of parameters to values, or several")
    try:
        found = list(grid(param_grid))
    except (TypeError, ValueError) as error:
        raise type(error)(
            f"param_grid: expected a mapping of parameters to values, or several; {error}"
        ) from error
    if not found:
        raise_invalid("param_grid", param_grid, "at least one candidate")
    return found


def _splits(splitter: Any, X: Any) -> list[Any]:
    # A str, bytes or tensor has a "split" of its own.
    own = callable(getattr(splitter, "split", None)) and not isinstance(splitter, str | bytes)
    own = own and not hasattr(splitter, "shape")
    if not own:
        check_iterable("splitter", splitter, "an object with split(X), or tuples of matrices")
    splits = list(splitter.split(X) if own else splitter)
    if not splits or any(not isinstance(split, tuple | list) or len(split) not in (2, 3) for split in splits):
        raise_invalid("splitter", splitter, "splits of two or three matrices, at least one")
    if not all(read_interactions(split[-1], "splitter").nnz for split in splits):
        raise_invalid("splitter", splitter, "something held out in each split, not an empty test part")
    return splits


def _fit_and_score(
    estimator: Any, split: Any, names: list[str]
) -> tuple[dict[str, float], float, float, Any]:
    train, test = split[0], split[-1]
    val = split[1] if len(split) == 3 else None
    start = time.perf_counter()
    if val is not None and getattr(estimator, "early_stopping", False):
        estimator.fit(train, X_val=val)
    else:
        estimator.fit(train)
    fitted = time.perf_counter()
    found = ranking_metrics(estimator, train, test, X_val=val, metrics=names, ks=())
    return found, fitted - start, time.perf_counter() - fitted, estimator
