"""What loaded IP-Adapters see, and that they see nothing under a technique without them.

>>> with image_embeds_of(pipe.unet, technique):  # doctest: +SKIP
...     pipe(images, features="preset")
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from graftkit.methods.content_shift import Technique

__all__ = ["image_embeds_of", "projections"]


def projections(model: Any) -> Any:
    """The image projections of the loaded IP-Adapters, or None."""
    return getattr(getattr(model, "encoder_hid_proj", None), "image_projection_layers", None)


@contextmanager
def image_embeds_of(
    model: Any, technique: Technique, rows: Callable[[], Any] | None = None
) -> Iterator[None]:
    """The denoiser with a technique's image embeddings, or with its IP-Adapters switched off."""
    loaded = projections(model)
    if loaded is None:
        yield
        return
    given = technique.ip_adapter_image_embeds
    processors = [p for p in model.attn_processors.values() if hasattr(p, "scale")]
    before = [list(p.scale) if isinstance(p.scale, list) else p.scale for p in processors]
    projection = model.encoder_hid_proj

    def add(
        _: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        latents = args[0] if args else kwargs["sample"]
        if given is None:
            embeds = [latents.new_zeros(len(latents), 1, 1, 1) for _ in loaded]
        else:
            chosen = slice(None) if rows is None else rows()
            embeds = [_rows_of(one, chosen).to(latents) for one in given]
            embeds = [one.expand(len(latents), *one.shape[1:]) for one in embeds]
        return args, {
            **kwargs, "added_cond_kwargs": {**(kwargs.get("added_cond_kwargs") or {}), "image_embeds": embeds}
        }  # fmt: skip

    handle = model.register_forward_pre_hook(add, with_kwargs=True)
    try:
        own = 0.0 if given is None else technique.ip_adapter_scale
        for processor in processors:
            processor.scale = [own] * len(processor.scale) if isinstance(processor.scale, list) else own
        if given is None:
            # Processors skip an adapter of scale 0; what it would have seen needs no projection then.
            model.encoder_hid_proj = _Nothing()
        yield
    finally:
        handle.remove()
        model.encoder_hid_proj = projection
        for processor, scale in zip(processors, before, strict=True):
            processor.scale = scale


class _Nothing(nn.Module):
    """Stands for the projections where their result is not used."""

    def forward(self, image_embeds: list[Tensor]) -> list[Tensor]:
        return image_embeds


def _rows_of(embeds: Tensor, rows: Any) -> Tensor:
    """One row for all, or the rows of these images."""
    return embeds if len(embeds) == 1 else embeds[rows]
