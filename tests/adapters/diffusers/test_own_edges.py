"""A trained ControlNet brings images back by their own edges more than by another image's."""

import pytest
import torch

from graftkit.diffusers import Technique
from graftkit.diffusers.small_models import small_pipeline, train_controlnet, train_pipeline

MARGIN = 0.005  # measured: 0.0324 by its own edges, 0.0218 by another image's


def squares(count, size=16, seed=0):
    """A bright square of 7 pixels somewhere on dark ground: its edges say all there is to know."""
    generator = torch.Generator().manual_seed(seed)
    pictures = torch.full((count, 3, size, size), 0.2)
    for picture in pictures:
        y, x = torch.randint(0, size - 6, (2,), generator=generator).tolist()
        picture[:, y : y + 7, x : x + 7] = 0.9
    return pictures


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_own_edges_beat_another_images_edges():
    """Networks and guideline see the same pictures: seconds of training do not generalise, nor need they."""
    pictures, prompts = squares(16), [""] * 16
    # 64 channels: a latent has 48, which fewer could not tell apart.
    pipe = small_pipeline(("a",), channels=(64, 64))
    train_pipeline(pipe, pictures, prompts, steps=100)
    train_controlnet(pipe, pictures, prompts, steps=800)
    report = pipe.gate(
        pictures[-8:],
        Technique("edges", controlnet_image="input-sobel"),
        num_inference_steps=8,
        seeds=(0, 1),
    )
    row = report.table[0]
    assert row["metric"] == "mse"
    assert row["gain_mean"] > row["control_gain"] + MARGIN
    assert row["control_gain"] > 0  # a better denoiser, whatever its edges are
    assert report.verdict["edges"].startswith("helps")
