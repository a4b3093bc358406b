"""graftkit for timm: ``create_optimizer_v2(model, opt="ssesam", ...)``, ``wrap_timm("resnet50", tree)``."""

from graftkit.core.extras import require

require("timm.optim", extra="timm", distribution="timm", minimum="1.0.15")

import graftkit.timm.bilt_entry  # noqa: E402, F401  (registers the model "bilt")
from graftkit.methods.bilt import (  # noqa: E402
    BiLTLoss,
    HierarchicalHead,
    HierarchicalMetrics,
    LabelTree,
)
from graftkit.timm.bilt import HierarchicalClassifier, wrap_timm  # noqa: E402
from graftkit.timm.sse_sam import SSESAM  # noqa: E402  (the check above gives the better message)

__all__ = [
    "BiLTLoss",
    "HierarchicalClassifier",
    "HierarchicalHead",
    "HierarchicalMetrics",
    "LabelTree",
    "SSESAM",
    "wrap_timm",
]
