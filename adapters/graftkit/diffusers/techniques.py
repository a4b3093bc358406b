"""A technique put onto a pipeline and taken off again: adapters, scales, control images, prompts.

Whatever happens inside, the pipeline is left as it was found: active LoRA adapters and their weights,
IP-Adapter scales, hooks. Schedulers are never stepped and prompts never stored, so there is nothing to
restore of them. A technique without adapters runs with all LoRA adapters switched off, so that "basic" means
the basic model.

>>> with applied(pipe, technique):  # doctest: +SKIP
...     pipe(images, features="preset")
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import replace
from typing import Any

from torch import Tensor, nn

from graftkit.core.validation import raise_invalid
from graftkit.methods.content_shift import Technique, edge_image

__all__ = [
    "applied",
    "control_images",
    "lora_layers",
    "models_of",
    "negative_control",
    "rows_of",
    "text_adapters",
]


@contextmanager
def applied(pipe: Any, technique: Technique, rows: Callable[[], slice] | None = None) -> Iterator[None]:
    """The pipeline under a technique; everything is as before afterwards, also after an error.

    Parameters
    ----------
    pipe : DiffusionFeaturePipeline
        The pipeline.
    technique : Technique
        What to apply; checked before.
    rows : callable or None, default=None
        Gives the images that the next forward is about, for image embeddings that differ by image.
    """
    with ExitStack() as stack:
        for model in models_of(pipe):
            stack.enter_context(_adapters_of(model, technique))
        if technique.ip_adapter_image_embeds is not None:
            stack.enter_context(_image_embeds(pipe.denoiser, technique, rows))
        stack.enter_context(technique.apply(pipe) if technique.apply is not None else nullcontext())
        yield


def control_images(technique: Technique, pixels: Tensor) -> list[Tensor] | None:
    """Control images in [0, 1], one tensor of shape (N, 3, H, W) a ControlNet; made from the very input.

    Raises
    ------
    ValueError
        If a function returns something else.
    """
    found = []
    for control in technique.controls:
        if isinstance(control, str):
            found.append(edge_image(pixels, control.removeprefix("input-")))
            continue
        image = control(pixels) if callable(control) else control
        if not isinstance(image, Tensor) or image.ndim != 4 or len(image) not in (1, len(pixels)):
            raise_invalid(
                f"technique {technique.name!r}: controlnet_image()",
                image,
                f"shape (1 or {len(pixels)}, 3, H, W)",
            )
        found.append(image)
    return found or None


def negative_control(technique: Technique, batch: int) -> Technique | None:
    """The technique with every image's own inputs handed to another image; None if it has none.

    Raises
    ------
    ValueError
        If there is one image only.
    """
    own: dict[str, Any] = {}
    shift = batch // 2

    def rolled(control: Any) -> Any:
        if isinstance(control, Tensor):
            return control.roll(shift, 0) if len(control) > 1 else control
        if isinstance(control, str):
            name = control.removeprefix("input-")
            return lambda pixels: edge_image(pixels.roll(shift, 0), name)
        return lambda pixels: control(pixels.roll(shift, 0))

    if any(not isinstance(control, Tensor) or len(control) > 1 for control in technique.controls):
        own["controlnet_image"] = tuple(rolled(control) for control in technique.controls)
    if isinstance(technique.prompt, tuple) and len(set(technique.prompt)) > 1:
        own["prompt"] = technique.prompt[shift:] + technique.prompt[:shift]
    embeds = technique.ip_adapter_image_embeds
    if embeds is not None and any(len(one) > 1 for one in embeds):
        own["ip_adapter_image_embeds"] = tuple(one.roll(shift, 0) for one in embeds)
    if not own:
        return None
    if batch < 2:
        raise_invalid("images", batch, "at least 2 images for negative controls")
    return replace(technique, name=f"{technique.name} (control)", **own)


def rows_of(embeds: Tensor, rows: slice) -> Tensor:
    """One row for all, or the rows of these images."""
    return embeds if len(embeds) == 1 else embeds[rows]


def models_of(pipe: Any) -> list[nn.Module]:
    """The denoiser, then the text encoders."""
    names = ("text_encoder", "text_encoder_2", "text_encoder_3")
    found = [pipe.denoiser, *(getattr(pipe, name, None) for name in names)]
    return [model for model in found if isinstance(model, nn.Module)]


def lora_layers(model: nn.Module) -> list[Any]:
    """Layers that hold LoRA adapters."""
    return [m for m in model.modules() if hasattr(m, "_active_adapter") and hasattr(m, "scaling")]


def text_adapters(pipe: Any) -> bool:
    """Whether a text encoder carries LoRA adapters."""
    return any(lora_layers(model) for model in models_of(pipe)[1:])


@contextmanager
def _adapters_of(model: nn.Module, technique: Technique) -> Iterator[None]:
    """LoRA layers set layer by layer, and set back: diffusers' set_adapters keeps no record to return to."""
    layers = lora_layers(model)
    before = [(layer._active_adapter, layer._disable_adapters, dict(layer.scaling)) for layer in layers]
    weights = technique.adapter_weights or (1.0,) * len(technique.adapters)
    chosen = dict(zip(technique.adapters, weights, strict=True))
    # set_adapter and enable_adapters also decide what is trained.
    trained = {name: p.requires_grad for name, p in model.named_parameters()} if layers else {}
    try:
        for layer in layers:
            names = [name for name in technique.adapters if name in layer.scaling]
            if names:
                layer.enable_adapters(enabled=True)
                layer.set_adapter(names)
                for name in names:
                    layer.set_scale(name, chosen[name])
            else:
                layer.enable_adapters(enabled=False)
        yield
    finally:
        for layer, (active, disabled, scaling) in zip(layers, before, strict=True):
            layer.enable_adapters(enabled=not disabled)
            layer._active_adapter = active
            layer.scaling.update(scaling)
        for name, parameter in model.named_parameters():
            if name in trained:
                parameter.requires_grad_(trained[name])


@contextmanager
def _image_embeds(model: Any, technique: Technique, rows: Callable[[], slice] | None) -> Iterator[None]:
    processors = [p for p in model.attn_processors.values() if hasattr(p, "scale")]
    before = [list(p.scale) if isinstance(p.scale, list) else p.scale for p in processors]

    def add(
        _: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        latents = args[0] if args else kwargs["sample"]
        chosen = slice(None) if rows is None else rows()
        embeds = [rows_of(one, chosen).to(latents) for one in technique.ip_adapter_image_embeds]
        embeds = [one.expand(len(latents), -1, -1) for one in embeds]
        added = {**(kwargs.get("added_cond_kwargs") or {}), "image_embeds": embeds}
        return args, {**kwargs, "added_cond_kwargs": added}

    handle = model.register_forward_pre_hook(add, with_kwargs=True)
    try:
        for processor in processors:
            own = technique.ip_adapter_scale
            processor.scale = [own] * len(processor.scale) if isinstance(processor.scale, list) else own
        yield
    finally:
        handle.remove()
        for processor, scale in zip(processors, before, strict=True):
            processor.scale = scale
