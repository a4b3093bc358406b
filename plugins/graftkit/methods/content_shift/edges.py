"""The control image of an input: its own edges, as a ControlNet trained on edges expects them.

Canny comes from OpenCV where that is installed; otherwise ask for ``"sobel"``, gradient magnitudes with
hysteresis. One never stands in for the other silently.

Source: the public code's Canny(100, 200), three equal channels; specification sections 1.4 and 3.2.

>>> import torch
>>> picture = torch.zeros(1, 3, 8, 8)
>>> picture[..., 4:] = 1
>>> edge_image(picture, "sobel")[0, 0, 2].tolist()
[0.0, 0.0, 0.0, 1.0, 1.0, 0.0, 0.0, 0.0]
"""

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from scipy import ndimage
from torch import Tensor

from graftkit.core.extras import require
from graftkit.core.validation import check_choice, check_number, raise_invalid

__all__ = ["edge_image"]


def edge_image(images: Tensor, method: str = "canny", low: float = 100.0, high: float = 200.0) -> Tensor:
    """Edges of each picture, 1 on an edge and 0 elsewhere.

    Parameters
    ----------
    images : Tensor of shape (N, 3, H, W)
        Pictures in [0, 1]; values outside are clipped.
    method : {"canny", "sobel"}, default="canny"
        OpenCV's Canny, or thresholds on Sobel's gradient magnitude without thinning.
    low, high : float, default=100.0, 200.0
        Hysteresis thresholds on the scale of pictures in 0 to 255: what exceeds `high`, and what exceeds
        `low` and hangs together with it.

    Returns
    -------
    Tensor of shape (N, 3, H, W)
        Three equal channels, of the pictures' type and device.

    Raises
    ------
    TypeError
        If `images` is no floating tensor.
    ValueError
        If shape or thresholds do not fit, or a value is not finite.
    ImportError
        If "canny" is asked for without OpenCV.
    """
    check_choice("method", method, ("canny", "sobel"))
    if not isinstance(images, Tensor) or not images.is_floating_point():
        raise_invalid("images", images, "a floating-point tensor in [0, 1]", error=TypeError)
    if images.ndim != 4 or images.shape[1] != 3:
        raise_invalid("images", images, "shape (N, 3, H, W)")
    if not bool(torch.isfinite(images).all()):
        raise_invalid("images", images, "finite values")
    check_number("low", low, low=0)
    check_number("high", high, low=low)
    pictures = (images.detach().float().clamp(0, 1) * 255).round().byte().permute(0, 2, 3, 1).cpu().numpy()
    find = _canny if method == "canny" else _sobel
    found = [find(picture, low, high) for picture in pictures]
    edges = np.stack(found) if found else np.zeros((0, *images.shape[2:]), dtype=bool)
    return torch.from_numpy(edges)[:, None].expand(-1, 3, -1, -1).to(images)


def _canny(picture: npt.NDArray[np.uint8], low: float, high: float) -> npt.NDArray[np.bool_]:
    cv2: Any = require("cv2", extra="mmseg", distribution="opencv-python-headless")
    return np.asarray(cv2.Canny(np.ascontiguousarray(picture), low, high) > 0)


def _sobel(picture: npt.NDArray[np.uint8], low: float, high: float) -> npt.NDArray[np.bool_]:
    grey = picture.astype(np.float64).mean(axis=2)
    strength = np.hypot(ndimage.sobel(grey, axis=0), ndimage.sobel(grey, axis=1))
    regions, count = ndimage.label(strength > low, structure=np.ones((3, 3)))
    strong = np.zeros(count + 1, dtype=bool)
    strong[np.unique(regions[strength > high])] = True
    strong[0] = False
    return np.asarray(strong[regions])
