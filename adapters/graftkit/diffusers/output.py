"""What the pipeline returns.

>>> DiffusionFeatureOutput(features={"a": torch.zeros(1, 2, 3, 3)}, strides={"a": (8, 8)}).names
['a']
"""

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from diffusers.utils.outputs import BaseOutput

__all__ = ["DiffusionFeatureOutput"]


@dataclass
class DiffusionFeatureOutput(BaseOutput):
    """Feature maps of one call.

    Parameters
    ----------
    features : dict of str to Tensor of shape (B, C, H, W)
        In the order of the request. With several timesteps the keys are ``name@timestep``.
    strides : dict of str to (int, int) or None
        Image pixels per cell, down and across; ``None`` for tokens of the text.
    timestep : float, int or list, or None, default=None
        What the noise level was asked for as.
    latents : Tensor of shape (B, c, h, w) or None, default=None
        The clean latent, to be reused for further calls.
    sample : Tensor of shape (B, c, h, w) or None, default=None
        The network's output; None after an early exit.
    """

    features: dict[str, Tensor]
    strides: dict[str, tuple[int, int] | None]
    timestep: Any = None
    latents: Tensor | None = None
    sample: Tensor | None = None

    @property
    def names(self) -> list[str]:
        """The keys of `features`.

        Returns
        -------
        list of str
            In order.
        """
        return list(self.features)

    def __repr__(self) -> str:
        shapes = ", ".join(f"{name}: {tuple(tensor.shape)}" for name, tensor in self.features.items())
        return f"{type(self).__name__}({shapes})"
