"""Private randomness: graftkit never draws from, nor seeds, a global generator.

>>> rng = numpy_generator(0)
>>> int(rng.integers(10)) == int(numpy_generator(0).integers(10))
True
"""

from __future__ import annotations

from numbers import Integral
from typing import TYPE_CHECKING, Any

import numpy as np

from graftkit.core.validation import raise_invalid

if TYPE_CHECKING:
    import torch

__all__ = ["numpy_generator", "torch_generator"]


def numpy_generator(random_state: Any = None) -> np.random.Generator:
    """Turn what users pass as ``random_state`` into a private NumPy generator.

    Parameters
    ----------
    random_state : None, int, numpy.random.Generator, numpy.random.RandomState, default=None
        ``None`` draws fresh entropy; an int seeds; a ``Generator`` is used as it is; a legacy
        ``RandomState`` gives one seed (and so advances, as scikit-learn's users expect).

    Returns
    -------
    numpy.random.Generator
        Independent of NumPy's global state.

    Raises
    ------
    ValueError
        If a seed is negative.
    TypeError
        If `random_state` is none of the above.
    """
    if isinstance(random_state, np.random.Generator):
        return random_state
    if isinstance(random_state, np.random.RandomState):
        return np.random.default_rng(random_state.randint(0, 2**31 - 1, size=4))
    if random_state is None or (isinstance(random_state, Integral) and not isinstance(random_state, bool)):
        if random_state is not None and random_state < 0:
            raise_invalid("random_state", random_state, "a non-negative seed")
        return np.random.default_rng(None if random_state is None else int(random_state))
    raise_invalid(
        "random_state", random_state, "None, an int, a numpy Generator or RandomState", error=TypeError
    )


def torch_generator(random_state: Any = None, device: str | torch.device = "cpu") -> torch.Generator:
    """Turn ``random_state`` into a private torch generator.

    Parameters
    ----------
    random_state : None, int, numpy.random.Generator, numpy.random.RandomState, torch.Generator, default=None
        As in :func:`numpy_generator`; a ``torch.Generator`` is used as it is.
    device : str or torch.device, default="cpu"
        Where the generator lives.

    Returns
    -------
    torch.Generator
        Independent of torch's global state.

    Raises
    ------
    ValueError
        If a seed is negative, or a given ``torch.Generator`` lives on another device.
    TypeError
        If `random_state` is of another type.
    """
    import torch

    if isinstance(random_state, torch.Generator):
        if random_state.device.type != torch.device(device).type:
            raise_invalid("random_state", random_state.device, f"a generator on device {device}")
        return random_state
    seed = int(numpy_generator(random_state).integers(2**63 - 1))
    return torch.Generator(device=device).manual_seed(seed)
