"""graftkit for timm: ``create_optimizer_v2(model, opt="ssesam", ...)`` after importing this module.

``MultiLabelClassificationTask(model, criterion=EDGELoss(...))`` for unknown-aware multi-label training.
"""

from graftkit.core.extras import require

require("timm.optim", extra="timm", distribution="timm", minimum="1.0.15")

from graftkit.methods.edge import (  # noqa: E402  (the check above gives the better message)
    EDGELoss,
    JointEnergy,
    OEDatasetSelector,
    OutlierExposureBatcher,
    multilabel_map,
    ood_metrics,
    tail_sweep,
)
from graftkit.timm.edge import pooled_features  # noqa: E402
from graftkit.timm.sse_sam import SSESAM  # noqa: E402

__all__ = [
    "EDGELoss",
    "JointEnergy",
    "OEDatasetSelector",
    "OutlierExposureBatcher",
    "SSESAM",
    "multilabel_map",
    "ood_metrics",
    "pooled_features",
    "tail_sweep",
]
