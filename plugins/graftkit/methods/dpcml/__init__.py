"""DPCML: collaborative metric learning with several vectors a user (Bao et al., NeurIPS 2022; TPAMI 2024).

The estimator is ``graftkit.sklearn.DPCML``. This package holds the algorithm.
"""

from graftkit.methods.dpcml.data import (
    MultiInterest,
    load_libcml_split,
    load_users_dat,
    make_multi_interest,
)
from graftkit.methods.dpcml.fitting import FitResult, fit_vectors
from graftkit.methods.dpcml.interests import Interest, explain_item
from graftkit.methods.dpcml.metrics import evaluate
from graftkit.methods.dpcml.neighbors import merge_neighbors
from graftkit.methods.dpcml.ranking import Ranker
from graftkit.methods.dpcml.settings import PRESETS, Settings
from graftkit.methods.dpcml.splitting import LeaveOneOut, PerUserRatioSplit, TemporalSplit
from graftkit.methods.dpcml.stopping import Stopping

__all__ = [
    "FitResult",
    "Interest",
    "LeaveOneOut",
    "MultiInterest",
    "PRESETS",
    "PerUserRatioSplit",
    "Ranker",
    "Settings",
    "Stopping",
    "TemporalSplit",
    "evaluate",
    "explain_item",
    "fit_vectors",
    "load_libcml_split",
    "load_users_dat",
    "make_multi_interest",
    "merge_neighbors",
]
