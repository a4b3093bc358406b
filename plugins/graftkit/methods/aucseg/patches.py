"""Cut a class out of a picture as a small patch, and write it into another.

A patch is what remains of the picture scaled by ``resize_ratio`` (colours bilinear, mask nearest) when it
is cropped to the class's bounding box: the scaled canvas itself is never made. It remembers its place in
that canvas, so that pasting follows the published law: the canvas is placed uniformly where it fits, and
with a ratio of 1 the object lands where it stood.

Source: AUCSeg (NeurIPS 2024), public code; specification sections 1.5, 1.8 and 3.4. Differs from the public
code: a copy, not a reference; the crop, not the picture; masks, not lists of pixels.

>>> import torch
>>> image, mask = torch.arange(16).reshape(1, 4, 4).byte(), torch.zeros(4, 4, dtype=torch.bool)
>>> mask[1, 1:3] = True
>>> cut_patch(image, mask, serial=0).image
tensor([[[5, 6]]], dtype=torch.uint8)
"""

from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

__all__ = ["Patch", "canvas_size", "cut_patch", "nearest_index", "write_patch"]


@dataclass(frozen=True)
class Patch:
    """A class's pixels, never changed once cut: image (c, h, w), mask (h, w), and their place."""

    image: Tensor
    mask: Tensor
    top: int
    left: int
    canvas: tuple[int, int]
    serial: int

    @property
    def nbytes(self) -> int:
        """Bytes of the two tensors."""
        return self.image.nbytes + self.mask.nbytes


def canvas_size(size: int, ratio: float) -> int:
    """Length of a scaled side.

    Parameters
    ----------
    size : int
        The side in pixels.
    ratio : float
        The scale.

    Returns
    -------
    int
        At least 1.
    """
    return max(int(size * ratio), 1)


def nearest_index(size: int, ratio: float) -> Tensor:
    """Source pixel of each pixel of a scaled side, nearest neighbour.

    Parameters
    ----------
    size : int
        The side in pixels.
    ratio : float
        The scale.

    Returns
    -------
    Tensor of shape (canvas_size(size, ratio),)
        int64 indices.
    """
    scaled = canvas_size(size, ratio)
    return torch.arange(scaled) * size // scaled


def cut_patch(image: Tensor, mask: Tensor, serial: int) -> Patch | None:
    """Copy the masked pixels of a picture, scaled and cropped.

    Parameters
    ----------
    image : Tensor of shape (c, H, W)
        The picture; it stays as it is.
    mask : Tensor of shape (H', W')
        The class's pixels on the scaled canvas (`nearest_index` of the label gives it).
    serial : int
        A number that grows with time.

    Returns
    -------
    Patch or None
        None where the mask is empty.
    """
    # A maximum of bytes is vectorised, torch's any() along a dimension is not.
    rows, columns = (mask.view(torch.uint8).amax(dim).nonzero().flatten() for dim in (1, 0))
    if not len(rows):
        return None
    box = slice(int(rows[0]), int(rows[-1]) + 1), slice(int(columns[0]), int(columns[-1]) + 1)
    height, width = mask.shape
    if (height, width) == tuple(image.shape[1:]):
        colours = image[:, box[0], box[1]].clone()
    else:
        colours = _bilinear(image, (height, width), box)
    # A slice would keep the whole canvas alive.
    return Patch(colours.cpu(), mask[box].clone().cpu(), box[0].start, box[1].start, (height, width), serial)


def write_patch(
    image: Tensor,
    label: Tensor,
    patch: Patch,
    cls: int,
    corner: tuple[int, int],
    protected: Tensor | None = None,
) -> int:
    """Write a patch's pixels into a picture and its labels, in place.

    Parameters
    ----------
    image : Tensor of shape (c, H, W)
        The picture that receives.
    label : Tensor of shape (H, W)
        Its labels.
    patch : Patch
        What is written.
    cls : int
        The class of the patch.
    corner : (int, int)
        Where the patch's canvas begins; what lies outside the picture is cut.
    protected : Tensor of shape (H, W) or None, default=None
        Boolean: pixels that stay.

    Returns
    -------
    int
        The number of pixels written.
    """
    top, left = corner[0] + patch.top, corner[1] + patch.left
    height = min(patch.mask.shape[0], label.shape[0] - top)
    width = min(patch.mask.shape[1], label.shape[1] - left)
    if height <= 0 or width <= 0:
        return 0
    mask = patch.mask[:height, :width].to(label.device)
    box = slice(top, top + height), slice(left, left + width)
    if protected is not None:
        mask = mask & ~protected[box]
    place = image[:, box[0], box[1]]
    place.copy_(torch.where(mask, patch.image[:, :height, :width].to(image.device), place))
    label[box].masked_fill_(mask, cls)
    return int(mask.sum())


@lru_cache(maxsize=32)
def _neighbours(size: int, scaled: int) -> tuple[Tensor, Tensor, Tensor]:
    """For each pixel of a scaled side: its two source pixels, and the second one's share (float64)."""
    centre = (torch.arange(scaled, dtype=torch.float64) + 0.5) * size / scaled - 0.5
    centre.clamp_(0, size - 1)  # beyond the outermost centres the border repeats
    first = centre.long()
    return first, (first + 1).clamp_(max=size - 1), centre - first


def _bilinear(image: Tensor, canvas: tuple[int, int], box: tuple[slice, slice]) -> Tensor:
    exact = torch.float64 if image.dtype == torch.float64 else torch.float32
    (y0, y1, fy), (x0, x1, fx) = (
        [t[part].to(image.device) for t in _neighbours(size, scaled)]
        for size, scaled, part in zip(image.shape[1:], canvas, box, strict=True)
    )
    # Rows first: only the source rows that the patch needs are read.
    rows = image.index_select(1, y0).to(exact)
    rows.lerp_(image.index_select(1, y1).to(exact), fy.to(exact)[:, None])
    colours = rows.index_select(2, x0).lerp_(rows.index_select(2, x1), fx.to(exact))
    if not image.is_floating_point():
        colours.round_()
    return colours.to(image.dtype)
