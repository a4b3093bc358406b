"""One batch through encoder and denoiser at every asked noise level.

>>> part = BatchRun(pipe, Settings(), request, (512, 512), text=text)(pixels, True, levels)  # doctest: +SKIP
"""

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from diffusers.utils.torch_utils import randn_tensor
from graftkit.core.validation import check_bool, check_choice, check_integer, check_number, raise_invalid
from graftkit.diffusers.conditioning import Text, denoiser_arguments
from graftkit.diffusers.forwards import Forwards, early_exit_allowed
from graftkit.diffusers.images import encode_images
from graftkit.diffusers.inspection import latent_channels
from graftkit.diffusers.noising import NoiseLevel
from graftkit.diffusers.placement import execution_device
from graftkit.diffusers.requests import Request, aggregate_maps

__all__ = ["BatchRun", "Part", "Settings"]


@dataclass(frozen=True)
class Settings:
    """What a call fixes for all its batches.

    Raises
    ------
    TypeError, ValueError
        If a value is of a wrong type or out of range.
    """

    num_noise: int = 1
    latent_mode: str = "mode"
    map_reduce: str = "mean"
    max_map_elements: int = 2**26
    early_exit: Any = "auto"
    original_size: tuple[int, int] | None = None
    crops_coords_top_left: tuple[int, int] = (0, 0)
    target_size: tuple[int, int] | None = None
    cross_attention_kwargs: dict[str, Any] | None = None
    controlnet_scale: Any = 1.0

    def __post_init__(self) -> None:
        check_integer("num_noise", self.num_noise, low=1)
        check_integer("max_map_elements", self.max_map_elements, low=1)
        check_choice("latent_mode", self.latent_mode, ("mode", "sample"))
        check_choice("map_reduce", self.map_reduce, ("mean", "none"))
        if self.early_exit != "auto":
            check_bool("early_exit", self.early_exit)
        for name in ("original_size", "crops_coords_top_left", "target_size"):
            pair = getattr(self, name)
            if pair is None:
                continue
            if not isinstance(pair, tuple | list) or len(pair) != 2:
                raise_invalid(name, pair, "two integers", error=TypeError)
            for value in pair:
                check_integer(name, value, low=0)
        scales = self.controlnet_scale
        for scale in scales if isinstance(scales, tuple | list) else [scales]:
            check_number("controlnet_conditioning_scale", scale)


@dataclass(frozen=True)
class Part:
    """The result of one batch."""

    features: dict[str, Tensor]
    latents: Tensor
    sample: Tensor | None

    def moved(self, device: Any, dtype: torch.dtype | None) -> "Part":
        """Features elsewhere or in another type; one copy a map."""
        moved = {key: tensor.to(device=device, dtype=dtype) for key, tensor in self.features.items()}
        return replace(self, features=moved)


class BatchRun:
    """Everything of a batch but its pictures.

    Parameters
    ----------
    pipe : DiffusionFeaturePipeline
        The pipeline.
    settings : Settings
        Of the call.
    request : Request
        What to read.
    image_size : (int, int)
        Height and width of the pictures.
    dtype : torch.dtype
        Of the denoiser.
    text : Text
        One row an image.
    labels : Tensor of shape (1 or B,) or None
        Classes.
    control : list of Tensor of shape (B, 3, H, W), or None
        Images of the ControlNets.
    generator : torch.Generator or list of them
        Of the noise.
    noise : Tensor of shape (k, B, c, h, w) or None
        Given noise.
    """

    def __init__(
        self,
        pipe: Any,
        settings: Settings,
        request: Request,
        image_size: tuple[int, int],
        dtype: torch.dtype,
        *,
        text: Text,
        labels: Tensor | None,
        control: list[Tensor] | None,
        generator: Any,
        noise: Tensor | None,
    ) -> None:
        self.pipe, self.settings, self.request, self.image_size = pipe, settings, request, image_size
        self.dtype, self.text, self.labels, self.control = dtype, text, labels, control
        self.generator, self.noise = generator, noise

    def __call__(
        self, source: Tensor, is_image: bool, levels: list[tuple[Any, NoiseLevel, list[NoiseLevel]]]
    ) -> Part:
        """Features at each level."""
        pipe, settings, dtype = self.pipe, self.settings, self.dtype
        device = execution_device(pipe)
        latents = source
        if is_image and getattr(pipe, "vae", None) is not None:
            latents = encode_images(pipe.vae, source, mode=settings.latent_mode, generator=self.generator)
        latents = latents.to(device)
        channels = latent_channels(pipe)
        if latents.shape[1] != channels:
            raise_invalid(
                "latents",
                latents,
                f"{channels} channels, as the denoiser takes (an inpainting model needs more)",
            )
        # Noise is drawn and added in float32 at least, so that it does not depend on the model's precision.
        wide = torch.promote_types(latents.dtype, torch.float32)
        clean = latents.to(wide)
        draws = self._draws(clean)
        forwards = self.forwards(clean.to(dtype))
        features: dict[str, Tensor] = {}
        sample = None
        for key, level, entry in levels:
            for position, draw in enumerate(draws):
                noisy = self._enter(forwards, clean, draw, level, entry, dtype)
                found, sample = forwards.capture(noisy.to(dtype), level, self.request)
                finished = self._finish(found, noisy, sample, level)
                for name, tensor in finished.items():
                    name = f"{name}@{key}" if len(levels) > 1 else name
                    share = tensor if len(draws) == 1 else tensor / len(draws)
                    features[name] = share if position == 0 else features[name] + share
        return Part(features, clean, sample)

    def _draws(self, clean: Tensor) -> Tensor:
        shape = (self.settings.num_noise, *clean.shape)
        if self.noise is not None:
            if tuple(self.noise.shape) != shape:
                raise_invalid("noise", self.noise[0], f"the latents' shape {tuple(clean.shape)}")
            return self.noise.to(clean)
        return torch.stack(
            [
                randn_tensor(clean.shape, self.generator, clean.device, torch.float32).to(clean)
                for _ in range(shape[0])
            ]
        )

    def forwards(self, latents: Tensor) -> Forwards:
        """The denoiser with all of this batch fixed but the noisy latent."""
        pipe, settings = self.pipe, self.settings
        arguments = denoiser_arguments(
            pipe, self.text, latents,
            image_size=self.image_size,
            class_labels=self.labels,
            original_size=settings.original_size,
            crops_coords_top_left=settings.crops_coords_top_left,
            target_size=settings.target_size,
        )  # fmt: skip
        if settings.cross_attention_kwargs:
            if pipe.family not in ("unet", "pixart", "dit", "sd3", "flux"):
                raise_invalid(
                    "cross_attention_kwargs", settings.cross_attention_kwargs, f"None for {pipe.family}"
                )
            key = "joint_attention_kwargs" if pipe.family in ("sd3", "flux") else "cross_attention_kwargs"
            arguments[key] = dict(settings.cross_attention_kwargs)
        control = None
        if self.control is not None:
            images = [image.to(latents) for image in self.control]
            several = hasattr(pipe.controlnet, "nets")
            scale = settings.controlnet_scale
            if several and not isinstance(scale, list | tuple):
                scale = [scale] * len(images)
            control = (images, list(scale)) if several else (images[0], scale)
        return Forwards(
            pipe, arguments,
            control=control,
            stop=early_exit_allowed(pipe, self.request, settings.early_exit),
            map_reduce=settings.map_reduce,
            max_map_elements=settings.max_map_elements,
        )  # fmt: skip

    def _enter(
        self, forwards: Forwards, clean: Tensor, draw: Tensor, level: NoiseLevel, entry: list[NoiseLevel],
        dtype: torch.dtype,
    ) -> Tensor:  # fmt: skip
        """The noisy input, reached in deterministic steps where the entry is later."""
        if not entry:
            return level.apply(clean, draw)
        noisy = entry[0].apply(clean, draw)
        for here, target in zip(entry, [*entry[1:], level], strict=True):
            output = forwards.output(noisy.to(dtype), here)[:, : clean.shape[1]].to(noisy)
            noisy = here.move(noisy, output, self._prediction(), target)
        return noisy

    def _prediction(self) -> str:
        return str(getattr(self.pipe.scheduler.config, "prediction_type", "epsilon"))

    def _finish(
        self, found: dict[str, Tensor], noisy: Tensor, sample: Tensor | None, level: NoiseLevel
    ) -> dict[str, Tensor]:
        """The request's order, with the extras made."""
        if "attn" in self.request.names:
            found["attn"] = aggregate_maps([found[name] for name in self.request.maps], self.image_size)
        if "vae-out" in self.request.names:
            if sample is None or getattr(self.pipe, "vae", None) is None:
                raise_invalid("features", "vae-out", "activations only: the pipeline has no vae")
            output = sample[:, : noisy.shape[1]].to(noisy)
            found["vae-out"] = self.decode(level.clean(noisy, output, self._prediction()))
        return {name: found[name] for name in self.request.names}

    def decode(self, latents: Tensor) -> Tensor:
        """Pictures of latents, in the VAE's own range."""
        vae: Any = self.pipe.vae
        scale = float(getattr(vae.config, "scaling_factor", None) or 1.0)
        shift = float(getattr(vae.config, "shift_factor", None) or 0.0)
        decoded: Tensor = vae.decode((latents / scale + shift).to(vae.dtype), return_dict=False)[0]
        return decoded
