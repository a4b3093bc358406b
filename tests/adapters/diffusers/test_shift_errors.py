"""What guideline and score refuse, before any forward."""

import pytest
import torch

from graftkit.diffusers import Technique
from tests.adapters.diffusers import tiny
from tests.adapters.diffusers.content_shift_pipes import EDGES, FAST, NAMES, controlnet, feature_pipe


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    return feature_pipe(tmp_path_factory.mktemp("sd"))


@pytest.fixture(scope="module")
def controlled(tmp_path_factory):
    return feature_pipe(tmp_path_factory.mktemp("sd"), controlnet=controlnet())


@pytest.mark.parametrize(
    ("techniques", "options", "error", "words"),
    [
        ([], {}, ValueError, "at least one technique"),
        ([Technique("a"), Technique("a")], {}, ValueError, "duplicate"),
        (Technique("basic"), {}, ValueError, "duplicate name 'basic'"),
        ("a", {}, TypeError, "techniques"),
        (Technique("a"), {"strength": 0}, ValueError, "strength"),
        (Technique("a"), {"strength": 1.2}, ValueError, "strength"),
        (Technique("a"), {"strength": 0.1, "num_inference_steps": 5}, ValueError, "no denoising step"),
        (Technique("a"), {"num_inference_steps": 5000}, ValueError, "at most the schedule's"),
        (Technique("a"), {"num_inference_steps": 0}, ValueError, "num_inference_steps"),
        (EDGES, {}, ValueError, "technique 'edges': controlnet_image.*no controlnet"),
        (Technique("a", adapters="z"), {}, ValueError, r"technique 'a': adapters: unknown \['z'\]"),
        (
            Technique("a", prompt=["x", "y", "z"]),
            {},
            ValueError,
            "technique 'a': prompt: expected 1 or 2 texts",
        ),
        (
            Technique("a", ip_adapter_image_embeds=torch.zeros(1, 1, 4)),
            {},
            ValueError,
            "no IP-Adapter is loaded",
        ),
        (Technique("a"), {"seeds": ()}, ValueError, "seeds"),
        (Technique("a"), {"seeds": (0, 0)}, ValueError, "different seeds"),
        (Technique("a"), {"seeds": 3}, ValueError, "seeds"),
        (Technique("a"), {"seeds": (-1,)}, ValueError, "seeds"),
        (Technique("a"), {"metrics": "lpips"}, ValueError, "metrics"),
        (Technique("a"), {"metrics": ()}, ValueError, "metrics"),
        (Technique("a"), {"metrics": ("mse", "mse")}, ValueError, "different names"),
        (Technique("a"), {"batch_size": 0}, ValueError, "batch_size"),
        (Technique("a"), {"negative_controls": 1}, TypeError, "negative_controls"),
        (Technique("a"), {"keep_images": None}, TypeError, "keep_images"),
        (Technique("a"), {"class_labels": [1, 2, 3]}, ValueError, "class_labels"),
    ],
)
def test_gate_refuses_before_any_forward(plain, techniques, options, error, words):
    def forbidden(*_):
        raise AssertionError("the denoiser ran")

    handle = plain.unet.register_forward_pre_hook(forbidden)
    try:
        with pytest.raises(error, match=words):
            plain.gate(tiny.image(2), techniques, **options)
    finally:
        handle.remove()


def test_one_image_has_no_negative_control(controlled):
    with pytest.raises(ValueError, match="at least 2 images"):
        controlled.gate(tiny.image(1), EDGES, **FAST)


def test_controlnets_that_do_not_fit(tmp_path, controlled):
    other = controlnet(unet=tiny.sd_unet(in_channels=6))
    pipe = feature_pipe(tmp_path, controlnet=other)
    with pytest.raises(ValueError, match=r"technique 'edges': controlnet: expected in_channels=4 .* got 6"):
        pipe.gate(tiny.image(2), EDGES)
    with pytest.raises(ValueError, match=r"technique 't': controlnet_image: expected one for each of 1"):
        controlled.gate(tiny.image(2), Technique("t", controlnet_image=("input-sobel", "input-sobel")))
    with pytest.raises(
        ValueError, match=r"technique 't': controlnet_image: expected shape \(1 or 2, 3, H, W\)"
    ):
        controlled.gate(tiny.image(2), Technique("t", controlnet_image=torch.zeros(2, 4, 32, 48)))
    with pytest.raises(ValueError, match=r"technique 't': controlnet_image\(\): expected shape"):
        controlled.gate(tiny.image(2), Technique("t", controlnet_image=lambda pixels: pixels[0]))


@pytest.mark.parametrize(
    ("technique", "options", "error", "words"),
    [
        (Technique("a"), {"anchor_timestep": 50}, ValueError, "anchor_timestep"),
        (Technique("a"), {"reference": "clean"}, ValueError, "reference"),
        (Technique("a"), {"metric": "l2"}, ValueError, "metric"),
        (Technique("a"), {"padding": "circular"}, ValueError, "padding"),
        (Technique("a"), {"normalize": "yes"}, TypeError, "normalize"),
        (
            Technique("a", denoise_from=50),
            {},
            ValueError,
            "technique 'a': denoise_from: expected a timestep above 50",
        ),
        (Technique("a"), {"seed": -1}, ValueError, "seed"),
        (Technique("a"), {"features": ["up-level9-res-out"]}, ValueError, "up-level9"),
        (Technique("a"), {"batch_size": 1.5}, TypeError, "batch_size"),
    ],
)
def test_score_refuses(plain, technique, options, error, words):
    with pytest.raises(error, match=words):
        plain.content_shift_score(tiny.image(2), technique, **{"features": NAMES, **options})
