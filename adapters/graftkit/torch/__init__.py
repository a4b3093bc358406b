"""graftkit for PyTorch: ``SSESAM`` for long-tailed data, AUCSeg's loss and bank, QEDG's audit."""

from graftkit.methods.aucseg import (
    PixelAUCLoss,
    TailMemoryBank,
    count_pixels,
    pixel_auc_loss,
    split_classes,
)
from graftkit.methods.qedg import QEDGAuditor, QEDGConfig, compare_defences
from graftkit.methods.sse_sam import (
    SSESAM,
    class_curvature,
    coupled_modules,
    frozen_running_stats,
    tail_classes_from_counts,
)

__all__ = [
    "PixelAUCLoss",
    "QEDGAuditor",
    "QEDGConfig",
    "SSESAM",
    "TailMemoryBank",
    "class_curvature",
    "compare_defences",
    "count_pixels",
    "coupled_modules",
    "frozen_running_stats",
    "pixel_auc_loss",
    "split_classes",
    "tail_classes_from_counts",
]
