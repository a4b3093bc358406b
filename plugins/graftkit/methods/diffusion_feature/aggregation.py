"""Feature maps of several resolutions, resized to one grid and concatenated along channels.

Source: arXiv 2410.03558, section 5 and appendix C: bilinear resizing, then concatenation in the order of
the request. Each map keeps its own dtype while it is resized; the widest one decides the result's, unless
`dtype` is given.

>>> maps = {"a": torch.ones(1, 2, 4, 4), "b": torch.ones(1, 3, 8, 8)}
>>> FeatureAggregator("max")(maps).shape
torch.Size([1, 5, 8, 8])
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from graftkit.core.validation import check_choice, check_integer, raise_invalid

__all__ = ["FeatureAggregator", "normalize_map", "resize_map"]

MODES = ("bilinear", "nearest")
NORMS = (None, "l2", "standard")


class FeatureAggregator(nn.Module):
    """Resize every map to one grid and concatenate them.

    Parameters
    ----------
    size : int, "max" or (int, int), default=128
        The grid: a square, the largest one among the maps, or rows and columns.
    mode : {"bilinear", "nearest"}, default="bilinear"
        How to resize.
    normalize : {None, "l2", "standard"}, default=None
        Per map before resizing: nothing; unit length of each position's channel vector; zero mean and unit
        variance of each channel over the positions of each image.
    dtype : torch.dtype or None, default=None
        Of the result; ``None`` takes the widest of the maps.

    Raises
    ------
    TypeError
        If `size` is of another type.
    ValueError
        If `size` is below 1, or `mode` or `normalize` is unknown.

    Examples
    --------
    >>> FeatureAggregator((2, 3))({"a": torch.zeros(1, 4, 8, 8)}).shape
    torch.Size([1, 4, 2, 3])
    """

    def __init__(
        self,
        size: int | str | tuple[int, int] = 128,
        mode: str = "bilinear",
        normalize: str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        if isinstance(size, str):
            check_choice("size", size, ("max",))
        elif isinstance(size, tuple | list):
            if len(size) != 2:
                raise_invalid("size", size, "rows and columns")
            size = (check_integer("size[0]", size[0], low=1), check_integer("size[1]", size[1], low=1))
        else:
            size = check_integer("size", size, low=1)
        if dtype is not None and not isinstance(dtype, torch.dtype):
            raise_invalid("dtype", dtype, "a torch dtype or None", error=TypeError)
        self.size, self.dtype = size, dtype
        self.mode = check_choice("mode", mode, MODES)
        self.normalize = check_choice("normalize", normalize, NORMS)

    def forward(self, features: Any) -> Tensor:
        """Aggregate.

        Parameters
        ----------
        features : mapping, list of Tensor, or a pipeline's output
            Maps of shape (B, C, H, W) each; of an output its ``features``.

        Returns
        -------
        Tensor of shape (B, sum of C, h, w)
            In the order of the maps.

        Raises
        ------
        TypeError
            If `features` holds something else than tensors.
        ValueError
            If there is no map, a map is not 4-D, or batches differ.
        """
        maps = getattr(features, "features", features)
        tensors = list(maps.values()) if isinstance(maps, Mapping) else list(maps)
        if not tensors:
            raise_invalid("features", features, "at least one map")
        for tensor in tensors:
            if not isinstance(tensor, Tensor):
                raise_invalid("features", tensor, "tensors", error=TypeError)
            if tensor.ndim != 4 or len(tensor) != len(tensors[0]):
                raise_invalid("features", tensor, f"shape ({len(tensors[0])}, C, H, W)")
        size = self._grid(tensors)
        dtype = self.dtype
        if dtype is None:
            dtype = tensors[0].dtype
            for tensor in tensors[1:]:
                dtype = torch.promote_types(dtype, tensor.dtype)
        resized = [resize_map(normalize_map(t, self.normalize), size, self.mode).to(dtype) for t in tensors]
        return torch.cat(resized, dim=1)

    def _grid(self, tensors: list[Tensor]) -> tuple[int, int]:
        if self.size == "max":
            largest = max(tensors, key=lambda tensor: tensor.shape[-1] * tensor.shape[-2])
            return largest.shape[-2], largest.shape[-1]
        return (
            (self.size, self.size) if isinstance(self.size, int) else (int(self.size[0]), int(self.size[1]))
        )

    def extra_repr(self) -> str:
        """Say the settings, for ``repr``.

        Returns
        -------
        str
            The settings.
        """
        return f"size={self.size!r}, mode={self.mode!r}, normalize={self.normalize!r}"


def resize_map(tensor: Tensor, size: tuple[int, int], mode: str = "bilinear") -> Tensor:
    """Resize one map; the identity if it has that size.

    Parameters
    ----------
    tensor : Tensor of shape (B, C, H, W)
        The map.
    size : (int, int)
        Rows and columns.
    mode : {"bilinear", "nearest"}, default="bilinear"
        How.

    Returns
    -------
    Tensor of shape (B, C, h, w)
        The resized map.
    """
    if tuple(tensor.shape[-2:]) == tuple(size):
        return tensor
    if mode == "nearest":
        return functional.interpolate(tensor, size, mode="nearest-exact")
    return functional.interpolate(tensor, size, mode="bilinear", align_corners=False)


def normalize_map(tensor: Tensor, kind: str | None) -> Tensor:
    """Normalise one map.

    Parameters
    ----------
    tensor : Tensor of shape (B, C, H, W)
        The map.
    kind : {None, "l2", "standard"}
        See :class:`FeatureAggregator`.

    Returns
    -------
    Tensor of shape (B, C, H, W)
        The normalised map; where there is no variance, zeros.
    """
    if kind is None:
        return tensor
    if kind == "l2":
        return functional.normalize(tensor, dim=1)
    # Sums of squares overflow in float16.
    wide = tensor.float() if tensor.dtype in (torch.float16, torch.bfloat16) else tensor
    centred = wide - wide.mean(dim=(-2, -1), keepdim=True)
    spread = centred.square().mean(dim=(-2, -1), keepdim=True).sqrt()
    return (centred / spread.clamp_min(torch.finfo(wide.dtype).eps)).to(tensor.dtype)
