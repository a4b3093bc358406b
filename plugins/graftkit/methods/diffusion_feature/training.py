r"""A small denoiser trained on the spot, where no pretrained weights are at hand: the usual epsilon loss.

.. math:: \min_\theta \; E \lVert n - \epsilon_\theta(z_t, t, c) \rVert^2

Source: DDPM's simple loss under Stable Diffusion's schedule; the small set-up is the specification's
experiment.

>>> class Zero(torch.nn.Module):
...     def __init__(self): super().__init__(); self.gain = torch.nn.Parameter(torch.zeros(1))
...     def forward(self, noisy, time): return (self.gain * noisy,)
>>> losses = train_denoiser(Zero(), torch.ones(4, 1, 2, 2), steps=3, batch_size=2, random_state=0)
>>> len(losses)
3
"""

from typing import Any

import torch
from torch import Tensor, nn

from graftkit.core.progress import progress_bar
from graftkit.core.random import torch_generator
from graftkit.core.validation import check_integer, check_number, raise_invalid
from graftkit.methods.diffusion_feature.noise import diffuse_at_random

__all__ = ["class_tokens", "train_denoiser"]


def class_tokens(labels: Tensor, n_classes: int, ignore_index: int = 255) -> Tensor:
    """A condition from label maps: one token a class, +1 in its place if it is there, -1 if not.

    Parameters
    ----------
    labels : Tensor of int, of shape (N, H, W)
        Label maps.
    n_classes : int
        The number of classes.
    ignore_index : int, default=255
        Pixels without a label.

    Returns
    -------
    Tensor of shape (N, n_classes, n_classes)
        Diagonal; all zeros would be the null condition.
    """
    flat = labels.flatten(1)
    there = torch.stack([((flat == c) & (flat != ignore_index)).any(1) for c in range(n_classes)], 1)
    return torch.diag_embed(2.0 * there - 1.0)


def train_denoiser(
    model: nn.Module,
    latents: Tensor,
    tokens: Tensor | None = None,
    *,
    steps: int,
    batch_size: int = 8,
    lr: float = 1.5e-3,
    drop: float = 0.2,
    flip: bool = True,
    random_state: Any = None,
    verbose: int = 0,
) -> list[float]:
    """Train, in place, with AdamW at a linearly decaying rate; the model is left in evaluation mode.

    Parameters
    ----------
    model : nn.Module
        Called as ``model(noisy, time)`` or ``model(noisy, time, tokens)``; the first of what it returns is
        the noise.
    latents : Tensor of shape (N, C, H, W)
        Clean inputs.
    tokens : Tensor of shape (N, T, d) or None, default=None
        Conditions; a share of them is replaced by zeros.
    steps : int
        Updates.
    batch_size : int, default=8
        Samples an update.
    lr : float, default=1.5e-3
        The first learning rate.
    drop : float in [0, 1], default=0.2
        Share of zeroed conditions.
    flip : bool, default=True
        Mirror half of the samples.
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
        If one is out of range, or lengths differ.
    """
    check_integer("steps", steps, low=1)
    check_integer("batch_size", batch_size, low=1)
    check_number("lr", lr, low=0, closed="()")
    check_number("drop", drop, low=0, high=1)
    if latents.ndim != 4 or (tokens is not None and len(tokens) != len(latents)):
        raise_invalid("latents", latents, "shape (N, C, H, W), with as many tokens")
    generator = torch_generator(random_state)
    optimizer = torch.optim.AdamW(model.parameters(), lr=lr)
    model.train()
    losses = []
    for step in progress_bar(range(steps), verbose=verbose, desc="denoiser"):
        for group in optimizer.param_groups:
            group["lr"] = lr * (1 - step / steps)
        rows = torch.randint(len(latents), (batch_size,), generator=generator)
        clean = latents[rows]
        if flip:
            mirrored = torch.rand(batch_size, generator=generator) < 0.5
            clean = torch.where(mirrored.view(-1, 1, 1, 1), clean.flip(-1), clean)
        noisy, time, noise = diffuse_at_random(clean, generator)
        arguments = [noisy, time]
        if tokens is not None:
            kept = torch.rand(batch_size, generator=generator) >= drop
            arguments.append(tokens[rows] * kept.view(-1, 1, 1).to(tokens))
        optimizer.zero_grad()
        loss = (model(*arguments)[0] - noise).square().mean()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    model.eval()
    return losses
