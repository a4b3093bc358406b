"""A trained ControlNet knows the image by its own edges more than by another image's."""

import pytest
import torch

from graftkit.diffusers import Technique
from graftkit.diffusers.small_models import small_pipeline, train_controlnet, train_pipeline
from graftkit.methods.content_shift.data import object_scenes, scene_words


@pytest.mark.slow
def test_own_edges_beat_another_images_edges():
    """Specification 6, on generated scenes; both halves of the gain beside each other in the report."""
    images, _, prompts = object_scenes(96, random_state=0)
    pictures = torch.from_numpy(images)
    pipe = small_pipeline(scene_words(), channels=(32, 48))
    train_pipeline(pipe, pictures[:-8], prompts[:-8], steps=150)
    train_controlnet(pipe, pictures[:-8], prompts[:-8], steps=150)
    report = pipe.gate(
        pictures[-8:], Technique("edges", controlnet_image="input-sobel"), num_inference_steps=8,
        seeds=(0, 1),
    )  # fmt: skip
    rows = {row["metric"]: row for row in report.table}
    print(report)
    own, foreign = rows["mse"]["gain_mean"], rows["mse"]["control_gain"]
    assert own > 0
    assert own > foreign + MARGIN


MARGIN = 0.01
