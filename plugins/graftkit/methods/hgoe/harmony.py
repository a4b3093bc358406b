"""Attributes of one key made alike: width and dtype.

>>> project(torch.ones(2, 3), 2).shape, project(torch.ones(2, 3), 5).sum(1).tolist()
(torch.Size([2, 2]), [3.0, 3.0])
"""

import torch
from torch import Tensor
from torch.nn import functional as F

__all__ = ["project", "same_kind"]


def project(x: Tensor, width: int) -> Tensor:
    """Cut features to a width, or pad them with zeros.

    Parameters
    ----------
    x : Tensor of shape (n, d)
        Features.
    width : int
        Columns wanted.

    Returns
    -------
    Tensor of shape (n, width)
        The features.
    """
    return F.pad(x[:, :width], (0, max(0, width - x.shape[1])))


def same_kind(key: str, value: Tensor, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """Cast an attribute to a dtype, or refuse it.

    Parameters
    ----------
    key : str
        Its name.
    value : Tensor of shape (n, ...)
        The attribute.
    shape : tuple of int
        The shape wanted, without the first axis.
    dtype : torch.dtype
        The dtype wanted.

    Returns
    -------
    Tensor of shape (n, ...)
        The attribute.

    Raises
    ------
    ValueError
        If the width differs, or a cast to integers would lose something.
    """
    if tuple(value.shape[1:]) != shape:
        raise ValueError(
            f"{key}: this graph has shape {tuple(value.shape)}, the ID graphs have (n, "
            f"{', '.join(map(str, shape))}). For x: HGOEHarmonize with features='project' on this set, or "
            "'constant' or 'structural' on both"
        )
    if value.dtype == dtype:
        return value
    cast = value.to(dtype)
    if not dtype.is_floating_point and not bool((cast == value).all()):
        raise ValueError(f"{key}: {value.dtype} values that are no integers cannot become {dtype}")
    return cast
