"""The call: pictures in, feature maps out, batch by batch.

>>> out = pipe(pictures, features="preset", batch_size=8)  # doctest: +SKIP
"""

from typing import Any

import torch
from torch import Tensor

from graftkit.core.validation import check_bool, check_integer, raise_invalid
from graftkit.diffusers.arguments import (
    batch_bar,
    image_size_of,
    read_classes,
    read_control,
    read_generators,
    read_levels,
    read_noise,
    read_output,
    read_source,
    read_text,
)
from graftkit.diffusers.batches import BatchRun, Settings
from graftkit.diffusers.conditioning import Text
from graftkit.diffusers.images import evaluating
from graftkit.diffusers.inspection import strides
from graftkit.diffusers.noising import noise_level
from graftkit.diffusers.output import DiffusionFeatureOutput
from graftkit.diffusers.placement import compute_dtype, execution_device
from graftkit.diffusers.requests import map_window, resolve

__all__ = ["FeatureCalls"]


class FeatureCalls:
    """``__call__`` and ``forward_features`` of the pipeline."""

    @torch.no_grad()
    def __call__(
        self: Any,
        image: Any = None,
        prompt: Any = None,
        features: Any = "preset",
        timestep: Any = None,
        sigma: float | None = None,
        noise_match: str = "snr",
        num_noise: int = 1,
        noise: Tensor | None = None,
        latents: Tensor | None = None,
        prompt_embeds: Tensor | None = None,
        pooled_prompt_embeds: Tensor | None = None,
        prompt_attention_mask: Tensor | None = None,
        prompt_embeds_2: Tensor | None = None,
        prompt_attention_mask_2: Tensor | None = None,
        class_labels: Any = None,
        height: int | None = None,
        width: int | None = None,
        resize_mode: str = "default",
        original_size: tuple[int, int] | None = None,
        crops_coords_top_left: tuple[int, int] = (0, 0),
        target_size: tuple[int, int] | None = None,
        controlnet_image: Any = None,
        controlnet_conditioning_scale: Any = 1.0,
        cross_attention_kwargs: dict[str, Any] | None = None,
        denoise_from: int | None = None,
        latent_mode: str = "mode",
        map_reduce: str = "mean",
        map_resolutions: tuple[float, float] | None = None,
        max_map_elements: int = 2**26,
        as_tokens: bool = False,
        early_exit: Any = "auto",
        batch_size: int | None = None,
        output_dtype: torch.dtype | None = None,
        output_device: Any = None,
        generator: Any = None,
        return_dict: bool = True,
    ) -> Any:
        """Features of pictures: one noising and one forward each, no sampling.

        Parameters
        ----------
        image : PIL image, array (B, H, W, 3), tensor (B, 3, H, W), or a list of these
            Values in [0, 1]. ``None`` where `latents` are given.
        prompt : str or list of str or None, default=None
            One for all or one an image; ``None`` is the empty prompt. No classifier-free guidance.
        features : str, list of str or dict of str to bool, default="preset"
            Names, globs, ``module:`` paths, ``"preset"``, ``"pool"`` or the name of a preset.
        timestep : int, list of int or None, default=None
            Literal, in 0..T-1; ``None`` is 50. Several share one encoding; keys are then ``name@timestep``.
        sigma : float or None, default=None
            The noise level itself, in place of `timestep`.
        noise_match : {"snr", "linear"}, default="snr"
            Flow models: the sigma of equal signal-to-noise ratio, or t / T.
        num_noise : int, default=1
            Noise draws that are averaged, each a forward.
        noise : Tensor of shape (B, c, h, w) or (num_noise, B, c, h, w), or None, default=None
            In place of drawing.
        latents : Tensor of shape (B, c, h, w) or None, default=None
            Clean scaled latents in place of `image`.
        prompt_embeds, pooled_prompt_embeds, prompt_attention_mask : Tensor of shape (1 or B, ...) or None
            In place of `prompt`.
        prompt_embeds_2, prompt_attention_mask_2 : Tensor of shape (1 or B, ...) or None
            Hunyuan-DiT's second encoder.
        class_labels : int, array-like of shape (1 or B,) or (1 or B, d), or None, default=None
            For class-conditional models; vectors where the model projects them.
        height, width : int or None, default=None
            Resize to this size; ``None`` keeps the image's own, rounded down to what the model takes. The
            paper resizes to a square: 512 for SD 1.x/2.x, 1024 for SDXL.
        resize_mode : {"default", "fill", "crop", "error"}, default="default"
            ``"error"`` refuses sizes that do not divide.
        original_size, crops_coords_top_left, target_size : (int, int) or None
            SDXL's size conditions; by default the image's size and (0, 0).
        controlnet_image : as `image`, list of these, or None, default=None
            One a ControlNet.
        controlnet_conditioning_scale : float or list of float, default=1.0
            Factor of the residuals.
        cross_attention_kwargs : dict or None, default=None
            Passed on to the denoiser, such as ``{"scale": 0.5}`` for a LoRA.
        denoise_from : int or None, default=None
            Enter at this later timestep and step down to `timestep` before reading, one step a timestep.
        latent_mode : {"mode", "sample"}, default="mode"
            What of the VAE's distribution; the published code samples.
        map_reduce : {"mean", "none"}, default="mean"
            Heads of attention maps: averaged, or kept as channels.
        map_resolutions : (float, float) or None, default=None
            Coarsest and finest grid for ``"attn"``, as shares of the image's side; (1/32, 1/16), transformers
            (1/32, 1/8).
        max_map_elements : int, default=2**26
            Larger attention maps are refused.
        as_tokens : bool, default=False
            Allow ``cross-k`` and ``cross-v``, of shape (B, T, C).
        early_exit : {"auto", True, False}, default="auto"
            End the forward at the last activation.
        batch_size : int or None, default=None
            Images a forward; ``None`` takes all at once. The progress bar counts batches.
        output_dtype : torch.dtype or None, default=None
            Of the features; ``None`` keeps the model's.
        output_device : torch.device or str or None, default=None
            Where features are moved, batch by batch.
        generator : torch.Generator, list of them (one an image) or None, default=None
            ``None`` draws from a private one; torch's global generator is never used.
        return_dict : bool, default=True
            An output object, or a tuple.

        Returns
        -------
        DiffusionFeatureOutput or tuple
            ``features`` first: a dict of maps of shape (B, C, H, W).

        Raises
        ------
        TypeError
            If an argument has a wrong type.
        ValueError
            If a value is refused; the message says what was expected.
        RuntimeError
            If a requested activation was not reached, or fired more than once.
        """
        settings = Settings(
            num_noise, latent_mode, map_reduce, max_map_elements, early_exit, original_size,
            crops_coords_top_left, target_size, cross_attention_kwargs, controlnet_conditioning_scale,
        )  # fmt: skip
        read_output(output_dtype, output_device)
        check_bool("return_dict", return_dict)
        levels = read_levels(self.scheduler, timestep, sigma, noise_match, denoise_from)
        source, pixels = read_source(self, image, latents, height, width, resize_mode)
        batch = len(source)
        image_size = image_size_of(self, source, pixels)
        window = map_window(map_resolutions, image_size, transformer=not self.family.startswith("unet"))
        request = resolve(self, features, as_tokens=as_tokens, window=window)
        control = read_control(self, controlnet_image, image_size, batch)
        draws = read_noise(noise, settings.num_noise, batch)
        generators = read_generators(generator, batch)
        labels = read_classes(class_labels, batch)
        given = Text(
            prompt_embeds,
            pooled_prompt_embeds,
            prompt_attention_mask,
            prompt_embeds_2,
            prompt_attention_mask_2,
        )
        text = read_text(self, prompt, given, batch, cross_attention_kwargs)
        device, dtype = execution_device(self), compute_dtype(self.denoiser)
        text = text.to(device, dtype)
        size = batch if batch_size is None else check_integer("batch_size", batch_size, low=1)
        parts = []
        try:
            with (
                evaluating(self.denoiser, getattr(self, "vae", None), self.controlnet),
                batch_bar(self, batch, size) as bar,
            ):
                for start in range(0, batch, size):
                    rows = slice(start, min(start + size, batch))
                    run = BatchRun(
                        self, settings, request, image_size, dtype,
                        text=text.expanded(batch).rows(rows),
                        labels=labels if labels is None or len(labels) == 1 else labels[rows],
                        control=None if control is None else [c[rows] for c in control],
                        generator=generators[rows] if isinstance(generators, list) else generators,
                        noise=None if draws is None else draws[:, rows],
                    )  # fmt: skip
                    part = run(source[rows], pixels is not None, levels)
                    parts.append(part.moved(output_device, output_dtype))
                    bar.update()
        finally:
            self.maybe_free_model_hooks()
        found = {key: torch.cat([part.features[key] for part in parts]) for key in parts[0].features}
        samples = [part.sample for part in parts if part.sample is not None]
        output = DiffusionFeatureOutput(
            features=found,
            strides={key: strides(tensor, image_size) for key, tensor in found.items()},
            timestep=sigma if sigma is not None else (50 if timestep is None else timestep),
            latents=torch.cat([part.latents for part in parts]),
            sample=torch.cat(samples) if samples else None,
        )
        return output if return_dict else output.to_tuple()

    def forward_features(
        self: Any,
        pixels: Tensor,
        text: Any = None,
        features: Any = "preset",
        *,
        timestep: int = 50,
        generator: Any = None,
        noise: Tensor | None = None,
        early_exit: Any = "auto",
        class_labels: Any = None,
    ) -> dict[str, Tensor]:
        """Features with gradients, for training through the denoiser.

        Parameters
        ----------
        pixels : Tensor of shape (B, 3, H, W)
            In [-1, 1], sides divisible by ``size_unit``.
        text : Text or None, default=None
            As ``encode_text`` returns it.
        features : str, list of str or dict, default="preset"
            As in the call.
        timestep : int, default=50
            Literal.
        generator : torch.Generator, list of them or None, default=None
            ``None`` draws from a private one.
        noise : Tensor of shape (B, c, h, w) or None, default=None
            In place of drawing.
        early_exit : {"auto", True, False}, default="auto"
            End the forward at the last activation.
        class_labels : array-like of shape (1 or B,) or None, default=None
            For class-conditional models.

        Returns
        -------
        dict of str to Tensor of shape (B, C, H, W)
            Attached to the graph where gradients are enabled; the VAE is never part of it.

        Raises
        ------
        ValueError
            If a size or a value is refused.
        """
        unit = self.size_unit
        if pixels.ndim != 4 or pixels.shape[-2] % unit or pixels.shape[-1] % unit:
            raise_invalid("pixels", pixels, f"shape (B, C, H, W) with sides divisible by {unit}")
        image_size = (pixels.shape[-2], pixels.shape[-1])
        window = map_window(None, image_size, transformer=not self.family.startswith("unet"))
        request = resolve(self, features, window=window)
        settings = Settings(early_exit=early_exit)
        labels = read_classes(class_labels, len(pixels))
        device, dtype = execution_device(self), compute_dtype(self.denoiser)
        run = BatchRun(
            self, settings, request, image_size, dtype,
            text=(text or Text()).to(device, dtype).expanded(len(pixels)),
            labels=labels,
            control=None,
            generator=read_generators(generator, len(pixels)),
            noise=read_noise(noise, 1, len(pixels)),
        )  # fmt: skip
        part = run(pixels, True, [(timestep, noise_level(self.scheduler, timestep), [])])
        return part.features

    def encode_text(self: Any, prompt: Any, batch: int = 1) -> Any:
        """Prompts encoded once, to be used for many calls.

        Parameters
        ----------
        prompt : str, list of str or None
            The prompts; ``None`` is the empty prompt, or no text where the pipeline has no encoder.
        batch : int, default=1
            How many images a list of prompts is for.

        Returns
        -------
        Text
            Embeddings, one row a prompt.
        """
        return read_text(self, prompt, Text(), batch, None)
