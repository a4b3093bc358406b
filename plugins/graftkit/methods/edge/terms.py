r"""EDGE's terms one by one, on the graph: the plain form, which takes any classification loss and any tail.

.. math:: L_{conf} = \frac{\mathrm{mean}_j(O_j)}{C}, \qquad
    L_{gap} = \mathrm{mean}_{j, t \in T} \max(0,\, O_j - E_t + m)

A side without rows gives zeros that stay on the graph. `fused` computes the same faster. Source:
specification 1.2, 1.3 and 3.2.

>>> import torch
>>> known, outliers = torch.tensor([[2.0, 0.0]]), torch.zeros(1, 2)
>>> terms, active = plain_terms(torch.cat([known, outliers]), torch.ones(1, 2), 1, 1.0)
>>> [round(float(term), 3) for term in terms]  # conf: ln 2; gap: 2 ln 2 - 2.820 < -1
[0.41, 0.693, 0.0]
"""

from collections.abc import Callable
from typing import NamedTuple

from torch import Tensor
from torch.nn import functional

from graftkit.core.validation import raise_invalid
from graftkit.methods.edge.energies import summed_softplus
from graftkit.methods.edge.gap import gap_terms

__all__ = ["EDGETerms", "plain_terms"]


class EDGETerms(NamedTuple):
    """The parts of the last loss, detached; tensors stay on their device until they are read.

    Parameters
    ----------
    id : Tensor of shape ()
        The classification term.
    conf : Tensor of shape ()
        The confidence term, before its weight.
    gap : Tensor of shape ()
        The gap term, before its weight.
    beta : Tensor of shape ()
        The gap's weight at this epoch: 0 during warm-up.
    n_id : int
        Known rows.
    n_oe : int
        Outliers.
    k_used : int
        Rows in the tail.
    active_fraction : Tensor of shape ()
        Share of pairs inside the hinge. At 0 the gap term does nothing.
    """

    id: Tensor
    conf: Tensor
    gap: Tensor
    beta: Tensor
    n_id: int
    n_oe: int
    k_used: int
    active_fraction: Tensor


def plain_terms(
    logits: Tensor,
    targets: Tensor,
    tail: int | Tensor,
    margin: float,
    *,
    scale: int = 1,
    method: str = "auto",
    id_loss: Callable[[Tensor, Tensor], Tensor] | None = None,
) -> tuple[tuple[Tensor, Tensor, Tensor], Tensor]:
    """Classification, confidence and gap term, before their weights.

    Parameters
    ----------
    logits : Tensor of shape (n + n_o, C)
        Known rows first, then outliers; either may be none.
    targets : Tensor of shape (n, C)
        Targets of the known rows, in the logits' dtype.
    tail : int or Tensor of bool, shape (n,)
        How many rows of lowest energy form the tail, or which.
    margin : float
        The gap asked for.
    scale : int, default=1
        Energies are divided by it in the gap term.
    method : {"auto", "pairwise", "sorted"}, default="auto"
        How the hinge is computed.
    id_loss : callable or None, default=None
        In place of the mean binary cross-entropy.

    Returns
    -------
    terms : tuple of three tensors of shape ()
        Classification, confidence, gap.
    active_fraction : Tensor of shape ()
        Share of pairs inside the hinge, detached.

    Raises
    ------
    ValueError
        If `id_loss` gives no scalar.
    """
    n_id, labels = targets.shape
    known, outliers = logits[:n_id], logits[n_id:]
    if not n_id or not len(outliers):
        zero = logits.sum() * 0
        id_term = _classification(known, targets, id_loss) if n_id else zero
        conf = summed_softplus(outliers, 1).mean() / labels if len(outliers) else zero
        return (id_term, conf, zero), zero.detach()
    id_term, oe_energy = _classification(known, targets, id_loss), summed_softplus(outliers, 1)
    energy = summed_softplus(known, 1)
    if isinstance(tail, Tensor):
        energy = energy[tail]
    elif tail < n_id:
        energy = energy.topk(tail, largest=False, sorted=False).values
    gap, active = gap_terms(oe_energy / scale, energy / scale, margin, method)
    return (id_term, oe_energy.mean() / labels, gap), active


def _classification(
    known: Tensor, targets: Tensor, id_loss: Callable[[Tensor, Tensor], Tensor] | None
) -> Tensor:
    if id_loss is None:
        return functional.binary_cross_entropy_with_logits(known, targets)
    loss = id_loss(known, targets)
    if not isinstance(loss, Tensor) or loss.ndim:
        raise_invalid("id_loss", loss, "a callable that returns a scalar tensor", fix="Use its mean.")
    return loss
