"""Evaluation and model selection for recommenders: entries are held out, not rows."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from joblib import Parallel, delayed

from graftkit.core.validation import check_choice, check_integer, check_number, raise_invalid
from graftkit.methods.dpcml import evaluate
from graftkit.methods.dpcml.interactions import (
    matching_interactions,
    merge_interactions,
    read_interactions,
)
from graftkit.methods.dpcml.metrics import METRICS, parse_metric
from sklearn.base import clone
from sklearn.utils.validation import check_is_fitted

__all__ = ["cross_validate_ranking", "make_ranking_scorer", "ranking_metrics"]

WHOLE = ("map", "mrr", "auc", "opauc")


def ranking_metrics(
    model: Any,
    X_train: Any,
    X_test: Any,
    *,
    X_val: Any = None,
    ks: Sequence[int] = (3, 5, 10),
    metrics: str | Sequence[str] = ("precision", "recall", "ndcg", "map", "mrr", "auc"),
    protocol: str = "standard",
    beta: float = 0.1,
    groups: Any = None,
) -> dict[str, Any]:
    """Metrics of a fitted recommender on held-out interactions of its trained users.

    Formulas stand in ``graftkit.methods.dpcml.metrics``.

    Parameters
    ----------
    model : DPCML, or callable
        A fitted estimator, or a function that takes user ids and returns scores of shape (b, n_items),
        larger is better; so any recommender can be compared, for `implicit`
        ``lambda users: als.user_factors[users] @ als.item_factors.T``.
    X_train : array-like or sparse matrix of shape (n_users, n_items)
        Items that are not ranked.
    X_test : array-like or sparse matrix of shape (n_users, n_items)
        Held-out items.
    X_val : array-like or sparse matrix of shape (n_users, n_items), or None, default=None
        Validation items. They are not ranked either, but stay in the lists under ``protocol="libcml"``.
    ks : sequence of int, default=(3, 5, 10)
        Cuts of the metrics at K; without any, ``"ndcg"`` is that of the whole list.
    metrics : str or sequence of str, default=("precision", "recall", "ndcg", "map", "mrr", "auc")
        Also ``"opauc"`` (one-way partial AUC at `beta`) and ``"maxdiv"`` (DPCML only), or full names such as
        ``"ndcg@10"``.
    protocol : {"standard", "libcml"}, default="standard"
        Who counts: all users with a held-out item, or as in the public code users with K of them or more.
    beta : float, default=0.1
        Share of the hardest negatives for ``"opauc"``, in (0, 1].
    groups : array-like of shape (n_items,) or None, default=None
        A label an item: metrics a group, and for the groups that are rarest (``"minority"``) and commonest
        (``"majority"``) among each user's own training items.

    Returns
    -------
    dict of str to float
        Metric to mean over users; with `groups`, ``"all"``, ``"minority"``, ``"majority"`` and each label to
        such a dict.

    Raises
    ------
    ValueError
        If shapes differ, a metric or protocol is unknown, a metric at K finds no K, `beta` is out of
        (0, 1], or scores are NaN or of another shape.
    TypeError
        If `model` can neither score users nor be called, `beta` is no number, or `ks` are no integers.
    NotFittedError
        If `model` is an estimator that is not fitted.
    """
    train = read_interactions(X_train, "X_train")
    test = matching_interactions(X_test, train.shape, "X_test")
    check_choice("protocol", protocol, ("standard", "libcml"))
    check_number("beta", beta, low=0, high=1, closed="(]")
    seen = train
    if X_val is not None:
        val = matching_interactions(X_val, train.shape, "X_val")
        seen = train if protocol == "libcml" else merge_interactions(train, val)
    return evaluate(
        _score_function(model, train.shape),
        seen,
        test,
        _full_names([metrics] if isinstance(metrics, str) else metrics, ks),
        protocol=protocol,
        beta=beta,
        item_vectors=getattr(model, "item_vectors_", None),
        groups=None if groups is None else np.asarray(groups),
    )


def make_ranking_scorer(metric: str = "ndcg@10", *, beta: float = 0.1) -> Callable[..., float]:
    """A scorer for held-out interactions of the trained users.

    Parameters
    ----------
    metric : str, default="ndcg@10"
        precision@K, recall@K, ndcg@K, maxdiv@K, ndcg, map, mrr, auc or opauc.
    beta : float, default=0.1
        Share of the hardest negatives for ``"opauc"``.

    Returns
    -------
    callable
        ``scorer(estimator, X_test, y=None)``; what the estimator saw in training is masked.

    Raises
    ------
    ValueError
        If the metric is unknown, or `beta` is out of (0, 1].
    TypeError
        If `beta` is no number.
    """
    parse_metric(metric)
    check_number("beta", beta, low=0, high=1, closed="(]")

    def scorer(estimator: Any, X_test: Any, y: Any = None) -> float:  # noqa: ARG001
        if not hasattr(estimator, "score_users"):
            raise_invalid("estimator", estimator, "a fitted DPCML", error=TypeError)
        check_is_fitted(estimator, "user_vectors_")
        if estimator.interactions_ is None:
            raise ValueError("scorer: expected an estimator with store_interactions=True")
        found = ranking_metrics(
            estimator, estimator.interactions_, X_test, metrics=[metric], ks=(), beta=beta
        )
        return float(found[metric])

    return scorer


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
        If `splitter` can neither split nor be run over.
    """
    from sklearn.model_selection import ParameterGrid

    names = [scoring] if isinstance(scoring, str) else list(scoring)
    if not names:
        raise_invalid("scoring", scoring, "a metric or more")
    for name in names:
        parse_metric(name)
    splits = _splits(splitter, X)
    candidates: Iterable[dict[str, Any]] = [{}] if param_grid is None else list(ParameterGrid(param_grid))
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


def _full_names(metrics: Sequence[str], ks: Sequence[int]) -> list[str]:
    """``"ndcg"`` and 3, 5 become ``"ndcg@3"`` and ``"ndcg@5"``; full names stay."""
    if isinstance(ks, str) or not isinstance(ks, Sequence | np.ndarray):
        raise_invalid("ks", ks, "a sequence of integers", error=TypeError)
    names: list[str] = []
    for metric in metrics:
        if "@" in str(metric) or metric in WHOLE or (metric == "ndcg" and not len(ks)):
            names.append(metric)
            continue
        check_choice("metrics", metric, METRICS)
        if not len(ks):
            raise_invalid("ks", ks, f"a K or more for {metric!r}")
        names += [f"{metric}@{check_integer('ks', k, low=1)}" for k in ks]
    return names


def _splits(splitter: Any, X: Any) -> list[Any]:
    if not hasattr(splitter, "split") and not isinstance(splitter, Iterable):
        raise_invalid("splitter", splitter, "an object with split(X), or tuples of matrices", error=TypeError)
    splits = list(splitter.split(X) if hasattr(splitter, "split") else splitter)
    if not splits or any(len(split) not in (2, 3) for split in splits):
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


def _score_function(model: Any, shape: tuple[int, int]) -> Callable[[Any], Any]:
    if hasattr(model, "score_users"):
        check_is_fitted(model, "user_vectors_")
        fitted = (model.n_users_, model.n_features_in_)
        if fitted != tuple(shape):
            raise_invalid("X_train", shape, f"the shape of the fitted users x items, {fitted}")
        score: Callable[[Any], Any] = model.score_users
        return score
    if not callable(model):
        raise_invalid("model", model, "a fitted DPCML or a function of user ids", error=TypeError)
    given: Callable[[Any], Any] = model
    return given
