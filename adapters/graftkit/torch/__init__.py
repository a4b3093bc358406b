"""graftkit for PyTorch: ``SSESAM``, the optimizer for long-tailed data, and what belongs to it."""

from graftkit.methods.sse_sam import (
    SSESAM,
    class_curvature,
    coupled_modules,
    frozen_running_stats,
    tail_classes_from_counts,
)

__all__ = ["SSESAM", "class_curvature", "coupled_modules", "frozen_running_stats", "tail_classes_from_counts"]
