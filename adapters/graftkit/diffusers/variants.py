"""Features of the same images under several techniques.

Method: Meng et al., NeurIPS 2024, arXiv 2410.06719 (GATE), section 5.2 and appendix A.

>>> found = pipe.extract_variants(images, RECIPES["cityscapes"].variants, "preset")  # doctest: +SKIP
"""

import warnings
from typing import Any

import torch
from torch import Tensor

from graftkit.core.validation import check_bool, check_integer, raise_invalid
from graftkit.diffusers.conditioning import Text
from graftkit.diffusers.conditions import ConditionCalls, read_labels, same_noise, some_rows
from graftkit.diffusers.reconstruction import Conditions
from graftkit.diffusers.requests import resolve
from graftkit.diffusers.technique_checks import check_technique
from graftkit.diffusers.techniques import applied
from graftkit.methods.content_shift import Technique, check_techniques

__all__ = ["Variants", "call_control", "text_arguments"]


class Variants(ConditionCalls):
    """``extract_variants`` of the pipeline."""

    @torch.no_grad()
    def extract_variants(
        self: Any,
        images: Any,
        techniques: Any,
        features: Any = "preset",
        prompt: str = "",
        *,
        timestep: int = 50,
        seed: int = 0,
        share_noise: bool = True,
        batch_size: int = 8,
        allow_varying_prompts: bool = False,
        height: int | None = None,
        width: int | None = None,
        **options: Any,
    ) -> dict[str, Any]:
        """Features of the same images under several techniques; images are encoded once.

        Parameters
        ----------
        images : PIL image, array (N, H, W, 3), tensor (N, 3, H, W), or a list of these
            Arrays of shape (N, H, W, 3), tensors of shape (N, 3, H, W), values in [0, 1].
        techniques : Technique or sequence of Technique
            One variant each.
        features : str, list of str or dict, default="preset"
            As in the call.
        prompt : str, default=""
            Of techniques that have none.
        timestep : int, default=50
            Literal.
        seed : int, default=0
            Of the noise.
        share_noise : bool, default=True
            One draw for all techniques; otherwise one each.
        batch_size : int, default=8
            Images a forward.
        allow_varying_prompts : bool, default=False
            Allow ``attn`` under one prompt an image: its channels are tokens, which then mean different
            things.
        height, width : int or None, default=None
            Resize to this size.
        **options : object
            Further arguments of the call, such as `class_labels` or `output_device`.

        Returns
        -------
        dict of str to DiffusionFeatureOutput
            By technique, in the given order.

        Raises
        ------
        TypeError
            If an argument has the wrong type.
        ValueError
            If a technique does not fit this pipeline or these images, or ``attn`` meets one prompt an image;
            before any forward.

        Warns
        -----
        UserWarning
            If a technique enters later without a ControlNet, which makes the shift larger, or has guidance,
            which changes nothing about a feature.
        """
        found = check_techniques(techniques)
        size = check_integer("batch_size", batch_size, low=1)
        check_integer("seed", seed, low=0)
        check_bool("share_noise", share_noise)
        pixels, _ = self._pictures(images, height, width)
        batch = len(pixels)
        names = resolve(self, features, as_tokens=bool(options.get("as_tokens"))).names
        for technique in found:
            check_technique(self, technique, batch, timestep)
            varying = isinstance(technique.prompt, tuple) and len(set(technique.prompt)) > 1
            if "attn" in names and varying and not allow_varying_prompts:
                raise_invalid(
                    f"technique {technique.name!r}: prompt", technique.prompt, "a fixed prompt for 'attn'",
                    fix="Pass allow_varying_prompts=True if tokens need not mean the same for all images.",
                )  # fmt: skip
            if technique.guidance_scale > 1:
                warnings.warn(
                    f"technique {technique.name!r}: guidance_scale mixes predictions; the "
                    "features of one forward do not change with it",
                    stacklevel=3,
                )
            if technique.denoise_from is not None and not technique.controls:
                warnings.warn(
                    f"technique {technique.name!r}: denoise_from without a controlnet makes the shift larger",
                    stacklevel=3,
                )
        labels = read_labels(options.pop("class_labels", None), batch)
        original = (pixels + 1) / 2
        outputs: dict[str, Any] = {}
        with self._ready(), self.progress_bar(total=len(found)) as bar:
            latents = self._latents(pixels, size)
            memory: dict[Any, Any] = {}
            for position, technique in enumerate(found):
                noise = same_noise(tuple(latents.shape), seed + (0 if share_noise else position)).to(latents)
                conditions = self._conditions(technique, original, prompt, labels, memory)
                outputs[technique.name] = self._variant(
                    technique, conditions, latents, noise, features, timestep, size, options
                )
                bar.update()
        return outputs

    def _variant(
        self: Any, technique: Technique, conditions: Conditions, latents: Tensor, noise: Tensor,
        features: Any, timestep: int, size: int, options: dict[str, Any],
    ) -> Any:  # fmt: skip
        parts = []
        for start in range(0, len(latents), size):
            rows = slice(start, start + size)
            given = some_rows(conditions, rows)
            with applied(self, technique, lambda rows=rows: rows):  # type: ignore[misc]
                parts.append(
                    self(
                        latents=latents[rows],
                        features=features,
                        timestep=timestep,
                        noise=noise[rows],
                        denoise_from=technique.denoise_from,
                        controlnet_image=call_control(self, given.control),
                        controlnet_conditioning_scale=given.control_scale,
                        class_labels=given.labels,
                        **text_arguments(given.text),
                        **options,
                    )
                )
        first = parts[0]
        joined = {name: torch.cat([part.features[name] for part in parts]) for name in first.features}
        samples = [part.sample for part in parts if part.sample is not None]
        sample = torch.cat(samples) if samples else None
        return type(first)(joined, first.strides, first.timestep, latents, sample)


def call_control(pipe: Any, control: list[Tensor] | None) -> Any:
    """Control images as the pipeline's call takes them: a list for several ControlNets, otherwise one."""
    if control is None:
        return None
    return control if hasattr(pipe.controlnet, "nets") else control[0]


def text_arguments(text: Text) -> dict[str, Tensor | None]:
    """Encoded prompts as arguments of the pipeline's call; none for a model without text."""
    if text.embeds is None:
        return {}
    return {
        "prompt_embeds": text.embeds,
        "pooled_prompt_embeds": text.pooled,
        "prompt_attention_mask": text.mask,
        "prompt_embeds_2": text.embeds_2,
        "prompt_attention_mask_2": text.mask_2,
    }
