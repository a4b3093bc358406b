"""graftkit for timm: ``create_optimizer_v2(model, opt="ssesam", ...)`` after importing this module."""

from graftkit.core.extras import require

require("timm.optim", extra="timm", distribution="timm", minimum="1.0.15")

from graftkit.timm.sse_sam import SSESAM  # noqa: E402  (the check above gives the better message)

__all__ = ["SSESAM"]
