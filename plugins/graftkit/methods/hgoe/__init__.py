"""HGOE: hybrid graph outlier exposure (He et al., ACM MM 2024), over tensors.

PyTorch Geometric's form is ``graftkit.pyg``. This follows the released code (`jweihe/HGOE@2cf8c82`), not the
paper's equations and tables, which could not be read; each module says what differs.
"""

from graftkit.methods.hgoe.adjacency import aligned_mean
from graftkit.methods.hgoe.drawing import draw_one, realise
from graftkit.methods.hgoe.encodings import structural_encoding
from graftkit.methods.hgoe.exposure import ExposurePlan, plan_exposure
from graftkit.methods.hgoe.graphons import usvt
from graftkit.methods.hgoe.graphs import PackedGraphs
from graftkit.methods.hgoe.losses import BoundaryAwareOELoss, boundary_aware_loss
from graftkit.methods.hgoe.metrics import ood_metrics
from graftkit.methods.hgoe.mixup import Mixtures
from graftkit.methods.hgoe.sampling import sample_mixtures
from graftkit.methods.hgoe.settings import HGOEConfig

__all__ = [
    "BoundaryAwareOELoss",
    "ExposurePlan",
    "HGOEConfig",
    "Mixtures",
    "PackedGraphs",
    "aligned_mean",
    "boundary_aware_loss",
    "draw_one",
    "ood_metrics",
    "plan_exposure",
    "realise",
    "sample_mixtures",
    "structural_encoding",
    "usvt",
]
