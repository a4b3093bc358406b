"""What a forward pass found around it: autocast and random numbers, to repeat it under the same conditions.

>>> before = random_state(torch.device("cpu"))
>>> first = torch.rand(2)
>>> with with_random_state(before):
...     again = torch.rand(2)
>>> bool((first == again).all())
True
"""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import NamedTuple

import torch
from torch import Tensor

__all__ = ["NOTHING", "Autocast", "random_state", "with_random_state"]

NOTHING = nullcontext()

RandomState = tuple[Tensor, torch.device, Tensor | None]


def random_state(device: torch.device) -> RandomState:
    """Remember the generators that a model on `device` draws from.

    Parameters
    ----------
    device : torch.device
        Where the model lives.

    Returns
    -------
    tuple
        For :func:`with_random_state`.
    """
    own = torch.cuda.get_rng_state(device) if device.type == "cuda" else None
    return torch.get_rng_state(), device, own


@contextmanager
def with_random_state(state: RandomState) -> Iterator[None]:
    """Draw remembered random numbers again; afterwards the generators stand where they stood.

    Parameters
    ----------
    state : tuple
        From :func:`random_state`.

    Yields
    ------
    None
    """
    now = random_state(state[1])
    _set(state)
    try:
        yield
    finally:
        _set(now)


def _set(state: RandomState) -> None:
    cpu, device, own = state
    torch.set_rng_state(cpu)
    if own is not None:
        torch.cuda.set_rng_state(own, device)


class Autocast(NamedTuple):
    """The autocast state of one moment on one device type.

    Attributes
    ----------
    device_type : str
        As ``torch.autocast`` takes it.
    enabled : bool
        Whether autocast was on.
    dtype : torch.dtype
        What it cast to.
    """

    device_type: str
    enabled: bool
    dtype: torch.dtype

    @classmethod
    def now(cls, device: torch.device) -> "Autocast":
        """Read the state.

        Parameters
        ----------
        device : torch.device
            Where the model lives.

        Returns
        -------
        Autocast
            The state.
        """
        kind = device.type
        if not torch.is_autocast_enabled(kind):
            return cls(kind, False, torch.bfloat16)  # to what nothing is cast does not matter
        return cls(kind, True, torch.get_autocast_dtype(kind))

    def again(self) -> AbstractContextManager[None]:
        """Enter the same state, with no cast of older weights in the cache.

        Returns
        -------
        context manager
            One that does nothing where autocast was off and is.
        """
        if not self.enabled and not torch.is_autocast_enabled(self.device_type):
            return NOTHING
        return self._again()

    @contextmanager
    def _again(self) -> Iterator[None]:
        torch.clear_autocast_cache()
        try:
            with torch.autocast(self.device_type, dtype=self.dtype, enabled=self.enabled):
                yield
        finally:
            torch.clear_autocast_cache()
