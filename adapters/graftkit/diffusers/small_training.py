"""Training a small pipeline, a ControlNet on edges and a LoRA on pictures with prompts, in place.

>>> losses = train_pipeline(pipe, images, prompts, steps=100)  # doctest: +SKIP
>>> losses = train_controlnet(pipe, images, prompts, steps=100)  # doctest: +SKIP
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

import diffusers
from graftkit.core.extras import require
from graftkit.core.random import torch_generator
from graftkit.methods.content_shift import edge_image
from graftkit.methods.content_shift.training import train_steering
from graftkit.methods.diffusion_feature.training import train_denoiser

__all__ = ["train_controlnet", "train_lora", "train_pipeline"]

EDGES = "sobel"


def train_pipeline(
    pipe: Any, images: Tensor, prompts: Sequence[str], *, steps: int, seed: int = 0, verbose: int = 0
) -> list[float]:
    """Train the U-Net on pictures under their prompts, half of the time under the empty one.

    Parameters
    ----------
    pipe : DiffusionFeaturePipeline
        Its U-Net is trained in place.
    images : Tensor of shape (N, 3, H, W)
        In [0, 1].
    prompts : sequence of str
        One an image.
    steps : int
        Updates of 8 pictures.
    seed : int, default=0
        Of batches, times and noise.
    verbose : int, default=0
        1 shows progress.

    Returns
    -------
    list of float
        The loss of each update.
    """
    latents, texts = _latents(images), _texts(pipe, prompts)
    empty = _texts(pipe, [""]).expand_as(texts)
    return train_denoiser(
        pipe.unet, latents.repeat(2, 1, 1, 1), torch.cat([texts, empty]), steps=steps, drop=0.0, flip=False,
        random_state=seed, verbose=verbose,
    )  # fmt: skip


def train_controlnet(
    pipe: Any, images: Tensor, prompts: Sequence[str], *, steps: int, seed: int = 0, verbose: int = 0
) -> list[float]:
    """Give the pipeline a ControlNet on edges; the U-Net stays as it is.

    Parameters
    ----------
    pipe : DiffusionFeaturePipeline
        Its ``controlnet`` is set.
    images : Tensor of shape (N, 3, H, W)
        In [0, 1]; edges are Sobel's.
    prompts : sequence of str
        One an image.
    steps : int
        Updates of 8 pictures.
    seed : int, default=0
        Of weights, batches, times and noise.
    verbose : int, default=0
        1 shows progress.

    Returns
    -------
    list of float
        The loss of each update.
    """
    unet = pipe.unet
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        net = diffusers.ControlNetModel.from_unet(unet, conditioning_embedding_out_channels=(16, 32, 32))
    unet.requires_grad_(False)
    net.train()

    def predict(noisy: Tensor, time: Tensor, text: Tensor, edges: Tensor) -> Tensor:
        down, mid = net(noisy, time, text, controlnet_cond=edges, return_dict=False)
        noise: Tensor = unet(
            noisy, time, text, down_block_additional_residuals=down, mid_block_additional_residual=mid
        )[0]
        return noise

    conditions = (_either(pipe, prompts, seed), edge_image(images, EDGES))
    losses = train_steering(
        predict, net.parameters(), _latents(images), conditions, steps=steps, lr=4e-3, random_state=seed,
        verbose=verbose,
    )  # fmt: skip
    pipe.register_modules(controlnet=net.eval())
    return losses


def train_lora(
    pipe: Any, images: Tensor, prompts: Sequence[str], name: str, *, steps: int, seed: int = 0
) -> list[float]:
    """Give the U-Net a LoRA adapter for these pictures; its other weights stay.

    Parameters
    ----------
    pipe : DiffusionFeaturePipeline
        Its U-Net gets the adapter.
    images : Tensor of shape (N, 3, H, W)
        In [0, 1]; the paper takes 30.
    prompts : sequence of str
        One an image.
    name : str
        Of the adapter.
    steps : int
        Updates of 8 pictures.
    seed : int, default=0
        Of weights, batches, times and noise.

    Returns
    -------
    list of float
        The loss of each update.

    Raises
    ------
    ImportError
        Without peft.
    """
    peft: Any = require("peft", extra="diffusers", distribution="peft")
    unet = pipe.unet
    config = peft.LoraConfig(r=4, lora_alpha=4, target_modules=["to_q", "to_k", "to_v", "to_out.0"])
    unet.requires_grad_(False)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        unet.add_adapter(config, name)
    unet.set_adapters([name])
    own = [p for key, p in unet.named_parameters() if f".{name}." in key]
    for parameter in own:
        parameter.requires_grad_(True)
    try:
        return train_steering(
            lambda noisy, time, text: unet(noisy, time, text)[0], own, _latents(images),
            (_either(pipe, prompts, seed),), steps=steps, random_state=seed,
        )  # fmt: skip
    finally:
        unet.requires_grad_(False)


def _latents(images: Tensor) -> Tensor:
    return functional.pixel_unshuffle(2 * images - 1, 4)


def _texts(pipe: Any, prompts: Sequence[str]) -> Tensor:
    with torch.no_grad():
        found: Tensor = pipe.encode_text(list(prompts), batch=len(prompts)).embeds
    return found


def _either(pipe: Any, prompts: Sequence[str], seed: int) -> Tensor:
    """Texts, half of them empty."""
    empty = torch.rand(len(prompts), generator=torch_generator(seed)) < 0.5
    return _texts(pipe, ["" if none else text for text, none in zip(prompts, empty, strict=True)])
