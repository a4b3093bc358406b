r"""Weights that are moved: the gradient's global norm, the ascent along it, the way back by copy.

.. math:: \varepsilon = \rho_g\, \frac{g}{\lVert g\rVert + \mathrm{tiny}}, \qquad
   \text{adaptive: } \varepsilon = \rho_g\, \frac{w^2 g}{\lVert |w|\, g\rVert + \mathrm{tiny}}

The norm is global over all groups, the radius is the group's own. Each function has a plain form, which is
the truth, and a multi-tensor form, which is proved equal to it. Weights come back from a copy: ``w + e - e``
is not ``w`` (specification section 1.6, item 5).

Source: SSE-SAM (AAAI 2025, arXiv 2412.13715); adaptive radii as in ASAM; specification sections 1.2, 3.4.

>>> w = [torch.nn.Parameter(torch.zeros(2))]
>>> weights = PerturbedWeights()
>>> weights.ascend(w, [torch.tensor([3.0, 4.0])], rho=[1.0], adaptive=[False], norm=5.0, eps=0.0)
>>> w[0].tolist()
[0.6000000238418579, 0.800000011920929]
>>> weights.restore()
>>> w[0].tolist()
[0.0, 0.0]
"""

import functools
import math
from collections.abc import Sequence

import torch
from torch import Tensor

from graftkit.core.validation import raise_invalid
from graftkit.methods.sse_sam.arithmetic import Gradients, is_sharded, use_foreach, without_grad

__all__ = ["PerturbedWeights", "all_finite", "gradient_norm", "norm_value"]

SMALL = 4096  # entries
FEW = 16  # tensors


def gradient_norm(
    params: Sequence[Tensor], grads: Gradients, adaptive: Sequence[bool], foreach: bool | None = None
) -> Tensor:
    """Global L2 norm of a gradient over all groups, element-wise scaled by ``|w|`` where adaptive.

    Parameters
    ----------
    params : sequence of Tensor
        The weights.
    grads : list of Tensor or None
        The gradient.
    adaptive : sequence of bool
        Whether the parameter's group is adaptive.
    foreach : bool or None, default=None
        See :func:`use_foreach`.

    Returns
    -------
    Tensor
        A scalar, float32 or wider; 0 where there is no gradient at all.

    Raises
    ------
    ValueError
        If a sparse gradient belongs to an adaptive group.
    """
    norms = _norms(params, grads, adaptive, foreach)
    if not norms:
        return torch.zeros(())
    return norms[0] if len(norms) == 1 else _norm(torch.stack(norms))


def norm_value(
    params: Sequence[Tensor], grads: Gradients, adaptive: Sequence[bool], foreach: bool | None = None
) -> float:
    """What :func:`gradient_norm` gives, as a number.

    Parameters
    ----------
    params : sequence of Tensor
        The weights.
    grads : list of Tensor or None
        The gradient.
    adaptive : sequence of bool
        Whether the parameter's group is adaptive.
    foreach : bool or None, default=None
        See :func:`use_foreach`.

    Returns
    -------
    float
        The norm.
    """
    norms = _norms(params, grads, adaptive, foreach)
    if norms and norms[0].device.type == "cpu":
        return math.hypot(*[n.item() for n in norms])  # adds up sooner than a kernel starts
    return float(norms[0] if len(norms) == 1 else _norm(torch.stack(norms))) if norms else 0.0


def _norms(
    params: Sequence[Tensor], grads: Gradients, adaptive: Sequence[bool], foreach: bool | None
) -> list[Tensor]:
    """Norms of pieces of the gradient, on one device, whose norm is the gradient's."""
    if any(adaptive):
        if any(g is not None and g.is_sparse and scale for g, scale in zip(grads, adaptive, strict=True)):
            raise_invalid("adaptive", True, "False where gradients are sparse")
        scaled = [
            w.detach().abs() * g if scale else g
            for w, g, scale in zip(params, grads, adaptive, strict=True)
            if g is not None
        ]
    else:
        scaled = [g for g in grads if g is not None]
    if not scaled:
        return []
    if use_foreach(scaled, foreach):
        if len(scaled) > FEW:  # many small tensors cost less as one: a norm of each is a call of each
            small = [g.reshape(-1) for g in scaled if g.numel() <= SMALL]
            large = [g for g in scaled if g.numel() > SMALL]
            scaled = [torch.cat(small), *large] if small else large
        return list(torch._foreach_norm(scaled))
    squares = [_square_sum(t) for t in scaled]
    return [torch.stack([s.to(squares[0].device) for s in squares]).sum().sqrt()]


def all_finite(params: Sequence[Tensor], grads: Gradients, foreach: bool | None = None) -> bool:
    """Whether a gradient holds neither NaN nor infinity; read in one synchronisation.

    Parameters
    ----------
    params : sequence of Tensor
        The weights.
    grads : list of Tensor or None
        The gradient; its values stay as they are.
    foreach : bool or None, default=None
        See :func:`use_foreach`.

    Returns
    -------
    bool
        Of the whole gradient. Where the multi-tensor form does not apply, by its norm, so that finite numbers
        whose norm overflows count as infinite.
    """
    present = [g for g in grads if g is not None]
    if len({g.dtype for g in present}) == 1 and use_foreach(present, foreach):
        first = present[0]
        if first.device.type in ("cpu", "cuda") and first.dtype.is_floating_point:
            # The scaler's own check costs less than a norm. It multiplies by one, which changes no bit.
            found = torch.zeros((), dtype=torch.float32, device=first.device)
            torch._amp_foreach_non_finite_check_and_unscale_(present, found, _one(first.device))
            return not found.item()
    return math.isfinite(norm_value(params, grads, (), foreach))


@functools.cache
def _one(device: torch.device) -> Tensor:
    return torch.ones((), dtype=torch.float32, device=device)  # whatever the default type is


def _norm(values: Tensor) -> Tensor:
    norm: Tensor = torch.linalg.vector_norm(values)
    return norm


def _square_sum(tensor: Tensor) -> Tensor:
    if tensor.is_sparse:
        tensor = tensor.coalesce().values()
    wide = torch.promote_types(tensor.real.dtype if tensor.is_complex() else tensor.dtype, torch.float32)
    norm = torch.linalg.vector_norm(tensor, dtype=None if tensor.is_complex() else wide)
    whole: Tensor = getattr(norm, "full_tensor")() if is_sharded(norm) else norm  # noqa: B009  (a DTensor's)
    return whole.square()


class PerturbedWeights:
    """Weights that are away from home, and the copies that bring them back bit for bit.

    The buffers are kept between steps: one copy of what is perturbed.
    """

    def __init__(self) -> None:
        self._buffers: dict[int, Tensor] = {}
        self._away: tuple[list[Tensor], list[Tensor]] = ([], [])

    @without_grad
    def ascend(
        self,
        params: Sequence[Tensor],
        grads: Gradients,
        *,
        rho: Sequence[float],
        adaptive: Sequence[bool],
        norm: float,
        eps: float,
        foreach: bool | None = None,
    ) -> None:
        """Copy the weights and move them by ``rho * g / (norm + eps)``.

        Parameters
        ----------
        params : sequence of Tensor
            The weights, changed in place (never through ``.data``, so a stale graph is noticed).
        grads : list of Tensor or None
            The direction; parameters without one, or of radius 0, stay.
        rho, adaptive : sequence of float, bool
            The group's radius and kind, one a parameter.
        norm : float
            The global norm.
        eps : float
            Added to it, so that a zero gradient moves nothing.
        foreach : bool or None, default=None
            See :func:`use_foreach`.
        """
        chosen = [
            (w, g, r, kind)
            for w, g, r, kind in zip(params, grads, rho, adaptive, strict=True)
            if g is not None and r > 0
        ]
        if not chosen:
            return
        weights, steps = [w for w, _, _, _ in chosen], [g for _, g, _, _ in chosen]
        copies = [self._buffer(w) for w in weights]
        fast = use_foreach(weights, foreach) and use_foreach(steps, foreach)
        if fast:
            torch._foreach_copy_(copies, weights)
        else:
            for copy, w in zip(copies, weights, strict=True):
                copy.copy_(w)
        self._away = (weights, copies)
        scale = 1.0 / (norm + eps) if norm + eps > 0 else 0.0
        if not fast:
            for w, g, r, kind in chosen:
                w.add_(w.abs().square() * g if kind else g, alpha=r * scale)
            return
        if min(rho) == max(rho) and not any(adaptive):
            torch._foreach_add_(weights, steps, alpha=rho[0] * scale)
            return
        alike: dict[tuple[float, bool], tuple[list[Tensor], list[Tensor]]] = {}
        for w, g, r, kind in chosen:
            some, along = alike.setdefault((r, kind), ([], []))
            some.append(w)
            along.append(w.abs().square() * g if kind else g)
        for (r, _), (some, along) in alike.items():
            torch._foreach_add_(some, along, alpha=r * scale)

    @without_grad
    def restore(self) -> None:
        """Copy the weights back, bit for bit, whatever the pass in between produced."""
        (away, copies), self._away = self._away, ([], [])
        if use_foreach(away, None):
            torch._foreach_copy_(away, copies)
        else:
            for w, copy in zip(away, copies, strict=True):
                w.copy_(copy)

    def _buffer(self, w: Tensor) -> Tensor:
        held = self._buffers.get(id(w))
        if held is None or held.shape != w.shape or held.dtype != w.dtype or held.device != w.device:
            held = self._buffers[id(w)] = torch.empty_like(w, requires_grad=False)
        return held
