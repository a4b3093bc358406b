"""Image to image with one technique: noised to a strength, denoised in deterministic steps, decoded.

Reference and candidates share this code and their noise, so that a difference is the technique's. No
scheduler is stepped: levels are read from its schedule (DDIM without noise, or Euler for flow matching).

>>> pictures = Reconstruction(pipe, strength=0.8, steps=20)(latents, noise, conditions)  # doctest: +SKIP
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from graftkit.core.validation import check_integer, check_number, raise_invalid
from graftkit.diffusers.batches import BatchRun, Settings
from graftkit.diffusers.conditioning import Text
from graftkit.diffusers.noising import NoiseLevel, noise_level, schedule_length
from graftkit.diffusers.requests import Request

__all__ = ["Conditions", "Reconstruction", "levels_of"]


@dataclass(frozen=True)
class Conditions:
    """What one technique gives the denoiser for some images, one row an image."""

    text: Text
    negative: Text | None = None
    guidance: float = 1.0
    control: list[Tensor] | None = None
    control_scale: Any = 1.0
    labels: Tensor | None = None


def levels_of(scheduler: Any, strength: Any, steps: Any) -> list[NoiseLevel]:
    """The levels to stand on, noisiest first: of `steps` equal parts of the schedule the last share.

    Raises
    ------
    TypeError
        If an argument is of the wrong type.
    ValueError
        If the strength is outside (0, 1], or leaves no step.
    """
    share = check_number("strength", strength, low=0, high=1, closed="(]")
    total = check_integer("num_inference_steps", steps, low=1)
    length = schedule_length(scheduler)
    if total > length:
        raise_invalid("num_inference_steps", total, f"at most the schedule's {length}")
    # 0.29 * 100 is 28.999999999999996, which diffusers' int() would cut.
    count = int(total * share + 1e-9)
    if count < 1:
        raise ValueError(
            f"strength: {share:g} of {total} steps leaves no denoising step, expected at least one"
        )
    return [noise_level(scheduler, length * k // total - 1) for k in range(count, 0, -1)]


class Reconstruction:
    """Image to image at a strength.

    Parameters
    ----------
    pipe : DiffusionFeaturePipeline
        The pipeline; the technique is applied by the caller.
    strength : float
        Share of the schedule, in (0, 1].
    steps : int
        Steps of the whole schedule.
    """

    def __init__(self, pipe: Any, strength: Any, steps: Any) -> None:
        self.pipe = pipe
        self.levels = levels_of(pipe.scheduler, strength, steps)

    def __call__(
        self, latents: Tensor, noise: Tensor, conditions: Conditions, image_size: tuple[int, int]
    ) -> Tensor:
        """Pictures of shape (B, c, H, W) in [0, 1]."""
        pipe = self.pipe
        run, plain = self._run(conditions.text, conditions, image_size), None
        forwards = run.forwards(latents.to(pipe.denoiser.dtype))
        if conditions.guidance > 1:
            negative = conditions.negative or conditions.text
            plain = self._run(negative, conditions, image_size).forwards(latents.to(pipe.denoiser.dtype))
        prediction = str(getattr(pipe.scheduler.config, "prediction_type", "epsilon"))
        noisy = self.levels[0].apply(latents, noise)
        clean = noisy
        for position, level in enumerate(self.levels):
            output = self._output(forwards, noisy, level, latents)
            if plain is not None:
                base = self._output(plain, noisy, level, latents)
                output = base + conditions.guidance * (output - base)
            if position + 1 < len(self.levels):
                noisy = level.move(noisy, output, prediction, self.levels[position + 1])
            else:
                clean = level.clean(noisy, output, prediction)
        pictures = clean if getattr(pipe, "vae", None) is None else run.decode(clean)
        return ((pictures.float() + 1) / 2).clamp(0, 1)

    def _run(self, text: Text, conditions: Conditions, image_size: tuple[int, int]) -> BatchRun:
        settings = Settings(early_exit=False, controlnet_scale=conditions.control_scale)
        dtype = self.pipe.denoiser.dtype
        return BatchRun(
            self.pipe, settings, Request([], [], []), image_size, dtype,
            text=text.to(self.pipe._execution_device, dtype),
            labels=conditions.labels, control=conditions.control, generator=None, noise=None,
        )  # fmt: skip

    def _output(self, forwards: Any, noisy: Tensor, level: NoiseLevel, latents: Tensor) -> Tensor:
        with torch.no_grad():
            output: Tensor = forwards.output(noisy.to(self.pipe.denoiser.dtype), level)
        # Some denoisers predict a variance too.
        return output[:, : latents.shape[1]].to(noisy)
