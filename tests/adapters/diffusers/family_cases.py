"""A tiny transformer of each family, and what it is called with."""

import diffusers
import torch

from graftkit.diffusers import DiffusionFeaturePipeline
from tests.adapters.diffusers import tiny

FLOW = diffusers.FlowMatchEulerDiscreteScheduler
DDPM = lambda: diffusers.DDPMScheduler(**tiny.SCHEDULE)  # noqa: E731
G = lambda: torch.Generator().manual_seed(0)  # noqa: E731


def transformer_case(family):
    """Pipeline and inputs of a 6 x 8 latent, without text encoders."""
    draw = lambda *shape: torch.randn(*shape, generator=G())  # noqa: E731
    inputs = {"latents": draw(2, 4, 6, 8), "noise": draw(2, 4, 6, 8)}
    if family == "dit":
        inputs["class_labels"] = torch.tensor([1, 2])
    elif family == "pixart":
        inputs["prompt_embeds"] = draw(2, 5, 12)
    elif family == "hunyuan":
        inputs |= {"prompt_embeds": draw(2, 77, 12), "prompt_embeds_2": draw(2, 256, 16)}
        inputs |= {"prompt_attention_mask": torch.ones(2, 77), "prompt_attention_mask_2": torch.ones(2, 256)}
    else:
        width, pooled = (32, 24) if family == "sd3" else (12, 12)
        inputs |= {"prompt_embeds": draw(2, 5, width), "pooled_prompt_embeds": draw(2, pooled)}
    scheduler = FLOW() if family in ("sd3", "flux") else DDPM()
    return DiffusionFeaturePipeline(transformer=getattr(tiny, family)(), scheduler=scheduler), inputs
