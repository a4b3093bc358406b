"""graftkit for OpenMMLab: modules registered in mmengine's root registries on import.

SSE-SAM and AUCSeg's loss and bank need mmengine only; the metrics are there where mmseg is.
"""

from importlib import util

from graftkit.core.extras import require

require("mmengine.optim", extra="mmseg", distribution="onedl-mmengine", minimum="0.10.10")

from graftkit.mmseg.aucseg import AUCSegLoss  # noqa: E402  (the check gives the better message)
from graftkit.mmseg.aucseg_bank import TMemoryBankHook  # noqa: E402
from graftkit.mmseg.diffusion_feature import DiffusionFeatureBackbone  # noqa: E402
from graftkit.mmseg.sse_sam import SSESAM, SSESAMOptimWrapper  # noqa: E402

__all__ = ["AUCSegLoss", "DiffusionFeatureBackbone", "SSESAM", "SSESAMOptimWrapper", "TMemoryBankHook"]

if util.find_spec("mmseg") is not None:
    require("mmseg.evaluation", extra="mmseg", distribution="onedl-mmsegmentation", minimum="1.4")
    from graftkit.mmseg.aucseg_metric import GroupIoUMetric
    from graftkit.mmseg.aucseg_pixel_auc import PixelAUCMetric

    __all__ = [
        "AUCSegLoss",
        "DiffusionFeatureBackbone",
        "GroupIoUMetric",
        "PixelAUCMetric",
        "SSESAM",
        "SSESAMOptimWrapper",
        "TMemoryBankHook",
    ]
