"""SSE-SAM: stage-wise sharpness-aware minimisation for long-tailed data (AAAI 2025, arXiv 2412.13715)."""

from graftkit.methods.sse_sam.classes import tail_classes_from_counts
from graftkit.methods.sse_sam.coupling import coupled_modules, frozen_running_stats
from graftkit.methods.sse_sam.curvature import class_curvature
from graftkit.methods.sse_sam.optimizer import SSESAM

__all__ = ["SSESAM", "class_curvature", "coupled_modules", "frozen_running_stats", "tail_classes_from_counts"]
