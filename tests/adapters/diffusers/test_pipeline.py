"""The pipeline contract: taking over, saving, loading, components, precision, offload."""

import json

import diffusers
import pytest
import torch

from graftkit.diffusers import DiffusionFeaturePipeline, load_selection
from tests.adapters.diffusers import tiny

NAME = "up-level1-repeat0-vit-block0-cross-q"
NOISE = torch.zeros(1, 4, 16, 24)


def features(pipe):
    return pipe(tiny.image(1), "a horse", NAME, noise=NOISE.to(pipe.unet.dtype)).features[NAME]


@pytest.fixture
def source(tmp_path):
    return tiny.sd_pipe(tmp_path / "tokenizer")


def test_from_pipe_shares_and_changes_nothing(source):
    source.to(torch.float16)
    source.vae.to(torch.float32)
    pipe = DiffusionFeaturePipeline.from_pipe(source)
    assert pipe.unet is source.unet
    assert pipe.text_encoder is source.text_encoder
    assert (source.unet.dtype, source.text_encoder.dtype, source.vae.dtype) == (
        torch.float16, torch.float16, torch.float32,
    )  # fmt: skip
    assert pipe.config.source_class == "StableDiffusionPipeline"
    assert DiffusionFeaturePipeline.from_pipe(pipe).config.source_class == "StableDiffusionPipeline"


def test_from_pipe_casts_where_it_is_told(source):
    pipe = DiffusionFeaturePipeline.from_pipe(source, torch_dtype=torch.float64)
    assert pipe.unet.dtype == torch.float64
    assert features(pipe).dtype == torch.float64


def test_from_pipe_takes_replacements_and_refuses_the_rest(source):
    other = tiny.sd_unet()
    assert DiffusionFeaturePipeline.from_pipe(source, unet=other).unet is other
    with pytest.raises(ValueError, match=r"kwargs: expected components or options.*got \['unte'\]"):
        DiffusionFeaturePipeline.from_pipe(source, unte=other)
    with pytest.raises(TypeError, match="pipeline: expected a diffusers pipeline"):
        DiffusionFeaturePipeline.from_pipe(other)


def test_two_denoisers_are_an_error(source):
    with pytest.raises(ValueError, match="one denoiser"):
        DiffusionFeaturePipeline.from_pipe(source, transformer=tiny.dit())
    with pytest.raises(ValueError, match="exactly one denoiser"):
        DiffusionFeaturePipeline(unet=tiny.sd_unet(), transformer=tiny.dit(), scheduler=source.scheduler)
    with pytest.raises(ValueError, match="exactly one denoiser"):
        DiffusionFeaturePipeline(scheduler=source.scheduler)
    with pytest.raises(ValueError, match="scheduler: expected a scheduler"):
        DiffusionFeaturePipeline(unet=tiny.sd_unet(), scheduler=None)
    with pytest.raises(TypeError, match="denoiser: expected one of UNet2DConditionModel"):
        DiffusionFeaturePipeline(unet=source.vae, scheduler=source.scheduler)


def test_a_folder_of_the_source_pipeline_loads(source, tmp_path):
    expected = features(DiffusionFeaturePipeline.from_pipe(source))
    source.save_pretrained(tmp_path / "sd")
    pipe = DiffusionFeaturePipeline.from_pretrained(tmp_path / "sd")
    assert pipe.config.source_class == "StableDiffusionPipeline"
    assert torch.allclose(features(pipe), expected, atol=1e-6)


def test_saving_and_loading_is_a_round_trip(source, tmp_path):
    own = DiffusionFeaturePipeline.from_pipe(source)
    own.save_pretrained(tmp_path / "own")
    again = DiffusionFeaturePipeline.from_pretrained(tmp_path / "own", dtype=torch.float32)
    assert again.config.source_class == "StableDiffusionPipeline"
    assert again.transformer is None
    assert torch.allclose(features(again), features(own), atol=1e-6)
    half = DiffusionFeaturePipeline.from_pretrained(tmp_path / "own", dtype=torch.float16)
    assert half.unet.dtype == torch.float16


def test_a_pipeline_without_optional_components_saves_too(tmp_path):
    pipe = DiffusionFeaturePipeline(unet=tiny.sd_unet(), scheduler=diffusers.DDIMScheduler(**tiny.SCHEDULE))
    pipe.save_pretrained(tmp_path / "bare")
    again = DiffusionFeaturePipeline.from_pretrained(tmp_path / "bare")
    assert again.vae is None
    assert again.vae_scale_factor == 1
    inputs = {"latents": torch.ones(1, 4, 16, 8), "noise": torch.zeros(1, 4, 16, 8), "features": NAME}
    text = torch.zeros(1, 3, 12)
    found = [p(**inputs, prompt_embeds=text).features[NAME] for p in (pipe, again)]
    assert torch.equal(*found)


def test_controlnet_is_saved_with_the_rest(source, tmp_path):
    net = diffusers.ControlNetModel.from_unet(source.unet, conditioning_embedding_out_channels=(4, 8))
    DiffusionFeaturePipeline.from_pipe(source, controlnet=net).save_pretrained(tmp_path / "control")
    assert isinstance(
        DiffusionFeaturePipeline.from_pretrained(tmp_path / "control").controlnet, diffusers.ControlNetModel
    )


def test_components_rebuild_an_equal_pipeline(source):
    pipe = DiffusionFeaturePipeline.from_pipe(source)
    again = DiffusionFeaturePipeline(**pipe.components)
    assert torch.equal(features(again), features(pipe))
    assert set(pipe.components) >= {"unet", "vae", "scheduler", "text_encoder", "controlnet", "transformer"}


def test_moving_and_casting(source):
    pipe = DiffusionFeaturePipeline.from_pipe(source).to("cpu").to(torch.float64)
    assert features(pipe).dtype == torch.float64
    assert pipe.dtype == torch.float64


def test_offload_needs_an_accelerator_as_in_diffusers(source):
    pipe = DiffusionFeaturePipeline.from_pipe(source)
    if torch.cuda.is_available():
        pytest.skip("this machine has an accelerator")
    with pytest.raises(RuntimeError, match="requires accelerator"):
        pipe.enable_model_cpu_offload()


def test_offload_hooks_are_freed_after_success_and_failure(source, monkeypatch):
    pipe = DiffusionFeaturePipeline.from_pipe(source)
    calls = []
    monkeypatch.setattr(pipe, "maybe_free_model_hooks", lambda: calls.append(1))
    features(pipe)
    pipe.unet.mid_block.register_forward_hook(lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError, match="division"):
        features(pipe)
    assert len(calls) == 2


def test_a_vae_that_overflows_is_upcast_for_a_moment(source):
    source.to(torch.float16)
    source.vae.register_to_config(force_upcast=True)
    seen = []
    source.vae.encoder.register_forward_hook(lambda *args: seen.append(args[2].dtype))
    pipe = DiffusionFeaturePipeline.from_pipe(source)
    assert features(pipe).dtype == torch.float16
    assert seen == [torch.float32]
    assert source.vae.dtype == torch.float16


def test_latents_are_scaled_and_shifted(source):
    vae = tiny.vae(scaling_factor=0.5, shift_factor=0.25)
    pipe = DiffusionFeaturePipeline.from_pipe(source, vae=vae)
    out = pipe(tiny.image(1), features=NAME, noise=NOISE)
    with torch.no_grad():
        expected = (vae.encode(2 * tiny.image(1) - 1).latent_dist.mode() - 0.25) * 0.5
    assert torch.allclose(out.latents, expected, atol=1e-5)


def test_a_selection_in_the_official_form_is_read(tmp_path, source):
    selection = {NAME: True, "up-level1-repeat2-res-out": True, "unet-out": False}
    (tmp_path / "layer.json").write_text(json.dumps(selection))
    for form in (tmp_path / "layer.json", str(tmp_path / "layer.json"), json.dumps(selection), selection):
        assert load_selection(form) == [NAME, "up-level1-repeat2-res-out"]
    pipe = DiffusionFeaturePipeline.from_pipe(source)
    assert pipe(tiny.image(1), features=selection, noise=NOISE).names == [NAME, "up-level1-repeat2-res-out"]
    with pytest.raises(
        ValueError, match=r"unknown activation 'up-level1-repeat9-res-out'; the closest names are"
    ):
        pipe(tiny.image(1), features={"up-level1-repeat9-res-out": True})
