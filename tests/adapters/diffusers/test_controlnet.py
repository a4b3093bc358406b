"""ControlNets as techniques: none, one, several, several steps; saved with the pipeline."""

import pytest
import torch
from diffusers.models.controlnets.multicontrolnet import MultiControlNetModel

from graftkit.diffusers import DiffusionFeaturePipeline, Technique
from tests.adapters.diffusers import tiny
from tests.adapters.diffusers.content_shift_pipes import EDGES, FAST, NAMES, controlnet, feature_pipe


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    return feature_pipe(tmp_path_factory.mktemp("sd"))


@pytest.fixture(scope="module")
def controlled(tmp_path_factory):
    return feature_pipe(tmp_path_factory.mktemp("sd"), controlnet=controlnet())


def test_an_untrained_controlnet_changes_nothing(tmp_path):
    pipe = feature_pipe(tmp_path, controlnet=controlnet(trained=False))
    found = pipe.extract_variants(tiny.image(), [Technique("basic"), EDGES], NAMES)
    for name in NAMES:
        assert torch.equal(found["edges"].features[name], found["basic"].features[name])
    assert pipe.gate(tiny.image(), EDGES, **FAST).verdict == {"edges": "no evidence"}


def test_scale_0_is_no_controlnet_and_two_nets_add_up(tmp_path):
    one, two = controlnet(0), controlnet(1)
    both = feature_pipe(tmp_path, controlnet=MultiControlNetModel([one, two]))
    twice = ("input-sobel", "input-sobel")

    def features(pipe, **options):
        return pipe.extract_variants(tiny.image(), Technique("t", **options), NAMES)["t"].features

    basic = features(both)
    none = features(both, controlnet_image=twice, controlnet_conditioning_scale=(0.0, 0.0))
    first = features(both, controlnet_image=twice, controlnet_conditioning_scale=(1.0, 0.0))
    single = features(feature_pipe(tmp_path, controlnet=one), controlnet_image="input-sobel")
    for name in NAMES:
        torch.testing.assert_close(none[name], basic[name])
        torch.testing.assert_close(first[name], single[name])
        assert not torch.allclose(first[name], basic[name], atol=1e-3)
    # Residuals enter the U-Net's skips linearly: record them.
    seen = []
    handle = both.unet.register_forward_pre_hook(
        lambda _m, _a, kwargs: seen.append(kwargs["mid_block_additional_residual"].clone()), with_kwargs=True
    )
    try:
        for scale in ((1.0, 0.0), (0.0, 1.0), (1.0, 1.0)):
            features(both, controlnet_image=twice, controlnet_conditioning_scale=scale)
    finally:
        handle.remove()
    torch.testing.assert_close(seen[2], seen[0] + seen[1])


def test_control_is_made_of_the_resized_input(controlled):
    """The public code rebuilds it from the normalised tensor at another size."""
    seen = []
    handle = controlled.controlnet.register_forward_pre_hook(
        lambda _m, _a, kwargs: seen.append(kwargs["controlnet_cond"]), with_kwargs=True
    )
    try:
        controlled.extract_variants(tiny.image(2, 64, 96), EDGES, NAMES, height=32, width=48)
    finally:
        handle.remove()
    assert seen[0].shape == (2, 3, 32, 48)
    assert set(seen[0].unique().tolist()) <= {0.0, 1.0}


def test_several_steps_are_counted_and_only_the_last_is_captured(controlled):
    calls = []
    handle = controlled.unet.register_forward_pre_hook(
        lambda _m, _a, kwargs: calls.append(int(kwargs["timestep"][0])), with_kwargs=True
    )
    try:
        found = controlled.extract_variants(
            tiny.image(1), Technique("s", controlnet_image="input-sobel", denoise_from=60), NAMES, timestep=50
        )
    finally:
        handle.remove()
    assert calls == [*range(60, 50, -1), 50]
    assert found["s"].timestep == 50


def test_several_steps_without_a_controlnet_warn(plain):
    with pytest.warns(UserWarning, match="denoise_from without a controlnet"):
        plain.extract_variants(tiny.image(1), Technique("s", denoise_from=52), NAMES)


def test_guidance_changes_no_feature_and_says_so(controlled):
    with pytest.warns(UserWarning, match="technique 'g': guidance_scale mixes predictions"):
        found = controlled.extract_variants(
            tiny.image(1), [Technique("basic"), Technique("g", guidance_scale=3.0)], NAMES
        )
    assert torch.equal(found["g"].features[NAMES[0]], found["basic"].features[NAMES[0]])


def test_controlnet_and_unet_see_the_same_prompt(controlled):
    seen = {}
    handles = [
        model.register_forward_pre_hook(
            lambda _m, _a, kwargs, name=name: seen.__setitem__(name, kwargs["encoder_hidden_states"]),
            with_kwargs=True,
        )
        for name, model in (("controlnet", controlled.controlnet), ("unet", controlled.unet))
    ]
    technique = Technique("t", prompt=["a horse", "a street"], controlnet_image="input-sobel")
    try:
        controlled.extract_variants(tiny.image(2), technique, NAMES)
    finally:
        for handle in handles:
            handle.remove()
    assert torch.equal(seen["controlnet"], seen["unet"])
    assert not torch.equal(seen["unet"][0], seen["unet"][1])


def test_pipeline_with_a_controlnet_saves_and_loads(controlled, tmp_path):
    controlled.save_pretrained(tmp_path / "p")
    again = DiffusionFeaturePipeline.from_pretrained(tmp_path / "p")
    again.set_progress_bar_config(disable=True)
    a = controlled.extract_variants(tiny.image(), EDGES, NAMES)["edges"].features
    b = again.extract_variants(tiny.image(), EDGES, NAMES)["edges"].features
    assert all(torch.equal(a[name], b[name]) for name in NAMES)
