"""Recommend to users who like much of one thing and a little of another.

With ``--data`` or ``GRAFTKIT_DATA`` the games of Steam-200k in the authors' own split, otherwise a generated
catalogue. You will see a table of ranking metrics beside popularity, item neighbours and one vector a user
(HarS, the same estimator), one user's recommendations with the interest that each rests on, and a figure of
that user's vectors. "Minority" is recall@10 on the held-out items of the group that is rarest in a user's
history; Steam has no genres, so its groups are derived from the items' neighbourhoods.

    python examples/dpcml.py [--data DIR] [--seed N] [--quick] [--out DIR]
"""

import argparse
import os
import time
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from rich.console import Console
from rich.table import Table
from sklearn.cluster import KMeans
from sklearn.decomposition import TruncatedSVD
from sklearn.preprocessing import normalize

from graftkit.methods.dpcml.baselines import item_knn_scores, popularity_scores
from graftkit.sklearn import DPCML, load_libcml_split, make_multi_interest, ranking_metrics

METRICS = ("precision@3", "ndcg@10", "mrr", "recall@10")


def main(argv: list[str] | None = None) -> dict[str, Any]:
    """Run the example and return the row of the tour's table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--data", type=Path, default=os.getenv("GRAFTKIT_DATA") or None, help="folder of real data"
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of start and training")
    parser.add_argument("--quick", action="store_true", help="fewer passes, under a minute")
    parser.add_argument("--out", type=Path, default=Path("out"), help="folder for the figure")
    options = parser.parse_args(argv)
    mpl.use("Agg")

    start = time.perf_counter()
    name, train, val, test, groups, settings = _load(options.data, options.quick)

    # The line that changes: several vectors a user. n_vectors=1 is the plain method (HarS).
    model = DPCML(**settings, random_state=options.seed, verbose=1).fit(train)
    one = DPCML(**{**settings, "n_vectors": 1}, random_state=options.seed).fit(train)

    models = {
        "DPCML": model,
        "one vector (HarS)": one,
        "item neighbours": item_knn_scores(train),
        "popularity": popularity_scores(train),
    }
    figures = {}
    for method, fitted in models.items():
        found = ranking_metrics(fitted, train, test, X_val=val, metrics=METRICS, groups=groups)
        figures[method] = {**found["all"], "minority": found["minority"]["recall@10"]}
    seconds = time.perf_counter() - start

    console = Console()
    table = Table("method", *next(iter(figures.values())), title=f"DPCML on {name}")
    for method, values in figures.items():
        table.add_row(method, *(f"{value:.3f}" for value in values.values()))
    console.print(table)
    # A user of 10 to 40 items whose recommendations rest on as many interests as there are.
    users = np.flatnonzero((np.diff(train.indptr) >= 10) & (np.diff(train.indptr) <= 40))
    all_ids, _, all_vectors = model.recommend(users, n=5, return_vector=True)
    chosen = int(np.argmax([len(set(row)) for row in all_vectors.tolist()]))
    user, ids, vectors = int(users[chosen]), all_ids[chosen], all_vectors[chosen]
    for item, vector in zip(ids, vectors, strict=True):
        liked = model.explain(user, int(item)).items[:3].tolist()
        console.print(f"user {user}: item {item} by vector {vector}, which stands for items {liked}")

    options.out.mkdir(parents=True, exist_ok=True)
    model.plot(user, groups=groups).figure_.savefig(options.out / "dpcml.png", dpi=120)
    rivals = {method: values["ndcg@10"] for method, values in figures.items() if method != "DPCML"}
    best = max(rivals, key=lambda method: rivals[method])
    return {
        "method": "DPCML",
        "host": "scikit-learn",
        "data": name,
        "metric": "NDCG@10",
        "baseline": f"{best} {rivals[best]:.3f}",
        "ours": f"{figures['DPCML']['ndcg@10']:.3f}",
        "seconds": round(seconds, 1),
        "figure": str(options.out / "dpcml.png"),
        "figures": figures,
    }


def _load(data: str | Path | None, quick: bool) -> Any:
    folder = Path(data) / "recsys" / "steam-200k" / "np_data" if data else None
    if folder is not None and folder.exists():
        train, val, test = load_libcml_split(folder)
        items = normalize(TruncatedSVD(32, random_state=0).fit_transform(train.T.tocsr()))
        groups = KMeans(10, n_init=1, random_state=0).fit_predict(items)
        return "Steam-200k", train, val, test, groups, {"max_iter": 4 if quick else 25}
    made = make_multi_interest(500, 120, 10, n_major=10, n_minor=4, random_state=0)
    settings = {"n_components": 12, "n_vectors": 3, "n_negatives": 2, "max_iter": 15 if quick else 40}
    return "generated", made.train, None, made.test, made.groups, {**settings, "learning_rate": 0.02}


if __name__ == "__main__":
    main()
