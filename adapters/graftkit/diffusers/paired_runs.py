"""Reconstructions under several techniques from the same noise, measured batch by batch and let go of.

>>> runs = PairedRuns(pipe, reconstruct, original, (512, 512), ("mse",), size=8)  # doctest: +SKIP
>>> runs(techniques, conditions, latents, noise).distances["mse"].shape  # doctest: +SKIP
torch.Size([2, 3, 16])
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from graftkit.diffusers.reconstruction import Conditions, Reconstruction
from graftkit.diffusers.technique_groups import chunks, grouped, joined_rows
from graftkit.diffusers.techniques import applied
from graftkit.methods.content_shift import Technique, image_distance

__all__ = ["Measured", "PairedRuns"]


@dataclass(frozen=True)
class Measured:
    """What the runs gave.

    Parameters
    ----------
    distances : dict of Tensor of shape (techniques, seeds, N)
        By metric.
    pictures : dict of Tensor of shape (seeds, N, c, H, W)
        By position of the techniques whose pictures were kept.
    """

    distances: dict[str, Tensor]
    pictures: dict[int, Tensor]


class PairedRuns:
    """Everything that the techniques' runs share.

    Parameters
    ----------
    pipe : DiffusionFeaturePipeline
        The pipeline.
    reconstruct : Reconstruction
        Image to image at a strength.
    original : Tensor of shape (N, c, H, W)
        The images in [0, 1].
    image_size : (int, int)
        Height and width.
    metrics : mapping of str to (str or callable)
        Distances by name.
    size : int
        Rows a forward, of whatever image, seed and technique.
    """

    def __init__(
        self, pipe: Any, reconstruct: Reconstruction, original: Tensor, image_size: tuple[int, int],
        metrics: Mapping[str, Any], size: int,
    ) -> None:  # fmt: skip
        self.pipe, self.reconstruct, self.original = pipe, reconstruct, original
        self.image_size, self.metrics, self.size = image_size, metrics, size

    def __call__(
        self, techniques: Sequence[Technique], conditions: Sequence[Conditions], latents: Tensor,
        noise: Tensor, keep: Sequence[int] = (),
    ) -> Measured:  # fmt: skip
        """Run every technique on every image and seed; noise is of shape (seeds, N, ...)."""
        seeds, count = noise.shape[:2]
        flat = noise.flatten(0, 1)
        shape = (len(techniques), seeds * count)
        distances = {name: torch.zeros(shape, dtype=torch.float64) for name in self.metrics}
        pictures: dict[int, list[Tensor]] = {position: [] for position in keep}
        groups = grouped(techniques, conditions)
        total = sum(-(-len(group) * len(flat) // self.size) for group in groups)
        with self.pipe.progress_bar(total=total) as bar:
            for group in groups:
                members = torch.tensor(group)
                current: list[Tensor] = [torch.arange(0)]
                with applied(self.pipe, techniques[group[0]], lambda c=current: c[0]):  # type: ignore[misc]
                    for which, rest in chunks(len(group), len(flat), self.size):
                        images = rest % count
                        current[0] = images
                        some = joined_rows([conditions[k] for k in group], which, images)
                        found = self.reconstruct(latents[images], flat[rest], some, self.image_size).cpu()
                        source = self.original[images].cpu()
                        for name, metric in self.metrics.items():
                            distances[name][members[which], rest] = image_distance(metric, source, found)
                        for position, picture in zip(members[which].tolist(), found, strict=True):
                            if position in pictures:
                                pictures[position].append(picture)
                        bar.update()
        return Measured(
            {name: values.unflatten(1, (seeds, count)) for name, values in distances.items()},
            {k: torch.stack(rows).unflatten(0, (seeds, count)) for k, rows in pictures.items()},
        )
