"""RCPMOD: outlier detection over partial multi-view data (Wang et al., ACM MM 2024).

The estimator is ``graftkit.sklearn.RCPMOD``. This package holds the algorithm; importing it does not
import torch, which only training (`graftkit.methods.rcpmod.training`) and the losses need.
"""

from graftkit.methods.rcpmod.fitting import fit_pairs
from graftkit.methods.rcpmod.model import Explanation, FittedPairs
from graftkit.methods.rcpmod.settings import PRESETS, Settings
from graftkit.methods.rcpmod.slicing import ViewLayout, is_view_collection
from graftkit.methods.rcpmod.thresholds import contamination_threshold, outlier_probability
from graftkit.methods.rcpmod.views import MultiViewData, read_views, stack_views

__all__ = [
    "Explanation",
    "FittedPairs",
    "MultiViewData",
    "PRESETS",
    "Settings",
    "ViewLayout",
    "contamination_threshold",
    "fit_pairs",
    "is_view_collection",
    "outlier_probability",
    "read_views",
    "stack_views",
]
