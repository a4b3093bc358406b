r"""JointEnergy: how much a multi-label model believes in any of its labels.

.. math:: E(z) = \sum_c \log(1 + e^{z_c}), \qquad e^{-E(z)} = \prod_c (1 - \sigma(z_c))

Higher is more in-distribution. :math:`e^{-E}` is the model's probability that no known label is present, if
labels are independent. The sign is the opposite of the single-label energy :math:`-\mathrm{logsumexp}`, which
is why nothing here is called plain "energy".

Source: Wang et al., NeurIPS 2021 (arXiv 2109.14162), through its public code (specification 1.1). Differs
from that code: ``log(1 + exp(z))`` overflows from 89 on in float32 and is 0 below -17; this is exact.

>>> import torch
>>> joint_energy(torch.zeros(3, dtype=torch.float64))
tensor(2.0794, dtype=torch.float64)
>>> none_probability(torch.zeros(3, dtype=torch.float64))
tensor(0.1250, dtype=torch.float64)
"""

import warnings
from numbers import Integral, Real
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from graftkit.core.validation import check_bool, check_integer, check_number, raise_invalid

__all__ = ["MarginAdvice", "joint_energy", "none_probability", "suggest_margin", "widened"]


class MarginAdvice(NamedTuple):
    """What `suggest_margin` saw and proposes.

    Parameters
    ----------
    margin : float
        The proposed margin, 0 or above.
    id_quantiles : tuple of float
        5 %, 25 %, 50 %, 75 % and 95 % quantiles of the ID energies.
    oe_quantiles : tuple of float
        The same of the outliers' energies.
    active : float
        Share of pairs (outlier, tail ID row) that the hinge with this margin would move now.
    """

    margin: float
    id_quantiles: tuple[float, ...]
    oe_quantiles: tuple[float, ...]
    active: float


def widened(logits: Any, name: str = "logits") -> Tensor:
    """Return logits in float32 or wider.

    Parameters
    ----------
    logits : Tensor of any shape
        What a model gave. Sums of many softplus overflow float16.
    name : str, default="logits"
        The argument's name.

    Returns
    -------
    Tensor of the same shape
        The same tensor if it was wide enough.

    Raises
    ------
    TypeError
        If it is no floating-point tensor.
    """
    if not isinstance(logits, Tensor) or not logits.is_floating_point():
        raise_invalid(name, logits, "a floating-point tensor", error=TypeError)
    return logits.float() if logits.dtype in (torch.float16, torch.bfloat16) else logits


def joint_energy(logits: Tensor, *, dim: int = -1, validate: bool = False) -> Tensor:
    r"""Sum of softplus over the labels; higher = more in-distribution.

    Parameters
    ----------
    logits : Tensor of shape (..., C)
        Logits, not probabilities.
    dim : int, default=-1
        The axis of the labels.
    validate : bool, default=False
        Refuse NaN and infinity, and warn where all values lie in [0, 1]: those are probabilities. Costs a
        synchronisation on a GPU.

    Returns
    -------
    Tensor of shape (...)
        float32, or float64 for float64 logits.

    Raises
    ------
    TypeError
        If `logits` is no floating-point tensor, or `dim` no integer.
    ValueError
        If `dim` is no axis of `logits`, or `validate` finds a value that is not finite.

    Examples
    --------
    >>> import torch
    >>> joint_energy(torch.tensor([[1000.0, -1000.0], [-1000.0, -1000.0]]))
    tensor([1000.,    0.])
    """
    wide = widened(logits)
    check_integer("dim", dim)
    if not -wide.ndim <= dim < wide.ndim:
        raise_invalid("dim", dim, f"an axis of logits of shape {tuple(wide.shape)}")
    if check_bool("validate", validate) and wide.numel():
        if not bool(torch.isfinite(wide).all()):
            raise_invalid("logits", logits, "finite values, without NaN or infinity")
        if bool(((wide >= 0) & (wide <= 1)).all()):
            warnings.warn(
                "logits: all values lie in [0, 1]; expected logits, not probabilities", stacklevel=2
            )
    return summed_softplus(wide, dim)


def summed_softplus(wide: Tensor, dim: int) -> Tensor:
    """JointEnergy of logits that are known to be wide enough; 0, not -0, where all labels are off."""
    return 0 - functional.logsigmoid(-wide).sum(dim)


def none_probability(logits: Tensor, *, dim: int = -1) -> Tensor:
    r"""Probability that no known label is present, :math:`e^{-E}`; higher = more out-of-distribution.

    Parameters
    ----------
    logits : Tensor of shape (..., C)
        Logits.
    dim : int, default=-1
        The axis of the labels.

    Returns
    -------
    Tensor of shape (...)
        In [0, 1], under the model's assumption that labels are independent.

    Examples
    --------
    >>> import torch
    >>> none_probability(torch.tensor([0.0, 0.0]))
    tensor(0.2500)
    """
    return torch.exp(-joint_energy(logits, dim=dim))


def suggest_margin(
    id_energy: Tensor, oe_energy: Tensor, *, k: int | float = 0.25, active: float = 0.5
) -> MarginAdvice:
    """Say how the two sides' energies lie, and which margin would put the gap term to work.

    The proposal is an aid of ours, not the paper's: the smallest margin of 0 or above at which the share
    `active` of all pairs (outlier, tail ID row) lies inside the hinge, rounded up in the fourth digit.

    Parameters
    ----------
    id_energy : Tensor of shape (n,)
        JointEnergy of known rows, best of a validation set.
    oe_energy : Tensor of shape (n_o,)
        JointEnergy of outliers.
    k : int or float, default=0.25
        The tail: so many rows of lowest energy, or that share of them.
    active : float, default=0.5
        The wanted share of pairs inside the hinge.

    Returns
    -------
    MarginAdvice
        Margin, quantiles of both sides, and the share that is inside.

    Raises
    ------
    TypeError
        If an energy is no floating-point tensor, or `k` or `active` no number.
    ValueError
        If a side is empty, not a vector or not finite, or `k` or `active` out of range.
    """
    sides = []
    for name, energy in (("id_energy", id_energy), ("oe_energy", oe_energy)):
        wide = widened(energy, name).detach().double().cpu()
        if wide.ndim != 1 or not len(wide) or not bool(torch.isfinite(wide).all()):
            raise_invalid(name, energy, "a vector of finite energies, at least one")
        sides.append(wide)
    known, outliers = sides
    check_number("active", active, low=0, high=1, closed="()")
    check_tail("k", k)
    tail = known.sort().values[: tail_size(k, len(known))]

    def share(margin: float) -> float:
        """Of all pairs, counted without a matrix of them."""
        inside = int(torch.searchsorted(tail, outliers + margin).sum())
        return inside / (len(tail) * len(outliers))

    margin, above = 0.0, float(tail[-1] - outliers.min()) + 1  # `above` takes in every pair
    if share(margin) < active:
        while above - margin > 1e-4 * above:
            middle = (margin + above) / 2
            margin, above = (middle, above) if share(middle) < active else (margin, middle)
        margin = above
    levels = torch.tensor([0.05, 0.25, 0.5, 0.75, 0.95], dtype=torch.float64)
    return MarginAdvice(
        margin,
        tuple(torch.quantile(known, levels).tolist()),
        tuple(torch.quantile(outliers, levels).tolist()),
        share(margin),
    )


def check_tail(name: str, k: Any) -> int | float:
    """Return a tail's size, an integer of 1 or above or a share in (0, 1]."""
    if isinstance(k, Integral | bool):
        return check_integer(name, k, low=1)
    if not isinstance(k, Real):
        raise_invalid(name, k, "an integer >= 1 or a share in (0, 1]", error=TypeError)
    return check_number(name, k, low=0, high=1, closed="(]")


def tail_size(k: int | float, rows: int) -> int:
    """Rows in the tail: `k` clamped to `rows`, or that share of them, at least one."""
    if isinstance(k, float):
        # 0.1 * 30 may come out a hair above 3.
        return min(rows, max(1, -int(-(k * rows - 1e-9) // 1)))
    return min(int(k), rows)
