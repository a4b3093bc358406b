"""What a pipeline and some images must have for a technique, asked before anything runs.

>>> check_technique(pipe, Technique("edges", controlnet_image="input-canny"), batch=2)  # doctest: +SKIP
ValueError: technique 'edges': controlnet_image: expected None: the pipeline has no controlnet, ...
"""

from typing import Any

from torch import Tensor

from graftkit.core.validation import raise_invalid
from graftkit.diffusers.ip_adapters import projections
from graftkit.diffusers.lora import lora_layers, models_of
from graftkit.diffusers.noising import schedule_length
from graftkit.methods.content_shift import Technique

__all__ = ["check_technique"]


def check_technique(pipe: Any, technique: Technique, batch: int, timestep: int | None = None) -> None:
    """Refuse a technique that this pipeline cannot apply, before anything runs.

    Raises
    ------
    ValueError
        If a component, an adapter or a row is missing or does not fit; the message names the technique.
    """
    _check_texts(pipe, technique, batch)
    _check_control(pipe, technique, batch)
    missing = [name for name in technique.adapters if name not in _adapters(pipe)]
    if missing:
        raise ValueError(
            f"technique {technique.name!r}: adapters: unknown {missing}, loaded are "
            f"{sorted(_adapters(pipe))}. Load them "
            "through the source pipeline: load_lora_weights(..., adapter_name=...)"
        )
    if any(layer.merged for model in models_of(pipe) for layer in lora_layers(model)):
        # Switching a fused adapter off or over makes peft take it out of the weights, for good.
        raise ValueError(
            f"technique {technique.name!r}: adapters: expected adapters that are not fused into the weights. "
            "Call unfuse_lora() first, or unload_lora_weights() to make the fused model the basic one"
        )
    _check_embeds(pipe, technique, batch)
    start, last = technique.denoise_from, schedule_length(pipe.scheduler) - 1
    if start is not None and timestep is not None and not timestep < start <= last:
        raise_invalid(
            f"technique {technique.name!r}: denoise_from",
            start,
            f"a timestep above {timestep}, to {last}",
        )


def _check_texts(pipe: Any, technique: Technique, batch: int) -> None:
    label = f"technique {technique.name!r}: prompt"
    if technique.prompt is not None and pipe.text_encoder is None and pipe.text_encoder_2 is None:
        raise_invalid(label, technique.prompt, f"None: this {pipe.family} pipeline has no text encoder")
    if isinstance(technique.prompt, tuple) and len(technique.prompt) not in (1, batch):
        raise_invalid(label, technique.prompt, f"1 or {batch} texts for {batch} images")


def _check_control(pipe: Any, technique: Technique, batch: int) -> None:
    if not technique.controls:
        return
    label = f"technique {technique.name!r}: controlnet_image"
    if pipe.controlnet is None:
        raise_invalid(label, "a control image", "None: the pipeline has no controlnet")
    if pipe.family != "unet":
        raise_invalid(label, "a control image", f"None: a controlnet for {pipe.family} is not supported")
    nets = list(getattr(pipe.controlnet, "nets", [pipe.controlnet]))
    if len(nets) != len(technique.controls):
        raise_invalid(
            label, f"{len(technique.controls)} image(s)", f"one for each of {len(nets)} controlnet(s)"
        )
    for net, control in zip(nets, technique.controls, strict=True):
        for key in ("in_channels", "cross_attention_dim", "block_out_channels", "layers_per_block"):
            own, theirs = getattr(net.config, key, None), getattr(pipe.denoiser.config, key, None)
            if _plain(own) != _plain(theirs):
                raise ValueError(
                    f"technique {technique.name!r}: controlnet: expected {key}={theirs} as the U-Net has, "
                    f"got {own}"
                )
        channels = getattr(net.config, "conditioning_channels", 3)
        if channels != 3:
            raise ValueError(
                f"technique {technique.name!r}: controlnet: expected conditioning_channels=3, got {channels}"
            )
        if isinstance(control, Tensor) and (
            control.ndim != 4 or control.shape[1] != channels or len(control) not in (1, batch)
        ):
            raise_invalid(label, control, f"shape (1 or {batch}, {channels}, H, W)")


def _check_embeds(pipe: Any, technique: Technique, batch: int) -> None:
    if technique.ip_adapter_image_embeds is None:
        return
    label = f"technique {technique.name!r}: ip_adapter_image_embeds"
    layers = projections(pipe.denoiser)
    if layers is None:
        raise_invalid(
            label, "embeddings", "None: no IP-Adapter is loaded", fix="Use the source's load_ip_adapter."
        )
    embeds = technique.ip_adapter_image_embeds
    if len(embeds) != len(layers):
        raise_invalid(label, f"{len(embeds)} tensor(s)", f"one for each of {len(layers)} IP-Adapter(s)")
    for one in embeds:
        if len(one) not in (1, batch):
            raise_invalid(label, one, f"1 or {batch} rows")


def _adapters(pipe: Any) -> set[str]:
    return {name for model in models_of(pipe) for layer in lora_layers(model) for name in layer.scaling}


def _plain(value: Any) -> Any:
    """Configurations read from JSON hold lists where others hold tuples."""
    return tuple(value) if isinstance(value, list) else value
