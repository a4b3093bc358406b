"""A diffusion model as a backbone: pictures in, a list of maps out, as timm's ``features_only`` models give.

>>> backbone = DiffusionBackbone(pipe, [["up-level3-*-self-k"], ["up-level2-*-cross-q"]])  # doctest: +SKIP
>>> backbone.feature_info.channels(), backbone.feature_info.reduction()  # doctest: +SKIP
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from graftkit.core.validation import (
    check_bool,
    check_choice,
    check_integer,
    check_iterable,
    check_number,
    raise_invalid,
)
from graftkit.diffusers.conditioning import Text
from graftkit.diffusers.pipeline import DiffusionFeaturePipeline
from graftkit.methods.diffusion_feature.aggregation import FeatureAggregator

__all__ = ["DiffusionBackbone", "FeatureInfo"]


class FeatureInfo:
    """What each level of a backbone gives; the calls of timm's class of this name.

    Parameters
    ----------
    levels : list of dict
        ``num_chs``, ``reduction`` and ``module`` (the activations' names) of each level.
    """

    def __init__(self, levels: list[dict[str, Any]]) -> None:
        self.info = levels
        self.out_indices = tuple(range(len(levels)))

    def __len__(self) -> int:
        return len(self.info)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return self.info[index]

    def channels(self, idx: int | None = None) -> Any:
        """Channels of a level, or of all.

        Parameters
        ----------
        idx : int or None, default=None
            The level.

        Returns
        -------
        int or list of int
            Channels.
        """
        return self._get("num_chs", idx)

    def reduction(self, idx: int | None = None) -> Any:
        """Image pixels per cell of a level, or of all.

        Parameters
        ----------
        idx : int or None, default=None
            The level.

        Returns
        -------
        int or list of int
            Strides.
        """
        return self._get("reduction", idx)

    def module_name(self, idx: int | None = None) -> Any:
        """Names of the activations of a level, or of all.

        Parameters
        ----------
        idx : int or None, default=None
            The level.

        Returns
        -------
        str or list of str
            Joined by a plus.
        """
        return self._get("module", idx)

    def _get(self, key: str, idx: int | None) -> Any:
        return [level[key] for level in self.info] if idx is None else self.info[idx][key]


class DiffusionBackbone(nn.Module):
    """Dense features of a diffusion model as a module for necks, heads and trainers.

    The denoiser and the VAE are submodules, so they move, save and load with it; they are shared with
    `pipe` and stay in evaluation mode. The prompt is encoded once, here, and the encoders are left behind.

    Parameters
    ----------
    pipe : DiffusionFeaturePipeline
        The source.
    levels : list of list of str, or None, default=None
        Activations of each output, concatenated at the finest grid among them. ``None``: the preset's, by
        stride, finest first.
    prompt : str or None, default=None
        One for all images.
    timestep : int, default=50
        Literal.
    trainable : bool, default=False
        Train the denoiser. Otherwise its parameters and the VAE's are set not to require gradients.
    noise : {"fixed", "random"}, default="fixed"
        The same noise for every image and call, or fresh noise from a private generator.
    seed : int, default=0
        Of the noise.
    mean, std : sequence of float or None, default=None
        How the images were normalised; ``None`` means values in [-1, 1].
    size : (int, int) or None, default=None
        A size to compute ``feature_info`` at; ``None`` takes the model's own.
    class_label : int or None, default=None
        For class-conditional models, one for all images.

    Attributes
    ----------
    feature_info : FeatureInfo
        Channels, strides and names by level.

    Raises
    ------
    TypeError
        If `pipe` or an argument is of a wrong type.
    ValueError
        If a level is empty or a value is refused.
    """

    def __init__(
        self,
        pipe: Any,
        levels: Sequence[Sequence[str]] | None = None,
        prompt: str | None = None,
        timestep: int = 50,
        trainable: bool = False,
        noise: str = "fixed",
        seed: int = 0,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        size: tuple[int, int] | None = None,
        class_label: int | None = None,
    ) -> None:
        super().__init__()
        if not isinstance(pipe, DiffusionFeaturePipeline):
            raise_invalid("pipe", pipe, "a DiffusionFeaturePipeline", error=TypeError)
        if prompt is not None and not isinstance(prompt, str):
            raise_invalid("prompt", prompt, "one string for all images", error=TypeError)
        if (mean is None) != (std is None):
            raise_invalid("mean, std", (mean, std), "both or neither")
        self.timestep = check_integer("timestep", timestep, low=0)
        self.trainable = check_bool("trainable", trainable)
        self.noise = check_choice("noise", noise, ("fixed", "random"))
        self.seed = check_integer("seed", seed, low=0)
        self.class_label = None if class_label is None else check_integer("class_label", class_label, low=0)
        height, width = (None, None) if size is None else _pair(size)
        self.levels = _by_stride(pipe, height, width) if levels is None else _read_levels(pipe, levels)
        text = pipe.encode_text(prompt)
        for key in ("embeds", "pooled", "mask", "embeds_2", "mask_2"):
            tensor = getattr(text, key)
            self.register_buffer(f"text_{key}", None if tensor is None else tensor.detach().clone())
        vae = getattr(pipe, "vae", None)
        kind = "unet" if pipe.family.startswith("unet") else "transformer"
        self.pipe = DiffusionFeaturePipeline(
            **{
                kind: pipe.denoiser,
                "vae": vae,
                "scheduler": pipe.scheduler,
                "source_class": pipe.config.source_class,
            }
        )
        self.denoiser, self.vae = pipe.denoiser, vae
        for channel, values in (("mean", mean), ("std", std)):
            tensor = None if values is None else torch.tensor(_channels(channel, values)).view(1, -1, 1, 1)
            self.register_buffer(f"image_{channel}", tensor, persistent=False)
        self._stream = torch.Generator().manual_seed(self.seed)
        self.aggregate = FeatureAggregator("max")
        info = pipe.activation_info([n for level in self.levels for n in level], height, width)
        self.feature_info = FeatureInfo(
            [
                {
                    "num_chs": sum(info[n]["channels"] for n in level),
                    "reduction": min(info[n]["stride"][0] for n in level),
                    "module": "+".join(level),
                }
                for level in self.levels
            ]
        )
        self._freeze()

    def train(self, mode: bool = True) -> "DiffusionBackbone":
        """Training mode of this module alone: the diffusion model stays in evaluation mode.

        Parameters
        ----------
        mode : bool, default=True
            Training or evaluation.

        Returns
        -------
        DiffusionBackbone
            Itself.
        """
        super().train(mode)
        for part in (self.denoiser, self.vae):
            if part is not None:
                part.eval()
        return self

    def forward(self, x: Tensor) -> list[Tensor]:
        """Maps of every level.

        Parameters
        ----------
        x : Tensor of shape (B, 3, H, W)
            In [-1, 1], or normalised by `mean` and `std`. Sides that the model does not take are resized.

        Returns
        -------
        list of Tensor of shape (B, C, h, w)
            One a level.

        Raises
        ------
        ValueError
            If `x` is not 4-D.
        """
        x = self._pixels(x)
        names = list(dict.fromkeys(name for level in self.levels for name in level))
        text = Text(
            **{k: getattr(self, f"text_{k}") for k in ("embeds", "pooled", "mask", "embeds_2", "mask_2")}
        )
        generator: Any = self._stream
        if self.noise == "fixed":
            generator = [torch.Generator().manual_seed(self.seed) for _ in range(len(x))]
        with torch.set_grad_enabled(torch.is_grad_enabled() and self.trainable):
            maps = self.pipe.forward_features(
                x, text, names,
                timestep=self.timestep, generator=generator, class_labels=self.class_label,
            )  # fmt: skip
        return [self.aggregate([maps[name] for name in level]) for level in self.levels]

    def _pixels(self, x: Tensor) -> Tensor:
        """A batch in [-1, 1], of a size that the pipeline takes; refused if it is not 4-D."""
        if x.ndim != 4:
            raise_invalid("x", x, "shape (B, 3, H, W)")
        mean, std = self.image_mean, self.image_std
        if isinstance(mean, Tensor) and isinstance(std, Tensor):
            x = 2 * (x * std + mean) - 1
        unit = self.pipe.size_unit
        size = tuple(max(unit, round(side / unit) * unit) for side in x.shape[-2:])
        if tuple(x.shape[-2:]) != size:
            x = functional.interpolate(x, size, mode="bilinear", align_corners=False)
        return x

    def __getstate__(self) -> dict[str, Any]:
        # A torch.Generator cannot be pickled; its state can.
        return {**self.__dict__, "_stream": self._stream.get_state()}

    def __setstate__(self, state: dict[str, Any]) -> None:
        generator = torch.Generator()
        generator.set_state(state["_stream"])
        self.__dict__.update({**state, "_stream": generator})

    def _freeze(self) -> None:
        self.denoiser.requires_grad_(self.trainable)
        if self.vae is not None:
            self.vae.requires_grad_(False)
        self.train(self.training)


def _pair(size: Any) -> tuple[int, int]:
    if not isinstance(size, Sequence) or isinstance(size, str) or len(size) != 2:
        raise_invalid("size", size, "height and width", error=TypeError)
    height, width = (check_integer("size", side, low=1) for side in size)
    return height, width


def _channels(name: str, values: Any) -> list[float]:
    """One number a channel, or one for all; those of a spread above 0."""
    check_iterable(name, values, "one number a channel")
    low = 0.0 if name == "std" else None
    numbers = [check_number(name, value, low=low, closed="(]") for value in values]
    if len(numbers) not in (1, 3):
        raise_invalid(name, values, "one number, or one for each of three channels")
    return numbers


def _read_levels(pipe: Any, levels: Any) -> list[list[str]]:
    if isinstance(levels, str | bytes) or not isinstance(levels, Sequence) or not levels:
        raise_invalid("levels", levels, "a list with a list of names for each level")
    from graftkit.diffusers.requests import resolve

    read = []
    for level in levels:
        names = [level] if isinstance(level, str) else level
        if not isinstance(names, list | tuple) or not all(isinstance(name, str) for name in names):
            raise_invalid("levels", level, "names for each level", error=TypeError)
        read.append(resolve(pipe, list(names)).names)
    extras = [name for level in read for name in level if name in ("attn", "vae-out")]
    if extras:
        raise_invalid("levels", extras, "activations, as the extras have no fixed size")
    return read


def _by_stride(pipe: Any, height: int | None, width: int | None) -> list[list[str]]:
    groups: dict[int, list[str]] = {}
    for name, entry in pipe.activation_info("preset", height, width).items():
        groups.setdefault(entry["stride"][0], []).append(name)
    return [groups[stride] for stride in sorted(groups)]
