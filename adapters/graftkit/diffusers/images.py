"""From pictures to latents: reading, resizing, encoding; nothing is guessed and nothing is drawn unseen.

>>> pixels = read_images([picture], unit=64, channels=3)  # doctest: +SKIP
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from diffusers.image_processor import VaeImageProcessor
from graftkit.core.validation import check_choice, check_integer, raise_invalid
from graftkit.diffusers.taps import every_module

__all__ = ["encode_images", "evaluating", "read_images"]

RESIZE_MODES = ("default", "fill", "crop", "error")


def read_images(
    image: Any,
    *,
    unit: int,
    channels: int,
    height: int | None = None,
    width: int | None = None,
    resize_mode: str = "default",
    name: str = "image",
) -> Tensor:
    """Pictures as a tensor in [-1, 1] whose sides are multiples of `unit`.

    Parameters
    ----------
    image : PIL image, array of shape (B, H, W, C), tensor of shape (B, C, H, W), or a list of these
        Values in [0, 1], or integers in 0..255.
    unit : int
        What sides must be divisible by.
    channels : int
        1 or 3.
    height, width : int or None
        The size to resize to; None keeps the picture's own, rounded down to `unit`.
    resize_mode : {"default", "fill", "crop", "error"}
        As diffusers' image processors; "error" refuses what would have to be resized.
    name : str
        The argument's name in messages.

    Raises
    ------
    TypeError
        If it is no picture.
    ValueError
        If it is empty, not finite, out of range, of mixed sizes, or its size is refused.
    """
    check_choice("resize_mode", resize_mode, RESIZE_MODES)
    pictures = image if isinstance(image, list | tuple) else [image]
    if not len(pictures):
        raise_invalid(name, image, "at least one picture, the batch is empty")
    if all(hasattr(picture, "convert") for picture in pictures):
        tensor = _from_pil(pictures, unit, channels, height, width, resize_mode, name)
    else:
        tensor = _stacked([_from_array(picture, channels, name) for picture in pictures], height, width, name)
    if not tensor.numel():
        raise_invalid(name, image, "at least one picture of one pixel, the batch is empty")
    if not torch.isfinite(tensor).all():
        raise_invalid(name, image, "finite values")
    if tensor.min() < 0 or tensor.max() > 1:
        raise_invalid(name, image, f"values in [0, 1] (they span {tensor.min():.3g} to {tensor.max():.3g})")
    size = _size((tensor.shape[-2], tensor.shape[-1]), unit, height, width, resize_mode, name)
    if tuple(tensor.shape[-2:]) != size:
        tensor = _resized(tensor, size)
    return 2 * tensor.clamp(0, 1) - 1


def _from_pil(
    pictures: Any, unit: int, channels: int, height: int | None, width: int | None, mode: str, name: str
) -> Tensor:
    own = {picture.size for picture in pictures}
    if len(own) > 1 and (height is None or width is None):
        raise_invalid(name, sorted(own), "pictures of one size, or height and width to resize to")
    first = pictures[0].size
    rows, columns = _size((first[1], first[0]), unit, height, width, mode, name)
    processor = VaeImageProcessor(vae_scale_factor=unit)
    colour = [picture.convert("L" if channels == 1 else "RGB") for picture in pictures]
    same = own == {(columns, rows)}
    how = "default" if mode == "error" else mode
    sized = colour if same else [processor.resize(c, rows, columns, resize_mode=how) for c in colour]
    stacked = np.stack([np.asarray(c, dtype=np.float32).reshape(rows, columns, channels) for c in sized])
    return torch.from_numpy(stacked / 255).permute(0, 3, 1, 2)


def _from_array(picture: Any, channels: int, name: str) -> Tensor:
    if isinstance(picture, np.ndarray):
        if picture.dtype.kind not in "buif":
            raise_invalid(name, picture, "floats in [0, 1] or uint8", error=TypeError)
        # A copy where the array is read-only, which torch warns of.
        tensor = torch.from_numpy(np.require(picture, requirements=("C", "W")))
        tensor = tensor.permute(0, 3, 1, 2) if tensor.ndim == 4 else tensor
        tensor = tensor.permute(2, 0, 1)[None] if tensor.ndim == 3 else tensor
    elif isinstance(picture, Tensor):
        tensor = picture[None] if picture.ndim == 3 else picture
    else:
        raise_invalid(name, picture, "a PIL image, an array, a tensor, or a list of them", error=TypeError)
    if tensor.ndim != 4 or tensor.shape[1] != channels:
        raise_invalid(
            name,
            picture,
            f"{channels} channels: a tensor (B, {channels}, H, W) or array (B, H, W, {channels})",
        )
    if tensor.dtype == torch.uint8:
        return tensor.float() / 255
    if not tensor.is_floating_point():
        raise_invalid(name, picture, "floats in [0, 1] or uint8", error=TypeError)
    return tensor if tensor.dtype == torch.float64 else tensor.float()


def _stacked(parts: list[Tensor], height: int | None, width: int | None, name: str) -> Tensor:
    sizes = {tuple(part.shape[-2:]) for part in parts}
    if len(sizes) > 1:
        if height is None or width is None:
            raise_invalid(name, sorted(sizes), "pictures of one size, or height and width to resize to")
        parts = [_resized(part, (height, width)) if part.numel() else part[..., :0, :0] for part in parts]
    return torch.cat(parts)


def _resized(tensor: Tensor, size: tuple[int, int]) -> Tensor:
    return functional.interpolate(tensor, size, mode="bilinear", antialias=True, align_corners=False)


def _size(
    own: tuple[int, int], unit: int, height: int | None, width: int | None, mode: str, name: str
) -> tuple[int, int]:
    sides = []
    for side, given, label in ((own[0], height, "height"), (own[1], width, "width")):
        asked = side if given is None else check_integer(label, given, low=1)
        nearest = max(unit, round(asked / unit) * unit)
        if asked % unit and (mode == "error" or given is not None):
            raise_invalid(
                f"{name} {label}", asked, f"a size divisible by {unit}", fix=f"The nearest is {nearest}"
            )
        sides.append(asked if asked % unit == 0 else max(unit, asked // unit * unit))
    return sides[0], sides[1]


def encode_images(vae: Any, pixels: Tensor, *, mode: str = "mode", generator: Any = None) -> Tensor:
    """Scaled latents of pictures in [-1, 1].

    The mode of the VAE's distribution is reproducible; ``"sample"`` draws from it, as the published code
    does.
    """
    check_choice("latent_mode", mode, ("mode", "sample"))
    upcast = vae.dtype == torch.float16 and bool(getattr(vae.config, "force_upcast", False))
    with torch.no_grad():
        try:
            if upcast:  # some VAEs overflow in half precision
                vae.to(torch.float32)
            encoded = vae.encode(pixels.to(device=_device_of(vae), dtype=vae.dtype))
        finally:
            if upcast:
                vae.to(torch.float16)
    if hasattr(encoded, "latent_dist"):
        distribution = encoded.latent_dist
        latents = distribution.mode() if mode == "mode" else distribution.sample(generator)
    else:
        latents = encoded.latents
    scale = float(getattr(vae.config, "scaling_factor", None) or 1.0)
    mean, std = (getattr(vae.config, key, None) for key in ("latents_mean", "latents_std"))
    if mean is not None and std is not None:
        shift = torch.as_tensor(mean, dtype=latents.dtype, device=latents.device).view(1, -1, 1, 1)
        spread = torch.as_tensor(std, dtype=latents.dtype, device=latents.device).view(1, -1, 1, 1)
        scaled: Tensor = (latents - shift) * scale / spread
        return scaled
    moved: Tensor = (latents - float(getattr(vae.config, "shift_factor", None) or 0.0)) * scale
    return moved


def _device_of(vae: Any) -> torch.device:
    """Where a VAE will be while it encodes: with offloading its weights are elsewhere until then."""
    for module in every_module(vae):
        device = getattr(vars(module).get("_hf_hook"), "execution_device", None)
        if device is not None:
            return torch.device(device)
    own: torch.device = vae.device  # of group offloading too
    return own


@contextmanager
def evaluating(*modules: nn.Module | None) -> Iterator[None]:
    """Evaluation mode for a while; every submodule gets its own mode back."""
    given = [module for module in modules if isinstance(module, nn.Module)]
    training = [m for module in given for m in every_module(module) if m.training]
    try:
        for module in training:
            module.training = False
        yield
    finally:
        for module in training:
            module.training = True
