"""Rows of DPCML's quality benchmark: the data, the family and its baselines, selection and test figures."""

import json
import time
from functools import lru_cache
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse as sp

from graftkit.methods.dpcml.baselines import item_knn_scores, popularity_scores
from graftkit.methods.dpcml.settings import PRESETS
from graftkit.sklearn import (
    DPCML,
    PerUserRatioSplit,
    load_libcml_split,
    load_users_dat,
    make_multi_interest,
    ranking_metrics,
)
from tests.benchmarks.results_io import Records

# The family: everything is an argument of one estimator.
FAMILY: dict[str, dict[str, Any]] = {
    "CML (C=1, uniform)": {"n_vectors": 1, "sampling": "uniform"},
    "HarS (C=1, hard)": {"n_vectors": 1},
    "DPCML1 (C=5, uniform)": {"sampling": "uniform"},
    "DPCML1, APA": {"sampling": "uniform", "assignment": "apa"},
    "DPCML2 (C=5, hard)": {},
    "DPCML2 without DCRS": {"dcrs": None},
    "DPCML2, APA": {"assignment": "apa"},
    "DiHarS, BPA": {"sampling": "dihars"},
    "DiHarS, APA": {"sampling": "dihars", "assignment": "apa"},
    "DPCML2, 50 passes": {"max_iter": 50},
}
DEFAULTS = "DPCML2 (C=5, hard)"
SELECTED = "DPCML2, selected"
# Rows whose settings are selected. Those that selection gives the defaults are in the family already.
ONE = {"n_vectors": 1}
CML = {**ONE, "sampling": "uniform"}
TUNED: dict[str, list[dict[str, Any]]] = {
    SELECTED: [{"max_iter": 50}, {}, {"dcrs": None}, {"dcrs_weight": 3.0}],
    "HarS, selected": [ONE, {**ONE, "max_iter": 50}, {**ONE, "max_iter": 25}, {**ONE, "margin": 2.0}],
    "CML, selected": [CML, {**CML, "max_iter": 50}, {**CML, "max_iter": 25}, {**CML, "margin": 2.0}],
}
BASELINES: dict[str, list[dict[str, Any]]] = {
    "itemKNN": [{"n_neighbors": n, "shrink": s} for n in (50, 200) for s in (0.0, 10.0)],
    "ALS (implicit)": [
        {"factors": f, "regularization": 0.05, "alpha": a, "iterations": 15}
        for f in (32, 100)
        for a in (2.0, 10.0)
    ],
    "BPR (implicit)": [
        {"factors": f, "learning_rate": rate, "iterations": 100} for f in (32, 100) for rate in (0.01, 0.05)
    ],
}
# Beyond the head of the list, also for each user's rarest group of items (derived, see item_groups).
LIBCML = ("precision@3", "recall@3", "ndcg@3", "precision@5", "recall@5", "ndcg@5", "map", "mrr", "auc")
STANDARD = ("ndcg@10", "recall@10", "opauc")
Split = tuple[sp.csr_matrix, sp.csr_matrix, sp.csr_matrix]


@lru_cache(maxsize=1)
def load(name: str, folder: str | None) -> Split:
    if name == "generated":
        full = make_multi_interest(120, 60, random_state=0)
        split = PerUserRatioSplit(min_interactions=1, random_state=0).split(full.train + full.test)[0]
        return split[0], split[1], split[2]
    root = Path(str(folder)) / "recsys"
    if name == "Steam-200k":
        return load_libcml_split(root / "steam-200k" / "np_data")
    matrix = load_users_dat(root / "citeulike-t" / "users.dat", min_interactions=5)
    split = PerUserRatioSplit(random_state=1234).split(matrix)[0]
    return split[0], split[1], split[2]


@lru_cache(maxsize=1)
def item_groups(name: str, folder: str | None) -> np.ndarray:
    """Groups of items, derived: k-means (k = 10) on ALS item vectors of the training part, as Steam has no
    genres."""
    from sklearn.cluster import KMeans

    train, _, _ = load(name, folder)
    _, als = implicit_model("ALS (implicit)", {"factors": 32, "alpha": 10.0, "iterations": 10}, train, 0)
    vectors = als.item_factors / np.maximum(np.linalg.norm(als.item_factors, axis=1, keepdims=True), 1e-9)
    return KMeans(min(10, train.shape[1]), n_init=3, random_state=0).fit_predict(vectors)


def implicit_model(method: str, settings: dict[str, Any], train: sp.csr_matrix, seed: int) -> tuple[Any, Any]:
    from implicit.als import AlternatingLeastSquares
    from implicit.bpr import BayesianPersonalizedRanking

    kind = AlternatingLeastSquares if method.startswith("ALS") else BayesianPersonalizedRanking
    model = kind(**settings, random_state=seed, num_threads=1)
    model.fit(train, show_progress=False)
    return (lambda users: model.user_factors[users] @ model.item_factors.T), model


@lru_cache(maxsize=8)
def _build(name: str, folder: str | None, method: str, settings: str, seed: int) -> tuple[Any, float]:
    """A fitted model or a function of user ids, and its CPU seconds; settings as JSON, to be kept."""
    train, _, _ = load(name, folder)
    start = time.process_time()
    model: Any
    if method == "popularity":
        model = popularity_scores(train)
    elif method == "itemKNN":
        model = item_knn_scores(train, **json.loads(settings))
    elif method in BASELINES:
        model = implicit_model(method, json.loads(settings), train, seed)[0]
    else:
        # One name for the family: what a selection has fitted is not fitted again.
        model = DPCML(**json.loads(settings), random_state=seed).fit(train)
    return model, time.process_time() - start


def _fitted(
    name: str, folder: str | None, method: str, settings: dict[str, Any], seed: int
) -> tuple[Any, float]:
    kind = method if method in BASELINES or method == "popularity" else "family"
    return _build(name, folder, kind, json.dumps(settings, sort_keys=True), seed)


def select(name: str, folder: str | None, method: str, settings: dict[str, Any]) -> dict[str, Any]:
    """One candidate on validation, seed 0; the test part is not read."""
    train, val, _ = load(name, folder)
    model, seconds = _fitted(name, folder, method, settings, 0)
    found = ranking_metrics(model, train, val, ks=(), metrics=("ndcg@10", "mrr"))
    return {
        "section": "selection",
        "data": name,
        "method": method,
        "settings": settings,
        "validation": found,
        "cpu_seconds": seconds,
    }


def best_settings(records: Records, name: str, method: str) -> dict[str, Any] | None:
    if method == "popularity":
        return {}
    tried = [
        record
        for record in records.records.values()
        if record["section"] == "selection" and record["data"] == name and record["method"] == method
    ]
    if not tried:
        return None
    return dict(max(tried, key=lambda record: record["validation"]["ndcg@10"])["settings"])


def measure(
    name: str, folder: str | None, method: str, settings: dict[str, Any], seed: int
) -> dict[str, Any]:
    train, val, test = load(name, folder)
    model, seconds = _fitted(name, folder, method, settings, seed)
    lists = ("maxdiv@3", "maxdiv@10") if hasattr(model, "item_vectors_") else ()
    grouped = ranking_metrics(
        model, train, test, X_val=val, ks=(), metrics=(*STANDARD, *lists), groups=item_groups(name, folder)
    )
    return {
        "section": "quality",
        "data": name,
        "method": method,
        "settings": settings,
        "seed": seed,
        "libcml": ranking_metrics(model, train, test, ks=(), metrics=LIBCML, protocol="libcml"),
        "standard": grouped["all"],
        "minority": grouped["minority"],
        "majority": grouped["majority"],
        "validation": ranking_metrics(model, train, val, ks=(), metrics=("ndcg@10", "precision@3", "mrr")),
        "vectors_per_user": float(np.mean(getattr(model, "n_vectors_per_user_", 1))),
        "cpu_seconds": seconds,
    }


def run_paper(name: str, folder: str | None, method: str, seed: int, quick: bool) -> dict[str, Any]:
    """The published settings; the epoch with the best validation precision@3 is tested, as the public code
    does. Where a positive has its candidates one a pass, an epoch of the public code is ten passes."""
    train, val, test = load(name, folder)
    every = 10 if PRESETS[method]["n_negatives"] == 1 and not quick else 1
    looks = count(1)

    def precision(ranker: Any, known: sp.csr_matrix, held: sp.csr_matrix) -> float:
        if next(looks) % every:
            return float("nan")
        found = ranking_metrics(ranker.score, known, held, ks=(3,), metrics=("precision",), protocol="libcml")
        return 0.0 if np.isnan(found["precision@3"]) else found["precision@3"]

    overrides = {"max_iter": 2, "n_components": 8} if quick else {}
    model = DPCML.from_preset(
        method,
        random_state=seed,
        early_stopping=True,
        patience=None,
        scoring=precision,
        verbose=1,
        **overrides,
    )
    start = time.process_time()
    model.fit(train, X_val=val)
    return {
        "section": "paper",
        "data": name,
        "method": method,
        "seed": seed,
        "libcml": ranking_metrics(model, train, test, ks=(), metrics=LIBCML, protocol="libcml"),
        "passes": model.n_iter_,
        "best_pass": model.best_iter_,
        "validation": [round(record["validation"], 5) for record in model.history_[every - 1 :: every]],
        "cpu_seconds": time.process_time() - start,
    }
