"""Tiny pipelines with a ControlNet, for the tests of content shift."""

import diffusers
import torch

from graftkit.diffusers import DiffusionFeaturePipeline, Technique
from tests.adapters.diffusers import tiny

NAMES = ["up-level1-repeat0-vit-block0-cross-q", "up-level2-repeat1-res-out"]
FAST = {"num_inference_steps": 4, "strength": 0.75, "seeds": (0, 1)}
EDGES = Technique("edges", controlnet_image="input-sobel")


def controlnet(seed: int = 0, unet=None, trained: bool = True):
    net = diffusers.ControlNetModel.from_unet(
        unet or tiny.sd_unet(), conditioning_embedding_out_channels=(4, 4)
    ).eval()
    if trained:  # its output layers start at zero
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for block in (
                *net.controlnet_down_blocks,
                net.controlnet_mid_block,
                net.controlnet_cond_embedding.conv_out,
            ):
                block.weight.normal_(0, 0.3, generator=generator)
    return net


def feature_pipe(folder, **changes):
    changes = dict(changes)
    net = changes.pop("controlnet", None)
    pipe = DiffusionFeaturePipeline.from_pipe(tiny.sd_pipe(folder, **changes), controlnet=net)
    pipe.set_progress_bar_config(disable=True)
    return pipe
