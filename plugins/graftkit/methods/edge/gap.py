r"""The energy gap: outliers below the lowest known rows, by a hinge over all pairs.

.. math:: L_{gap} = \frac{1}{n_o k} \sum_{j=1}^{n_o} \sum_{t \in T} \max(0,\, O_j - E_t + m)

with the outliers' JointEnergy O and that of the k tail rows E. Only pairs with :math:`O_j + m > E_t` count,
so with :math:`c_j` such rows for an outlier and :math:`d_t` such outliers for a row

.. math:: L_{gap} = \frac{1}{n_o k} \Big( \sum_j c_j (O_j + m) - \sum_t d_t E_t \Big),

which two binary searches give in :math:`O((n_o + k) \log(n_o k))`, value and gradient exact: the counts are
constant almost everywhere.

Source: Sun et al., "EDGE", AAAI 2025, through the released code (specification 1.2); the typeset equation
could not be read, mean against sum and the margin's sign are as released. The counting form is our own.

>>> import torch
>>> energy_gap_loss(torch.tensor([1.0, 3.0]), torch.tensor([2.0]), margin=0.5)
tensor(0.7500)
"""

from typing import Any

import torch
from torch import Tensor

from graftkit.core.validation import check_choice, check_number, raise_invalid
from graftkit.methods.edge.energies import widened

__all__ = ["METHODS", "energy_gap_loss", "gap_terms", "pair_counts"]

METHODS = ("auto", "pairwise", "sorted")
# Above this many pairs the matrix costs more than two sorts (tests/benchmarks/bench_edge.py).
PAIRS = 16_384


def energy_gap_loss(
    oe_energy: Tensor, tail_energy: Tensor, margin: float = 0.0, *, method: str = "auto"
) -> Tensor:
    r"""Mean hinge over all pairs of an outlier and a tail row.

    Parameters
    ----------
    oe_energy : Tensor of shape (n_o,)
        JointEnergy of the outliers.
    tail_energy : Tensor of shape (k,)
        JointEnergy of the known rows to be kept above them.
    margin : float, default=0.0
        The gap asked for, in units of summed energy.
    method : {"auto", "pairwise", "sorted"}, default="auto"
        The matrix of all pairs, or counts by binary search; the same value and gradient. "auto" takes the
        matrix up to 16 384 pairs.

    Returns
    -------
    Tensor of shape ()
        Zero, on the graph, if a side is empty.

    Raises
    ------
    TypeError
        If an energy is no floating-point tensor.
    ValueError
        If an energy is no vector, the margin not finite, or the method unknown.

    Examples
    --------
    >>> import torch
    >>> oe, tail = torch.randn(50), torch.randn(20)
    >>> one, other = (energy_gap_loss(oe, tail, 1.0, method=name) for name in ("pairwise", "sorted"))
    >>> bool(torch.isclose(one, other))
    True
    """
    check_number("margin", margin)
    check_choice("method", method, METHODS)
    return gap_terms(_vector("oe_energy", oe_energy), _vector("tail_energy", tail_energy), margin, method)[0]


def gap_terms(oe_energy: Tensor, tail_energy: Tensor, margin: float, method: str) -> tuple[Tensor, Tensor]:
    """The gap loss and, detached, the share of pairs inside the hinge.

    Parameters
    ----------
    oe_energy : Tensor of shape (n_o,)
        JointEnergy of the outliers.
    tail_energy : Tensor of shape (k,)
        JointEnergy of the tail.
    margin : float
        The gap asked for.
    method : {"auto", "pairwise", "sorted"}
        How it is computed.

    Returns
    -------
    loss : Tensor of shape ()
        Zero, on the graph, if a side is empty.
    active_fraction : Tensor of shape ()
        In [0, 1]; 0 if a side is empty.
    """
    pairs = oe_energy.numel() * tail_energy.numel()
    if not pairs:
        zero = (oe_energy.sum() + tail_energy.sum()) * 0
        return zero, zero.detach()
    if method == "sorted" or (method == "auto" and pairs > PAIRS):
        loss, share = _Hinge.apply(oe_energy, tail_energy, margin)[:2]
        return loss, share
    hinge = torch.relu(oe_energy[:, None] - tail_energy + margin)
    return hinge.mean(), (hinge.detach() > 0).sum().to(hinge.dtype) / pairs


def pair_counts(
    oe_energy: Tensor, tail_energy: Tensor, margin: float, method: str
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The hinge of detached energies, and how often each row takes part in it.

    Parameters
    ----------
    oe_energy : Tensor of shape (n_o,)
        JointEnergy of the outliers, at least one.
    tail_energy : Tensor of shape (k,)
        JointEnergy of the tail, at least one row.
    margin : float
        The gap asked for.
    method : {"auto", "pairwise", "sorted"}
        A matrix of pairs, or binary searches.

    Returns
    -------
    loss : Tensor of shape ()
        The mean hinge.
    inside : Tensor of shape (n_o,)
        Tail rows below each outlier and the margin (c).
    outside : Tensor of shape (k,)
        Outliers above each tail row less the margin (d).
    active_fraction : Tensor of shape ()
        Their share of all pairs.
    """
    pairs = oe_energy.numel() * tail_energy.numel()
    dtype = oe_energy.dtype
    raised = oe_energy + margin
    if method == "pairwise" or (method == "auto" and pairs <= PAIRS):
        hinge = (raised[:, None] - tail_energy).clamp_(min=0)
        active = hinge.sign()
        inside = active.sum(1)
        return hinge.sum() / pairs, inside, active.sum(0), inside.sum() / pairs
    # Sums over millions of pairs need float64; MPS has none.
    wide = dtype if oe_energy.device.type == "mps" else torch.float64
    inside = torch.searchsorted(tail_energy.sort().values, raised).to(wide)
    outside = len(oe_energy) - torch.searchsorted(raised.sort().values, tail_energy, right=True).to(wide)
    centre = tail_energy.mean()  # smaller numbers, less cancellation
    loss = ((raised - centre).to(wide) @ inside - (tail_energy - centre).to(wide) @ outside) / pairs
    return loss.to(dtype), inside.to(dtype), outside.to(dtype), (inside.sum() / pairs).to(dtype)


class _Hinge(torch.autograd.Function):
    @staticmethod
    def forward(oe_energy: Tensor, tail_energy: Tensor, margin: float) -> tuple[Tensor, ...]:
        loss, inside, outside, active = pair_counts(oe_energy, tail_energy, margin, "sorted")
        pairs = oe_energy.numel() * tail_energy.numel()
        return loss, active, inside / pairs, outside / -pairs

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:  # noqa: ARG004
        ctx.mark_non_differentiable(*output[1:])
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(*output[2:])

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, Tensor | None, None]:
        if grads[0] is None:
            return None, None, None
        inside, outside = ctx.saved_tensors
        return grads[0] * inside, grads[0] * outside, None


def _vector(name: str, energy: Any) -> Tensor:
    wide = widened(energy, name)
    if wide.ndim != 1:
        raise_invalid(name, energy, "a vector, shape (n,)")
    return wide
