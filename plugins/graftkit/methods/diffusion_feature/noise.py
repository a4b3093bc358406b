r"""The noisy input: literal timesteps, flow matching at equal signal-to-noise ratio, deterministic steps.

.. math::

    z_t = \sqrt{\bar\alpha_t}\, z_0 + \sqrt{1 - \bar\alpha_t}\, n \qquad
    z_\sigma = (1 - \sigma)\, z_0 + \sigma n

A timestep t says noise-to-signal :math:`r_t = \sqrt{(1 - \bar\alpha_t)/\bar\alpha_t}` under Stable
Diffusion's schedule. For flow matching the same ratio is :math:`\sigma = r / (1 + r)`: t = 50 is 0.184,
where a literal 50/1000 would be far cleaner (our inference, unverified on real weights). The public code of
arXiv 2410.03558 takes an index into the scheduler's list instead, which is off by one with PNDM and fails
at t = 0.

>>> round(matched_sigma(50), 7)
0.1840611
"""

import math
from functools import cache

import torch
from torch import Tensor

from graftkit.core.validation import check_choice, check_integer

__all__ = [
    "STEPS",
    "diffuse",
    "diffuse_at_random",
    "interpolate",
    "matched_sigma",
    "noise_ratio",
    "predict_clean",
    "stable_diffusion_alphas",
    "step_down",
]

STEPS = 1000
PREDICTIONS = ("epsilon", "v_prediction", "sample")


@cache
def stable_diffusion_alphas() -> Tensor:
    """Cumulative products of Stable Diffusion's scaled-linear schedule (.00085 to .012 in 1000 steps).

    Returns
    -------
    Tensor of shape (1000,)
        In float64.
    """
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, STEPS, dtype=torch.float64).square()
    return torch.cumprod(1 - betas, dim=0)


def noise_ratio(alpha_bar: float) -> float:
    """Standard deviation of the noise over that of the signal's factor.

    Parameters
    ----------
    alpha_bar : float in (0, 1]
        The cumulative product at some timestep.

    Returns
    -------
    float
        ``sqrt((1 - alpha_bar) / alpha_bar)``.
    """
    return math.sqrt(max(1.0 - alpha_bar, 0.0) / alpha_bar) if alpha_bar > 0 else math.inf


def diffuse_at_random(clean: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """Training's input: each sample at a timestep of its own, under Stable Diffusion's schedule.

    Parameters
    ----------
    clean : Tensor of shape (n, c, h, w)
        Latents.
    generator : torch.Generator
        Draws the timesteps, then the noise.

    Returns
    -------
    noisy : Tensor of shape (n, c, h, w)
        What the denoiser sees.
    time : Tensor of int, of shape (n,)
        Timesteps.
    noise : Tensor of shape (n, c, h, w)
        What it has to find.
    """
    time = torch.randint(STEPS, (len(clean),), generator=generator)
    noise = torch.randn(clean.shape, generator=generator, dtype=clean.dtype)
    level = stable_diffusion_alphas().to(clean)[time].view(-1, 1, 1, 1)
    return level.sqrt() * clean + (1 - level).sqrt() * noise, time, noise


def matched_sigma(timestep: int) -> float:
    """Sigma of flow matching whose noise-to-signal ratio is Stable Diffusion's at a timestep.

    Parameters
    ----------
    timestep : int in 0..999
        Stable Diffusion's timestep.

    Returns
    -------
    float
        In (0, 1).

    Raises
    ------
    TypeError
        If `timestep` is no integer.
    ValueError
        If it is out of range.
    """
    index = check_integer("timestep", timestep, low=0, high=STEPS - 1)
    ratio = noise_ratio(float(stable_diffusion_alphas()[index]))
    return ratio / (1 + ratio)


def diffuse(latents: Tensor, noise: Tensor, alpha_bar: float) -> Tensor:
    """Noise for a network trained on a variance-preserving schedule.

    Parameters
    ----------
    latents, noise : Tensor of shape (B, C, H, W)
        Clean input and standard normal noise.
    alpha_bar : float in [0, 1]
        The cumulative product.

    Returns
    -------
    Tensor of shape (B, C, H, W)
        The noisy input.
    """
    return math.sqrt(alpha_bar) * latents + math.sqrt(1 - alpha_bar) * noise


def interpolate(latents: Tensor, noise: Tensor, sigma: float) -> Tensor:
    """Noise for flow matching.

    Parameters
    ----------
    latents, noise : Tensor of shape (B, C, H, W)
        Clean input and standard normal noise.
    sigma : float in [0, 1]
        The share of noise.

    Returns
    -------
    Tensor of shape (B, C, H, W)
        The noisy input.
    """
    return (1 - sigma) * latents + sigma * noise


def predict_clean(noisy: Tensor, output: Tensor, alpha_bar: float, prediction: str) -> Tensor:
    """The clean input that a network's output implies.

    Parameters
    ----------
    noisy, output : Tensor of shape (B, C, H, W)
        What the network saw and said.
    alpha_bar : float in (0, 1)
        The cumulative product at its timestep.
    prediction : {"epsilon", "v_prediction", "sample"}
        What it was trained to say.

    Returns
    -------
    Tensor of shape (B, C, H, W)
        The estimate of the clean input.

    Raises
    ------
    ValueError
        If `prediction` is another word.
    """
    check_choice("prediction", prediction, PREDICTIONS)
    signal, noise = math.sqrt(alpha_bar), math.sqrt(1 - alpha_bar)
    if prediction == "epsilon":
        return (noisy - noise * output) / signal
    return signal * noisy - noise * output if prediction == "v_prediction" else output


def step_down(noisy: Tensor, clean: Tensor, alpha_bar: float, next_alpha_bar: float) -> Tensor:
    """One deterministic step (DDIM without noise) to a cleaner timestep.

    Parameters
    ----------
    noisy, clean : Tensor of shape (B, C, H, W)
        The input at this timestep and the estimate of the clean one.
    alpha_bar, next_alpha_bar : float in (0, 1)
        Cumulative products here and there.

    Returns
    -------
    Tensor of shape (B, C, H, W)
        The input at the next timestep.
    """
    noise = (noisy - math.sqrt(alpha_bar) * clean) / math.sqrt(1 - alpha_bar)
    return diffuse(clean, noise, next_alpha_bar)
