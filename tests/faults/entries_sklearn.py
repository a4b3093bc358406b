"""graftkit.sklearn and graftkit.pyod: estimators are fitted, for scikit-learn checks parameters in fit."""

import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse as sp

from graftkit import sklearn as host
from tests.adapters.sklearn.dpcml_cases import TINY, interactions
from tests.faults.entry import Entry

RNG = np.random.default_rng(0)
VIEWS = RNG.normal(size=(24, 6))
RCPMOD = {
    "n_neighbors": 3,
    "hidden_layer_sizes": (4,),
    "latent_dim": 3,
    "n_epochs": 2,
    "batch_size": 8,
    "negative_rank": 4,
    "memory_size": 4,
    "view_slices": [3, 3],
    "random_state": 0,
    "impute_from": 1,
    "neighbor_refresh": 1,
    "negative_refresh": 1,
    "spread_schedule": 200,
    "alignment_ranks": 2,
    "learning_rate": 1e-3,
    "temperature": 0.5,
    "outlier_weight": 1.0,
    "neighbor_weight": 1.0,
    "spread_weight": 0.2,
    "spread_warm": 0.02,
    "memory_fraction": 0.2,
    "recon_weight": 1.0,
    "scale": "feature",
    "partial_nan": "raise",
    "pairing": "sequential",
    "reshuffle": True,
    "n_reference": "auto",
    "knn_backend": "auto",
    "contamination": 0.1,
    "device": "cpu",
    "dtype": "float32",
    "n_jobs": None,
    "verbose": 0,
}
DPCML = {
    **TINY,
    "max_iter": 1,
    "assignment": "bpa",
    "margin": 1.0,
    "sampling": "hard",
    "beta": 0.3,
    "dihars_mode": "topk",
    "dcrs": "pairwise",
    "dcrs_weight": 1.0,
    "delta_min": 0.05,
    "delta_max": 0.5,
    "dcrs_scale": "paper",
    "init": "jitter",
    "user_norm": "sphere",
    "item_norm": "ball",
    "max_norm": 1.0,
    "optimizer": "lazy_adam",
    "learning_rate": 0.003,
    "weight_decay": 0.0,
    "early_stopping": True,
    "validation_fraction": 0.3,
    "scoring": "ndcg@5",
    "patience": 1,
    "tol": 0.0,
    "store_interactions": True,
    "dtype": "float32",
    "device": "cpu",
    "verbose": 0,
}
((TRAIN, TEST),) = host.LeaveOneOut(random_state=0).split(interactions())
SMALL = {name: RCPMOD[name] for name in list(RCPMOD)[:13]}


@cache
def stored() -> Path:
    """A file of users' items, beside the three parts of a split."""
    folder = Path(tempfile.mkdtemp())
    for part in ("train", "val", "test"):
        sp.save_npz(folder / f"user_{part}_matrix.npz", interactions())
    (folder / "users.dat").write_text("2 0 1\n2 1 2\n")
    return folder / "users.dat"


@cache
def recommender() -> Any:
    return host.DPCML(**TINY).fit(interactions())


@cache
def detector() -> Any:
    return host.RCPMOD(**SMALL).fit(VIEWS)


@cache
def energy() -> Any:
    return host.JointEnergyDetector().fit(VIEWS)


@cache
def probe() -> Any:
    return host.DenseProbe(pixels_per_image=4).fit(
        RNG.normal(size=(2, 3, 4, 4)), RNG.integers(0, 2, (2, 4, 4))
    )


def arrays(model: Any) -> dict[str, Any]:
    """What a fit has reached, by identity."""
    return {name: id(value) for name, value in vars(model).items()}


def fitted(cls: Any, *data: Any) -> Any:
    return lambda **arguments: cls(**arguments).fit(*data)


def method(get: Any, name: str) -> Any:
    return lambda **arguments: getattr(get(), name)(**arguments)


def methods(get: Any, public: str, calls: dict[str, dict[str, Any]], **options: Any) -> list[Entry]:
    return [
        Entry(
            f"{public}.{name}",
            method(get, name),
            lambda a=arguments: dict(a),
            state=lambda _: arrays(get()),
            **options,
        )
        for name, arguments in calls.items()
    ]


def entries() -> list[Entry]:
    X = interactions()
    embedding = {"user_ids": np.arange(3), "item_ids": np.arange(3)}
    return [
        Entry(
            "DPCML",
            fitted(host.DPCML, X),
            lambda: dict(DPCML),
            sizes=("n_components", "n_vectors", "max_iter", "batch_size", "n_negatives"),
            callables=("assignment", "scoring"),
        ),
        Entry(
            "DPCML.fit",
            lambda X, X_val: host.DPCML(**TINY).fit(X, X_val=X_val),
            lambda: {"X": TRAIN, "X_val": TEST},
        ),
        *methods(
            recommender,
            "DPCML",
            {
                "recommend": {"user_ids": [0, 1], "n": 3},
                "recommend_for": {"X": X[:2], "n": 3},
                "score_pairs": embedding,
                "score_users": {"user_ids": [0]},
                "similar_items": {"item_ids": [0], "n": 3},
                "explain": {"user_id": 0, "item_id": 1},
                "get_user_vectors": {"user_ids": [0], "padded": True},
                "to_ann": {"kind": "arrays"},
                "transform": {"X": X},
                "score": {"X": X, "users": "auto"},
            },
            sizes=("n",),
        ),
        Entry(
            "DPCML.partial_fit",
            lambda X, allow_growth: recommender().partial_fit(X, allow_growth=allow_growth),
            lambda: {"X": X, "allow_growth": False},
            only=("X",),
            state=lambda _: arrays(recommender()),
        ),
        Entry("DPCML.from_preset", host.DPCML.from_preset, lambda: {"name": "dpcml2"}),
        Entry(
            "DPCMLDisplay",
            host.DPCMLDisplay.from_estimator,
            lambda: {"estimator": recommender(), "user_id": 0},
            only=("user_id",),
            says={"user_id": ("user_ids",)},
        ),
        Entry(
            "DenseProbe",
            fitted(host.DenseProbe, RNG.normal(size=(2, 3, 4, 4)), RNG.integers(0, 2, (2, 4, 4))),
            lambda: {"estimator": None, "pixels_per_image": 4, "ignore_index": 255, "random_state": 0},
            sizes=("pixels_per_image",),
            says={"ignore_index": ("classes",)},
        ),
        Entry(
            "DenseProbe.fit",
            lambda X, y: host.DenseProbe(pixels_per_image=4).fit(X, y),
            lambda: {"X": RNG.normal(size=(2, 3, 4, 4)), "y": RNG.integers(0, 2, (2, 4, 4))},
        ),
        *methods(
            probe,
            "DenseProbe",
            {
                "predict": {"X": RNG.normal(size=(2, 3, 4, 4)), "size": (4, 4)},
                "score": {"X": RNG.normal(size=(2, 3, 4, 4)), "y": RNG.integers(0, 2, (2, 4, 4))},
            },
            sizes=("size",),
        ),
        Entry("JointEnergyDetector", fitted(host.JointEnergyDetector, VIEWS), lambda: {"contamination": 0.1}),
        Entry("JointEnergyDetector.fit", lambda X: host.JointEnergyDetector().fit(X), lambda: {"X": VIEWS}),
        *methods(
            energy,
            "JointEnergyDetector",
            {
                name: {"X": VIEWS}
                for name in ("score_samples", "decision_function", "predict", "none_probability")
            },
        ),
        Entry(
            "LeaveOneOut",
            lambda X, **a: list(host.LeaveOneOut(**a).split(X)),
            lambda: {"X": X, "by": "random", "random_state": 0},
        ),
        Entry(
            "PerUserRatioSplit",
            lambda X, **a: list(host.PerUserRatioSplit(**a).split(X)),
            lambda: {
                "X": X,
                "ratios": (0.6, 0.2, 0.2),
                "min_interactions": 2,
                "n_repeats": 1,
                "random_state": 0,
            },
            sizes=("n_repeats",),
        ),
        Entry(
            "TemporalSplit",
            lambda X, **a: list(host.TemporalSplit(**a).split(X)),
            lambda: {"X": X, "timestamps": X.copy(), "test_size": 0.2},
        ),
        Entry(
            "RCPMOD",
            fitted(host.RCPMOD, VIEWS),
            lambda: dict(RCPMOD),
            says={"view_slices": ("X",)},
            sizes=("hidden_layer_sizes", "latent_dim", "n_epochs", "batch_size", "memory_size", "n_jobs"),
        ),
        Entry(
            "RCPMOD.fit",
            lambda **a: host.RCPMOD(**SMALL).fit(**a),
            lambda: {"X": VIEWS, "view_mask": np.ones((24, 2), bool), "callback": lambda *_: None},
            says={"X": ("view", "view_slices", "view_mask")},
            callables=("callback",),
        ),
        *methods(
            detector,
            "RCPMOD",
            {
                name: {"X": VIEWS, "view_mask": np.ones((24, 2), bool)}
                for name in (
                    "score_samples",
                    "decision_function",
                    "predict",
                    "outlier_probability",
                    "explain",
                )
            },
        ),
        Entry("RCPMOD.from_preset", host.RCPMOD.from_preset, lambda: {"name": "bdgp"}),
        Entry(
            "RCPMODDisplay",
            host.RCPMODDisplay.from_estimator,
            lambda: {"estimator": detector(), "X": VIEWS},
            only=("X",),
        ),
        Entry(
            "cross_validate_ranking",
            host.cross_validate_ranking,
            lambda: {
                "estimator": host.DPCML(**{**TINY, "max_iter": 1}),
                "X": X,
                "splitter": host.LeaveOneOut(random_state=0),
                "scoring": "ndcg@5",
                "param_grid": {"margin": [1.0]},
                "n_jobs": None,
                "return_estimator": False,
            },
            sizes=("n_jobs",),
            only=("estimator", "splitter", "scoring", "param_grid", "n_jobs"),
        ),
        Entry("load_libcml_split", host.load_libcml_split, lambda: {"folder": stored().parent}),
        Entry(
            "load_users_dat",
            host.load_users_dat,
            lambda: {"path": stored(), "min_interactions": 1},
            says={"min_interactions": ("users.dat",), "path": ("could not read it",)},
        ),
        Entry(
            "make_multi_interest",
            host.make_multi_interest,
            lambda: {
                "n_users": 10,
                "n_items": 12,
                "n_groups": 3,
                "n_major": 3,
                "n_minor": 2,
                "random_state": 0,
            },
            sizes=("n_users", "n_items", "n_groups", "n_major", "n_minor"),
        ),
        Entry(
            "make_multiview_outliers",
            host.make_multiview_outliers,
            lambda: {
                "n_samples": 40,
                "dims": (3, 3),
                "n_groups": 3,
                "noise": 0.05,
                "rates": (0.1, 0.1, 0.1),
                "missing": 0.1,
                "leak_free": False,
                "random_state": 0,
            },
            sizes=("n_samples", "dims", "n_groups"),
            says={"missing": ("rate",)},
        ),
        Entry(
            "make_ranking_scorer",
            lambda **a: host.make_ranking_scorer(**a)(recommender(), X),
            lambda: {"metric": "ndcg@5", "beta": 0.1},
            says={"metric": ("scoring",)},
        ),
        Entry(
            "merge_neighbors",
            host.merge_neighbors,
            lambda: {
                "search": lambda q, k: (np.zeros((len(q), k)), np.tile(np.arange(k), (len(q), 1))),
                "user_vectors": np.ones((4, 3)),
                "user_ptr": np.array([0, 2, 4]),
                "user": 0,
                "n": 2,
                "seen": np.array([0]),
            },
            sizes=("n",),
            callables=("search",),
        ),
        Entry(
            "ranking_metrics",
            host.ranking_metrics,
            lambda: {
                "model": recommender(),
                "X_train": X,
                "X_test": X,
                "X_val": X,
                "ks": (3,),
                "metrics": ("ndcg",),
                "protocol": "standard",
                "beta": 0.1,
                "groups": None,
            },
            says={"X_train": ("X_test",)},  # whose shape the other's is held against
        ),
        Entry(
            "stack_views",
            host.stack_views,
            lambda: {"views": [VIEWS[:, :3], VIEWS[:, 3:]], "mask": np.ones((24, 2), bool)},
            says={"views": ("view",)},
        ),
    ]
