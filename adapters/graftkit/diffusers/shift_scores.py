"""How far the content of features has shifted from their images, technique by technique.

Method: Meng et al., NeurIPS 2024, arXiv 2410.06719 (GATE), equations 1 and 2.

>>> pipe.content_shift_score(images, Technique("words", prompt="a horse"))  # doctest: +SKIP
"""

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from graftkit.core.validation import check_bool, check_choice, check_integer, raise_invalid
from graftkit.diffusers.conditions import BASIC, same_noise
from graftkit.diffusers.noising import noise_level, schedule_length
from graftkit.diffusers.variants import Given, Variants
from graftkit.methods.content_shift import Technique, check_techniques, shift_score

__all__ = ["ShiftScores"]


class ShiftScores(Variants):
    """``content_shift_score`` of the pipeline, beside ``extract_variants``."""

    @torch.no_grad()
    def content_shift_score(
        self: Any,
        images: Any,
        techniques: Any,
        features: Any = "up-level1-*",
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
        height: int | None = None,
        width: int | None = None,
        **options: Any,
    ) -> dict[str, dict[str, Tensor]]:
        """Score how far features have moved from their images, one forward a technique and reference.

        Parameters
        ----------
        images : PIL image, array (N, H, W, 3), tensor (N, 3, H, W), or a list of these
            Arrays of shape (N, H, W, 3), tensors of shape (N, 3, H, W), values in [0, 1].
        techniques : Technique or sequence of Technique
            What to score; `basic` is scored beside them.
        features : str, list of str or dict, default="up-level1-*"
            Activations; the default is a U-Net's, so name a transformer's (``activation_names()``). Coarse
            ones tell techniques apart; at fine ones the score saturates.
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
            Rows a forward; also the images whose features are held at a time.
        allow_varying_prompts : bool, default=False
            Allow ``attn`` under one prompt an image.
        height, width : int or None, default=None
            Resize to this size.
        **options : object
            Further arguments of the call, such as `class_labels`.

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
        noise_level(self.scheduler, timestep)
        last = schedule_length(self.scheduler) - 1
        check_integer("anchor_timestep", anchor_timestep, low=0, high=last)
        if anchor_timestep == timestep:
            raise_invalid(
                "anchor_timestep", anchor_timestep, f"another timestep than {timestep}, a later one"
            )
        found = check_techniques(techniques)
        (basic,) = check_techniques([basic])
        if basic.name not in {one.name for one in found}:
            found = (basic, *found)
        size = check_integer("batch_size", batch_size, low=1)
        check_integer("seed", seed, low=0)
        given = self._given(
            images, found, features, prompt, height, width, timestep=timestep, size=size,
            allow_varying_prompts=allow_varying_prompts, options=options,
        )  # fmt: skip
        noise = [same_noise(tuple(given.latents.shape), seed).to(given.latents)]
        place = [one.name for one in found].index(basic.name)
        # Reference and anchor are taken where they are asked for, in one forward each.
        plain = [replace(one, denoise_from=None) for one in found]
        alone = ([plain[place]], Given(given.latents, [given.conditions[place]]))
        scores: dict[str, dict[str, list[Tensor]]] = {one.name: {} for one in found}
        with self._ready():
            for rows in torch.arange(len(given.latents)).split(size):

                def read(asked: Any, t: int, rows: Tensor = rows) -> Any:
                    return self._read(*asked, noise, features, t, rows, size, options)

                here, anchor = (
                    read((found, given), timestep),
                    read(alone, anchor_timestep)[basic.name].features,
                )
                clean = read((plain, given) if reference == "own" else alone, 0)
                for name, output in here.items():
                    at_zero = clean[name if reference == "own" else basic.name].features
                    for key, feature in output.features.items():
                        score = shift_score(
                            at_zero[key], feature, anchor[key],
                            metric=metric, normalize=normalize, padding=padding,
                        )  # fmt: skip
                        scores[name].setdefault(key, []).append(score)
        return {name: {key: torch.cat(s) for key, s in by.items()} for name, by in scores.items()}
