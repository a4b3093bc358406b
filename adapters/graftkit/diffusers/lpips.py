"""LPIPS as a distance of the guideline, by torchmetrics.

Source: Zhang et al., CVPR 2018, arXiv 1801.03924; the network and its weights are torchmetrics' and
torchvision's, which fetches those of the network once.

>>> pipe.gate(images, techniques, metrics=("lpips", "mse"))  # doctest: +SKIP
"""

from typing import Any

import torch
from torch import Tensor

from graftkit.core.extras import require
from graftkit.core.validation import raise_invalid

__all__ = ["LPIPS"]

SMALLEST = 32  # pixels a side that the network's pooling leaves something of


class LPIPS:
    """Learned perceptual distance of pictures in [0, 1], AlexNet's, an image at a time.

    Raises
    ------
    ImportError
        Without torchmetrics or torchvision.
    """

    __name__ = "lpips"

    def __init__(self) -> None:
        require("torchvision", extra="timm")
        image: Any = require("torchmetrics.image.lpip", extra="lightning", distribution="torchmetrics")
        with torch.random.fork_rng(devices=[]):  # layers are drawn before weights are read
            self.metric = image.LearnedPerceptualImagePatchSimilarity("alex", normalize=True).eval()

    def __call__(self, images: Tensor, others: Tensor) -> Tensor:
        """Distances of shape (B,) of pictures of shape (B, 3, H, W)."""
        if images.shape[1] != 3 or min(images.shape[-2:]) < SMALLEST:
            raise_invalid("images", images, f"3 channels, {SMALLEST} x {SMALLEST} pixels or more, for lpips")
        metric = self.metric.to(images.device)
        with torch.no_grad():
            # torchmetrics before 1.9 cannot leave the mean over a batch out.
            found = [metric(one[None], other[None]) for one, other in zip(images, others, strict=True)]
        metric.reset()
        return torch.stack(found).reshape(len(images))
