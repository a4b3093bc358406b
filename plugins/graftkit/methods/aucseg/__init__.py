"""AUCSeg: a pixel-level AUC loss and a memory bank of tail classes (Han et al., NeurIPS 2024)."""

from graftkit.methods.aucseg.loss import PixelAUCLoss, pixel_auc_loss

__all__ = ["PixelAUCLoss", "pixel_auc_loss"]
