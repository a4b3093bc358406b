"""Arithmetic on lists of gradients, in a plain form, which is the truth, and a multi-tensor form equal to it.

>>> add_([torch.ones(2), None], [torch.ones(2), torch.ones(1)])
[tensor([2., 2.]), tensor([1.])]
"""

import functools
import sys
from collections.abc import Callable, Iterable
from typing import ParamSpec, TypeVar

import torch
from torch import Tensor

__all__ = [
    "Gradients",
    "add_",
    "any_sharded",
    "is_sharded",
    "scale_",
    "subtract_",
    "use_foreach",
    "without_grad",
]

P = ParamSpec("P")
R = TypeVar("R")
Gradients = list[Tensor | None]
"""One gradient for each parameter, in the optimizer's order; ``None`` where there is none."""


def without_grad(function: Callable[P, R]) -> Callable[P, R]:
    """Decorate as ``torch.no_grad()`` does, at no cost where gradients are off already.

    Parameters
    ----------
    function : callable
        Nearly always called inside ``step()``.

    Returns
    -------
    callable
        Of the same signature.
    """
    guarded = torch.no_grad()(function)

    @functools.wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        return guarded(*args, **kwargs) if torch.is_grad_enabled() else function(*args, **kwargs)

    return call


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
    return _is_sharded_type(type(tensor))


def _is_sharded_type(cls: type) -> bool:
    module = sys.modules.get("torch.distributed.tensor")
    return module is not None and issubclass(cls, module.DTensor)


def any_sharded(tensors: Iterable[Tensor]) -> bool:
    """Whether any of some tensors is distributed.

    Parameters
    ----------
    tensors : iterable of Tensor
        Such as a model's parameters.

    Returns
    -------
    bool
        ``True`` where one is a DTensor.
    """
    if "torch.distributed.tensor" not in sys.modules:
        return False
    return any(_is_sharded_type(cls) for cls in {type(t) for t in tensors})


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
    if foreach is False:
        return False
    kinds = {(t.device, t.layout, t.dtype, type(t)) for t in tensors if t is not None}
    if len(kinds) == 1:  # nearly always, and asked several times in every step
        ((_, layout, dtype, cls),) = kinds
        return layout is torch.strided and dtype.itemsize >= 4 and not _is_sharded_type(cls)
    return (
        len({device for device, _, _, _ in kinds}) == 1
        and all(layout is torch.strided and dtype.itemsize >= 4 for _, layout, dtype, _ in kinds)
        and not any(_is_sharded_type(cls) for _, _, _, cls in kinds)
    )


@without_grad
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


@without_grad
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


@without_grad
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
    if factor == 1:
        return grads
    present = [g for g in grads if g is not None]
    if not present:
        return grads
    if use_foreach(present, foreach):
        torch._foreach_mul_(present, factor)
    else:
        for g in present:
            g.mul_(factor)
    return grads
