"""AUCSeg: a pixel-level AUC loss and a memory bank of tail classes (Han et al., NeurIPS 2024).

``graftkit.torch`` offers these names; ``graftkit.mmseg`` the loss, the hook and the metric for
mmsegmentation.
"""

from graftkit.methods.aucseg.bank import TailMemoryBank
from graftkit.methods.aucseg.frequency import count_pixels, split_classes
from graftkit.methods.aucseg.loss import PixelAUCLoss, pixel_auc_loss
from graftkit.methods.aucseg.ranking import one_vs_one_auc

__all__ = [
    "PixelAUCLoss",
    "TailMemoryBank",
    "count_pixels",
    "one_vs_one_auc",
    "pixel_auc_loss",
    "split_classes",
]
