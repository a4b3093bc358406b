"""Private random streams that depend on the seed and on names, not on what was drawn before.

A run that goes on after an interruption draws what the uninterrupted run would have drawn, with no
generator's state to be saved: each round asks for its own stream. Layers that draw from torch's global
generator (dropout) are run inside :func:`private_torch`, which restores that generator afterwards.

>>> a, b = stream(0, "latent", 3), stream(0, "latent", 3)
>>> a.initial_seed() == b.initial_seed() != stream(0, "latent", 4).initial_seed()
True
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager

import torch

__all__ = ["private_torch", "stream"]


def _seed(seed: int, names: tuple[str | int, ...]) -> int:
    digest = hashlib.sha256(repr((seed, *names)).encode()).digest()
    return int.from_bytes(digest[:8], "little") >> 1


def stream(seed: int, *names: str | int) -> torch.Generator:
    """A generator of its own for one purpose.

    Parameters
    ----------
    seed : int
        The run's seed.
    *names : str or int
        What the numbers are for.

    Returns
    -------
    torch.Generator
        On the CPU.
    """
    return torch.Generator().manual_seed(_seed(seed, names))


@contextmanager
def private_torch(seed: int, *names: str | int, device: torch.device) -> Iterator[None]:
    """Seed torch's global generator for a block, and put it back.

    Parameters
    ----------
    seed : int
        The run's seed.
    *names : str or int
        What the numbers are for.
    device : torch.device
        Whose generator is seeded besides the CPU's.

    Yields
    ------
    None
        For the block.
    """
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(_seed(seed, names))
        yield
