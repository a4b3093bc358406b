"""What a technique hands to the denoiser: texts encoded once, control images made once, labels, noise.

>>> same_noise((1, 2), seed=0).shape
torch.Size([1, 2])
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from graftkit.core.validation import raise_invalid
from graftkit.diffusers.arguments import read_source
from graftkit.diffusers.conditioning import Text
from graftkit.diffusers.controls import RolledEdges, control_images
from graftkit.diffusers.images import encode_images, evaluating
from graftkit.diffusers.lora import text_adapters
from graftkit.diffusers.reconstruction import Conditions
from graftkit.diffusers.techniques import applied
from graftkit.methods.content_shift import Technique

__all__ = ["BASIC", "ConditionCalls", "read_labels", "same_noise", "some_rows"]

BASIC = Technique("basic")


class ConditionCalls:
    """What the guideline and the variants share."""

    def _conditions(
        self: Any,
        technique: Technique,
        original: Tensor,
        prompt: str,
        labels: Tensor | None,
        memory: dict[Any, Any],
    ) -> Conditions:
        """Texts and control images, each made once."""
        batch = len(original)
        # Fusing would change the denoiser's weights too, for nothing.
        with applied(self, replace(technique, fuse=False)):
            text = self._text_rows(text_prompts(technique, prompt, batch), technique, memory)
            negative = None
            if technique.guidance_scale > 1:
                words = [technique.negative_prompt or ""] * batch
                negative = self._text_rows(words, technique, memory)
        control = None
        if technique.controls:
            # Names of edges are made once an image, not once a technique.
            named = all(isinstance(c, str | RolledEdges) for c in technique.controls)
            key = ("control", technique.controls) if named else None
            control = memory.get(key) if key else None
            if control is None:
                control = control_images(technique, original)
                if key:
                    memory[key] = control
            control = [one.expand(batch, *one.shape[1:]) for one in control or []]
        return Conditions(
            text, negative, technique.guidance_scale, control, technique.controlnet_conditioning_scale, labels
        )

    def _text_rows(self: Any, words: list[str], technique: Technique, memory: dict[Any, Any]) -> Text:
        if self.text_encoder is None and self.text_encoder_2 is None:
            return Text()
        # Adapters of the denoiser alone leave texts as they are.
        own = adapter_key(technique) if text_adapters(self) else ()
        # A callable may change the encoders too.
        key = ("text", tuple(words), own, technique.apply and id(technique.apply))
        if key not in memory:
            distinct = list(dict.fromkeys(words))
            encoded = self.encode_text(distinct, batch=len(distinct))
            index = torch.tensor([distinct.index(word) for word in words])
            memory[key] = encoded.expanded(len(distinct)).rows(index)
        found: Text = memory[key]
        return found

    def _pictures(
        self: Any, images: Any, height: int | None, width: int | None
    ) -> tuple[Tensor, tuple[int, int]]:
        """Pictures in [-1, 1] and their height and width."""
        pixels, _ = read_source(self, images, None, height, width, "default")
        return pixels, (pixels.shape[-2], pixels.shape[-1])

    def _latents(self: Any, pixels: Tensor, size: int) -> Tensor:
        """Latents of every image, encoded once; the pictures themselves without a VAE."""
        device = self._execution_device
        if getattr(self, "vae", None) is None:
            return pixels.float().to(device)
        parts = [encode_images(self.vae, pixels[k : k + size]) for k in range(0, len(pixels), size)]
        return torch.cat(parts).float().to(device)

    @contextmanager
    def _ready(self: Any) -> Iterator[None]:
        try:
            with evaluating(self.denoiser, getattr(self, "vae", None), self.controlnet):
                yield
        finally:
            self.maybe_free_model_hooks()


def read_labels(labels: Any, batch: int) -> Tensor | None:
    """Labels of shape (batch,), or None.

    Raises
    ------
    ValueError
        If there are neither 1 nor `batch`.
    """
    if labels is None:
        return None
    rows = torch.as_tensor(labels).reshape(-1)
    if len(rows) not in (1, batch):
        raise_invalid("class_labels", labels, f"1 or {batch} labels, one an image")
    return rows.expand(batch)


def some_rows(conditions: Conditions, rows: Any) -> Conditions:
    """The conditions of some images."""
    return replace(
        conditions,
        text=conditions.text.rows(rows),
        negative=None if conditions.negative is None else conditions.negative.rows(rows),
        control=None if conditions.control is None else [one[rows] for one in conditions.control],
        labels=None if conditions.labels is None else conditions.labels[rows],
    )


def adapter_key(technique: Technique) -> tuple[Any, ...]:
    """What decides how a prompt is encoded beside its words."""
    return technique.adapters, technique.adapter_weights


def text_prompts(technique: Technique, basic: str, batch: int) -> list[str]:
    """One prompt an image."""
    prompt = basic if technique.prompt is None else technique.prompt
    texts = (prompt,) if isinstance(prompt, str) else prompt
    return list(texts) * batch if len(texts) == 1 else list(texts)


def same_noise(shape: tuple[int, ...], seed: int) -> Tensor:
    """Noise of one seed, drawn in float32 on the CPU whatever the device."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))
