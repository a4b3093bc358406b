"""graftkit for timm: ``create_optimizer_v2(model, opt="ssesam", ...)``, ``wrap_timm("resnet50", tree)``.

``MultiLabelClassificationTask(model, criterion=EDGELoss(...))`` for unknown-aware multi-label training.
timm's checkpoints hold the model alone: call ``criterion.set_epoch(epoch)`` every epoch (or the batcher's).
"""

from graftkit.core.extras import require

require("timm.optim", extra="timm", distribution="timm", minimum="1.0.31")

import graftkit.timm.bilt_entry  # noqa: E402, F401  (registers the model "bilt")
from graftkit.methods.bilt import (  # noqa: E402  (the check above gives the better message)
    BiLTLoss,
    HierarchicalHead,
    HierarchicalMetrics,
    LabelTree,
)
from graftkit.methods.edge import (  # noqa: E402
    EDGELoss,
    JointEnergy,
    OEDatasetSelector,
    OutlierExposureBatcher,
    multilabel_map,
    ood_metrics,
    tail_sweep,
)
from graftkit.timm.bilt import HierarchicalClassifier, wrap_timm  # noqa: E402
from graftkit.timm.edge import pooled_features  # noqa: E402
from graftkit.timm.sse_sam import SSESAM  # noqa: E402

__all__ = [
    "BiLTLoss",
    "EDGELoss",
    "HierarchicalClassifier",
    "HierarchicalHead",
    "HierarchicalMetrics",
    "JointEnergy",
    "LabelTree",
    "OEDatasetSelector",
    "OutlierExposureBatcher",
    "SSESAM",
    "multilabel_map",
    "ood_metrics",
    "pooled_features",
    "tail_sweep",
    "wrap_timm",
]
