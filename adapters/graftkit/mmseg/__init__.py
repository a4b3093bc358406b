"""graftkit for OpenMMLab: modules registered in mmengine's root registries on import."""

from graftkit.core.extras import require

require("mmengine.optim", extra="mmseg", distribution="onedl-mmengine", minimum="0.10.7")

from graftkit.mmseg.sse_sam import SSESAM, SSESAMOptimWrapper  # noqa: E402  (the check gives the better message)

__all__ = ["SSESAM", "SSESAMOptimWrapper"]
