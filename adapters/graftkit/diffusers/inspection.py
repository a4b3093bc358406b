"""Sizes of activations without computing them: the same architecture on torch's meta device.

>>> pipe.activation_info("up-*-cross-q", 512, 512)  # doctest: +SKIP
"""

from types import SimpleNamespace
from typing import Any

import torch

from graftkit.core.validation import check_integer, raise_invalid
from graftkit.diffusers.conditioning import Text, denoiser_arguments
from graftkit.diffusers.forwards import Forwards
from graftkit.diffusers.noising import NoiseLevel
from graftkit.diffusers.requests import Request, resolve
from graftkit.methods.diffusion_feature.names import EXTRAS

__all__ = ["measure", "meta_pipe", "meta_text", "strides"]


def measure(pipe: Any, request: Request, height: int | None, width: int | None) -> dict[str, dict[str, Any]]:
    """What :meth:`DiffusionFeaturePipeline.activation_info` returns.

    Raises
    ------
    ValueError
        If a size is refused, or an extra is asked for.
    """
    extras = [name for name in request.names if name in EXTRAS]
    if extras:
        raise_invalid("features", extras, "activations; the extras are made after the forward")
    size = tuple(
        own if given is None else check_integer(label, given, low=1)
        for own, given, label in zip(native_size(pipe), (height, width), ("height", "width"), strict=True)
    )
    factor = pipe.vae_scale_factor
    if size[0] % factor or size[1] % factor:
        raise_invalid("height, width", size, f"sizes divisible by {factor}")
    ghost = meta_pipe(pipe)
    latents = torch.empty(
        1,
        latent_channels(ghost),
        size[0] // factor,
        size[1] // factor,
        device="meta",
        dtype=ghost.denoiser.dtype,
    )
    arguments = denoiser_arguments(
        ghost, meta_text(ghost), latents, image_size=(size[0], size[1]), class_labels=_meta_labels(ghost)
    )
    forwards = Forwards(ghost, arguments, stop=True, max_map_elements=2**62)
    found = resolve(ghost, request.names, as_tokens=True)
    with torch.no_grad():
        features, _ = forwards.capture(latents, NoiseLevel(50, 0.95, 0.2256), found)
    itemsize = ghost.denoiser.dtype.itemsize
    return {
        name: {
            "channels": features[name].shape[-1 if features[name].ndim == 3 else 1],
            "size": tuple(features[name].shape[-2:]) if features[name].ndim == 4 else None,
            "stride": strides(features[name], (size[0], size[1])),
            "bytes": features[name].numel() * itemsize,
        }
        for name in request.names
    }


def native_size(pipe: Any) -> tuple[int, int]:
    """The image size that the model was made for."""
    sample = getattr(pipe.denoiser.config, "sample_size", None) or (128 if pipe.family == "flux" else 64)
    sides = (sample, sample) if isinstance(sample, int) else sample
    return int(sides[0]) * pipe.vae_scale_factor, int(sides[1]) * pipe.vae_scale_factor


def latent_channels(pipe: Any) -> int:
    """Channels of the denoiser's latent."""
    channels = int(pipe.denoiser.config.in_channels)
    return channels // 4 if pipe.family == "flux" else channels


def strides(feature: torch.Tensor, image_size: tuple[int, int]) -> tuple[int, int] | None:
    """Image pixels per cell, down and across; None for tokens."""
    if feature.ndim != 4:
        return None
    return round(image_size[0] / feature.shape[-2]), round(image_size[1] / feature.shape[-1])


def meta_pipe(pipe: Any) -> Any:
    """A stand-in whose denoiser has the architecture and no weights."""
    model = pipe.denoiser
    with torch.device("meta"):
        ghost = type(model).from_config(model.config).eval()
    torch.nn.Module.to(ghost, model.dtype)  # diffusers' own `to` warns about modules kept in float32
    return SimpleNamespace(
        denoiser=ghost, compiled_denoiser=ghost, family=pipe.family, controlnet=None, preset=None,
        vae_scale_factor=pipe.vae_scale_factor,
    )  # fmt: skip


def meta_text(pipe: Any) -> Text:
    """Text of the right widths."""
    config, family, dtype = pipe.denoiser.config, pipe.family, pipe.denoiser.dtype

    def empty(*shape: int) -> torch.Tensor:
        return torch.empty(1, *shape, device="meta", dtype=dtype)

    if family == "unet":
        width = getattr(config, "encoder_hid_dim", None) or config.cross_attention_dim
        width = width[0] if isinstance(width, tuple | list) else width
        pooled = None
        if config.addition_embed_type == "text_time":
            pooled = empty(
                pipe.denoiser.add_embedding.linear_1.in_features - 6 * config.addition_time_embed_dim
            )
        return Text(None if width is None else empty(77, width), pooled)
    if family == "pixart":
        return Text(empty(120, config.caption_channels))
    if family == "hunyuan":
        ones = torch.ones(1, config.text_len, device="meta"), torch.ones(1, config.text_len_t5, device="meta")
        first = empty(config.text_len, config.cross_attention_dim)
        return Text(first, None, ones[0], empty(config.text_len_t5, config.cross_attention_dim_t5), ones[1])
    if family in ("sd3", "flux"):
        return Text(empty(77, config.joint_attention_dim), empty(config.pooled_projection_dim))
    return Text()


def _meta_labels(pipe: Any) -> torch.Tensor | None:
    config = pipe.denoiser.config
    if pipe.family == "dit":
        return torch.zeros(1, dtype=torch.long, device="meta")
    if not pipe.family.startswith("unet"):
        return None
    if config.class_embed_type in ("projection", "simple_projection"):
        return torch.empty(
            1, config.projection_class_embeddings_input_dim, device="meta", dtype=pipe.denoiser.dtype
        )
    if config.class_embed_type is None and config.num_class_embeds is None:
        return None
    return torch.zeros(1, dtype=torch.long, device="meta")
