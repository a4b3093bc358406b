"""The guideline on the feature pipeline: whether reconstructions come back to their images.

Method: Meng et al., NeurIPS 2024, arXiv 2410.06719 (GATE), section 5.1; it is not in the public code.

>>> report = pipe.gate(images, [Technique("edges", controlnet_image="input-canny")])  # doctest: +SKIP
>>> report.verdict  # doctest: +SKIP
{'edges': 'helps, but so does its control'}
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from graftkit.core.validation import check_bool, check_choice, check_integer, raise_invalid
from graftkit.diffusers.conditions import BASIC, ConditionCalls, read_labels, same_noise, some_rows
from graftkit.diffusers.reconstruction import Reconstruction
from graftkit.diffusers.technique_checks import check_technique
from graftkit.diffusers.techniques import applied, negative_control
from graftkit.methods.content_shift import (
    GateReport,
    Technique,
    check_techniques,
    image_distance,
    paired_gain,
)
from graftkit.methods.content_shift.similarity import DISTANCES, metric_name

__all__ = ["Guideline"]


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
            If a technique does not fit this pipeline or these images, or a value is refused; before any
            forward.
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
        pixels, image_size = self._pictures(images, height, width)
        batch = len(pixels)
        for technique in (basic, *found):
            check_technique(self, technique, batch)
        controls = [negative_control(one, batch) for one in found] if negative_controls else []
        labels = read_labels(class_labels, batch)
        runs = [basic, *found, *(one for one in controls if one is not None)]
        original = (pixels + 1) / 2
        with self._ready(), self.progress_bar(total=len(runs)) as bar:
            latents = self._latents(pixels, size)
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
                some = some_rows(conditions, images)
                pictures.append(reconstruct(latents[images], flat[index], some, image_size).cpu())
        joined: Tensor = torch.cat(pictures).unflatten(0, (seeds, batch))
        return joined


def metrics_of(metrics: Any) -> tuple[Any, ...]:
    """One metric or several, as a tuple."""
    return (metrics,) if isinstance(metrics, str) or callable(metrics) else tuple(metrics)


def _metrics(metrics: Any) -> tuple[str, ...]:
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
