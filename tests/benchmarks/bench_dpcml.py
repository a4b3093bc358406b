"""Measure DPCML: quality against baselines, the library's defaults, speed against the published procedure.

    python tests/benchmarks/bench_dpcml.py            # Steam-200k, one seed; see SECTIONS
    python tests/benchmarks/bench_dpcml.py --full     # three seeds, and CiteULike-T
    python tests/benchmarks/bench_dpcml.py --quick    # a minute on generated data, into a temporary file
    python tests/benchmarks/bench_dpcml.py --paper    # the published settings to the end: hours, resumes

Settings are selected on the validation part of seed 0 only (section ``selection``: NDCG@10, protocol
standard), four candidates each: for DPCML2 (`TUNED`; the number of passes is among them: that is where the
default of 100 comes from), for its baselines HarS and CML, and for itemKNN, ALS and BPR. The other rows of
the family run with the library's defaults, the last pass, not tuned one by one. Test figures follow the
public code's protocol (``libcml``: training items masked) and the standard one (training and validation
masked).
"""

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import lru_cache
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse as sp
import torch

from graftkit.core.progress import progress_bar
from graftkit.methods.dpcml.baselines import item_knn_scores, popularity_scores
from graftkit.methods.dpcml.sampling import NegativeSampler
from graftkit.methods.dpcml.settings import PRESETS, Settings
from graftkit.methods.dpcml.training import Trainer
from graftkit.sklearn import (
    DPCML,
    PerUserRatioSplit,
    load_libcml_split,
    load_users_dat,
    make_multi_interest,
    ranking_metrics,
)

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from tests.benchmarks.published_dpcml import PublishedModel, loader, sample
from tests.benchmarks.published_dpcml import evaluate as published_evaluate
from tests.benchmarks.results_io import Records, environment

DISTRIBUTIONS = ("graftkit", "torch", "numpy", "scipy", "scikit-learn", "implicit")
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
# Beyond the head of the list, also for each user's rarest group of items (derived, see _groups).
LIBCML = ("precision@3", "recall@3", "ndcg@3", "precision@5", "recall@5", "ndcg@5", "map", "mrr", "auc")
STANDARD = ("ndcg@10", "recall@10", "opauc")
PAPER = {"unis": 1, "hars": 3, "dpcml1": 1, "dpcml2": 3}
SECTIONS = ("selection", "quality", "speed", "ranking", "growth", "time")


def main(argv: list[str] | None = None) -> Path:
    """Run the chosen sections and return the path of the JSON file."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--full", action="store_true", help="three seeds, CiteULike-T too")
    parser.add_argument("--quick", action="store_true", help="a smoke run of every section, tiny")
    parser.add_argument("--paper", action="store_true", help="published settings to the end (hours, resumes)")
    parser.add_argument("--method", choices=sorted(PAPER), action="append", help="with --paper: only these")
    parser.add_argument("--row", action="append", help="only this row of selection and quality (may repeat)")
    parser.add_argument("--only", choices=SECTIONS, action="append", help="only this section (may repeat)")
    parser.add_argument("--seeds", type=int, default=None, help="seeds of the quality rows")
    parser.add_argument("--repeats", type=int, default=3, help="repeats of what is timed")
    parser.add_argument(
        "--data", type=Path, default=os.environ.get("GRAFTKIT_DATA"), help="folder of real data"
    )
    parser.add_argument("--out", type=Path, default=None, help="JSON file to write or resume")
    options = parser.parse_args(argv)
    torch.set_num_threads(1)
    out = options.out
    options.seeds = options.seeds or (3 if options.full else 1)
    if options.quick:
        options.seeds = options.repeats = 1
        out = out or Path(tempfile.mkdtemp()) / "dpcml.json"
    elif options.data is None:
        parser.error("needs real data: set GRAFTKIT_DATA or pass --data, or use --quick")
    records = Records("dpcml", out)
    here = environment(DISTRIBUTIONS)
    jobs = _paper_jobs(options) if options.paper else _jobs(options, records)
    for key, job in progress_bar(jobs, desc="DPCML benchmark", verbose=1):
        if not records.has(key):
            records.add(key, here, **job())
    return records.path


Job = tuple[str, Callable[[], dict[str, Any]]]
Split = tuple[sp.csr_matrix, sp.csr_matrix, sp.csr_matrix]


@lru_cache(maxsize=1)
def _load(name: str, folder: str | None) -> Split:
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
def _groups(name: str, folder: str | None) -> np.ndarray:
    """Groups of items, derived: k-means (k = 10) on ALS item vectors of the training part, as Steam has no
    genres."""
    from sklearn.cluster import KMeans

    train, _, _ = _load(name, folder)
    _, als = _implicit("ALS (implicit)", {"factors": 32, "alpha": 10.0, "iterations": 10}, train, 0)
    vectors = als.item_factors / np.maximum(np.linalg.norm(als.item_factors, axis=1, keepdims=True), 1e-9)
    return KMeans(min(10, train.shape[1]), n_init=3, random_state=0).fit_predict(vectors)


def _jobs(options: argparse.Namespace, records: Records) -> Iterator[Job]:
    chosen = options.only or SECTIONS
    folder = str(options.data) if options.data else None
    names = ["generated"] if options.quick else ["Steam-200k"] + (["CiteULike-T"] if options.full else [])
    quick = {"max_iter": 2, "n_components": 8} if options.quick else {}
    for name in names:
        if "selection" in chosen:
            for method, grid in {**TUNED, **BASELINES}.items():
                if options.row and method not in options.row:
                    continue
                for i, candidate in enumerate(grid):
                    settings = candidate if method in BASELINES else {**candidate, **quick}
                    yield f"selection/{name}/{method}/{i}", _bind(_select, name, folder, method, settings)
        if "quality" in chosen:
            for seed in range(options.seeds):
                order = [DEFAULTS, *(m for m in FAMILY if m != DEFAULTS), *TUNED, *BASELINES, "popularity"]
                for method in order:
                    if method in FAMILY:
                        chosen_settings: dict[str, Any] | None = {**FAMILY[method], **quick}
                    else:
                        chosen_settings = _best(records, name, method)
                    if chosen_settings is None or (seed and method in ("itemKNN", "popularity")):
                        continue  # nothing selected yet, or nothing random about it
                    if method in TUNED and chosen_settings in [{**row, **quick} for row in FAMILY.values()]:
                        continue  # what was selected is a row of the family
                    if options.row and method not in options.row:
                        continue
                    yield (
                        f"quality/{name}/{method}/{seed}",
                        _bind(_quality, name, folder, method, chosen_settings, seed),
                    )
    if "speed" in chosen:
        for n_vectors in (1, 5):
            for repeat in range(options.repeats):
                yield (
                    f"speed/epoch/{n_vectors}/{repeat}",
                    _bind(_epoch, names[0], folder, n_vectors, options.quick),
                )
        for what in (_sampling, _evaluation):
            yield f"speed/{what.__name__[1:]}", _bind(what, names[0], folder, options.quick)
    if "ranking" in chosen:
        for repeat in range(options.repeats):
            yield f"ranking/{repeat}", _bind(_ranking, names[0], folder, options.quick)
    if "growth" in chosen:
        yield "growth", _bind(_growth, options.quick)
    if "time" in chosen:
        yield "speed/time_to_quality", _bind(_time_to_quality, names[0], folder, options.quick)


def _bind(function: Callable[..., dict[str, Any]], *arguments: Any) -> Callable[[], dict[str, Any]]:
    return lambda: function(*arguments)


def _implicit(method: str, settings: dict[str, Any], train: sp.csr_matrix, seed: int) -> tuple[Any, Any]:
    from implicit.als import AlternatingLeastSquares
    from implicit.bpr import BayesianPersonalizedRanking

    kind = AlternatingLeastSquares if method.startswith("ALS") else BayesianPersonalizedRanking
    model = kind(**settings, random_state=seed, num_threads=1)
    model.fit(train, show_progress=False)
    return (lambda users: model.user_factors[users] @ model.item_factors.T), model


@lru_cache(maxsize=8)
def _build(name: str, folder: str | None, method: str, settings: str, seed: int) -> tuple[Any, float]:
    """A fitted model or a function of user ids, and its CPU seconds; settings as JSON, to be kept."""
    train, _, _ = _load(name, folder)
    start = time.process_time()
    model: Any
    if method == "popularity":
        model = popularity_scores(train)
    elif method == "itemKNN":
        model = item_knn_scores(train, **json.loads(settings))
    elif method in BASELINES:
        model = _implicit(method, json.loads(settings), train, seed)[0]
    else:
        # One name for the family: what a selection has fitted is not fitted again.
        model = DPCML(**json.loads(settings), random_state=seed).fit(train)
    return model, time.process_time() - start


def _fitted(
    name: str, folder: str | None, method: str, settings: dict[str, Any], seed: int
) -> tuple[Any, float]:
    kind = method if method in BASELINES or method == "popularity" else "family"
    return _build(name, folder, kind, json.dumps(settings, sort_keys=True), seed)


def _select(name: str, folder: str | None, method: str, settings: dict[str, Any]) -> dict[str, Any]:
    """One candidate on validation, seed 0; the test part is not read."""
    train, val, _ = _load(name, folder)
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


def _best(records: Records, name: str, method: str) -> dict[str, Any] | None:
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


def _quality(
    name: str, folder: str | None, method: str, settings: dict[str, Any], seed: int
) -> dict[str, Any]:
    train, val, test = _load(name, folder)
    model, seconds = _fitted(name, folder, method, settings, seed)
    lists = ("maxdiv@3", "maxdiv@10") if hasattr(model, "item_vectors_") else ()
    grouped = ranking_metrics(
        model, train, test, X_val=val, ks=(), metrics=(*STANDARD, *lists), groups=_groups(name, folder)
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


def _paper_jobs(options: argparse.Namespace) -> Iterator[Job]:
    folder = str(options.data) if options.data else None
    name = "generated" if options.quick else "Steam-200k"
    for seed in range(max(PAPER.values())):
        for method in sorted(PAPER, key=lambda m: ("hars", "dpcml2", "unis", "dpcml1").index(m)):
            if seed < PAPER[method] and (options.method is None or method in options.method):
                yield f"paper/{method}/{seed}", _bind(_paper, name, folder, method, seed, options.quick)


def _paper(name: str, folder: str | None, method: str, seed: int, quick: bool) -> dict[str, Any]:
    """The published settings; the epoch with the best validation precision@3 is tested, as the public code
    does. Where a positive has its candidates one a pass, an epoch of the public code is ten passes."""
    train, val, test = _load(name, folder)
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


def _clock(function: Callable[[], Any]) -> float:
    start = time.process_time()
    function()
    return time.process_time() - start


def _epoch(name: str, folder: str | None, n_vectors: int, quick: bool) -> dict[str, Any]:
    """An epoch of HarS (C = 1) or DPCML2 with DCRS (C = 5): the published step, extrapolated, and ours,
    whole."""
    train, _, _ = _load(name, folder)
    rows = sample(train, 10, np.random.default_rng(0), hard=True)
    model = PublishedModel(*train.shape, n_vectors)
    batches = iter(loader(rows, 256, 0))
    total = int(np.ceil(train.nnz / 256))
    n_steps = min(2 if quick else 20, total - 1)
    model.step(*next(batches))  # the first step allocates Adam's state
    published = _clock(lambda: [model.step(*next(batches)) for _ in range(n_steps)])
    drawing = _clock(lambda: sample(train, 10, np.random.default_rng(1), hard=True))
    ours = {}
    for batch in (256, 1024):
        settings = Settings(n_vectors=n_vectors, batch_size=batch)
        trainer = Trainer(train, train, settings, np.random.default_rng(0))
        trainer.run_epoch()
        ours[str(batch)] = min(_clock(trainer.run_epoch) for _ in range(2))
    return {
        "section": "speed",
        "what": "epoch",
        "data": name,
        "n_vectors": n_vectors,
        "published": published / n_steps * total + drawing,
        "published_steps_timed": n_steps,
        "ours": ours,
    }


def _sampling(name: str, folder: str | None, quick: bool) -> dict[str, Any]:
    """Ten negatives for every positive, best of five for ours."""
    train, _, _ = _load(name, folder)
    users = np.repeat(np.arange(train.shape[0]), np.diff(train.indptr))
    published = min(
        _clock(lambda: sample(train, 10, np.random.default_rng(0), hard=False))
        for _ in range(1 if quick else 2)
    )
    found = {}
    for bitmap in (False, True):
        sampler = NegativeSampler(train, bitmap=bitmap)
        draw = lambda sampler=sampler: sampler.draw(users, 10, np.random.default_rng(0))  # noqa: E731
        draw()
        found["bitmap" if bitmap else "keys"] = min(_clock(draw) for _ in range(5))
    return {"section": "speed", "what": "sampling", "data": name, "published": published, "ours": found}


def _evaluation(name: str, folder: str | None, quick: bool) -> dict[str, Any]:
    """All metrics of all users (C = 1); the published one timed on some users and extrapolated."""
    train, _, test = _load(name, folder)
    model = PublishedModel(*train.shape, 1)
    users = np.arange(min(train.shape[0], 20 if quick else 300))
    theirs: dict[str, float] = {}
    published = _clock(lambda: theirs.update(published_evaluate(model, train, test, users)))
    state = model.users.weight.detach().numpy(), model.items.weight.detach().numpy()
    estimator = DPCML(n_components=100, n_vectors=1, max_iter=1, dcrs=None).fit(train)
    estimator.__setstate__({**estimator.__getstate__(), "user_vectors_": state[0], "item_vectors_": state[1]})
    options = {
        "ks": (3, 5),
        "metrics": ("precision", "recall", "ndcg", "map", "mrr", "auc"),
        "protocol": "libcml",
    }
    ours = _clock(lambda: ranking_metrics(estimator, train, test, **options))
    some = sp.csr_matrix((train.shape[0], train.shape[1]))
    some = sp.vstack([test[users], some[len(users) :]]).tocsr()
    same = ranking_metrics(estimator, train, some, **options)
    return {
        "section": "speed",
        "what": "evaluation",
        "data": name,
        "published": published / len(users) * train.shape[0],
        "published_users_timed": len(users),
        "ours": ours,
        "largest_difference": max(abs(same[key] - theirs[key]) for key in theirs),
    }


def _time_to_quality(name: str, folder: str | None, quick: bool) -> dict[str, Any]:
    """CPU seconds to the validation NDCG@10 that the published settings (DPCML2) reach in some passes.

    Their quality pass by pass comes from our dense form of the same procedure (preset ``dpcml2``: dense
    Adam, the whole-table penalty); their time from the transcription's time a pass.
    """
    train, val, _ = _load(name, folder)
    n_passes = 2 if quick else 10
    per_pass = _epoch(name, folder, 5, quick)["published"]
    dense = DPCML.from_preset("dpcml2", max_iter=n_passes, random_state=0)
    dense_seconds = _clock(lambda: dense.fit(train, X_val=val))
    target = dense.history_[-1]["validation"]
    ours = DPCML(random_state=0, max_iter=2 if quick else 50)
    reached: list[float] = []

    def stop(_: int, record: dict[str, float]) -> bool:
        reached.append(record["validation"])
        return record["validation"] >= target

    seconds = _clock(lambda: ours.fit(train, X_val=val, callbacks=[stop]))
    return {
        "section": "speed",
        "what": "time_to_quality",
        "data": name,
        "target": target,
        "published_passes": n_passes,
        "published": per_pass * n_passes,
        "published_dense_form": dense_seconds,
        "ours": seconds,
        "ours_passes": len(reached),
        "ours_reached": reached[-1],
    }


def _ranking(name: str, folder: str | None, quick: bool) -> dict[str, Any]:
    """Ten items for all users, seen ones left out, beside implicit with as many query vectors."""
    train, _, _ = _load(name, folder)
    users = np.arange(train.shape[0])
    _, als = _implicit("ALS (implicit)", {"factors": 100, "iterations": 1}, train, 0)
    _, bpr = _implicit("BPR (implicit)", {"factors": 99, "iterations": 1}, train, 0)
    found: dict[str, float] = {}
    for n_vectors in (1, 5):
        model = DPCML(n_vectors=n_vectors, max_iter=1, random_state=0).fit(train)
        # implicit with as many query vectors: its own users, then five queries a user.
        many = np.tile(users, n_vectors)
        seen = sp.vstack([train] * n_vectors).tocsr()
        for _ in range(1 if quick else 3):
            runs = {
                f"ours, C={n_vectors}": lambda model=model: model.recommend(users, n=10),
                f"ALS, {n_vectors} queries a user": lambda m=many, s=seen: als.recommend(m, s, N=10),
                f"BPR, {n_vectors} queries a user": lambda m=many, s=seen: bpr.recommend(m, s, N=10),
            }
            for run, call in runs.items():
                found[run] = min(found.get(run, np.inf), _clock(call))
    n = min(200, len(users))
    published = PublishedModel(*train.shape, 5)
    difference = _clock(
        lambda: [
            published.predict(torch.arange(i, min(i + 50, n))).topk(10, largest=False)
            for i in range(0, n, 50)
        ]
    )
    return {
        "section": "ranking",
        "data": name,
        "users_per_second": {run: len(users) / seconds for run, seconds in found.items()},
        "difference_tensor": n / difference,
    }


def _growth(quick: bool) -> dict[str, Any]:
    """A pass over 1 to 8 times the positives at one density; then 4 times the users at the same number."""

    def random_matrix(n_users: int, each: int) -> sp.csr_matrix:
        rng = np.random.default_rng(0)
        items = np.concatenate([rng.choice(2000, each, replace=False) for _ in range(n_users)])
        ones = np.ones(len(items), dtype=np.float32)
        return sp.csr_matrix((ones, items, np.arange(n_users + 1) * each), shape=(n_users, 2000))

    def seconds(matrix: sp.csr_matrix) -> float:
        trainer = Trainer(matrix, matrix, Settings(), np.random.default_rng(0))
        trainer.run_epoch()
        return min(_clock(trainer.run_epoch) for _ in range(1 if quick else 3))

    base = 100 if quick else 1000
    factors = (1, 2) if quick else (1, 2, 4, 8)
    times = {factor: seconds(random_matrix(base * factor, 20)) for factor in factors}
    slope = float(np.polyfit(np.log(list(times)), np.log(list(times.values())), 1)[0])
    few, many = (seconds(random_matrix(n, each)) for n, each in ((2 * base, 40), (8 * base, 10)))
    return {
        "section": "growth",
        "seconds": {str(factor): value for factor, value in times.items()},
        "slope": slope,
        "users_times_four": many / few - 1,
    }


if __name__ == "__main__":
    main()
