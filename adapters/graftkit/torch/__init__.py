"""graftkit for PyTorch: ``SSESAM`` for long-tailed data, AUCSeg's parts, BiLT's head over label trees."""

from graftkit.methods.aucseg import (
    PixelAUCLoss,
    TailMemoryBank,
    count_pixels,
    pixel_auc_loss,
    split_classes,
)
from graftkit.methods.bilt import BiLTLoss, HierarchicalHead, HierarchicalMetrics, LabelTree
from graftkit.methods.sse_sam import (
    SSESAM,
    class_curvature,
    coupled_modules,
    frozen_running_stats,
    tail_classes_from_counts,
)

__all__ = [
    "BiLTLoss",
    "HierarchicalHead",
    "HierarchicalMetrics",
    "LabelTree",
    "PixelAUCLoss",
    "SSESAM",
    "TailMemoryBank",
    "class_curvature",
    "count_pixels",
    "coupled_modules",
    "frozen_running_stats",
    "pixel_auc_loss",
    "split_classes",
    "tail_classes_from_counts",
]
