"""Speed of DPCML beside the published procedure and implicit: a pass, its parts, ranking, growth."""

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import scipy.sparse as sp
import torch

from graftkit.methods.dpcml.sampling import NegativeSampler
from graftkit.methods.dpcml.settings import Settings
from graftkit.methods.dpcml.training import Trainer
from graftkit.sklearn import DPCML, ranking_metrics
from tests.benchmarks.published_dpcml import PublishedModel, loader, sample
from tests.benchmarks.published_dpcml import evaluate as published_evaluate
from tests.benchmarks.quality_dpcml import implicit_model, load


def _clock(function: Callable[[], Any]) -> float:
    start = time.process_time()
    function()
    return time.process_time() - start


def epoch(name: str, folder: str | None, n_vectors: int, quick: bool) -> dict[str, Any]:
    """An epoch of HarS (C = 1) or DPCML2 with DCRS (C = 5): the published step, extrapolated, and ours,
    whole."""
    train, _, _ = load(name, folder)
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


def sampling(name: str, folder: str | None, quick: bool) -> dict[str, Any]:
    """Ten negatives for every positive, best of five for ours."""
    train, _, _ = load(name, folder)
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


def evaluation(name: str, folder: str | None, quick: bool) -> dict[str, Any]:
    """All metrics of all users (C = 1); the published one timed on some users and extrapolated."""
    train, _, test = load(name, folder)
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


def time_to_quality(name: str, folder: str | None, quick: bool) -> dict[str, Any]:
    """CPU seconds to the validation NDCG@10 that the published settings (DPCML2) reach in some passes.

    Their quality pass by pass comes from our dense form of the same procedure (preset ``dpcml2``: dense
    Adam, the whole-table penalty); their time from the transcription's time a pass.
    """
    train, val, _ = load(name, folder)
    n_passes = 2 if quick else 10
    per_pass = epoch(name, folder, 5, quick)["published"]
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


def ranking(name: str, folder: str | None, quick: bool) -> dict[str, Any]:
    """Ten items for all users, seen ones left out, beside implicit with as many query vectors."""
    train, _, _ = load(name, folder)
    users = np.arange(train.shape[0])
    _, als = implicit_model("ALS (implicit)", {"factors": 100, "iterations": 1}, train, 0)
    _, bpr = implicit_model("BPR (implicit)", {"factors": 99, "iterations": 1}, train, 0)
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


def growth(quick: bool) -> dict[str, Any]:
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
