r"""Singular values of feature sets, and how far two of them are apart: the dilation distance.

.. math:: d_k(ID, OE) = \sqrt{\sum_{r=1}^{k} (s_r^{ID} - s_r^{OE})^2}

of the k largest singular values of raw backbone features (neither centred nor normalised), one B x D matrix
a batch, averaged over batches. Singular values grow like :math:`\sqrt B`: both sides need the same B, and an
incomplete last batch is dropped. Uncentred features make the first value, the mean's direction, dominate.

Source: Sun et al., "EDGE", AAAI 2025, as quoted, and the released code (specification 1.4). Differs from
that code: it slices the wrong axis, so that its k never changes a ranking. A spectrum of a whole set (by its
D x D Gram matrix, divided by :math:`\sqrt n`) and centring are our extensions.

>>> import torch
>>> dilation_distance(torch.tensor([3.0, 1.0]), torch.tensor([2.0, 2.0]), 2)  # sqrt(1 + 1)
1.414...
"""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from graftkit.core.validation import check_bool, check_integer, describe, raise_invalid

__all__ = ["batch_spectrum", "dilation_distance", "read_features", "set_spectrum"]


def dilation_distance(id_spectrum: Any, oe_spectrum: Any, k: int) -> float:
    """Euclidean distance of the k largest singular values.

    Parameters
    ----------
    id_spectrum : array-like or Tensor of shape (r,)
        Singular values of the known data, descending.
    oe_spectrum : array-like or Tensor of shape (r,)
        Those of a candidate, of the same length.
    k : int
        How many take part, from 1 to r.

    Returns
    -------
    float
        0 or above.

    Raises
    ------
    TypeError
        If `k` is no integer.
    ValueError
        If a spectrum is no descending vector of finite values of 0 or above, lengths differ, or `k` is out
        of range.
    """
    one, other = _spectrum("id_spectrum", id_spectrum), _spectrum("oe_spectrum", oe_spectrum)
    if one.shape != other.shape:
        raise_invalid(
            "oe_spectrum",
            other,
            f"as many singular values as id_spectrum, {len(one)}",
            fix="Spectra of different width come from different batch sizes or features.",
        )
    check_integer("k", k, low=1, high=len(one))
    return float(torch.linalg.vector_norm(one[:k] - other[:k]))


def batch_spectrum(
    features: Any, batch_size: int = 64, *, center: bool = False, fast: bool = False
) -> Tensor:
    """Mean singular values of consecutive batches; an incomplete last batch does not count.

    Parameters
    ----------
    features : array-like or Tensor of shape (n, D)
        Features, in the order in which they fall into batches: shuffle sorted data first.
    batch_size : int, default=64
        B, at most n.
    center : bool, default=False
        Subtract each batch's mean (our extension).
    fast : bool, default=False
        Take eigenvalues of the smaller Gram matrix. It squares the condition number: small singular values
        lose digits.

    Returns
    -------
    Tensor of float64, shape (min(B, D),)
        Descending.

    Raises
    ------
    TypeError
        If an argument has the wrong type.
    ValueError
        If features are not finite, not a matrix, or fewer than `batch_size`.
    """
    table = read_features(features)
    check_integer("batch_size", batch_size, low=1)
    check_bool("center", center)
    check_bool("fast", fast)
    if len(table) < batch_size:
        raise_invalid(
            "features", describe(table), f"at least batch_size={batch_size} rows", fix="Lower batch_size."
        )
    batches = table[: len(table) // batch_size * batch_size].reshape(-1, batch_size, table.shape[1])
    total = table.new_zeros(min(batch_size, table.shape[1]))
    for batch in batches:
        rows = batch - batch.mean(0) if center else batch
        total += _gram_values(rows) if fast else torch.linalg.svdvals(rows)
    return total / len(batches)


def set_spectrum(features: Any, *, center: bool = False) -> Tensor:
    r"""Singular values of a whole set, divided by :math:`\sqrt n` (our extension).

    The D x D Gram matrix is summed over blocks of rows, so memory does not grow with n.

    Parameters
    ----------
    features : array-like or Tensor of shape (n, D)
        Features; at least one row.
    center : bool, default=False
        Subtract the set's mean.

    Returns
    -------
    Tensor of float64, shape (D,)
        Descending; does not depend on n in expectation.

    Raises
    ------
    TypeError
        If `center` is no boolean.
    ValueError
        If features are not finite or not a matrix with rows.
    """
    table = read_features(features)
    check_bool("center", center)
    shift = table.mean(0) if center else 0
    gram = table.new_zeros(table.shape[1], table.shape[1])
    for block in table.split(4096):
        rows = block - shift
        gram += rows.T @ rows
    return _roots(gram / len(table))


def read_features(features: Any, name: str = "features") -> Tensor:
    """Return features as a float64 matrix.

    Parameters
    ----------
    features : array-like or Tensor of shape (n, D)
        What a backbone gave after pooling.
    name : str, default="features"
        The argument's name.

    Returns
    -------
    Tensor of float64, shape (n, D)
        Detached.

    Raises
    ------
    TypeError
        If it is no array of numbers.
    ValueError
        If it is empty, no matrix or not finite.
    """
    try:
        # A copy: torch refuses negative strides and warns of arrays that cannot be written to.
        table = features if isinstance(features, Tensor) else torch.from_numpy(np.array(features))
    except (TypeError, ValueError):
        raise_invalid(name, features, "an array of numbers, shape (n, D)", error=TypeError)
    if table.is_complex():
        raise_invalid(name, features, "real numbers", error=TypeError)
    if table.ndim != 2 or 0 in table.shape:
        raise_invalid(name, features, "shape (n, D) with at least one row; the set must not be empty")
    table = table.detach().double()
    if not bool(torch.isfinite(table).all()):
        raise_invalid(name, features, "finite features, without NaN or infinity")
    return table


def _gram_values(rows: Tensor) -> Tensor:
    small = rows @ rows.T if rows.shape[0] <= rows.shape[1] else rows.T @ rows
    return _roots(small)


def _roots(gram: Tensor) -> Tensor:
    values: Tensor = torch.linalg.eigvalsh(gram).flip(0).clamp(min=0).sqrt()
    return values


def _spectrum(name: str, values: Any) -> Tensor:
    try:
        spectrum = values if isinstance(values, Tensor) else torch.from_numpy(np.array(values, np.float64))
    except (TypeError, ValueError, OverflowError):
        raise_invalid(name, values, "a vector of numbers", error=TypeError)
    spectrum = spectrum.detach().double().cpu()
    proper = spectrum.ndim == 1 and len(spectrum) and bool(torch.isfinite(spectrum).all())
    if not proper or bool((spectrum < 0).any()) or bool((spectrum.diff() > 0).any()):
        raise_invalid(name, values, "a descending vector of finite singular values, none negative")
    return spectrum
