"""A call's arguments, read and checked before any work.

>>> read_levels(pipe.scheduler, [50, 261], None, "snr", None)  # doctest: +SKIP
"""

from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor

from graftkit.core.random import torch_generator
from graftkit.core.validation import check_integer, raise_invalid
from graftkit.diffusers.conditioning import Text, encode_prompts, read_prompt
from graftkit.diffusers.images import read_images
from graftkit.diffusers.inspection import latent_channels
from graftkit.diffusers.noising import NoiseLevel, noise_level, noise_level_at_sigma, schedule_length

__all__ = [
    "batch_bar",
    "image_size_of",
    "read_classes",
    "read_control",
    "read_generators",
    "read_levels",
    "read_noise",
    "read_output",
    "read_source",
    "read_text",
]


def read_source(
    pipe: Any, image: Any, latents: Any, height: Any, width: Any, resize_mode: str
) -> tuple[Tensor, Tensor | None]:
    """Pictures in [-1, 1], or latents and None.

    Raises
    ------
    TypeError, ValueError
        If there is not exactly one source, or it is refused.
    """
    if (image is None) == (latents is None):
        raise_invalid("image, latents", "both" if image is not None else "neither", "exactly one of them")
    channels = latent_channels(pipe)
    if latents is not None:
        if not isinstance(latents, Tensor):
            raise_invalid("latents", latents, "a tensor", error=TypeError)
        if latents.ndim != 4 or latents.shape[1] != channels:
            raise_invalid("latents", latents, f"shape (B, {channels}, h, w)")
        if not len(latents):
            raise_invalid("latents", latents, "at least one row, the batch is empty")
        if not torch.isfinite(latents).all():
            raise_invalid("latents", latents, "finite values")
        return latents, None
    vae = getattr(pipe, "vae", None)
    if vae is None and channels not in (1, 3):
        raise_invalid("image", image, f"latents of {channels} channels, as the pipeline has no vae")
    pixels = read_images(
        image,
        unit=pipe.size_unit,
        channels=3 if vae is not None else channels,
        height=height,
        width=width,
        resize_mode=resize_mode,
    )
    return pixels, pixels


def read_control(pipe: Any, image: Any, size: tuple[int, int], batch: int) -> list[Tensor] | None:
    """Images of the ControlNets in [0, 1], one row an image.

    Raises
    ------
    ValueError
        If there is no ControlNet, or numbers differ.
    """
    if image is None:
        return None
    net = pipe.controlnet
    if net is None:
        raise_invalid("controlnet_image", image, "None: the pipeline has no controlnet")
    if pipe.family != "unet":
        raise_invalid("controlnet_image", image, f"None: a controlnet for {pipe.family} is not supported")
    several = hasattr(net, "nets")
    images = image if several else [image]
    if several and (not isinstance(image, list | tuple) or len(image) != len(net.nets)):
        raise_invalid(
            "controlnet_image", image, f"a list with one image for each of {len(net.nets)} controlnets"
        )
    read = []
    for one in images:
        pixels = (
            read_images(one, unit=1, channels=3, height=size[0], width=size[1], name="controlnet_image") + 1
        ) / 2
        if len(pixels) not in (1, batch):
            raise_invalid("controlnet_image", one, f"1 or {batch} images")
        read.append(pixels.expand(batch, -1, -1, -1))
    return read


def read_text(pipe: Any, prompt: Any, given: Text, batch: int, kwargs: dict[str, Any] | None) -> Text:
    """Encoded prompts, or what was given in their place.

    Raises
    ------
    ValueError
        If both or what the pipeline cannot encode is given.
    """
    prompts = read_prompt(prompt, batch)
    if kwargs is not None and not isinstance(kwargs, dict):
        raise_invalid("cross_attention_kwargs", kwargs, "a dict or None", error=TypeError)
    _check_embeddings(given)
    if given.embeds is not None:
        if prompts is not None:
            raise_invalid("prompt", prompt, "None where prompt_embeds are given")
        text = given.expanded(batch)
    elif pipe.text_encoder is None and pipe.text_encoder_2 is None:
        if prompts is not None:
            raise_invalid("prompt", prompt, "None: the pipeline has no text_encoder (pass prompt_embeds)")
        text = given
    elif pipe.family in ("unet2d", "dit"):
        raise_invalid("text_encoder", type(pipe.text_encoder).__name__, f"None: {pipe.family} takes no text")
    else:
        scale = (kwargs or {}).get("scale")
        text = encode_prompts(pipe, prompts or [""], lora_scale=scale)
    return text


def _check_embeddings(text: Text) -> None:
    for name, tensor in vars(text).items():
        if tensor is None:
            continue
        if not isinstance(tensor, Tensor):
            raise_invalid(f"prompt {name}", tensor, "a tensor", error=TypeError)
        axes = 3 if name.startswith("embeds") else 2
        if tensor.ndim != axes:
            raise_invalid(f"prompt {name}", tensor, f"{axes} axes, the first of them 1 or one row an image")
        if not torch.isfinite(tensor).all():
            raise_invalid(f"prompt {name}", tensor, "finite values")


def read_classes(labels: Any, batch: int) -> Tensor | None:
    """Labels or class vectors, one for all or one an image.

    Raises
    ------
    ValueError
        If there are neither 1 nor `batch`.
    """
    if labels is None:
        return None
    rows = torch.as_tensor(labels)
    rows = rows.reshape(1) if rows.ndim == 0 else rows
    if len(rows) not in (1, batch):
        raise_invalid("class_labels", labels, f"1 or {batch} labels, one an image")
    return rows


def batch_bar(pipe: Any, batch: int, size: int) -> Any:
    """The pipeline's progress bar; none for a single batch."""
    total = -(-batch // size)
    if total > 1:
        return pipe.progress_bar(total=total)
    return nullcontext(_NoBar())


class _NoBar:
    def update(self) -> None:
        """Nothing to show for one batch."""


def read_levels(
    scheduler: Any, timestep: Any, sigma: Any, noise_match: str, denoise_from: Any
) -> list[tuple[Any, NoiseLevel, list[NoiseLevel]]]:
    """For each key the level to read at, and the levels to step through before.

    Raises
    ------
    ValueError
        If both `timestep` and `sigma` are given, or `denoise_from` is not above the timestep.
    """
    if sigma is not None:
        if timestep is not None or denoise_from is not None:
            raise_invalid("timestep", timestep, "None where sigma is given (and no denoise_from)")
        return [(sigma, noise_level_at_sigma(scheduler, sigma), [])]
    several = isinstance(timestep, list | tuple | range) or getattr(timestep, "ndim", 0) == 1
    wanted = list(timestep) if several else [50 if timestep is None else timestep]
    last = schedule_length(scheduler) - 1
    wanted = [check_integer("timestep", t, low=0, high=last) for t in wanted]
    if not wanted or len(set(wanted)) != len(wanted):
        raise_invalid("timestep", timestep, "one or several different timesteps")
    levels = []
    for t in wanted:
        level = noise_level(scheduler, t, noise_match=noise_match)
        entry: list[NoiseLevel] = []
        if denoise_from is not None:
            first = check_integer("denoise_from", denoise_from, high=last)
            if first <= t:
                raise_invalid("denoise_from", denoise_from, f"a timestep above {t}")
            entry = [noise_level(scheduler, s, noise_match=noise_match) for s in range(first, t, -1)]
        levels.append((t, level, entry))
    return levels


def read_noise(noise: Any, count: int, batch: int) -> Tensor | None:
    """Given noise with its draws in front.

    Raises
    ------
    TypeError
        If it is no tensor.
    ValueError
        If its shape does not fit.
    """
    if noise is None:
        return None
    if not isinstance(noise, Tensor):
        raise_invalid("noise", noise, "a tensor", error=TypeError)
    draws = noise[None] if noise.ndim == 4 else noise
    if draws.ndim != 5 or draws.shape[0] != count or draws.shape[1] != batch:
        raise_invalid("noise", noise, f"shape ({batch}, c, h, w) or ({count}, {batch}, c, h, w)")
    if not torch.isfinite(draws).all():
        raise_invalid("noise", noise, "finite values")
    return draws


def read_output(dtype: Any, device: Any) -> None:
    """Refuse what features could not be moved to, before they are computed.

    Raises
    ------
    TypeError
        If `dtype` is none.
    ValueError
        If it has no fractions, or there is no such device.
    """
    if dtype is not None and not isinstance(dtype, torch.dtype):
        raise_invalid("output_dtype", dtype, "a torch dtype or None", error=TypeError)
    if dtype is not None and not dtype.is_floating_point:
        raise_invalid("output_dtype", dtype, "a floating dtype, as features have fractions")
    try:
        torch.empty(0, device=device)
    except (RuntimeError, TypeError, AssertionError) as error:
        raise ValueError(f"output_device: expected a device that is there, got {device!r}") from error


def read_generators(generator: Any, batch: int) -> Any:
    """A generator or one an image; a private one in place of None.

    Raises
    ------
    TypeError
        If it is of another type.
    ValueError
        If the list's length differs from the batch.
    """
    if generator is None:
        return torch_generator(None)
    several = isinstance(generator, list | tuple)
    for one in generator if several else [generator]:
        if not isinstance(one, torch.Generator):
            raise_invalid("generator", one, "a torch.Generator or a list of them", error=TypeError)
    if several and len(generator) != batch:
        raise ValueError(f"generator: expected {batch} generators for {batch} images, got {len(generator)}")
    return list(generator) if several else generator


def image_size_of(pipe: Any, source: Tensor, pixels: Tensor | None) -> tuple[int, int]:
    """Height and width in image pixels of pictures or latents."""
    factor = 1 if pixels is not None else pipe.vae_scale_factor
    return source.shape[-2] * factor, source.shape[-1] * factor
