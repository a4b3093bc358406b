"""Noise levels under any scheduler, read from its schedule and never through its state.

``scheduler.timesteps`` is an index list that differs from scheduler to scheduler (PNDM repeats an entry); the
cumulative products do not. So a timestep is taken literally, and no scheduler is changed by an extraction.

>>> noise_level(pipe.scheduler, 50).alpha_bar  # doctest: +SKIP
0.9515766501426697
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor

from graftkit.core.validation import check_choice, check_integer, check_number, raise_invalid
from graftkit.methods.diffusion_feature import noise

__all__ = ["NoiseLevel", "noise_level", "noise_level_at_sigma", "schedule_length"]


@dataclass(frozen=True)
class NoiseLevel:
    """How noisy the input is, and what the network is told.

    Parameters
    ----------
    time : float
        The network's timestep on a scale of 0 to 1000.
    alpha_bar : float or None
        The cumulative product; None for flow matching.
    sigma : float
        Noise-to-signal ratio, or flow matching's share of noise.
    """

    time: float
    alpha_bar: float | None
    sigma: float

    @property
    def is_flow(self) -> bool:
        """Whether this is flow matching's."""
        return self.alpha_bar is None

    def apply(self, latents: Tensor, draw: Tensor) -> Tensor:
        """The noisy latent, of the shape of both."""
        if self.alpha_bar is None:
            return noise.interpolate(latents, draw, self.sigma)
        return noise.diffuse(latents, draw, self.alpha_bar)

    def clean(self, noisy: Tensor, output: Tensor, prediction: str) -> Tensor:
        """The clean latent that an output implies."""
        if self.alpha_bar is None:
            return noisy - self.sigma * output
        return noise.predict_clean(noisy, output, self.alpha_bar, prediction)

    def move(self, noisy: Tensor, output: Tensor, prediction: str, target: "NoiseLevel") -> Tensor:
        """One deterministic step to a cleaner level."""
        if self.alpha_bar is None or target.alpha_bar is None:
            return noisy + (target.sigma - self.sigma) * output
        clean = self.clean(noisy, output, prediction)
        return noise.step_down(noisy, clean, self.alpha_bar, target.alpha_bar)


def schedule_length(scheduler: Any) -> int:
    """Number of training timesteps."""
    return int(scheduler.config.num_train_timesteps)


def noise_level(scheduler: Any, timestep: Any, *, noise_match: str = "snr") -> NoiseLevel:
    """The level of a literal timestep in 0..T-1.

    Raises
    ------
    TypeError
        If `timestep` is no integer.
    ValueError
        If it is out of range, or the scheduler is of an unknown kind.
    """
    steps = schedule_length(scheduler)
    index = check_integer("timestep", timestep, low=0, high=steps - 1)
    check_choice("noise_match", noise_match, ("snr", "linear"))
    if _is_flow(scheduler):
        sigma = noise.matched_sigma(index) if noise_match == "snr" and index < noise.STEPS else index / steps
        return NoiseLevel(1000 * sigma, None, sigma)
    alpha_bar = float(scheduler.alphas_cumprod[index])
    return NoiseLevel(index, alpha_bar, noise.noise_ratio(alpha_bar))


def noise_level_at_sigma(scheduler: Any, sigma: Any) -> NoiseLevel:
    """The level of a given sigma: flow matching's share, elsewhere the noise-to-signal ratio.

    Raises
    ------
    TypeError
        If `sigma` is no number.
    ValueError
        If it is out of range, or the scheduler is of an unknown kind.
    """
    if _is_flow(scheduler):
        value = check_number("sigma", sigma, low=0, high=1)
        return NoiseLevel(1000 * value, None, value)
    value = check_number("sigma", sigma, low=0)
    ratios = np.array([noise.noise_ratio(float(a)) for a in scheduler.alphas_cumprod])
    # Between timesteps the logarithm is linear, as in diffusers' Euler scheduler.
    time = float(np.interp(np.log(max(value, 1e-10)), np.log(ratios), np.arange(len(ratios))))
    return NoiseLevel(time, 1 / (1 + value * value), value)


def _is_flow(scheduler: Any) -> bool:
    if getattr(scheduler, "alphas_cumprod", None) is not None:
        return False
    if "FlowMatch" in type(scheduler).__name__:
        return True
    raise_invalid("scheduler", type(scheduler).__name__, "one with alphas_cumprod, or flow matching")
