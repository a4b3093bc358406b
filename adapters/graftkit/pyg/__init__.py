"""graftkit for PyTorch Geometric: outlier exposure for any detector of out-of-distribution graphs."""

from graftkit.core.extras import require

require("torch_geometric.data", extra="pyg", distribution="torch-geometric", minimum="2.7")

# ruff: noqa: E402  (the check above gives the better message)
from graftkit.methods.hgoe import BoundaryAwareOELoss, HGOEConfig, ood_metrics
from graftkit.pyg.hgoe_data import OutlierExposureDataset
from graftkit.pyg.hgoe_detector import GraphOODDetector
from graftkit.pyg.hgoe_energy import EnergyGIN
from graftkit.pyg.hgoe_estimator import GraphOutlierDetector
from graftkit.pyg.hgoe_goodd import GOODDLite
from graftkit.pyg.hgoe_graphons import Graphon, estimate_graphon
from graftkit.pyg.hgoe_harmonize import HGOEHarmonize
from graftkit.pyg.hgoe_loader import OutlierExposureLoader
from graftkit.pyg.hgoe_mixup import GraphonMixup
from graftkit.pyg.hgoe_svdd import GraphSVDD
from graftkit.pyg.hgoe_training import fit_outlier_exposure, score_graphs
from graftkit.pyg.hgoe_transforms import (
    HGOEAlignFeatures,
    HGOEMarkSource,
    HGOEStructuralEncoding,
)

# fmt: off
__all__ = [
    "BoundaryAwareOELoss", "EnergyGIN", "GOODDLite", "GraphOODDetector", "GraphOutlierDetector", "GraphSVDD",
    "Graphon", "GraphonMixup", "HGOEAlignFeatures", "HGOEConfig", "HGOEHarmonize", "HGOEMarkSource",
    "HGOEStructuralEncoding", "OutlierExposureDataset", "OutlierExposureLoader", "estimate_graphon",
    "fit_outlier_exposure", "ood_metrics", "score_graphs",
]
# fmt: on
