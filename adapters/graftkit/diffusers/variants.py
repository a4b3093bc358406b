"""Features of the same images under several techniques.

Method: Meng et al., NeurIPS 2024, arXiv 2410.06719 (GATE), section 5.2 and appendix A.

>>> found = pipe.extract_variants(images, RECIPES["cityscapes"].variants, "preset")  # doctest: +SKIP
"""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from graftkit.core.validation import check_bool, check_integer, raise_invalid
from graftkit.diffusers.conditioning import Text
from graftkit.diffusers.conditions import ConditionCalls, read_labels, same_noise
from graftkit.diffusers.noising import noise_level
from graftkit.diffusers.reconstruction import Conditions
from graftkit.diffusers.requests import resolve
from graftkit.diffusers.technique_checks import check_technique
from graftkit.diffusers.technique_groups import chunks, grouped, joined_rows
from graftkit.diffusers.techniques import applied
from graftkit.methods.content_shift import Technique, check_techniques

__all__ = ["Variants", "call_control", "text_arguments"]


# Of the call's arguments those that are not set here.
OPTIONS = (
    "as_tokens", "class_labels", "cross_attention_kwargs", "crops_coords_top_left", "early_exit",
    "map_reduce", "map_resolutions", "max_map_elements", "noise_match", "original_size", "output_device",
    "output_dtype", "target_size",
)  # fmt: skip


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
            Rows a forward, of several images and techniques.
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
        given = self._given(
            images, found, features, prompt, height, width, timestep=timestep, size=size,
            allow_varying_prompts=allow_varying_prompts, options=options,
        )  # fmt: skip
        draws = range(seed, seed + (1 if share_noise else len(found)))
        noise = [same_noise(tuple(given.latents.shape), draw).to(given.latents) for draw in draws]
        every = torch.arange(len(given.latents))
        with self._ready():
            read: dict[str, Any] = self._read(found, given, noise, features, timestep, every, size, options)
        return read

    def _given(
        self: Any, images: Any, techniques: Sequence[Technique], features: Any, prompt: Any,
        height: int | None, width: int | None, *, timestep: Any, size: int, allow_varying_prompts: bool,
        options: dict[str, Any],
    ) -> "Given":  # fmt: skip
        """Checked, then images, texts and controls encoded once."""
        if not isinstance(prompt, str):
            raise_invalid("prompt", prompt, "one string, of techniques without a prompt", error=TypeError)
        check_bool("allow_varying_prompts", allow_varying_prompts)
        if others := sorted(set(options) - set(OPTIONS)):
            raise ValueError(f"options: expected some of {', '.join(OPTIONS)}, got {', '.join(others)}")
        noise_level(self.scheduler, timestep)
        pixels, _ = self._pictures(images, height, width)
        batch = len(pixels)
        names = resolve(self, features, as_tokens=bool(options.get("as_tokens"))).names
        for technique in techniques:
            check_technique(self, technique, batch, timestep)
            varying = isinstance(technique.prompt, tuple) and len(set(technique.prompt)) > 1
            if "attn" in names and varying and not allow_varying_prompts:
                raise_invalid(
                    f"technique {technique.name!r}: prompt", technique.prompt, "a fixed prompt for 'attn'",
                    fix="Pass allow_varying_prompts=True if tokens need not mean the same for all images.",
                )  # fmt: skip
            _warn(technique)
        labels = read_labels(options.pop("class_labels", None), batch)
        original, memory = (pixels + 1) / 2, {}  # type: tuple[Tensor, dict[Any, Any]]
        with self._ready():
            conditions = [self._conditions(one, original, prompt, labels, memory) for one in techniques]
            return Given(self._latents(pixels, size), conditions)

    def _read(
        self: Any, techniques: Sequence[Technique], given: "Given", noise: Sequence[Tensor], features: Any,
        timestep: int, images: Tensor, size: int, options: dict[str, Any],
    ) -> dict[str, Any]:  # fmt: skip
        """Features of some images under each technique; one draw of the noise for all, or one each."""
        parts: dict[int, list[Any]] = {position: [] for position in range(len(techniques))}
        groups = grouped(techniques, given.conditions)
        with self.progress_bar(total=len(groups)) as bar:
            for group in groups:
                technique, current = techniques[group[0]], [images]
                with applied(self, technique, lambda c=current: c[0]):  # type: ignore[misc]
                    for which, rest in chunks(len(group), len(images), size):
                        current[0] = rows = images[rest]
                        some = joined_rows([given.conditions[k] for k in group], which, rows)
                        draws = [noise[group[k] % len(noise)] for k in which.tolist()]
                        part = self(
                            latents=given.latents[rows],
                            features=features,
                            timestep=timestep,
                            noise=torch.stack([one[row] for one, row in zip(draws, rows, strict=True)]),
                            denoise_from=technique.denoise_from,
                            controlnet_image=call_control(self, some.control),
                            controlnet_conditioning_scale=some.control_scale,
                            class_labels=some.labels,
                            **text_arguments(some.text),
                            **options,
                        )
                        for member in which.unique_consecutive().tolist():
                            parts[group[member]].append(_of(part, which == member))
                bar.update()
        return {
            technique.name: _joined(parts[position], given.latents[images])
            for position, technique in enumerate(techniques)
        }


@dataclass(frozen=True)
class Given:
    """Clean latents of the images, and the conditions of each technique."""

    latents: Tensor
    conditions: list[Conditions]


def _of(part: Any, mine: Tensor) -> Any:
    """One technique's rows of a batch, copied: the rest of the batch is let go of with it."""
    if bool(mine.all()):
        return part
    features = {name: tensor[mine.to(tensor.device)] for name, tensor in part.features.items()}
    sample = None if part.sample is None else part.sample[mine.to(part.sample.device)]
    return type(part)(features, part.strides, part.timestep, part.latents, sample)


def _joined(parts: list[Any], latents: Tensor) -> Any:
    """The batches of one technique, one after another."""
    first = parts[0]
    features = {name: torch.cat([part.features[name] for part in parts]) for name in first.features}
    samples = [part.sample for part in parts if part.sample is not None]
    sample = torch.cat(samples) if samples else None
    return type(first)(features, first.strides, first.timestep, latents, sample)


def _warn(technique: Technique) -> None:
    if technique.guidance_scale > 1:
        warnings.warn(
            f"technique {technique.name!r}: guidance_scale mixes predictions; the "
            "features of one forward do not change with it",
            stacklevel=5,
        )
    if technique.denoise_from is not None and not technique.controls:
        warnings.warn(
            f"technique {technique.name!r}: denoise_from without a controlnet makes the shift larger",
            stacklevel=5,
        )


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
