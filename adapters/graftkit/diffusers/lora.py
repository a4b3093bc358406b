"""LoRA adapters put on for a while: switched, weighed or fused, and set back as they were.

Layers are set one by one, as diffusers' ``set_adapters`` and ``fuse_lora`` do it, because those keep no
record to return to. A technique without adapters runs with all of them switched off, so that "basic" means
the basic model.

>>> with adapters_of(pipe.unet, Technique("own", adapters="own", fuse=True)):  # doctest: +SKIP
...     pipe(images, features="preset")
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn

from graftkit.methods.content_shift import Technique

__all__ = ["adapters_of", "lora_layers", "models_of", "text_adapters"]


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
def adapters_of(model: nn.Module, technique: Technique) -> Iterator[None]:
    """The model with a technique's adapters; activity, weights and gradients are as before afterwards."""
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
        with _fused([layer for layer in layers if technique.fuse and not layer._disable_adapters]):
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
def _fused(layers: list[Any]) -> Iterator[None]:
    """Active adapters added to the weights; afterwards the very tensors of before are back."""
    # A safe merge puts new tensors in the place of the old ones, which need no copy then. Unmerging
    # subtracts, which rounds: it tidies the layer up, and the old tensors decide.
    stored = [(p, p.data) for layer in layers for p in layer.get_base_layer().parameters(recurse=False)]
    try:
        for layer in layers:
            layer.merge(safe_merge=True)
        yield
    finally:
        try:
            for layer in layers:
                if layer.merged:
                    layer.unmerge()
        finally:
            for parameter, data in stored:
                parameter.data = data
