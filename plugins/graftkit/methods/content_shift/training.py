r"""Training what steers a denoiser, a ControlNet or a LoRA, on the spot: the denoiser's own loss.

.. math:: \min_\phi \; E \lVert n - \epsilon_{\theta, \phi}(z_t, t, c) \rVert^2

Only the parameters :math:`\phi` that are handed over move. Source: ControlNet and LoRA are trained so; the
small set-up is ours, for examples and benchmarks without pretrained weights.

>>> gain = torch.nn.Parameter(torch.zeros(1))
>>> losses = train_steering(lambda noisy, time, control: gain * control, [gain], torch.zeros(4, 1, 2, 2),
...                         (torch.ones(4, 1, 2, 2),), steps=3, random_state=0)
>>> len(losses)
3
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from graftkit.core.progress import progress_bar
from graftkit.core.random import torch_generator
from graftkit.core.validation import check_integer, check_number, raise_invalid
from graftkit.methods.diffusion_feature.noise import diffuse_at_random

__all__ = ["train_steering"]


def train_steering(
    predict: Callable[..., Tensor],
    parameters: Iterable[nn.Parameter],
    latents: Tensor,
    conditions: Sequence[Tensor] = (),
    *,
    steps: int,
    batch_size: int = 8,
    lr: float = 1e-3,
    random_state: Any = None,
    verbose: int = 0,
) -> list[float]:
    """Train with AdamW at a linearly decaying rate, in place.

    Parameters
    ----------
    predict : callable
        ``predict(noisy, time, *rows)`` gives the noise, of the latents' shape; `rows` are those of
        `conditions`.
    parameters : iterable of nn.Parameter
        What is trained.
    latents : Tensor of shape (N, C, H, W)
        Clean inputs.
    conditions : sequence of Tensor, each of shape (N, ...), default=()
        Texts, control images.
    steps : int
        Updates.
    batch_size : int, default=8
        Samples an update.
    lr : float, default=1e-3
        The first learning rate.
    random_state : int, torch.Generator or None, default=None
        Seeds batches, times and noise.
    verbose : int, default=0
        1 shows progress.

    Returns
    -------
    list of float
        The loss of each update.

    Raises
    ------
    TypeError
        If a number is of a wrong type.
    ValueError
        If one is out of range, lengths differ, or there is nothing to train.
    """
    check_integer("steps", steps, low=1)
    check_integer("batch_size", batch_size, low=1)
    check_number("lr", lr, low=0, closed="()")
    moving = list(parameters)
    if not moving:
        raise_invalid("parameters", moving, "at least one parameter")
    if latents.ndim != 4 or not len(latents):
        raise_invalid("latents", latents, "shape (N, C, H, W) with N > 0")
    for one in conditions:
        if len(one) != len(latents):
            raise_invalid("conditions", one, f"{len(latents)} rows, as many as latents")
    generator = torch_generator(random_state)
    optimizer = torch.optim.AdamW(moving, lr=lr)
    losses = []
    for step in progress_bar(range(steps), verbose=verbose, desc="steering"):
        for group in optimizer.param_groups:
            group["lr"] = lr * (1 - step / steps)
        rows = torch.randint(len(latents), (batch_size,), generator=generator)
        noisy, time, noise = diffuse_at_random(latents[rows], generator)
        optimizer.zero_grad()
        loss = (predict(noisy, time, *(one[rows] for one in conditions)) - noise).square().mean()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    return losses
