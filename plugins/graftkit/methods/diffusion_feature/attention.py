r"""Attention maps from queries and keys, without touching how the network itself attends.

.. math:: P = \mathrm{softmax}(q k^\top / \sqrt{d} + b)

The public code of arXiv 2410.03558 swaps every layer's processor for an explicit softmax and stores a map
per head; here only the asked layers are recomputed, in chunks over query rows, and heads are averaged
inside a chunk, so the peak is one chunk beyond the result.

>>> q = torch.ones(1, 2, 3, 4); k = torch.ones(1, 2, 5, 4)
>>> attention_map(q, k).shape
torch.Size([1, 3, 5])
"""

import torch
from torch import Tensor

from graftkit.core.validation import check_choice, check_integer, raise_invalid

__all__ = ["MAX_MAP_ELEMENTS", "attention_map", "check_map_size"]

MAX_MAP_ELEMENTS = 2**26
REDUCTIONS = ("mean", "none")


def attention_map(
    query: Tensor,
    key: Tensor,
    *,
    scale: float | None = None,
    bias: Tensor | None = None,
    rows: slice | None = None,
    columns: slice | None = None,
    reduce: str = "mean",
    chunk: int = 1024,
) -> Tensor:
    """Probabilities of scaled dot-product attention, the mean over heads or all of them.

    Parameters
    ----------
    query : Tensor of shape (B, heads, Q, d)
        Queries as the attention uses them, after any norm and rotation.
    key : Tensor of shape (B, heads, K, d)
        Keys.
    scale : float or None, default=None
        ``None`` means 1/sqrt(d).
    bias : Tensor of shape (B or 1, heads or 1, Q or 1, K), or None, default=None
        Added to the scores; -inf or a large negative number masks.
    rows, columns : slice or None, default=None
        The quadrant that is returned. The softmax always runs over every key.
    reduce : {"mean", "none"}, default="mean"
        Average heads, or keep them.
    chunk : int, default=1024
        Query rows computed at a time; it does not change the result.

    Returns
    -------
    Tensor of shape (B, q, k) or (B, heads, q, k)
        Rows sum to one where `columns` is None.

    Raises
    ------
    TypeError
        If `chunk` is no integer.
    ValueError
        If `reduce` is unknown, `chunk` is below 1, or shapes do not fit.
    """
    check_choice("reduce", reduce, REDUCTIONS)
    step = check_integer("chunk", chunk, low=1)
    if (
        query.ndim != 4
        or key.ndim != 4
        or query.shape[:2] != key.shape[:2]
        or query.shape[-1] != key.shape[-1]
    ):
        raise_invalid("key", key, f"shape (B, heads, K, d) that fits queries of shape {tuple(query.shape)}")
    factor = query.shape[-1] ** -0.5 if scale is None else scale
    chosen = range(query.shape[2])[rows or slice(None)]
    pieces = []
    for start in range(0, len(chosen), step):
        part = chosen[start : start + step]
        index = slice(part.start, part.stop, part.step)
        scores = query[:, :, index] @ key.transpose(-1, -2) * factor
        if bias is not None:
            scores = scores + (bias if bias.shape[-2] == 1 else bias[..., index, :])
        weights = scores.softmax(dim=-1)[..., columns or slice(None)]
        pieces.append(weights.mean(dim=1) if reduce == "mean" else weights)
    return torch.cat(pieces, dim=-2)


def check_map_size(name: str, shape: tuple[int, ...], limit: int) -> None:
    """Refuse a map that would not fit, before it is computed.

    Parameters
    ----------
    name : str
        The activation's name.
    shape : tuple of int
        What would be stored.
    limit : int
        The largest number of elements.

    Raises
    ------
    ValueError
        If the map is larger.
    """
    elements = 1
    for side in shape:
        elements *= side
    if elements > limit:
        raise ValueError(
            f"features: {name!r} has {elements} elements (shape {tuple(shape)}), more than "
            f"max_map_elements={limit}; choose a coarser layer, a smaller image or raise the limit"
        )
