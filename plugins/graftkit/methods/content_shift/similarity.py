"""How far a reconstruction is from the image: distances for the guideline.

A distance is 0 for equal pictures and larger the less alike they are, so that a *gain* can be formed from two
of them. PSNR and SSIM grow with likeness; the distances named after them are the root mean square error
(which PSNR is a decreasing function of) and 1 - SSIM. Any callable ``distance(images, reconstructions)``
that returns one number an image serves too, LPIPS among them.

Specification section 1.2: the paper compares by eye and names no measure.

>>> import torch
>>> a = torch.zeros(2, 3, 16, 16)
>>> DISTANCES["mse"](a, a + 0.5)
tensor([0.2500, 0.2500])
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from graftkit.core.validation import check_choice, raise_invalid

__all__ = ["DISTANCES", "edge_distance", "image_distance", "psnr", "ssim"]

Distance = Callable[[Tensor, Tensor], Tensor]


def psnr(images: Tensor, others: Tensor, value_range: float = 1.0) -> Tensor:
    """Peak signal-to-noise ratio in decibels.

    Parameters
    ----------
    images, others : Tensor of shape (B, c, H, W)
        Pictures.
    value_range : float, default=1.0
        Largest less smallest possible value.

    Returns
    -------
    Tensor of shape (B,)
        Infinite for equal pictures.
    """
    return 10 * torch.log10(value_range**2 / _mse(images, others))


def ssim(images: Tensor, others: Tensor, value_range: float = 1.0) -> Tensor:
    """Structural similarity with a uniform window of 7 pixels (Wang et al., 2004), averaged over channels.

    Parameters
    ----------
    images, others : Tensor of shape (B, c, H, W)
        Pictures of at least 7 x 7 pixels.
    value_range : float, default=1.0
        Largest less smallest possible value.

    Returns
    -------
    Tensor of shape (B,)
        In [-1, 1].

    Raises
    ------
    ValueError
        If a picture is smaller than the window.
    """
    size = 7
    if min(images.shape[-2:]) < size:
        raise_invalid("images", images, f"at least {size} x {size} pixels for ssim")
    c1, c2 = (0.01 * value_range) ** 2, (0.03 * value_range) ** 2
    mean_a, mean_b = F.avg_pool2d(images, size, 1), F.avg_pool2d(others, size, 1)
    n = size * size
    unbiased = n / (n - 1)
    var_a = unbiased * (F.avg_pool2d(images * images, size, 1) - mean_a * mean_a)
    var_b = unbiased * (F.avg_pool2d(others * others, size, 1) - mean_b * mean_b)
    cov = unbiased * (F.avg_pool2d(images * others, size, 1) - mean_a * mean_b)
    top = (2 * mean_a * mean_b + c1) * (2 * cov + c2)
    return (top / ((mean_a**2 + mean_b**2 + c1) * (var_a + var_b + c2))).mean((1, 2, 3))


def edge_distance(images: Tensor, others: Tensor) -> Tensor:
    """Mean absolute difference of gradient magnitudes (forward differences of the channels' mean).

    Parameters
    ----------
    images, others : Tensor of shape (B, c, H, W)
        Pictures of at least 2 x 2 pixels.

    Returns
    -------
    Tensor of shape (B,)
        0 or more.

    Raises
    ------
    ValueError
        If a picture has a single row or column.
    """
    if min(images.shape[-2:]) < 2:
        raise_invalid("images", images, "at least 2 x 2 pixels for edge")

    def magnitude(pictures: Tensor) -> Tensor:
        grey = pictures.mean(1)
        down = grey[:, 1:, :-1] - grey[:, :-1, :-1]
        right = grey[:, :-1, 1:] - grey[:, :-1, :-1]
        return torch.hypot(down, right)

    return (magnitude(images) - magnitude(others)).abs().mean((1, 2))


def image_distance(metric: str | Distance, images: Tensor, others: Tensor) -> Tensor:
    """Distance of each picture to its counterpart, checked.

    Parameters
    ----------
    metric : {"mse", "psnr", "ssim", "edge"} or callable
        A name of `DISTANCES`, or ``metric(images, others)`` that returns shape (B,), smaller for more alike.
    images, others : Tensor of shape (B, c, H, W)
        Pictures with values in [0, 1].

    Returns
    -------
    Tensor of shape (B,)
        In float64, on the CPU.

    Raises
    ------
    TypeError
        If `metric` is neither a name nor callable, or returns no tensor.
    ValueError
        If shapes differ, or the metric returns something else than one finite number an image.
    """
    if images.shape != others.shape or images.ndim != 4:
        raise ValueError(
            f"images: expected two batches of one shape (B, c, H, W), got {tuple(images.shape)} and "
            f"{tuple(others.shape)}"
        )
    if not callable(metric):
        check_choice("metric", metric, tuple(DISTANCES))
    name = metric_name(metric)
    found: Any = (metric if callable(metric) else DISTANCES[metric])(images.float(), others.float())
    if not isinstance(found, Tensor):
        raise_invalid(f"metric {name!r}", found, "a tensor of shape (B,)", error=TypeError)
    values: Tensor = found.detach().double().cpu()
    # LPIPS and its like return (B, 1, 1, 1).
    if values.numel() != len(images) or not bool(torch.isfinite(values).all()):
        raise_invalid(f"metric {name!r}", values, f"{len(images)} finite numbers, one an image")
    return values.reshape(len(images))


def metric_name(metric: str | Distance) -> str:
    """The column's heading: the name, or what a callable is called."""
    return metric if isinstance(metric, str) else getattr(metric, "__name__", type(metric).__name__)


def _mse(images: Tensor, others: Tensor) -> Tensor:
    return (images - others).square().flatten(1).mean(1)


DISTANCES: dict[str, Distance] = {
    "mse": _mse,
    "psnr": lambda images, others: _mse(images, others).sqrt(),
    "ssim": lambda images, others: 1 - ssim(images, others),
    "edge": edge_distance,
}
