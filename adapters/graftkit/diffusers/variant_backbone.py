"""A diffusion backbone whose levels are blends of the same features under several techniques.

Method: Meng et al., NeurIPS 2024, arXiv 2410.06719 (GATE), appendix A.4.

>>> backbone = VariantBackbone(pipe, techniques, levels, amalgamation={"kind": "conv"})  # doctest: +SKIP
>>> loss = criterion(head(backbone(x)), target) + backbone.penalty  # doctest: +SKIP
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from graftkit.core.validation import raise_invalid
from graftkit.diffusers.backbone import DiffusionBackbone, FeatureInfo
from graftkit.diffusers.conditions import same_noise
from graftkit.diffusers.controls import control_images
from graftkit.diffusers.images import encode_images
from graftkit.diffusers.requests import aggregate_maps
from graftkit.diffusers.stored_text import stored_text
from graftkit.diffusers.technique_checks import check_technique
from graftkit.diffusers.techniques import applied
from graftkit.diffusers.variants import call_control, text_arguments
from graftkit.methods.content_shift import FeatureAmalgamation, Technique, check_techniques
from graftkit.methods.diffusion_feature.aggregation import resize_map

__all__ = ["VariantBackbone"]


class VariantBackbone(DiffusionBackbone):
    """A :class:`DiffusionBackbone` that reads its levels under each technique and blends them.

    The diffusion model and the ControlNet are frozen; only assigners are trained. Prompts are encoded here,
    once, and the noise is one draw for every image, call and technique.

    Parameters
    ----------
    pipe : DiffusionFeaturePipeline
        The source.
    techniques : Technique or sequence of Technique
        One variant each. Prompts are one for all images; control images are made from each batch.
    levels : list of list of str, or None, default=None
        As in :class:`DiffusionBackbone`.
    amalgamation : mapping or None, default=None
        Arguments of :class:`FeatureAmalgamation`, such as ``{"kind": "conv", "num_assigners": 2}``, for one
        module a level; None is the training-free mean.
    attention : Technique or None, default=None
        How the one attention feature is taken that is joined behind every level, as the paper does: cross
        maps under one fixed prompt, averaged over layers of one resolution, not weighed.
    attention_maps : str or list of str, default="up-*-cross-map"
        Names and globs of those maps.
    prompt : str or None, default=None
        Of techniques that have none.
    timestep : int, default=50
        Literal.
    seed : int, default=0
        Of the noise.
    mean, std : sequence of float or None, default=None
        How the images were normalised; None means values in [-1, 1].
    size : (int, int) or None, default=None
        A size to compute ``feature_info`` at; None takes the model's own.

    Attributes
    ----------
    amalgamations : nn.ModuleList of FeatureAmalgamation
        One a level.
    penalty : Tensor of shape ()
        Of the last batch, summed over levels: to be added to the loss.
    feature_info : FeatureInfo
        Channels, strides and names by level.

    Raises
    ------
    TypeError
        If an argument has the wrong type.
    ValueError
        If a technique does not fit `pipe`, or a value is refused.
    """

    def __init__(
        self,
        pipe: Any,
        techniques: Any,
        levels: Sequence[Sequence[str]] | None = None,
        amalgamation: Mapping[str, Any] | None = None,
        *,
        attention: Technique | None = None,
        attention_maps: str | Sequence[str] = "up-*-cross-map",
        prompt: str | None = None,
        timestep: int = 50,
        seed: int = 0,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        size: tuple[int, int] | None = None,
    ) -> None:
        found = check_techniques(techniques)
        if amalgamation is not None and not isinstance(amalgamation, Mapping):
            raise_invalid("amalgamation", amalgamation, "a mapping of arguments, or None", error=TypeError)
        super().__init__(pipe, levels, prompt, timestep, seed=seed, mean=mean, std=std, size=size)
        self.attention = None if attention is None else check_techniques([attention])[0]
        every = found if self.attention is None else (*found, self.attention)
        for technique in every:
            if isinstance(technique.prompt, tuple) and len(technique.prompt) > 1:
                raise_invalid(
                    f"technique {technique.name!r}: prompt", technique.prompt, "one text for all images"
                )
            check_technique(pipe, technique, 1, self.timestep)
        self.techniques = found
        # The attention feature's text, where there is one, comes last.
        self.texts = nn.ModuleList(stored_text(pipe, technique, prompt) for technique in every)
        self.attention_maps: list[str] = []
        self.controlnet = pipe.controlnet
        self.pipe.register_modules(controlnet=pipe.controlnet)
        joined = 0 if self.attention is None else self._attention_channels(pipe, attention_maps, size)
        options = {"kind": "mean"} if amalgamation is None else dict(amalgamation)
        info = self.feature_info.info
        self.amalgamations = nn.ModuleList(
            FeatureAmalgamation(level["num_chs"], len(found), **options) for level in info
        )
        assigners = self.amalgamations[0].num_assigners
        self.feature_info = FeatureInfo([{**v, "num_chs": assigners * v["num_chs"] + joined} for v in info])
        self.penalty = torch.zeros(())
        self._freeze()

    def _attention_channels(self, pipe: Any, asked: Any, size: tuple[int, int] | None) -> int:
        """Remember the maps; their channels are tokens, side by side for every resolution."""
        maps = pipe.activation_info(asked, *(size or (None, None)))
        if wrong := [name for name in maps if not name.endswith("-cross-map")]:
            raise_invalid("attention_maps", wrong, "names of cross-attention maps")
        self.attention_maps = list(maps)
        text: Any = self.texts[-1]
        return len({tuple(one["size"]) for one in maps.values()}) * int(text.embeds.shape[1])

    def train(self, mode: bool = True) -> "VariantBackbone":
        """Training mode of the assigners alone.

        Parameters
        ----------
        mode : bool, default=True
            Training or evaluation.

        Returns
        -------
        VariantBackbone
            Itself.
        """
        super().train(mode)
        if (net := getattr(self, "controlnet", None)) is not None:
            net.eval()
        return self

    def forward(self, x: Tensor) -> list[Tensor]:
        """Blended maps of every level.

        Parameters
        ----------
        x : Tensor of shape (B, 3, H, W)
            In [-1, 1], or normalised by `mean` and `std`. Sides that the model does not take are resized.

        Returns
        -------
        list of Tensor of shape (B, n * C [+ A], h, w)
            One a level; ``penalty`` belongs to them.

        Raises
        ------
        ValueError
            If `x` is not 4-D.
        """
        variants = self.variants(x)
        attention = None if self.attention is None else self._attention(x)
        fused, penalties = [], []
        for blend, level in zip(self.amalgamations, self.levels, strict=True):
            stacked = torch.stack([self.aggregate([maps[name] for name in level]) for maps in variants], 1)
            grid = (stacked.shape[-2], stacked.shape[-1])
            one, penalty = blend(stacked, None if attention is None else resize_map(attention, grid))
            fused.append(one)
            penalties.append(penalty)
        self.penalty = torch.stack(penalties).sum()
        return fused

    @torch.no_grad()
    def variants(self, x: Tensor) -> list[dict[str, Tensor]]:
        """Maps under each technique, not blended.

        Parameters
        ----------
        x : Tensor of shape (B, 3, H, W)
            As in the call.

        Returns
        -------
        list of dict of str to Tensor of shape (B, C, h, w)
            By technique, then by activation.

        Raises
        ------
        ValueError
            If `x` is not 4-D.
        """
        names = list(dict.fromkeys(name for level in self.levels for name in level))
        return self._features(x, self.techniques, self.texts, names)

    @torch.no_grad()
    def _attention(self, x: Tensor) -> Tensor:
        """The attention feature of shape (B, A, h, w)."""
        asked: Any = [self.attention]
        (maps,) = self._features(x, asked, self.texts[-1:], self.attention_maps)
        rows, columns = self._pixels(x).shape[-2:]
        return aggregate_maps([maps[name] for name in self.attention_maps], (rows, columns))

    def _features(
        self, x: Tensor, techniques: Sequence[Technique], texts: Any, names: Sequence[str]
    ) -> list[dict[str, Tensor]]:
        x = self._pixels(x)
        latents = x.float() if self.vae is None else encode_images(self.vae, x).float()
        noise = same_noise((1, *latents.shape[1:]), self.seed).to(latents).expand_as(latents)
        found = []
        pipe: Any = self.pipe
        for technique, text in zip(techniques, texts, strict=False):
            with applied(pipe, technique):
                output = pipe(
                    latents=latents, noise=noise, features=list(names), timestep=self.timestep,
                    denoise_from=technique.denoise_from,
                    controlnet_image=call_control(pipe, control_images(technique, (x + 1) / 2)),
                    controlnet_conditioning_scale=technique.controlnet_conditioning_scale,
                    **text_arguments(text.read()),
                )  # fmt: skip
            found.append(output.features)
        return found

    def __getstate__(self) -> dict[str, Any]:
        # Tensors that hang in a graph can be neither copied nor pickled.
        return {**super().__getstate__(), "penalty": self.penalty.detach()}

    def _freeze(self) -> None:
        super()._freeze()
        if (net := getattr(self, "controlnet", None)) is not None:
            net.requires_grad_(False)
