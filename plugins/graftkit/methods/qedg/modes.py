"""Modes of a network for the time of a block: eval, and without gradients of its parameters.

>>> net = nn.Sequential(nn.Dropout(), nn.Linear(2, 1))
>>> with frozen(net):
...     net.training, net[1].weight.requires_grad
(False, False)
>>> net.training, net[1].weight.requires_grad
(True, True)
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn

__all__ = ["eval_mode", "frozen"]


@contextmanager
def eval_mode(module: object) -> Iterator[None]:
    """Every part in eval mode inside the block, and in the mode that it was in after it.

    Parameters
    ----------
    module : object
        A network, of which some parts may train and others not; anything else is left alone.

    Yields
    ------
    None
        For the block.
    """
    modes = [(part, part.training) for part in module.modules()] if isinstance(module, nn.Module) else []
    try:
        for part, _ in modes:
            part.training = False
        yield
    finally:
        for part, training in modes:
            part.training = training


@contextmanager
def frozen(module: nn.Module) -> Iterator[None]:
    """Eval mode and no gradient for the parameters inside the block; both put back after it.

    Parameters
    ----------
    module : torch.nn.Module
        The substitute.

    Yields
    ------
    None
        For the block.
    """
    wanted = [(p, p.requires_grad) for p in module.parameters()]
    try:
        module.requires_grad_(False)
        with eval_mode(module):
            yield
    finally:
        for parameter, requires in wanted:
            parameter.requires_grad_(requires)
