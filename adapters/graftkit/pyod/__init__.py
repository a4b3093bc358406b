"""graftkit for PyOD: detectors with 0/1 labels and larger-is-outlying scores."""

from graftkit.core.extras import require

require("pyod.models.base", extra="pyod", distribution="pyod", minimum="3.6.7")

from graftkit.pyod.rcpmod import RCPMODDetector  # noqa: E402  (the check above gives the better message)

__all__ = ["RCPMODDetector"]
