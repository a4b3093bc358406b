"""The guideline on the feature pipeline: whether reconstructions come back to their images.

Method: Meng et al., NeurIPS 2024, arXiv 2410.06719 (GATE), section 5.1; it is not in the public code.

>>> report = pipe.gate(images, [Technique("edges", controlnet_image="input-canny")])  # doctest: +SKIP
>>> report.verdict  # doctest: +SKIP
{'edges': 'helps, but so does its control'}
"""

import warnings
from collections.abc import Sequence
from typing import Any

import torch

from graftkit.core.validation import check_bool, check_choice, check_integer, raise_invalid
from graftkit.diffusers.conditions import BASIC, ConditionCalls, read_labels, same_noise
from graftkit.diffusers.controls import negative_control
from graftkit.diffusers.lpips import LPIPS
from graftkit.diffusers.paired_runs import PairedRuns
from graftkit.diffusers.reconstruction import Reconstruction
from graftkit.diffusers.technique_checks import check_technique
from graftkit.methods.content_shift import (
    GateReport,
    Technique,
    check_techniques,
    image_distance,
    paired_gain,
)
from graftkit.methods.content_shift.similarity import DISTANCES, metric_name

__all__ = ["Guideline"]

# Techniques share batches, and a forward rounds otherwise in a batch of another size.
ROUNDING = 1e-5


class Guideline(ConditionCalls):
    """``gate`` of the pipeline."""

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
        generator: torch.Generator | None = None,
        class_labels: Any = None,
        height: int | None = None,
        width: int | None = None,
    ) -> GateReport:
        """Ask whether techniques bring reconstructions back to their images.

        Each image is noised to `strength` and denoised with the basic model and with each technique, from the
        same noise. A technique is worth integrating where its reconstruction is closer to the image.

        Parameters
        ----------
        images : PIL image, array (N, H, W, 3), tensor (N, 3, H, W), or a list of these
            Arrays of shape (N, H, W, 3), tensors of shape (N, 3, H, W), values in [0, 1].
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
            "mse", "psnr", "ssim", "edge", "lpips" (needs torchmetrics and torchvision), or
            ``f(images, others)``, which sees a batch at a time; the first decides verdict and ranking.
        negative_controls : bool, default=True
            Also run each technique with every image's own inputs given to another image; needs 2 images.
        batch_size : int, default=8
            Rows a forward, of several images, seeds and techniques; beside the inputs it alone sets peak
            memory.
        keep_images : bool, default=False
            Keep the reconstructions for ``report.plot()``.
        generator : torch.Generator or None, default=None
            Draws the seeds' values, so that `seeds` says only how many there are; ``settings["seeds"]`` of
            the report repeats them without the generator.
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
        ImportError
            If "lpips" is asked for without what it needs.
        TypeError
            If an argument has the wrong type.
        ValueError
            If a technique does not fit this pipeline or these images, or a value is refused; before any
            forward.

        Warns
        -----
        UserWarning
            If a technique has `denoise_from`, which means nothing here.
        """
        found = check_techniques(techniques)
        (basic,) = check_techniques([basic])
        if any(one.name == basic.name for one in found):
            raise ValueError(f"techniques: duplicate name {basic.name!r}, which is the basic model's")
        named = _metrics(metrics)
        seeds = _seeds(seeds)
        if generator is not None and not isinstance(generator, torch.Generator):
            raise_invalid("generator", generator, "a torch.Generator or None", error=TypeError)
        if not isinstance(prompt, str):
            raise_invalid("prompt", prompt, "one string, the basic model's", error=TypeError)
        check_bool("negative_controls", negative_controls)
        check_bool("keep_images", keep_images)
        size = check_integer("batch_size", batch_size, low=1)
        reconstruct = Reconstruction(self, strength, num_inference_steps)
        pixels, image_size = self._pictures(images, height, width)
        batch, original = len(pixels), (pixels + 1) / 2
        for technique in (basic, *found):
            check_technique(self, technique, batch)
            if technique.denoise_from is not None:
                warnings.warn(
                    f"technique {technique.name!r}: denoise_from is for features; a reconstruction takes "
                    "steps anyway",
                    stacklevel=3,
                )
        controls = [negative_control(one, batch) if negative_controls else None for one in found]
        labels = read_labels(class_labels, batch)
        for metric in named.values():  # what it refuses, it refuses before any forward
            image_distance(metric, original[:size].cpu(), original[:size].cpu())
        if generator is not None:
            seeds = _drawn(len(seeds), generator)
        runs = [basic, *found, *(one for one in controls if one is not None)]
        memory: dict[Any, Any] = {}
        with self._ready():
            conditions = [self._conditions(one, original, prompt, labels, memory) for one in runs]
            latents = self._latents(pixels, size)
            noise = torch.stack([same_noise(tuple(latents.shape), seed) for seed in seeds]).to(latents)
            measure = PairedRuns(self, reconstruct, original, image_size, named, size)
            kept = range(1 + len(found)) if keep_images else ()
            measured = measure(runs, conditions, latents, noise, kept)
        place = {one.name: position for position, one in enumerate(runs)}

        def gains(name: str) -> dict[str, Any]:
            return {
                metric: paired_gain(d[0].numpy(), d[place[name]].numpy(), resolution=ROUNDING)
                for metric, d in measured.distances.items()
            }

        return GateReport.from_gains(
            {one.name: gains(one.name) for one in found},
            tuple(named),
            {o.name: gains(c.name) for o, c in zip(found, controls, strict=True) if c is not None},
            settings={
                "strength": float(strength),
                "num_inference_steps": int(num_inference_steps),
                "forwards": len(reconstruct.levels),
                "seeds": list(seeds),
                "images": batch,
                "prompt": prompt,
                "verdict_by": next(iter(named)),
                "resolution": ROUNDING,
                "techniques": [one.describe() for one in (basic, *found)],
            },
            images={runs[k].name: p for k, p in measured.pictures.items()} if keep_images else None,
            inputs=original.cpu() if keep_images else None,
        )


def _metrics(metrics: Any) -> dict[str, Any]:
    """Metrics by name, in the given order."""
    given = (metrics,) if isinstance(metrics, str) or callable(metrics) else metrics
    if not isinstance(given, list | tuple) or not given:
        raise_invalid("metrics", metrics, "at least one metric")
    for one in given:
        if not callable(one):
            check_choice("metrics", one, (*DISTANCES, "lpips"))
    given = [LPIPS() if isinstance(one, str) and one == "lpips" else one for one in given]
    names = tuple(map(metric_name, given))
    if len(set(names)) != len(names):
        raise ValueError(f"metrics: expected different names, got {list(names)}")
    return dict(zip(names, given, strict=True))


def _seeds(seeds: Any) -> tuple[int, ...]:
    if not isinstance(seeds, Sequence) or isinstance(seeds, str) or not len(seeds):
        raise_invalid("seeds", seeds, "a sequence of at least one integer")
    found = tuple(check_integer("seeds", seed, low=0) for seed in seeds)
    if len(set(found)) != len(found):
        raise_invalid("seeds", list(found), "different seeds")
    return found


def _drawn(count: int, generator: torch.Generator) -> tuple[int, ...]:
    """So many different seeds of the generator's."""
    found: dict[int, None] = {}
    while len(found) < count:
        found[int(torch.randint(2**31, (), generator=generator, device=generator.device))] = None
    return tuple(found)
