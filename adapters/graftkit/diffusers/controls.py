"""Control images made from the very inputs, and the negative control of a technique.

>>> negative_control(Technique("words", prompt=["a horse", "a street"]), batch=2).prompt
('a street', 'a horse')
"""

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from graftkit.core.validation import raise_invalid
from graftkit.methods.content_shift import Technique, edge_image

__all__ = ["RolledEdges", "control_images", "negative_control"]


@dataclass(frozen=True)
class RolledEdges:
    """Edges of another image of the batch; equal for equal arguments, so that they are made once."""

    method: str
    shift: int

    def __call__(self, pixels: Tensor) -> Tensor:
        """Edges of shape (N, 3, H, W) of pictures of that shape."""
        return edge_image(pixels.roll(self.shift, 0), self.method)


def control_images(technique: Technique, pixels: Tensor) -> list[Tensor] | None:
    """Control images in [0, 1], one tensor of shape (1 or N, 3, H, W) a ControlNet, of the pictures' size.

    Raises
    ------
    ValueError
        If a function returns something else, or values are not in [0, 1].
    """
    found = []
    for control in technique.controls:
        if isinstance(control, str):
            found.append(edge_image(pixels, control.removeprefix("input-")))
            continue
        label = f"technique {technique.name!r}: controlnet_image" + ("()" if callable(control) else "")
        image = control(pixels) if callable(control) else control
        expected = f"a floating-point tensor of shape (1 or {len(pixels)}, 3, H, W)"
        if not isinstance(image, Tensor) or not image.is_floating_point():
            raise_invalid(label, image, expected)
        if image.ndim != 4 or image.shape[1] != 3 or len(image) not in (1, len(pixels)):
            raise_invalid(label, image, expected)
        if not bool(torch.isfinite(image).all()) or image.min() < 0 or image.max() > 1:
            raise_invalid(label, image, "finite values in [0, 1]")
        image = image.to(pixels)
        if image.shape[-2:] != pixels.shape[-2:]:
            image = functional.interpolate(
                image, pixels.shape[-2:], mode="bilinear", antialias=True, align_corners=False
            ).clamp(0, 1)
        found.append(image)
    return found or None


def negative_control(technique: Technique, batch: int) -> Technique | None:
    """The technique with every image's own inputs handed to another image; None if it has none.

    Raises
    ------
    ValueError
        If there is one image only.
    """
    own: dict[str, Any] = {}
    shift = batch // 2

    def rolled(control: Any) -> Any:
        if isinstance(control, Tensor):
            return control.roll(shift, 0) if len(control) > 1 else control
        if isinstance(control, str):
            return RolledEdges(control.removeprefix("input-"), shift)
        return lambda pixels: control(pixels.roll(shift, 0))

    if any(not isinstance(control, Tensor) or len(control) > 1 for control in technique.controls):
        own["controlnet_image"] = tuple(rolled(control) for control in technique.controls)
    if isinstance(technique.prompt, tuple) and len(set(technique.prompt)) > 1:
        own["prompt"] = technique.prompt[shift:] + technique.prompt[:shift]
    embeds = technique.ip_adapter_image_embeds
    if embeds is not None and any(len(one) > 1 for one in embeds):
        own["ip_adapter_image_embeds"] = tuple(one.roll(shift, 0) for one in embeds)
    if not own:
        return None
    if batch < 2:
        raise_invalid("images", batch, "at least 2 images for negative controls")
    return replace(technique, name=f"{technique.name} (control)", **own)
