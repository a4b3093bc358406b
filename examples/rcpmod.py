"""Find rows whose views do not belong together, some views missing.

Outliers of three kinds are planted in Scene-15 (with ``--data`` or ``GRAFTKIT_DATA``) or in
scikit-learn's digits (pixels and Fourier magnitudes). You will see a table of ROC AUC by kind beside
IsolationForest, LOF and two cheap cross-view baselines, and a figure that says which view makes the top
rows outlying. The outliers are synthetic, planted by the rule that the method was designed for.

    python examples/rcpmod.py [--data DIR] [--seed N] [--quick] [--out DIR]
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
from sklearn.ensemble import IsolationForest
from sklearn.metrics import roc_auc_score
from sklearn.neighbors import LocalOutlierFactor

from graftkit.methods.rcpmod.baselines import cross_view_knn, cross_view_ridge, impute_and_concatenate
from graftkit.methods.rcpmod.data import KINDS, load_digits_views, load_mat_views, plant_outliers
from graftkit.sklearn import RCPMOD


def main(argv: list[str] | None = None) -> dict[str, Any]:
    """Run the example and return the row of the tour's table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--data", type=Path, default=os.getenv("GRAFTKIT_DATA") or None, help="folder of real data"
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of planting and training")
    parser.add_argument("--quick", action="store_true", help="fewer rows and epochs, under a minute")
    parser.add_argument("--out", type=Path, default=Path("out"), help="folder for the figure")
    options = parser.parse_args(argv)
    mpl.use("Agg")

    if options.data is not None and not Path(options.data).is_dir():
        parser.error(f"--data: expected a folder, got {options.data}")
    start = time.perf_counter()
    name, views, labels = _load(options.data)
    if options.quick:
        rows = np.random.default_rng(options.seed).permutation(len(labels))[:1200]
        name, views, labels = f"{name} ({len(rows)} rows)", [view[rows] for view in views], labels[rows]
    # 5 % attribute, 2 % class and 8 % class-attribute outliers; 30 % of the rows lose one view.
    planted = plant_outliers(views, labels, rates=(0.05, 0.02, 0.08), missing=0.3, random_state=options.seed)

    # The line that changes: a list of views, NaN rows where a view is missing, no imputation.
    detector = RCPMOD(
        temperature=0.1, n_epochs=30 if options.quick else 60, random_state=options.seed, verbose=1
    ).fit(planted.views)

    table = impute_and_concatenate(planted.views)
    forest = IsolationForest(random_state=options.seed).fit(table)
    scores = {
        "RCPMOD": detector.outlier_scores_,
        "XV-kNN": cross_view_knn(planted.views),
        "XV-ridge": cross_view_ridge(planted.views),
        "IsolationForest": -forest.score_samples(table),
        "LOF": -LocalOutlierFactor(n_neighbors=20).fit(table).negative_outlier_factor_,
    }
    seconds = time.perf_counter() - start
    figures = {method: _auc(score, planted.outlier_type) for method, score in scores.items()}
    _print(f"RCPMOD on {name}: ROC AUC against inliers", figures)

    options.out.mkdir(parents=True, exist_ok=True)
    figure = options.out / "rcpmod.png"
    detector.plot(planted.views).figure_.savefig(figure, dpi=120)
    best = max(
        (method for method in figures if method != "RCPMOD"), key=lambda method: figures[method]["all"]
    )
    return {
        "method": "RCPMOD",
        "host": "scikit-learn",
        "data": name,
        "metric": "ROC AUC",
        "baseline": f"{best} {figures[best]['all']:.3f}",
        "ours": f"{figures['RCPMOD']['all']:.3f}",
        "seconds": round(seconds, 1),
        "figure": str(figure),
        "figures": figures,
    }


def _load(data: str | Path | None) -> tuple[str, list[np.ndarray], np.ndarray]:
    scene = Path(data) / "multiview" / "Scene-15.mat" if data else None
    if scene is not None and scene.exists():
        return "Scene-15", *load_mat_views(scene, (0, 1))
    return "digits", *load_digits_views()


def _auc(score: np.ndarray, kind: np.ndarray) -> dict[str, float]:
    """ROC AUC of all outliers, and of each kind alone, against the inliers."""
    by_kind = {"all": float(roc_auc_score(kind > 0, score))}
    for code, name in enumerate(KINDS[1:], start=1):
        rows = (kind == 0) | (kind == code)
        by_kind[name] = float(roc_auc_score(kind[rows] == code, score[rows]))
    return by_kind


def _print(title: str, figures: dict[str, dict[str, float]]) -> None:
    table = Table("detector", *next(iter(figures.values())), title=title)
    for method, values in figures.items():
        table.add_row(method, *(f"{value:.3f}" for value in values.values()))
    Console().print(table)


if __name__ == "__main__":
    main()
