"""The three ways in, as a user would write them, and a counter of the work that they cause."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from graftkit.torch import SSESAM

Criterion = Callable[[Tensor, Tensor], Tensor]


def mixed_batches(n: int = 6, size: int = 12, classes: int = 4, shape: tuple[int, ...] = (5,), seed: int = 0):
    """Batches in float64; one without tail (class 3), one of tail only."""
    generator = torch.Generator().manual_seed(seed)
    batches = []
    for k in range(n):
        y = torch.randint(0, classes, (size,), generator=generator)
        y[0], y[1] = 0, classes - 1
        if k == 1:
            y = y.clamp(max=classes - 2)
        if k == 2:
            y = torch.full_like(y, classes - 1)
        batches.append((torch.randn(size, *shape, generator=generator, dtype=torch.float64), y))
    return batches


def by_closure(
    optimizer: SSESAM, model: nn.Module, criterion: Criterion, batches: Any, *, targets: bool = False
):
    for x, y in batches:

        def closure(index: Tensor | None = None, x: Tensor = x, y: Tensor = y) -> tuple[Tensor, Tensor]:
            if index is not None:
                x, y = x[index], y[index]
            return criterion(model(x), y), y

        optimizer.step(closure, targets=y if targets else None)


def by_explicit(optimizer: SSESAM, model: nn.Module, criterion: Criterion, batches: Any) -> None:
    for x, y in batches:
        optimizer.first_step(criterion(model(x), y), y)
        for part in optimizer.parts:
            with optimizer.perturbed(part):
                optimizer.second_step(criterion(model(x), y), y)
        optimizer.step()


def by_loop(optimizer: Any, model: nn.Module, criterion: Any, batches: Any) -> None:
    """The loop that everyone has."""
    for x, y in batches:
        optimizer.zero_grad()
        loss = criterion(model(x), y)
        loss.backward()
        optimizer.step()


class Work:
    """Rows forwarded and rows sent backward, per full batch of `size`: forward counts 1/3, backward 2/3."""

    def __init__(self, size: int) -> None:
        self.size, self.forward, self.backward = size, 0, 0

    @property
    def units(self) -> float:
        return (self.forward + 2 * self.backward) / (3 * self.size)


@contextmanager
def counted(first_layer: nn.Module, size: int) -> Iterator[Work]:
    """Count what runs through a layer, in either direction."""
    work = Work(size)

    def ahead(module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> None:
        del module, args
        work.forward += len(output)
        if output.requires_grad:
            output.register_hook(lambda grad: setattr(work, "backward", work.backward + len(grad)))

    handle = first_layer.register_forward_hook(ahead)
    try:
        yield work
    finally:
        handle.remove()


def weights(model: nn.Module) -> Tensor:
    return torch.cat([p.detach().flatten() for p in model.parameters()])
