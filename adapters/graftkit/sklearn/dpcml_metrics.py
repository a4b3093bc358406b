"""Evaluation of recommenders on held-out interactions of the users they were trained on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from graftkit.core.validation import check_choice, check_integer, check_iterable, check_number, raise_invalid
from graftkit.methods.dpcml import evaluate
from graftkit.methods.dpcml.interactions import (
    matching_interactions,
    merge_interactions,
    read_interactions,
)
from graftkit.methods.dpcml.metrics import METRICS, parse_metric
from sklearn.utils.validation import check_is_fitted

__all__ = ["make_ranking_scorer", "ranking_metrics"]

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
        groups=None if groups is None else _labels(groups),
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


def _full_names(metrics: Sequence[str], ks: Sequence[int]) -> list[str]:
    """``"ndcg"`` and 3, 5 become ``"ndcg@3"`` and ``"ndcg@5"``; full names stay."""
    if isinstance(ks, str) or not isinstance(ks, Sequence | np.ndarray):
        raise_invalid("ks", ks, "a sequence of integers", error=TypeError)
    names: list[str] = []
    for name, given in (("metrics", metrics), ("ks", ks)):
        check_iterable(name, given, "a sequence")
    for metric in metrics:
        if not isinstance(metric, str):
            raise_invalid("metrics", metric, "names of metrics", error=TypeError)
        if "@" in str(metric) or metric in WHOLE or (metric == "ndcg" and not len(ks)):
            names.append(metric)
            continue
        check_choice("metrics", metric, METRICS)
        if not len(ks):
            raise_invalid("ks", ks, f"a K or more for {metric!r}")
        names += [f"{metric}@{check_integer('ks', k, low=1)}" for k in ks]
    return names


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


def _labels(groups: Any) -> npt.NDArray[Any]:
    try:
        return np.asarray(groups)
    except ValueError:  # rows of different lengths
        raise_invalid("groups", groups, "a label an item, a vector")
