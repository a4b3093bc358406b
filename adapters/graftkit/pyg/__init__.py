"""graftkit for PyTorch Geometric: outlier exposure for any detector of out-of-distribution graphs."""

from graftkit.core.extras import require

require("torch_geometric.data", extra="pyg", distribution="torch-geometric", minimum="2.6")

from graftkit.methods.hgoe import BoundaryAwareOELoss, HGOEConfig, ood_metrics  # noqa: E402
from graftkit.pyg.hgoe_data import OutlierExposureDataset  # noqa: E402
from graftkit.pyg.hgoe_detectors import EnergyGIN, GOODDLite, GraphSVDD  # noqa: E402
from graftkit.pyg.hgoe_graphons import Graphon, GraphonMixup, estimate_graphon  # noqa: E402
from graftkit.pyg.hgoe_loader import OutlierExposureLoader  # noqa: E402
from graftkit.pyg.hgoe_training import (  # noqa: E402
    GraphOODDetector,
    fit_outlier_exposure,
    score_graphs,
)
from graftkit.pyg.hgoe_transforms import (  # noqa: E402
    HGOEAlignFeatures,
    HGOEHarmonize,
    HGOEMarkSource,
    HGOEStructuralEncoding,
)

__all__ = [
    "BoundaryAwareOELoss",
    "EnergyGIN",
    "GOODDLite",
    "GraphOODDetector",
    "GraphSVDD",
    "Graphon",
    "GraphonMixup",
    "HGOEAlignFeatures",
    "HGOEConfig",
    "HGOEHarmonize",
    "HGOEMarkSource",
    "HGOEStructuralEncoding",
    "OutlierExposureDataset",
    "OutlierExposureLoader",
    "estimate_graphon",
    "fit_outlier_exposure",
    "ood_metrics",
    "score_graphs",
]
