r"""How far a feature's contours have moved from those of the image: the quantitative content-shift score.

.. math::
    \mathrm{diff}(A) = \sum_{i,j} \big|\, \|L(R)_{ij}\|_2 - \|L(A)_{ij}\|_2 \,\big|, \qquad
    \mathrm{score}(A) = \frac{\mathrm{diff}(B) - \mathrm{diff}(A)}{\mathrm{diff}(B)}

R is a reference with next to no noise, A the feature in question, B an anchor whose content has clearly
shifted, L the 5-point Laplacian of each channel, the norm runs over channels. Score 1: the contours of the
reference; 0: as bad as the anchor; there is no lower bound.

Source: Meng et al., NeurIPS 2024 (arXiv 2410.06719), equations 1 and 2 (the public code has neither).
Unverified, because the paper does not say: kernel, border, activation, anchor, and whether the reference
carries the technique. Decided here: 5-point kernel, replicated border (zeros would add contours).

Blind spots: channels permuted or with the sign changed score 1; so does other content of the same contour
energy. diff grows with the feature's scale, so R, A and B must come from one activation of one model, or be
divided by their root mean square (``normalize=True``).

>>> import torch
>>> R = torch.arange(12.0).reshape(1, 3, 4) ** 2
>>> shift_score(R, R + 0.5 * R, R + R)
tensor(0.5000)
"""

import warnings
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from graftkit.core.validation import check_bool, check_choice, raise_invalid

__all__ = ["cosine_difference", "laplacian_difference", "laplacian_norm", "shift_score"]

PADDINGS = ("replicate", "zeros")
METRICS = ("laplacian", "cosine")


def laplacian_norm(feature: Tensor, padding: str = "replicate") -> Tensor:
    """Contour strength of a feature: the norm over channels of each channel's Laplacian.

    Parameters
    ----------
    feature : Tensor of shape (..., c, h, w)
        A dense feature.
    padding : {"replicate", "zeros"}, default="replicate"
        What lies beyond the border. With "replicate" a constant map has no contours.

    Returns
    -------
    Tensor of shape (..., h, w)
        Norms, float32 (float64 for float64 input); the gradient is zero where the norm is.

    Raises
    ------
    TypeError
        If `feature` is no floating tensor.
    ValueError
        If it has fewer than three dimensions, an empty one, or values that are not finite.
    """
    check_choice("padding", padding, PADDINGS)
    return _norms(_read("feature", feature), padding)


def laplacian_difference(reference: Tensor, feature: Tensor, padding: str = "replicate") -> Tensor:
    """Sum over positions of how much contour strengths differ, equation 1.

    Parameters
    ----------
    reference, feature : Tensor of shape (..., c, h, w)
        Two features of one activation.
    padding : {"replicate", "zeros"}, default="replicate"
        What lies beyond the border.

    Returns
    -------
    Tensor of shape (...)
        In [0, inf), float32 (float64 for float64 input).

    Raises
    ------
    TypeError
        If an argument is no floating tensor.
    ValueError
        If shapes differ, or values are not finite.
    """
    check_choice("padding", padding, PADDINGS)
    r, a = _read("reference", reference), _read("feature", feature)
    _check_shapes(reference=r, feature=a)
    return (_norms(r, padding) - _norms(a, padding)).abs().sum((-2, -1))


def cosine_difference(reference: Tensor, feature: Tensor) -> Tensor:
    """Mean over positions of one minus the cosine between two features' channel vectors.

    Parameters
    ----------
    reference, feature : Tensor of shape (..., c, h, w)
        Two features of one activation.

    Returns
    -------
    Tensor of shape (...)
        In [0, 2]; a zero vector counts as orthogonal to everything.

    Raises
    ------
    TypeError
        If an argument is no floating tensor.
    ValueError
        If shapes differ, or values are not finite.
    """
    r, a = _read("reference", reference), _read("feature", feature)
    _check_shapes(reference=r, feature=a)
    return (1 - F.cosine_similarity(r, a, dim=-3)).mean((-2, -1))


def shift_score(
    reference: Tensor,
    feature: Tensor,
    anchor: Tensor,
    *,
    metric: str = "laplacian",
    normalize: bool = False,
    padding: str = "replicate",
) -> Tensor:
    """How much closer a feature is to the reference than the anchor is, equation 2.

    Parameters
    ----------
    reference : Tensor of shape (..., c, h, w)
        The feature with next to no noise.
    feature : Tensor of shape (..., c, h, w)
        The feature in question.
    anchor : Tensor of shape (..., c, h, w)
        A feature with a visibly stronger shift.
    metric : {"laplacian", "cosine"}, default="laplacian"
        `laplacian_difference`, or `cosine_difference` in its place (not in the paper).
    normalize : bool, default=False
        Divide each feature by its own root mean square first (not in the paper).
    padding : {"replicate", "zeros"}, default="replicate"
        Of the Laplacian.

    Returns
    -------
    Tensor of shape (...)
        At most 1. NaN, with a warning, where the anchor does not differ from the reference.

    Raises
    ------
    TypeError
        If an argument is no floating tensor.
    ValueError
        If the three shapes differ, or values are not finite.

    Warns
    -----
    UserWarning
        If an anchor does not differ from its reference.
    """
    check_choice("metric", metric, METRICS)
    check_choice("padding", padding, PADDINGS)
    check_bool("normalize", normalize)
    given = {"reference": reference, "feature": feature, "anchor": anchor}
    read = {name: _read(name, value) for name, value in given.items()}
    _check_shapes(**read)
    r, a, b = (_unit(value) if normalize else value for value in read.values())

    def difference(value: Tensor) -> Tensor:
        return cosine_difference(r, value) if metric == "cosine" else laplacian_difference(r, value, padding)

    of_anchor = difference(b)
    if bool((of_anchor == 0).any()):
        warnings.warn(
            "anchor: it does not differ from the reference, the score is NaN there; take it at a later "
            "timestep",
            stacklevel=2,
        )
    # 0/0 where it does not differ, also if the feature does: there is nothing to compare with.
    nothing = torch.where(of_anchor == 0, torch.nan, of_anchor)
    return (nothing - difference(a)) / nothing


def _norms(feature: Tensor, padding: str) -> Tensor:
    *lead, c, h, w = feature.shape
    flat = feature.reshape(-1, c, h, w)
    padded = F.pad(flat, (1, 1, 1, 1), mode="replicate" if padding == "replicate" else "constant")
    laplacian = (
        padded[..., :-2, 1:-1] + padded[..., 2:, 1:-1] + padded[..., 1:-1, :-2] + padded[..., 1:-1, 2:]
        - 4 * flat
    )  # fmt: skip
    # vector_norm's gradient at zero is zero, not NaN.
    norms: Tensor = torch.linalg.vector_norm(laplacian, dim=1)
    return norms.reshape(*lead, h, w)


def _unit(feature: Tensor) -> Tensor:
    scale = feature.square().mean((-3, -2, -1), keepdim=True).sqrt()
    return feature / torch.where(scale == 0, 1, scale)


def _read(name: str, feature: Any) -> Tensor:
    if not isinstance(feature, Tensor) or not feature.is_floating_point():
        raise_invalid(name, feature, "a floating-point tensor of shape (..., c, h, w)", error=TypeError)
    if feature.ndim < 3 or 0 in feature.shape:
        raise_invalid(name, feature, "shape (..., c, h, w) with no empty dimension")
    if not bool(torch.isfinite(feature).all()):
        raise_invalid(name, feature, "finite values", fix="It holds NaN or infinity.")
    # Sums of many half-precision values overflow.
    return feature if feature.dtype == torch.float64 else feature.float()


def _check_shapes(**features: Tensor) -> None:
    if len({f.shape for f in features.values()}) > 1:
        shapes = ", ".join(f"{name} {tuple(f.shape)}" for name, f in features.items())
        raise ValueError(f"{' and '.join(features)}: expected features of one shape, got {shapes}")
