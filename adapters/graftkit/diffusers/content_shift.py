"""Content shift on the feature pipeline: measure it, judge techniques by it, take their variants.

Method: Meng et al., NeurIPS 2024, arXiv 2410.06719 (GATE). The guideline compares image-to-image reconstructions
with and without a technique; the score compares contours of features. Neither is in the public code.

>>> report = pipe.gate(images, [Technique("edges", controlnet_image="input-canny")])  # doctest: +SKIP
>>> report.verdict  # doctest: +SKIP
{'edges': 'helps, but so does its control'}
"""

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from graftkit.core.validation import check_bool, check_choice, check_integer, raise_invalid
from graftkit.diffusers.conditioning import Text
from graftkit.diffusers.images import encode_images, evaluating
from graftkit.diffusers.reconstruction import Conditions, Reconstruction
from graftkit.diffusers.requests import resolve
from graftkit.diffusers.techniques import (
    adapter_key,
    applied,
    check_technique,
    control_images,
    negative_control,
    same_noise,
    text_prompts,
)
from graftkit.methods.content_shift import (
    GateReport,
    Technique,
    check_techniques,
    image_distance,
    paired_gain,
    shift_score,
)
from graftkit.methods.content_shift.similarity import metric_name

__all__ = ["ContentShift"]

BASIC = Technique("basic")


class ContentShift:
    """``gate``, ``content_shift_score`` and ``extract_variants`` of the pipeline."""

    @torch.no_grad()
    def gate(
        self: Any,
        images: Any,
        techniques: Any,
        prompt: str = "",
        *,
        basic: Technique = BASIC,
        strength: float = 0.8,
        num_inference_steps: int = 20,
        seeds: Sequence[int] = (0, 1, 2),
        metrics: Any = ("mse", "edge"),
        negative_controls: bool = True,
        batch_size: int = 8,
        keep_images: bool = False,
        class_labels: Any = None,
        height: int | None = None,
        width: int | None = None,
    ) -> GateReport:
        """Ask whether techniques bring reconstructions back to their images.

        Each image is noised to `strength` and denoised with the basic model and with each technique, from the same
        noise. A technique is worth integrating where its reconstruction is closer to the image.

        Parameters
        ----------
        images : PIL image, array (N, H, W, 3), tensor (N, 3, H, W), or a list of these
            Values in [0, 1].
        techniques : Technique or sequence of Technique
            What to judge.
        prompt : str, default=""
            The simple prompt of the basic model, and of techniques without one.
        basic : Technique, default=Technique("basic")
            What they are compared with.
        strength : float, default=0.8
            Share of the schedule that the images are noised by, in (0, 1]; the paper says "high". 1 is not
            text-to-image: the image still shows through the last level.
        num_inference_steps : int, default=20
            Of the whole schedule; ``int(strength * num_inference_steps)`` forwards are made.
        seeds : sequence of int, default=(0, 1, 2)
            One draw of noise each.
        metrics : str, callable or sequence of these, default=("mse", "edge")
            "mse", "psnr", "ssim", "edge", or ``f(images, others)``; the first decides verdict and ranking.
        negative_controls : bool, default=True
            Also run each technique with every image's own inputs given to another image; needs 2 images.
        batch_size : int, default=8
            Images and seeds a forward; it alone sets peak memory.
        keep_images : bool, default=False
            Keep the reconstructions for ``report.plot()``.
        class_labels : int, array-like of shape (1 or N,) or None, default=None
            For class-conditional models.
        height, width : int or None, default=None
            Resize to this size.

        Returns
        -------
        GateReport
            Table, verdicts, ranking; ``settings`` says how it was measured.

        Raises
        ------
        TypeError
            If an argument has the wrong type.
        ValueError
            If a technique does not fit this pipeline or these images, or a value is refused; before any forward.
        """
        found = check_techniques(techniques)
        if any(one.name == basic.name for one in found):
            raise ValueError(f"techniques: duplicate name {basic.name!r}, which is the basic model's")
        names = _metrics(metrics)
        seeds = _seeds(seeds)
        check_bool("negative_controls", negative_controls)
        check_bool("keep_images", keep_images)
        size = check_integer("batch_size", batch_size, low=1)
        reconstruct = Reconstruction(self, strength, num_inference_steps)
        source, pixels, image_size = self._pictures(images, height, width)
        batch = len(source)
        for technique in (basic, *found):
            check_technique(self, technique, batch)
        controls = [negative_control(one, batch) for one in found] if negative_controls else []
        labels = _labels(class_labels, batch)
        runs = [basic, *found, *(one for one in controls if one is not None)]
        original = (pixels + 1) / 2
        with self._ready(), self.progress_bar(total=len(runs)) as bar:
            latents = self._latents(source, size)
            noise = torch.stack([same_noise(tuple(latents.shape), seed) for seed in seeds]).to(latents)
            pictures = {}
            memory: dict[Any, Any] = {}
            for technique in runs:
                pictures[technique.name] = self._reconstructions(
                    technique, reconstruct, latents, noise, original, image_size, prompt, labels, size, memory
                )
                bar.update()
        distances = {
            name: {
                metric_name(metric): torch.stack(
                    [image_distance(metric, original.cpu(), p) for p in seen]
                ).numpy()
                for metric in metrics_of(metrics)
            }
            for name, seen in pictures.items()
        }

        def gains(name: str) -> dict[str, Any]:
            return {m: paired_gain(distances[basic.name][m], distances[name][m]) for m in names}

        kept = {name: pictures[name] for name in (basic.name, *(one.name for one in found))}
        return GateReport.from_gains(
            {one.name: gains(one.name) for one in found},
            names,
            {
                one.name: gains(control.name)
                for one, control in zip(found, controls or [None] * len(found), strict=True)
                if control is not None
            },
            settings={
                "strength": strength,
                "num_inference_steps": num_inference_steps,
                "forwards": len(reconstruct.levels),
                "seeds": list(seeds),
                "images": batch,
                "prompt": prompt,
                "verdict_by": names[0],
            },
            images=kept if keep_images else None,
            inputs=original.cpu() if keep_images else None,
        )

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
            Allow ``attn`` under one prompt an image: its channels are tokens, which then mean different things.
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
        source, pixels, image_size = self._pictures(images, height, width)
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
        labels = _labels(options.pop("class_labels", None), batch)
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
        self: Any, technique: Technique, conditions: Conditions, latents: Tensor, noise: Tensor, features: Any,
        timestep: int, size: int, options: dict[str, Any],
    ) -> Any:  # fmt: skip
        parts = []
        text = conditions.text
        for start in range(0, len(latents), size):
            rows = slice(start, start + size)
            given = _some(conditions, rows)
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
        return replace_output(first, joined, latents, torch.cat(samples) if samples else None)

    def _reconstructions(
        self: Any, technique: Technique, reconstruct: Reconstruction, latents: Tensor, noise: Tensor,
        original: Tensor, image_size: tuple[int, int], prompt: str, labels: Tensor | None, size: int,
        memory: dict[Any, Any],
    ) -> Tensor:  # fmt: skip
        """Pictures of shape (seeds, N, c, H, W) on the CPU; images and seeds share forwards."""
        seeds, batch = noise.shape[:2]
        conditions = self._conditions(technique, original, prompt, labels, memory)
        flat = noise.flatten(0, 1)
        pictures = []
        for start in range(0, seeds * batch, size):
            index = torch.arange(start, min(start + size, seeds * batch))
            images = index % batch
            with applied(self, technique, lambda images=images: images):  # type: ignore[misc]
                some = _some(conditions, images)
                pictures.append(reconstruct(latents[images], flat[index], some, image_size).cpu())
        return torch.cat(pictures).unflatten(0, (seeds, batch))

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
        with applied(self, technique):
            text = self._text_rows(text_prompts(technique, prompt, batch), technique, memory)
            negative = None
            if technique.guidance_scale > 1:
                words = [technique.negative_prompt or ""] * batch
                negative = self._text_rows(words, technique, memory)
        control = None
        if technique.controls:
            # Names of edges are made once an image, not once a technique.
            key = (
                ("control", technique.controls)
                if all(isinstance(c, str) for c in technique.controls)
                else None
            )
            control = memory.get(key) if key else None
            if control is None:
                control = control_images(technique, original)
                if key:
                    memory[key] = control
            control = [one.to(original).expand(batch, *one.shape[1:]) for one in control or []]
        return Conditions(
            text, negative, technique.guidance_scale, control, technique.controlnet_conditioning_scale, labels
        )

    def _text_rows(self: Any, words: list[str], technique: Technique, memory: dict[Any, Any]) -> Text:
        if self.text_encoder is None and self.text_encoder_2 is None:
            return Text()
        key = ("text", tuple(words), adapter_key(technique))
        if key not in memory:
            distinct = list(dict.fromkeys(words))
            encoded = self.encode_text(distinct, batch=len(distinct))
            index = torch.tensor([distinct.index(word) for word in words])
            memory[key] = encoded.expanded(len(distinct)).rows(index)
        found: Text = memory[key]
        return found

    def _pictures(
        self: Any, images: Any, height: int | None, width: int | None
    ) -> tuple[Tensor, Tensor, tuple[int, int]]:
        source, pixels = self._read_source(images, None, height, width, "default")
        return source, pixels, (pixels.shape[-2], pixels.shape[-1])

    def _latents(self: Any, source: Tensor, size: int) -> Tensor:
        """Latents of every image, encoded once; the pictures themselves without a VAE."""
        device = self._execution_device
        if getattr(self, "vae", None) is None:
            return source.float().to(device)
        parts = [encode_images(self.vae, source[k : k + size]) for k in range(0, len(source), size)]
        return torch.cat(parts).float().to(device)

    @contextmanager
    def _ready(self: Any) -> Iterator[None]:
        try:
            with evaluating(self.denoiser, getattr(self, "vae", None), self.controlnet):
                yield
        finally:
            self.maybe_free_model_hooks()


def metrics_of(metrics: Any) -> tuple[Any, ...]:
    """One metric or several, as a tuple."""
    return (metrics,) if isinstance(metrics, str) or callable(metrics) else tuple(metrics)


def replace_output(first: Any, features: dict[str, Tensor], latents: Tensor, sample: Tensor | None) -> Any:
    """The output of the first batch with the rows of all."""
    return type(first)(features, first.strides, first.timestep, latents, sample)


def _metrics(metrics: Any) -> tuple[str, ...]:
    from graftkit.methods.content_shift.similarity import DISTANCES

    given = metrics_of(metrics)
    if not given:
        raise_invalid("metrics", metrics, "at least one metric")
    for one in given:
        if not callable(one):
            check_choice("metrics", one, tuple(DISTANCES))
    names = tuple(map(metric_name, given))
    if len(set(names)) != len(names):
        raise ValueError(f"metrics: expected different names, got {list(names)}")
    return names


def _seeds(seeds: Any) -> tuple[int, ...]:
    if not isinstance(seeds, Sequence) or isinstance(seeds, str) or not len(seeds):
        raise_invalid("seeds", seeds, "a sequence of at least one integer")
    found = tuple(check_integer("seeds", seed, low=0) for seed in seeds)
    if len(set(found)) != len(found):
        raise_invalid("seeds", list(found), "different seeds")
    return found


def _labels(labels: Any, batch: int) -> Tensor | None:
    if labels is None:
        return None
    rows = torch.as_tensor(labels).reshape(-1)
    if len(rows) not in (1, batch):
        raise_invalid("class_labels", labels, f"1 or {batch} labels, one an image")
    return rows.expand(batch)


def _some(conditions: Conditions, rows: Any) -> Conditions:
    return replace(
        conditions,
        text=conditions.text.rows(rows),
        negative=None if conditions.negative is None else conditions.negative.rows(rows),
        control=None if conditions.control is None else [one[rows] for one in conditions.control],
        labels=None if conditions.labels is None else conditions.labels[rows],
    )


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
