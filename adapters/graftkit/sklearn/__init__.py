"""graftkit for scikit-learn: estimators that clone, pickle, search and pipeline like its own."""

from graftkit.methods.rcpmod.data import make_multiview_outliers
from graftkit.methods.rcpmod.views import stack_views
from graftkit.sklearn.rcpmod import RCPMOD
from graftkit.sklearn.rcpmod_display import RCPMODDisplay

__all__ = ["RCPMOD", "RCPMODDisplay", "make_multiview_outliers", "stack_views"]
