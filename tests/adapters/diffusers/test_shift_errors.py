"""What guideline and score refuse, before any forward."""

import diffusers
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
        (Technique("a"), {"metrics": "vgg"}, ValueError, "metrics"),
        (Technique("a"), {"generator": 3}, TypeError, "generator"),
        (Technique("a"), {"metrics": ()}, ValueError, "metrics"),
        (Technique("a"), {"metrics": ("mse", "mse")}, ValueError, "different names"),
        (Technique("a"), {"batch_size": 0}, ValueError, "batch_size"),
        (Technique("a"), {"negative_controls": 1}, TypeError, "negative_controls"),
        (Technique("a"), {"keep_images": None}, TypeError, "keep_images"),
        (Technique("a"), {"class_labels": [1, 2, 3]}, ValueError, "class_labels"),
        (Technique("a"), {"basic": "plain"}, TypeError, "techniques"),
        (Technique("a"), {"prompt": ["a", "b"]}, TypeError, "prompt: expected one string"),
        (Technique("a"), {"prompt": None}, TypeError, "prompt: expected one string"),
        (Technique("a"), {"metrics": None}, ValueError, "at least one metric"),
        (Technique("a"), {"metrics": lambda *_: 0.5}, TypeError, "a tensor of shape"),
        (Technique("a"), {"metrics": lambda *_: torch.zeros(5)}, ValueError, "one an image"),
        (Technique("a"), {"strength": True}, TypeError, "strength"),
        (Technique("a"), {"strength": float("nan")}, ValueError, "strength"),
        (Technique("a"), {"num_inference_steps": 4.0}, TypeError, "num_inference_steps"),
        (Technique("a"), {"seeds": (0.5,)}, TypeError, "seeds"),
        (Technique("a"), {"seeds": "01"}, ValueError, "seeds"),
        (Technique("a"), {"batch_size": True}, TypeError, "batch_size"),
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
    wider = controlnet(unet=tiny.sd_unet(block_out_channels=(8, 8, 16, 32)))
    with pytest.raises(ValueError, match="technique 'edges': controlnet: expected block_out_channels"):
        feature_pipe(tmp_path, controlnet=wider).gate(tiny.image(2), EDGES)
    grey = diffusers.ControlNetModel.from_unet(
        tiny.sd_unet(), conditioning_embedding_out_channels=(4, 4), conditioning_channels=1
    ).eval()
    with pytest.raises(ValueError, match=r"technique 'edges': controlnet: expected conditioning_channels=3"):
        feature_pipe(tmp_path, controlnet=grey).gate(tiny.image(2), EDGES)


@pytest.mark.parametrize(
    ("control", "words"),
    [
        (lambda pixels: pixels[0], "expected a floating-point tensor of shape"),
        (lambda pixels: pixels[:, :1], "expected a floating-point tensor of shape"),
        (lambda pixels: pixels.numpy(), "expected a floating-point tensor of shape"),
        (lambda pixels: (255 * pixels).byte(), "expected a floating-point tensor of shape"),
        (lambda pixels: pixels - 1, r"expected finite values in \[0, 1\]"),
        (lambda pixels: pixels / 0, r"expected finite values in \[0, 1\]"),
        (torch.full((1, 3, 8, 8), 255.0), r"expected finite values in \[0, 1\]"),
    ],
)
def test_control_images_are_checked_before_any_forward(controlled, control, words):
    technique = Technique("t", controlnet_image=control)

    def forbidden(*_):
        raise AssertionError("the denoiser ran")

    handle = controlled.unet.register_forward_pre_hook(forbidden)
    try:
        for call in (controlled.gate, controlled.extract_variants, controlled.content_shift_score):
            with pytest.raises(ValueError, match=rf"technique 't': controlnet_image(\(\))?: {words}"):
                call(
                    tiny.image(2),
                    [Technique("plain"), technique],
                    **({"features": NAMES} if call != controlled.gate else {}),
                )
    finally:
        handle.remove()


@pytest.mark.parametrize("option", ["return_dict", "sigma", "num_noise", "noise", "generator", "colour"])
def test_options_that_are_set_here_or_unknown(plain, option):
    for call in (plain.extract_variants, plain.content_shift_score):
        with pytest.raises(ValueError, match=f"options: expected some of as_tokens, .*, got {option}"):
            call(tiny.image(2), Technique("a"), NAMES, **{option: None})


def test_callables_must_give_a_context_manager(plain):
    with pytest.raises(TypeError, match=r"technique 'a': apply\(\): expected a context manager, got None"):
        plain.gate(tiny.image(2), Technique("a", apply=lambda _: None), **FAST)


def test_a_control_of_another_size_is_resized(controlled):
    small = torch.rand(1, 3, 16, 24, generator=torch.Generator().manual_seed(0))
    technique = Technique("t", controlnet_image=small)
    assert controlled.gate(tiny.image(2), technique, **FAST).table[0]["gain_mean"] != 0
    found = controlled.extract_variants(tiny.image(2), technique, NAMES)["t"].features
    resized = torch.nn.functional.interpolate(
        small, (32, 48), mode="bilinear", antialias=True, align_corners=False
    )
    same = controlled.extract_variants(tiny.image(2), Technique("t", controlnet_image=resized), NAMES)
    torch.testing.assert_close(found[NAMES[0]], same["t"].features[NAMES[0]])


def test_entry_means_nothing_to_the_guideline_and_it_says_so(plain):
    with pytest.warns(UserWarning, match="technique 's': denoise_from is for features"):
        report = plain.gate(tiny.image(2), Technique("s", denoise_from=60), **FAST)
    assert report.verdict == {"s": "no evidence"}


@pytest.mark.parametrize(
    ("technique", "options", "error", "words"),
    [
        (Technique("a"), {"anchor_timestep": 50}, ValueError, "anchor_timestep"),
        (Technique("a"), {"anchor_timestep": 1000}, ValueError, "anchor_timestep"),
        (Technique("a"), {"anchor_timestep": 300.0}, TypeError, "anchor_timestep"),
        (Technique("a"), {"timestep": -1}, ValueError, "timestep"),
        (Technique("a"), {"timestep": None}, TypeError, "timestep"),
        (Technique("a"), {"basic": None}, TypeError, "techniques"),
        (Technique("a"), {"prompt": ("a", "b")}, TypeError, "prompt: expected one string"),
        (
            Technique("a", denoise_from=1000),
            {},
            ValueError,
            "denoise_from: expected a timestep above 50, ",
        ),
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
def test_score_refuses_before_any_forward(plain, technique, options, error, words):
    def forbidden(*_):
        raise AssertionError("the denoiser ran")

    handle = plain.unet.register_forward_pre_hook(forbidden)
    try:
        with pytest.raises(error, match=words):
            plain.content_shift_score(tiny.image(2), technique, **{"features": NAMES, **options})
    finally:
        handle.remove()
