"""The settings that the paper used for each task, by name.

A recipe says which variants of the convolutional features were blended and how the one attention feature was
taken. The published figures cannot be reproduced from a recipe alone: they need the authors' LoRA weights
(two a task, trained on 30 training images), Stable Diffusion 1.5 with its edge ControlNet, captions, and for
Horse-21 and Bedroom-28 the features of a diffusion model trained on those data sets, which are joined to the
blend. Names of adapters here ("lora-a", "lora-b") are places for yours.

Source: Meng et al., NeurIPS 2024 (arXiv 2410.06719), appendix C.2, and the public code where they differ
(specification section 1.6). For ADE20K and Cityscapes appendix and code use no attention feature, against
the main text. Unverified: the exact wording of prompts that are described and not printed.

>>> [technique.name for technique in RECIPES["cityscapes"].variants]
['prompt', 'prompt, edges, lora-a', 'prompt, edges, lora-b']
"""

from dataclasses import dataclass

from graftkit.methods.content_shift.technique import Technique

__all__ = ["RECIPES", "Recipe"]

EDGES = "input-canny"


@dataclass(frozen=True)
class Recipe:
    """What one task's published feature is made of.

    Parameters
    ----------
    variants : tuple of Technique
        One convolutional feature each, to be blended.
    attention : Technique or None
        How the one attention feature is taken.
    seeds : int, default=1
        Draws of the noise for each variant.
    timestep : int, default=50
        Of every feature.
    joins : str, default=""
        What else the published figures join to the blend.
    """

    variants: tuple[Technique, ...]
    attention: Technique | None
    seeds: int = 1
    timestep: int = 50
    joins: str = ""


def _scenes(prompt: str) -> Recipe:
    return Recipe(
        variants=(
            Technique("prompt", prompt=prompt),
            Technique("prompt, edges, lora-a", prompt=prompt, controlnet_image=EDGES, adapters=("lora-a",)),
            Technique("prompt, edges, lora-b", prompt=prompt, controlnet_image=EDGES, adapters=("lora-b",)),
        ),
        attention=None,
    )


_SPAIR = (
    "a photo of aeroplane, bicycle, bird, boat, bottle, bus, car, cat, chair, cow, dog, horse, motorbike, "
    "person, potted plant, sheep, train, tv monitor"
)
_DDPM = "features of a diffusion model trained on the data set itself, 2816 channels"

RECIPES = {
    "spair": Recipe(
        variants=(
            Technique("prompt", prompt=f"{_SPAIR}, high quality, highly detailed"),
            Technique("lora-a", prompt="a photo", adapters=("lora-a",)),
            Technique("edges", prompt="a photo", controlnet_image=EDGES, denoise_from=60),
        ),
        attention=Technique(
            "attention", prompt=_SPAIR, controlnet_image=EDGES, adapters=("lora-a",), denoise_from=60
        ),
        seeds=2,
    ),
    "horse21": Recipe(
        variants=(
            Technique("prompt", prompt="a horse, high quality, highly detailed"),
            Technique("edges", prompt="a horse", controlnet_image=EDGES),
            Technique("lora-a", prompt="a horse", adapters=("lora-a",)),
            Technique("lora-b", prompt="a horse", adapters=("lora-b",)),
        ),
        attention=Technique(
            "attention", prompt="a horse, high quality, highly detailed", controlnet_image=EDGES,
            adapters=("lora-a",),
        ),
        joins=_DDPM,
    ),
    "bedroom28": Recipe(
        variants=(
            Technique("prompt", prompt="a photo of a tidy and well-designed bedroom"),
            Technique("edges", prompt="a photo of a bedroom", controlnet_image=EDGES),
            Technique("lora-a", prompt="a photo of a bedroom", adapters=("lora-a",)),
        ),
        attention=Technique(
            "attention", prompt="a photo of a bedroom with bed, pillow, lamp, curtain, window, table, chair",
            controlnet_image=EDGES, adapters=("lora-a",),
        ),
        joins=_DDPM,
    ),
    "ade20k": _scenes("a photo of a scene, high quality, highly detailed"),
    "cityscapes": _scenes("a photo of a street scene, high quality, highly detailed"),
}  # fmt: skip
