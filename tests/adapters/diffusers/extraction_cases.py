"""A pipeline without text and a few pictures, for what goes over a data set."""

import diffusers

from graftkit.diffusers import DiffusionFeaturePipeline
from tests.adapters.diffusers import tiny

NAMES = ["up-level1-repeat0-res-out", "mid-repeat0-res-out"]
ARGUMENTS = {"features": NAMES, "batch_size": 2, "seed": 3}


def make_pipe():
    """Pixel space, no text: nothing but a U-Net and a schedule."""
    unet = tiny.seeded(lambda: diffusers.UNet2DModel(
        sample_size=16, block_out_channels=(8, 8), norm_num_groups=4, down_block_types=("DownBlock2D",) * 2,
        up_block_types=("UpBlock2D",) * 2, layers_per_block=1))  # fmt: skip
    return DiffusionFeaturePipeline(unet=unet, scheduler=diffusers.DDPMScheduler(**tiny.SCHEDULE))


def pictures():
    """Five, the last equal to the first."""
    images = list(tiny.image(4, 16, 16))
    return [*images, images[0]]
