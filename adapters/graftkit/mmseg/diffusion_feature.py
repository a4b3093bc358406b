"""A diffusion model as a backbone of mmsegmentation.

::

    backbone = dict(
        type="DiffusionFeatureBackbone", pretrained="path/of/a/StableDiffusion/folder",
        levels=[["up-level3-repeat0-vit-block0-self-k"], ["up-level2-repeat1-vit-block0-cross-q"]],
        mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375], prompt="a photo of a street",
    )

Needs diffusers as well (``graftkit[diffusers]``), which is imported only when a backbone is built.

>>> DiffusionFeatureBackbone.__name__
'DiffusionFeatureBackbone'
"""

from collections.abc import Sequence
from typing import Any

from mmengine.model import BaseModule
from mmengine.registry import MODELS
from torch import Tensor

from graftkit.core.validation import raise_invalid

__all__ = ["DiffusionFeatureBackbone"]


@MODELS.register_module()
class DiffusionFeatureBackbone(BaseModule):
    """Dense diffusion features for a decode head.

    Parameters
    ----------
    pretrained : str or None, default=None
        A folder of a diffusers pipeline, or a name on the hub.
    pipe : object, default=None
        A ``DiffusionFeaturePipeline`` in place of `pretrained`.
    levels : list of list of str, or None, default=None
        Activations of each output; ``None`` takes the preset's, finest stride first.
    prompt : str or None, default=None
        One for all images.
    timestep : int, default=50
        Literal.
    trainable : bool, default=False
        Train the denoiser.
    noise : {"fixed", "random"}, default="fixed"
        The same noise always, or fresh noise.
    mean, std : sequence of float or None, default=None
        The data preprocessor's, on its scale of 0 to 255; ``None`` means images in [-1, 1].
    size : (int, int) or None, default=None
        A size to compute channels at.
    class_label : int or None, default=None
        For class-conditional models, one for all images.
    init_cfg : dict or None, default=None
        As for every mmengine module; weights come from `pretrained`.
    **load : object
        Passed on to ``from_pretrained``, such as ``torch_dtype``.

    Raises
    ------
    ValueError
        If there is not exactly one source.
    """

    def __init__(
        self,
        pretrained: str | None = None,
        pipe: Any = None,
        levels: Sequence[Sequence[str]] | None = None,
        prompt: str | None = None,
        timestep: int = 50,
        trainable: bool = False,
        noise: str = "fixed",
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        size: tuple[int, int] | None = None,
        class_label: int | None = None,
        init_cfg: Any = None,
        **load: Any,
    ) -> None:
        super().__init__(init_cfg)
        if (pretrained is None) == (pipe is None):
            raise_invalid(
                "pretrained, pipe", "both" if pipe is not None else "neither", "exactly one of them"
            )
        from graftkit.diffusers import DiffusionBackbone, DiffusionFeaturePipeline

        source = DiffusionFeaturePipeline.from_pretrained(pretrained, **load) if pipe is None else pipe
        scaled = [None if values is None else [value / 255 for value in values] for values in (mean, std)]
        self.body = DiffusionBackbone(
            source, levels, prompt, timestep, trainable, noise,
            mean=scaled[0], std=scaled[1], size=size, class_label=class_label,
        )  # fmt: skip
        self.feature_info = self.body.feature_info

    @property
    def out_channels(self) -> list[int]:
        """Channels by level, for a head's ``in_channels``.

        Returns
        -------
        list of int
            Channels.
        """
        channels: list[int] = self.feature_info.channels()
        return channels

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Maps of every level.

        Parameters
        ----------
        x : Tensor of shape (B, 3, H, W)
            Normalised images.

        Returns
        -------
        tuple of Tensor of shape (B, C, h, w)
            One a level.
        """
        return tuple(self.body(x))
