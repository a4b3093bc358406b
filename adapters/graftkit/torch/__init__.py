"""graftkit for PyTorch: ``SSESAM`` for long tails, AUCSeg for segmentation, EDGE for multi-label."""

from graftkit.methods.aucseg import (
    PixelAUCLoss,
    TailMemoryBank,
    count_pixels,
    pixel_auc_loss,
    split_classes,
)

# isort: off
from graftkit.methods.edge import (
    EDGELoss, EDGETerms, EnergyBoundedLoss, JointEnergy, JointEnergyPostprocessor,
    OEDatasetSelector, OutlierExposureBatcher, dilation_distance, energy_gap_loss, joint_energy,
    multilabel_map, none_probability, ood_labels, ood_metrics, overlapping_files, suggest_margin,
    tail_sweep,
)  # fmt: skip

# isort: on
from graftkit.methods.sse_sam import (
    SSESAM,
    class_curvature,
    coupled_modules,
    frozen_running_stats,
    tail_classes_from_counts,
)

__all__ = [
    "EDGELoss", "EDGETerms", "EnergyBoundedLoss", "JointEnergy", "JointEnergyPostprocessor",
    "OEDatasetSelector", "OutlierExposureBatcher", "PixelAUCLoss", "SSESAM", "TailMemoryBank",
    "class_curvature", "count_pixels", "coupled_modules", "dilation_distance", "energy_gap_loss",
    "frozen_running_stats", "joint_energy", "multilabel_map", "none_probability", "ood_labels",
    "ood_metrics", "overlapping_files", "pixel_auc_loss", "split_classes", "suggest_margin",
    "tail_classes_from_counts", "tail_sweep",
]  # fmt: skip
