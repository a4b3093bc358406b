"""Named random streams: one seed, one independent generator for each purpose.

Adding a source, or drawing more from one, does not move the draws of another; a graph's own stream
``(seed, source, epoch, index)`` gives the same graph in any worker process.

>>> a, b = stream(0, "edges", 3), stream(0, "edges", 3)
>>> a.initial_seed() == b.initial_seed() != stream(0, "sizes", 3).initial_seed()
True
"""

import hashlib

import torch

from graftkit.core.validation import check_integer

__all__ = ["stream"]


def stream(seed: int, *names: str | int) -> torch.Generator:
    """A private generator that depends on the seed and on the names alone.

    Parameters
    ----------
    seed : int
        The user's seed, >= 0.
    *names : str or int
        What the numbers are for.

    Returns
    -------
    torch.Generator
        On the CPU.
    """
    seed = check_integer("seed", seed, low=0)
    digest = hashlib.sha256(repr((seed, *names)).encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "little") >> 1)
