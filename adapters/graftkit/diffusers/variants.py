"""Features of the same images under several techniques, and how far their content has shifted.

Method: Meng et al., NeurIPS 2024, arXiv 2410.06719 (GATE), equations 1 and 2.

>>> found = pipe.extract_variants(images, RECIPES["cityscapes"].variants, "preset")  # doctest: +SKIP
>>> pipe.content_shift_score(images, Technique("words", prompt="a horse"))  # doctest: +SKIP
"""

import warnings
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from graftkit.core.validation import check_bool, check_choice, check_integer, raise_invalid
from graftkit.diffusers.conditioning import Text
from graftkit.diffusers.conditions import BASIC, ConditionCalls, read_labels, same_noise, some_rows
from graftkit.diffusers.reconstruction import Conditions
from graftkit.diffusers.requests import resolve
from graftkit.diffusers.techniques import applied, check_technique
from graftkit.methods.content_shift import Technique, check_techniques, shift_score

__all__ = ["Variants"]


class Variants(ConditionCalls):
    """``extract_variants`` and ``content_shift_score`` of the pipeline."""

    @torch.no_grad()
    def content_shift_score(
        self: Any,
        images: Any,
        techniques: Any,
        features: Any = "preset",
        prompt: str = "",
        *,
        basic: Technique = BASIC,
        timestep: int = 50,
        anchor_timestep: int = 300,
        reference: str = "own",
        metric: str = "laplacian",
        normalize: bool = False,
        padding: str = "replicate",
        seed: int = 0,
        batch_size: int = 8,
        allow_varying_prompts: bool = False,
        **options: Any,
    ) -> dict[str, dict[str, Tensor]]:
        """Score how far features have moved from their images, one forward a technique and reference.

        Parameters
        ----------
        images : PIL image, array (N, H, W, 3), tensor (N, 3, H, W), or a list of these
            Values in [0, 1].
        techniques : Technique or sequence of Technique
            What to score; `basic` is scored beside them.
        features : str, list of str or dict, default="preset"
            Activations. Coarse ones tell techniques apart; at fine ones the score saturates.
        prompt : str, default=""
            The simple prompt.
        basic : Technique, default=Technique("basic")
            The basic model, which the anchor comes from.
        timestep : int, default=50
            Of the feature in question.
        anchor_timestep : int, default=300
            Of the basic feature with a visible shift; the paper does not say which.
        reference : {"own", "basic"}, default="own"
            The feature at timestep 0 with the same technique, or of the basic model. A technique that changes
            activations by itself scores badly against a basic reference. The paper does not say which.
        metric : {"laplacian", "cosine"}, default="laplacian"
            See ``shift_score``.
        normalize : bool, default=False
            Divide features by their root mean square.
        padding : {"replicate", "zeros"}, default="replicate"
            Of the Laplacian.
        seed : int, default=0
            Of the noise, which all features share.
        batch_size : int, default=8
            Images a forward.
        allow_varying_prompts : bool, default=False
            Allow ``attn`` under one prompt an image.
        **options : object
            Further arguments of the call, such as `height`.

        Returns
        -------
        dict of str to dict of str to Tensor of shape (N,)
            Technique to activation to scores, at most 1.

        Raises
        ------
        TypeError
            If an argument has the wrong type.
        ValueError
            If a technique does not fit, or `anchor_timestep` equals `timestep`; before any forward.
        """
        check_choice("reference", reference, ("own", "basic"))
        check_choice("metric", metric, ("laplacian", "cosine"))
        check_choice("padding", padding, ("replicate", "zeros"))
        check_bool("normalize", normalize)
        if anchor_timestep == timestep:
            raise_invalid(
                "anchor_timestep", anchor_timestep, f"another timestep than {timestep}, a later one"
            )
        found = check_techniques(techniques)
        if basic.name not in {one.name for one in found}:
            found = (basic, *found)
        plain = [replace(one, denoise_from=None) for one in found]
        shared = {
            "features": features, "prompt": prompt, "seed": seed, "batch_size": batch_size,
            "allow_varying_prompts": allow_varying_prompts, **options,
        }  # fmt: skip
        here = self.extract_variants(images, found, timestep=timestep, **shared)
        anchor = self.extract_variants(images, [basic], timestep=anchor_timestep, **shared)[
            basic.name
        ].features
        clean = self.extract_variants(images, plain if reference == "own" else [basic], timestep=0, **shared)
        scores: dict[str, dict[str, Tensor]] = {}
        for name, output in here.items():
            at_zero = clean[name if reference == "own" else basic.name].features
            scores[name] = {
                key: shift_score(
                    at_zero[key], feature, anchor[key], metric=metric, normalize=normalize, padding=padding
                )
                for key, feature in output.features.items()
            }
        return scores

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
            Values in [0, 1].
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
            If a technique enters later without a ControlNet, which makes the shift larger.
        """
        found = check_techniques(techniques)
        size = check_integer("batch_size", batch_size, low=1)
        check_integer("seed", seed, low=0)
        check_bool("share_noise", share_noise)
        source, pixels, _ = self._pictures(images, height, width)
        batch = len(source)
        names = resolve(self, features, as_tokens=bool(options.get("as_tokens"))).names
        for technique in found:
            check_technique(self, technique, batch, timestep)
            varying = isinstance(technique.prompt, tuple) and len(set(technique.prompt)) > 1
            if "attn" in names and varying and not allow_varying_prompts:
                raise_invalid(
                    f"technique {technique.name!r}: prompt", technique.prompt, "a fixed prompt for 'attn'",
                    fix="Pass allow_varying_prompts=True if tokens need not mean the same for all images.",
                )  # fmt: skip
            if technique.denoise_from is not None and not technique.controls:
                warnings.warn(
                    f"technique {technique.name!r}: denoise_from without a controlnet makes the shift larger",
                    stacklevel=3,
                )
        labels = read_labels(options.pop("class_labels", None), batch)
        original = (pixels + 1) / 2
        outputs: dict[str, Any] = {}
        with self._ready(), self.progress_bar(total=len(found)) as bar:
            latents = self._latents(source, size)
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
        text = conditions.text
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
                        controlnet_image=_for_call(self, given.control),
                        controlnet_conditioning_scale=given.control_scale,
                        class_labels=given.labels,
                        **_embeds(text, given.text),
                        **options,
                    )
                )
        first = parts[0]
        joined = {name: torch.cat([part.features[name] for part in parts]) for name in first.features}
        samples = [part.sample for part in parts if part.sample is not None]
        sample = torch.cat(samples) if samples else None
        return type(first)(joined, first.strides, first.timestep, latents, sample)


def _for_call(pipe: Any, control: list[Tensor] | None) -> Any:
    if control is None:
        return None
    return control if hasattr(pipe.controlnet, "nets") else control[0]


def _embeds(whole: Text, rows: Text) -> dict[str, Tensor | None]:
    if whole.embeds is None:
        return {}
    return {
        "prompt_embeds": rows.embeds,
        "pooled_prompt_embeds": rows.pooled,
        "prompt_attention_mask": rows.mask,
        "prompt_embeds_2": rows.embeds_2,
        "prompt_attention_mask_2": rows.mask_2,
    }
