r"""Weights over the variants of a feature, the weighted sums, and the penalty on the weights.

.. math::
    w^j = \mathrm{softmax}_i\, f_j(r_i), \qquad r = \mathrm{concat}_j \sum_i w^j_i r_i, \qquad
    L = L_\text{task} - g_1 \sum_j \|w^j\|_2 - \tfrac{g_2}{2} \sum_j \sum_{k \ne j} \|w^j - w^k\|_2

The first penalty rewards weights that choose (the norm lies between :math:`1/\sqrt b` and 1), the second
rewards assigners that differ.

Source: Meng et al., NeurIPS 2024 (arXiv 2410.06719), equations 3 to 5. In the public code the diversity term
is a constant 0 and the sparsity factor a random walk near 0; here both are plain factors, 0 by default.
Unverified: the paper's values of :math:`g_1, g_2`.

>>> import torch
>>> assignment_weights(torch.zeros(2, 3))
tensor([[0.5000, 0.5000, 0.5000],
        [0.5000, 0.5000, 0.5000]])
"""

import torch
from torch import Tensor

from graftkit.core.validation import check_choice, check_number, raise_invalid

__all__ = ["amalgamate", "amalgamation_penalty", "assignment_weights"]


def assignment_weights(logits: Tensor, weights: str = "channel") -> Tensor:
    """Turn an assigner's logits into weights over the features.

    Parameters
    ----------
    logits : Tensor of shape (..., b, C)
        One row a feature.
    weights : {"channel", "scalar"}, default="channel"
        A weight for each channel, or one for the whole feature, from the mean over channels.

    Returns
    -------
    Tensor of shape (..., b, C)
        Sums to 1 over the features; equal over channels for "scalar".

    Raises
    ------
    ValueError
        If `weights` is unknown.
    """
    check_choice("weights", weights, ("channel", "scalar"))
    if weights == "scalar":
        return logits.mean(-1, keepdim=True).softmax(-2).expand_as(logits)
    return logits.softmax(-2)


def amalgamate(maps: Tensor, weights: Tensor) -> Tensor:
    """Weighted sums of the features, one after another along the channels.

    Parameters
    ----------
    maps : Tensor of shape (B, b, C, *)
        The variants of a feature.
    weights : Tensor of shape (B, n, b, C) or (n, b)
        Weights of n assigners.

    Returns
    -------
    Tensor of shape (B, n * C, *)
        The blend.

    Raises
    ------
    ValueError
        If the weights do not fit the maps.
    """
    batch, b, channels, *space = maps.shape
    if weights.ndim == 2 and weights.shape[1] == b:
        weights = weights[None, :, :, None].expand(batch, -1, b, channels)
    if weights.ndim != 4 or weights.shape[:1] + weights.shape[2:] != (batch, b, channels):
        raise_invalid("weights", weights, f"shape ({batch}, n, {b}, {channels}) or (n, {b})")
    fused = torch.einsum("bnic,bics->bncs", weights.to(maps.dtype), maps.reshape(batch, b, channels, -1))
    return fused.reshape(batch, -1, *space)


def amalgamation_penalty(weights: Tensor, sparsity: float = 0.0, diversity: float = 0.0) -> Tensor:
    """What is added to the task's loss, equation 5: never above 0.

    Parameters
    ----------
    weights : Tensor of shape (n, b), or (B, n, b, C)
        Weights of n assigners over b features; norms run over the features and are averaged over samples
        and channels.
    sparsity : float, default=0.0
        :math:`g_1`, 0 or more.
    diversity : float, default=0.0
        :math:`g_2`, 0 or more.

    Returns
    -------
    Tensor of shape ()
        The penalty.

    Raises
    ------
    TypeError
        If a factor is no number.
    ValueError
        If the weights have another number of dimensions, or a factor is negative.

    Examples
    --------
    >>> amalgamation_penalty(torch.tensor([[1.0, 0.0], [0.0, 1.0]]), sparsity=0.1, diversity=0.1)
    tensor(-0.3414)
    """
    g1 = check_number("sparsity", sparsity, low=0)
    g2 = check_number("diversity", diversity, low=0)
    if weights.ndim not in (2, 4):
        raise_invalid("weights", weights, "shape (n, b) or (B, n, b, C)")
    w = weights[None, :, :, None] if weights.ndim == 2 else weights
    # vector_norm has a zero gradient where two assigners agree; a square root would have NaN.
    norms: Tensor = torch.linalg.vector_norm(w, dim=2).mean((0, 2)).sum()
    apart: Tensor = torch.linalg.vector_norm(w[:, :, None] - w[:, None], dim=3).mean((0, 3)).sum()
    return 0.0 - g1 * norms - 0.5 * g2 * apart
