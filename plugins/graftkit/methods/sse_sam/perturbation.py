r"""The arithmetic on lists of parameters: ascend along a gradient, come back by copy, add gradients.

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

import sys
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor
from torch.nn.utils import get_total_norm

from graftkit.core.validation import raise_invalid

__all__ = [
    "Gradients",
    "PerturbedWeights",
    "add_",
    "gradient_norm",
    "is_sharded",
    "scale_",
    "subtract_",
    "use_foreach",
]

Gradients = list[Tensor | None]
"""One gradient for each parameter, in the optimizer's order; ``None`` where there is none."""


def is_sharded(tensor: Tensor) -> bool:
    """Whether a tensor is distributed (FSDP2), without importing what that takes: a second, for nothing.

    Parameters
    ----------
    tensor : Tensor
        Any.

    Returns
    -------
    bool
        ``True`` for a DTensor.
    """
    module = sys.modules.get("torch.distributed.tensor")
    return module is not None and isinstance(tensor, module.DTensor)


def use_foreach(tensors: Iterable[Tensor | None], foreach: bool | None) -> bool:
    """Decide between the multi-tensor and the plain form.

    Parameters
    ----------
    tensors : iterable of Tensor or None
        What the arithmetic would run over.
    foreach : bool or None
        The user's wish; ``None`` decides by the tensors.

    Returns
    -------
    bool
        ``True`` where every tensor is dense, of 32 bits or more, undistributed, and on one device.
    """
    present = [t for t in tensors if t is not None]
    if foreach is False or not present:
        return False
    device = present[0].device
    return all(
        t.device == device and t.layout is torch.strided and t.dtype.itemsize >= 4 and not is_sharded(t)
        for t in present
    )


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
    if any(g is not None and g.is_sparse and scale for g, scale in zip(grads, adaptive, strict=True)):
        raise_invalid("adaptive", True, "False where gradients are sparse")
    scaled = [
        w.detach().abs() * g if scale else g
        for w, g, scale in zip(params, grads, adaptive, strict=True)
        if g is not None
    ]
    if not scaled:
        return torch.zeros(())
    if use_foreach(scaled, foreach):
        return get_total_norm(scaled, foreach=True)
    squares = [_square_sum(t) for t in scaled]
    return torch.stack([s.to(squares[0].device) for s in squares]).sum().sqrt()


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
        self._away: list[Tensor] = []

    @torch.no_grad()
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
        moving = [
            (w, g, r, a)
            for w, g, r, a in zip(params, grads, rho, adaptive, strict=True)
            if g is not None and r > 0
        ]
        weights = [w for w, _, _, _ in moving]
        copies = [self._buffer(w) for w in weights]
        fast = use_foreach([*weights, *(g for _, g, _, _ in moving)], foreach)
        if fast:
            torch._foreach_copy_(copies, weights)
        else:
            for copy, w in zip(copies, weights, strict=True):
                copy.copy_(w)
        self._away = weights
        scale = 1.0 / (norm + eps) if norm + eps > 0 else 0.0
        if fast:
            for key in sorted({(r, a) for _, _, r, a in moving}):
                some = [(w, g) for w, g, r, a in moving if (r, a) == key]
                steps = [w.abs().square() * g for w, g in some] if key[1] else [g for _, g in some]
                torch._foreach_add_([w for w, _ in some], steps, alpha=key[0] * scale)
        else:
            for w, g, r, a in moving:
                w.add_(w.abs().square() * g if a else g, alpha=r * scale)

    @torch.no_grad()
    def restore(self) -> None:
        """Copy the weights back, bit for bit, whatever the pass in between produced."""
        away, self._away = self._away, []
        copies = [self._buffers[id(w)] for w in away]
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


@torch.no_grad()
def add_(into: Gradients, other: Gradients, foreach: bool | None = None) -> Gradients:
    """Add one gradient to another in place; a gradient on one side only counts as it is.

    Parameters
    ----------
    into, other : list of Tensor or None
        Of equal length; `into` may not alias what the caller still needs.
    foreach : bool or None, default=None
        See :func:`use_foreach`.

    Returns
    -------
    list of Tensor or None
        The sum.
    """
    both = [(a, b) for a, b in zip(into, other, strict=True) if a is not None and b is not None]
    if use_foreach([t for pair in both for t in pair], foreach):
        torch._foreach_add_([a for a, _ in both], [b for _, b in both])
        return [b if a is None else a for a, b in zip(into, other, strict=True)]
    # Out of place, so that a sparse and a dense gradient may meet in either order.
    return [
        b if a is None else a if b is None else (b + a if a.is_sparse and not b.is_sparse else a.add_(b))
        for a, b in zip(into, other, strict=True)
    ]


@torch.no_grad()
def subtract_(into: Gradients, other: Gradients, foreach: bool | None = None) -> Gradients:
    """Subtract `other` from `into` in place, as :func:`add_` adds.

    Parameters
    ----------
    into, other : list of Tensor or None
        Of equal length.
    foreach : bool or None, default=None
        See :func:`use_foreach`.

    Returns
    -------
    list of Tensor or None
        The difference.
    """
    both = [(a, b) for a, b in zip(into, other, strict=True) if a is not None and b is not None]
    if use_foreach([t for pair in both for t in pair], foreach):
        torch._foreach_sub_([a for a, _ in both], [b for _, b in both])
        return [-b if a is None and b is not None else a for a, b in zip(into, other, strict=True)]
    return [a if b is None else -b if a is None else a.sub_(b) for a, b in zip(into, other, strict=True)]


@torch.no_grad()
def scale_(grads: Gradients, factor: float, foreach: bool | None = None) -> Gradients:
    """Multiply a gradient in place; a factor of 1 touches nothing.

    Parameters
    ----------
    grads : list of Tensor or None
        The gradient.
    factor : float
        The factor.
    foreach : bool or None, default=None
        See :func:`use_foreach`.

    Returns
    -------
    list of Tensor or None
        `grads` itself.
    """
    present = [g for g in grads if g is not None]
    if factor == 1 or not present:
        return grads
    if use_foreach(present, foreach):
        torch._foreach_mul_(present, factor)
    else:
        for g in present:
            g.mul_(factor)
    return grads
