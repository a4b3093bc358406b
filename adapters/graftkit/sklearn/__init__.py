"""graftkit for scikit-learn: estimators that clone, pickle, search and pipeline like its own."""

from graftkit.methods.dpcml.data import load_libcml_split, load_users_dat, make_multi_interest
from graftkit.methods.dpcml.interests import merge_neighbors
from graftkit.methods.dpcml.splitting import LeaveOneOut, PerUserRatioSplit, TemporalSplit
from graftkit.methods.rcpmod.data import make_multiview_outliers
from graftkit.methods.rcpmod.views import stack_views
from graftkit.sklearn.dense_probe import DenseProbe
from graftkit.sklearn.dpcml import DPCML
from graftkit.sklearn.dpcml_display import DPCMLDisplay
from graftkit.sklearn.dpcml_selection import cross_validate_ranking, make_ranking_scorer, ranking_metrics
from graftkit.sklearn.rcpmod import RCPMOD
from graftkit.sklearn.rcpmod_display import RCPMODDisplay

__all__ = [
    "DPCML",
    "DPCMLDisplay",
    "DenseProbe",
    "LeaveOneOut",
    "PerUserRatioSplit",
    "RCPMOD",
    "RCPMODDisplay",
    "TemporalSplit",
    "cross_validate_ranking",
    "load_libcml_split",
    "load_users_dat",
    "make_multi_interest",
    "make_multiview_outliers",
    "make_ranking_scorer",
    "merge_neighbors",
    "ranking_metrics",
    "stack_views",
]
