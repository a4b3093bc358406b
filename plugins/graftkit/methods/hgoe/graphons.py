"""Step-function graphons: singular value thresholding of a mean adjacency, resizing, mixing.

USVT keeps the singular values >= tau sqrt(N) of the aligned mean A, and W is the result clipped to [0, 1].

Source: G-Mixup's estimator as used in HGOE's public code (`jweihe/HGOE@2cf8c82`, utils/graphon_utils.py);
the paper's equations were not read. Differs on purpose: W is symmetric with a zero diagonal.

>>> mix(torch.tensor([[0.0, 1.0], [1.0, 0.0]]), torch.zeros(3, 3), 0.25, 2).tolist()
[[0.0, 0.25], [0.25, 0.0]]
"""

import math
import warnings
from collections.abc import Callable

import torch
from torch import Tensor

from graftkit.core.validation import check_choice, check_integer, check_number, raise_invalid

__all__ = ["check_size", "estimate", "mix", "resize", "sort_smooth", "usvt"]

MAX_SIZE = 20_000

Estimator = str | Callable[[Tensor, float], Tensor]


def usvt(mean: Tensor, threshold: float) -> Tensor:
    """Universal singular value thresholding of a symmetric matrix.

    The singular values of a symmetric matrix are the absolute eigenvalues, so one `eigh` does it.

    Parameters
    ----------
    mean : Tensor of shape (N, N)
        Symmetric.
    threshold : float
        tau >= 0; singular values below ``tau * sqrt(N)`` are set to zero.

    Returns
    -------
    Tensor of shape (N, N)
        Symmetric, in [0, 1], zero diagonal.

    Raises
    ------
    TypeError
        If `threshold` is no number.
    ValueError
        If it is negative.
    """
    tau = check_number("threshold", threshold, low=0)
    matrix = mean.to(torch.float64)
    if tau > 0:  # without a threshold the sum of all parts is the matrix itself
        values, vectors = torch.linalg.eigh(matrix)
        kept = values * (values.abs() >= tau * math.sqrt(len(mean)))
        matrix = (vectors * kept) @ vectors.T
    return _tidy(matrix)


def sort_smooth(mean: Tensor, threshold: float = 0.0) -> Tensor:
    """Average over blocks of about ``log N`` sorted nodes, the histogram estimator.

    Parameters
    ----------
    mean : Tensor of shape (N, N)
        Symmetric.
    threshold : float, default=0.0
        Not used; estimators share one signature.

    Returns
    -------
    Tensor of shape (N, N)
        Symmetric, in [0, 1], zero diagonal.
    """
    del threshold
    size = len(mean)
    width = max(1, round(math.log(max(size, 2))))
    block = torch.arange(size) // width
    member = torch.nn.functional.one_hot(block).to(torch.float64)
    pairs = member.sum(0)[:, None] * member.sum(0) - torch.diag(member.sum(0))  # no self-pairs
    heights = member.T @ mean.to(torch.float64) @ member / pairs.clamp(min=1)
    return _tidy(heights[block][:, block])


def estimate(mean: Tensor, threshold: float, estimator: Estimator = "usvt") -> Tensor:
    """Turn a mean adjacency into a graphon by the estimator named.

    Parameters
    ----------
    mean : Tensor of shape (N, N)
        From ``aligned_mean``.
    threshold : float
        tau of USVT.
    estimator : {"usvt", "mean", "sort_smooth"} or callable, default="usvt"
        A callable gets ``(mean, threshold)`` and returns a matrix of the same shape.

    Returns
    -------
    Tensor of shape (N, N)
        Symmetric, in [0, 1], zero diagonal.

    Raises
    ------
    ValueError
        If the name is unknown, or a callable returns another shape or values that are not finite.

    Warns
    -----
    UserWarning
        If the threshold removed everything.
    """
    if callable(estimator):
        raw = estimator(mean, threshold)
        if not isinstance(raw, Tensor) or raw.shape != mean.shape or not bool(torch.isfinite(raw).all()):
            raise_invalid("estimator", raw, f"a finite tensor of shape {tuple(mean.shape)} to be returned")
        result = _tidy(raw.to(torch.float64))
    else:
        check_choice("estimator", estimator, ("usvt", "mean", "sort_smooth"))
        named: dict[str, Callable[[Tensor, float], Tensor]]
        named = {"usvt": usvt, "mean": _plain, "sort_smooth": sort_smooth}
        result = named[estimator](mean, threshold)
    if not bool(result.any()):
        reason = (
            "the graphs have no edges"
            if not bool(mean.any())
            else f"threshold={threshold:g} removed every singular value; sparse graphs need a smaller one"
        )
        warnings.warn(f"the graphon is zero: {reason}", stacklevel=3)
    return result


def check_size(size: int, low: int = 1) -> int:
    """A number of nodes whose dense matrix fits into memory.

    Parameters
    ----------
    size : int
        n.
    low : int, default=1
        The least.

    Returns
    -------
    int
        n.

    Raises
    ------
    TypeError
        If it is no integer.
    ValueError
        If it is below `low` or above 20 000.
    """
    n = check_integer("size", size, low=low)
    if n > MAX_SIZE:
        raise_invalid(
            "size",
            size,
            f"at most {MAX_SIZE}",
            fix=f"A dense matrix would need {8.0 * n * n / 2**30:.1f} GiB",
        )
    return n


def resize(matrix: Tensor, size: int, mode: str = "crop_pad") -> Tensor:
    """Bring a graphon to another number of nodes.

    Parameters
    ----------
    matrix : Tensor of shape (N, N)
        A graphon.
    size : int
        n >= 1.
    mode : {"crop_pad", "interpolate"}, default="crop_pad"
        Keep the top left block, or pad with zeros, as published; or read the step function at
        ``(u + 1/2) / n``.

    Returns
    -------
    Tensor of shape (n, n)
        Symmetric, zero diagonal.

    Raises
    ------
    ValueError
        If `mode` is unknown or `size` below 1.
    """
    n = check_size(size)
    check_choice("mode", mode, ("crop_pad", "interpolate"))
    old = len(matrix)
    if mode == "interpolate":
        step = (2 * torch.arange(n) + 1) * old // (2 * n)
        result = matrix[step][:, step].clone()
        return result.fill_diagonal_(0)
    result = matrix.new_zeros(n, n)
    kept = min(n, old)
    result[:kept, :kept] = matrix[:kept, :kept]
    return result


def mix(first: Tensor, second: Tensor, lam: float, size: int, mode: str = "crop_pad") -> Tensor:
    """Graphon mixup: ``lam * W_i + (1 - lam) * W_j`` at n nodes.

    Parameters
    ----------
    first, second : Tensor of shape (N_i, N_i) and (N_j, N_j)
        Graphons.
    lam : float
        Weight of `first`, in [0, 1].
    size : int
        n.
    mode : {"crop_pad", "interpolate"}, default="crop_pad"
        How both are brought to n nodes.

    Returns
    -------
    Tensor of shape (n, n)
        The mixture.
    """
    weight = check_number("lam", lam, low=0, high=1)
    # lerp is exact at both ends, and an average of two equal numbers is that number.
    return torch.lerp(resize(second, size, mode), resize(first, size, mode), weight)


def _plain(mean: Tensor, threshold: float) -> Tensor:
    del threshold
    return _tidy(mean.to(torch.float64))


def _tidy(matrix: Tensor) -> Tensor:
    return ((matrix + matrix.T) / 2).clamp(0, 1).fill_diagonal_(0)
