"""The error table: type and words."""

import diffusers
import numpy as np
import PIL.Image
import pytest
import torch

from graftkit.diffusers import DiffusionFeaturePipeline
from tests.adapters.diffusers import tiny

NAME = "up-level1-repeat0-vit-block0-cross-q"


@pytest.fixture(scope="module")
def pipe(tmp_path_factory):
    return DiffusionFeaturePipeline.from_pipe(tiny.sd_pipe(tmp_path_factory.mktemp("sd")))


@pytest.fixture(scope="module")
def bare():
    return DiffusionFeaturePipeline(unet=tiny.sd_unet(), scheduler=diffusers.DDIMScheduler(**tiny.SCHEDULE))


NAN = tiny.image(1)
NAN[0, 0, 0, 0] = float("nan")

CASES = {
    "unknown": (
        {"features": "up-level1-repeat0-vit-block0-cros-q"},
        ValueError,
        (
            r"unknown activation 'up-level1-repeat0-vit-block0-cros-q'; the closest names are "
            r"'up-level1-repeat0-vit-block0-cross-q', '[a-z0-9-]+', '[a-z0-9-]+'"
        ),
    ),
    "unknown path": (
        {"features": "module:up_blocks.9"},
        ValueError,
        "unknown activation 'module:up_blocks.9'; the closest",
    ),
    "glob": ({"features": "up-level7-*"}, ValueError, "no activation matches 'up-level7-"),
    "type": ({"features": 3}, TypeError, "features: expected a name, a list of names"),
    "entry": ({"features": [3]}, TypeError, "features: expected names"),
    "nothing": ({"features": []}, ValueError, "at least one name"),
    "number": ({"features": {NAME: 1}}, TypeError, "True or False"),
    "text": ({"features": "up-level1-repeat0-vit-block0-cross-k"}, ValueError, "no spatial grid.*as_tokens"),
    "timestep high": (
        {"timestep": 1000},
        ValueError,
        r"timestep: expected an integer in \[0, 999\], got 1000",
    ),
    "timestep low": ({"timestep": -1}, ValueError, r"timestep: expected an integer in \[0, 999\]"),
    "timestep type": ({"timestep": 1.5}, TypeError, "timestep: expected an integer"),
    "timestep twice": ({"timestep": [5, 5]}, ValueError, "different timesteps"),
    "timesteps none": ({"timestep": []}, ValueError, "one or several different timesteps"),
    "both levels": (
        {"timestep": 50, "sigma": 0.1},
        ValueError,
        "timestep: expected None where sigma is given",
    ),
    "sigma": ({"sigma": -1.0}, ValueError, "sigma: expected a finite number"),
    "noise match": ({"noise_match": "log"}, ValueError, "noise_match: expected one of 'snr', 'linear'"),
    "entry step": ({"denoise_from": 50}, ValueError, "denoise_from: expected a timestep above 50"),
    "entry high": ({"denoise_from": 1000}, ValueError, "denoise_from: expected an integer <= 999"),
    "timestep array": ({"timestep": np.array([50.0])}, TypeError, r"timestep: expected an integer in"),
    "timesteps": ({"timestep": range(50, 50)}, ValueError, "timestep: expected one or several"),
    "text glob": ({"features": "up-*-cross-k"}, ValueError, "'up-.-cross-k' belongs to the text.*as_tokens"),
    "tokens": ({"as_tokens": "yes"}, TypeError, "as_tokens: expected True or False"),
    "path": ({"features": "module:"}, ValueError, "the closest module paths are '[a-z]"),
    "no pixel": ({"image": tiny.image(2)[:, :, :0]}, ValueError, "the batch is empty"),
    "sizes": ({"image": [tiny.image(1), tiny.image(1, 16, 16)]}, ValueError, "pictures of one size"),
    "noise nan": ({"noise": torch.full((2, 4, 16, 24), torch.inf)}, ValueError, "noise: expected finite"),
    "embeds type": ({"prompt_embeds": np.zeros((1, 3, 12))}, TypeError, "prompt embeds: expected a tensor"),
    "embeds axes": ({"prompt_embeds": torch.zeros(3, 12)}, ValueError, "prompt embeds: expected 3 axes"),
    "pooled axes": (
        {"prompt_embeds": torch.zeros(1, 3, 12), "pooled_prompt_embeds": torch.zeros(1, 1, 3)},
        ValueError,
        "prompt pooled: expected 2 axes",
    ),
    "embeds nan": (
        {"prompt_embeds": torch.full((1, 3, 12), torch.nan)},
        ValueError,
        "prompt embeds: expected finite values",
    ),
    "kwargs": ({"cross_attention_kwargs": 3}, TypeError, "cross_attention_kwargs: expected a dict"),
    "pair": ({"original_size": (512,)}, TypeError, "original_size: expected two integers"),
    "sides": ({"target_size": (512, 51.2)}, TypeError, "target_size: expected an integer"),
    "crop": ({"crops_coords_top_left": (-1, 0)}, ValueError, "crops_coords_top_left: expected an integer"),
    "scale": ({"controlnet_conditioning_scale": "a"}, TypeError, "controlnet_conditioning_scale: expected a"),
    "scales": ({"controlnet_conditioning_scale": [1.0, None]}, TypeError, "controlnet_conditioning_scale: "),
    "integer type": ({"output_dtype": torch.int8}, ValueError, "output_dtype: expected a floating dtype"),
    "device": ({"output_device": "nope"}, ValueError, "output_device: expected a device that is there"),
    "tuple": ({"return_dict": 1}, TypeError, "return_dict: expected True or False"),
    "divisible": (
        {"image": tiny.image(1, 40, 48), "resize_mode": "error"},
        ValueError,
        "image height: expected a size divisible by 16, got 40. The nearest is",
    ),
    "height": ({"height": 50}, ValueError, "divisible by 16"),
    "resize": ({"resize_mode": "stretch"}, ValueError, "resize_mode: expected one of"),
    "nan": ({"image": NAN}, ValueError, "image: expected finite"),
    "range": ({"image": tiny.image(1) * 255}, ValueError, r"values in \[0, 1\]"),
    "negative": ({"image": tiny.image(1) - 0.5}, ValueError, r"values in \[0, 1\]"),
    "integers": ({"image": torch.zeros(1, 3, 32, 32, dtype=torch.int64)}, TypeError, "floats in .* or uint8"),
    "empty": ({"image": []}, ValueError, "the batch is empty"),
    "empty tensor": ({"image": tiny.image(1)[:0]}, ValueError, "the batch is empty"),
    "channels": ({"image": torch.zeros(1, 4, 32, 32)}, ValueError, "3 channels"),
    "no picture": ({"image": "cat.png"}, TypeError, "a PIL image"),
    "mixed": (
        {"image": [PIL.Image.new("RGB", (32, 32)), PIL.Image.new("RGB", (48, 32))]},
        ValueError,
        "one size",
    ),
    "no image": ({"image": None}, ValueError, "image, latents: expected exactly one of them, got 'neither'"),
    "both": ({"latents": torch.zeros(1, 4, 8, 8)}, ValueError, "got 'both'"),
    "latent type": (
        {"image": None, "latents": np.zeros((1, 4, 8, 8))},
        TypeError,
        "latents: expected a tensor",
    ),
    "latent channels": (
        {"image": None, "latents": torch.zeros(1, 3, 8, 8)},
        ValueError,
        r"shape \(B, 4, h, w\)",
    ),
    "latent nan": ({"image": None, "latents": torch.full((1, 4, 8, 8), torch.nan)}, ValueError, "finite"),
    "latents none": ({"image": None, "latents": torch.zeros(0, 4, 8, 8)}, ValueError, "empty"),
    "prompt count": (
        {"prompt": ["a", "horse", "street"]},
        ValueError,
        "expected 1 or 2 prompts for 2 images, got 3",
    ),
    "prompt type": ({"prompt": 3}, TypeError, "prompt: expected a string"),
    "prompt twice": (
        {"prompt": "a", "prompt_embeds": torch.zeros(1, 3, 12)},
        ValueError,
        "None where prompt_embeds",
    ),
    "embeds count": (
        {"prompt_embeds": torch.zeros(3, 3, 12)},
        ValueError,
        r"prompt embeds.*1 or 2 rows.*got 3",
    ),
    "noise shape": (
        {"noise": torch.zeros(3, 4, 16, 24)},
        ValueError,
        r"noise: expected shape \(2, c, h, w\)",
    ),
    "noise grid": (
        {"noise": torch.zeros(2, 4, 8, 8)},
        ValueError,
        r"noise: expected the latents' shape \(2, 4, 16, 24\)",
    ),
    "noise type": ({"noise": 0.1}, TypeError, "noise: expected a tensor"),
    "noise count": ({"num_noise": 0}, ValueError, "num_noise: expected an integer >= 1"),
    "generators": (
        {"generator": [torch.Generator()] * 3},
        ValueError,
        "expected 2 generators for 2 images, got 3",
    ),
    "generator": ({"generator": 0}, TypeError, "generator: expected a torch.Generator"),
    "controlnet": ({"controlnet_image": tiny.image(2)}, ValueError, "the pipeline has no controlnet"),
    "labels": ({"class_labels": 1}, ValueError, "this model takes no labels"),
    "batch": ({"batch_size": 0}, ValueError, "batch_size: expected an integer >= 1"),
    "mode": ({"latent_mode": "mean"}, ValueError, "latent_mode: expected one of 'mode', 'sample'"),
    "reduce": ({"map_reduce": "max"}, ValueError, "map_reduce: expected one of 'mean', 'none'"),
    "exit": ({"early_exit": "yes"}, TypeError, "early_exit: expected True or False"),
    "preset": ({"features": "sdxl"}, ValueError, r"no published preset 'sdxl' for this UNet.*candidate_pool"),
    "attention": ({"features": "attn"}, ValueError, "no cross-attention map lies within map_resolutions"),
}


@pytest.mark.parametrize("case", CASES)
def test_bad_input_says_what_was_expected(pipe, case):
    change, error, words = CASES[case]
    with pytest.raises(error, match=words):
        pipe(**{"image": tiny.image(2), "features": NAME, **change})


def test_a_pipeline_without_encoder_refuses_prompts_and_pictures(bare):
    latents = torch.zeros(1, 4, 8, 8)
    with pytest.raises(ValueError, match=r"prompt: .*no text_encoder"):
        bare(latents=latents, prompt="a horse", features=NAME)
    with pytest.raises(ValueError, match=r"prompt_embeds: .*no text_encoder"):
        bare(latents=latents, features=NAME)
    with pytest.raises(ValueError, match="image: expected latents of 4 channels, as the pipeline has no vae"):
        bare(tiny.image(1), features=NAME)
    with pytest.raises(ValueError, match="the pipeline has no vae"):
        bare(latents=latents, prompt_embeds=torch.zeros(1, 3, 12), features="vae-out")


def test_other_families_refuse_what_they_do_not_take():
    labelled = DiffusionFeaturePipeline(transformer=tiny.dit(), scheduler=diffusers.DDIMScheduler())
    latents = torch.zeros(2, 4, 8, 8)
    with pytest.raises(ValueError, match="class_labels: expected labels, as this model is class-conditional"):
        labelled(latents=latents, features="vit-block0-out")
    with pytest.raises(ValueError, match="class_labels: expected 1 or 2 labels"):
        labelled(latents=latents, features="vit-block0-out", class_labels=[1, 2, 3])
    flow = DiffusionFeaturePipeline(
        transformer=tiny.sd3(), scheduler=diffusers.FlowMatchEulerDiscreteScheduler()
    )
    with pytest.raises(ValueError, match="pooled_prompt_embeds: expected pooled embeddings"):
        flow(latents=latents, features="vit-block0-out", prompt_embeds=torch.zeros(2, 5, 32))
    with pytest.raises(ValueError, match="sigma: expected a finite number"):
        flow(latents=latents, features="vit-block0-out", sigma=1.5)
    edm = DiffusionFeaturePipeline(unet=tiny.sd_unet(), scheduler=diffusers.EDMEulerScheduler())
    with pytest.raises(ValueError, match="scheduler: expected one with alphas_cumprod, or flow matching"):
        edm(latents=torch.zeros(1, 4, 8, 8), prompt_embeds=torch.zeros(1, 3, 12), features=NAME)


def test_sdxl_names_the_pooled_embedding_it_misses():
    pipe = DiffusionFeaturePipeline(unet=tiny.sdxl_unet(), scheduler=diffusers.DDIMScheduler(**tiny.SCHEDULE))
    with pytest.raises(ValueError, match=r"pooled_prompt_embeds: expected shape \(B, 12\)"):
        pipe(latents=torch.zeros(1, 4, 8, 8), prompt_embeds=torch.zeros(1, 3, 24))


def test_controlnet_needs_as_many_images(pipe):
    from diffusers.models.controlnets.multicontrolnet import MultiControlNetModel

    net = diffusers.ControlNetModel.from_unet(pipe.unet, conditioning_embedding_out_channels=(4, 8))
    several = DiffusionFeaturePipeline.from_pipe(pipe, controlnet=MultiControlNetModel([net, net]))
    with pytest.raises(ValueError, match="one image for each of 2 controlnets"):
        several(tiny.image(1), features=NAME, controlnet_image=tiny.image(1))
    one = DiffusionFeaturePipeline.from_pipe(pipe, controlnet=net)
    with pytest.raises(ValueError, match="controlnet_image: expected 1 or 2 images"):
        one(tiny.image(2), features=NAME, controlnet_image=tiny.image(3))


def test_information_refuses_extras_and_odd_sizes(pipe):
    with pytest.raises(ValueError, match="the extras are made after the forward"):
        pipe.activation_info("vae-out")
    with pytest.raises(ValueError, match="sizes divisible by 2"):
        pipe.activation_info(NAME, 33, 32)
    assert pipe.activation_names("nothing-*") == []
    with pytest.raises(ValueError, match="rule: expected one of 'paper', 'generic'"):
        pipe.candidate_pool("best")


def test_an_inpainting_unet_and_a_dtype_by_name_are_refused(pipe):
    inpainting = DiffusionFeaturePipeline.from_pipe(pipe, unet=tiny.sd_unet(in_channels=9))
    with pytest.raises(ValueError, match="latents: expected 9 channels, as the denoiser takes"):
        inpainting(tiny.image(1), features=NAME)
    with pytest.raises(TypeError, match="output_dtype: expected a torch dtype or None, got 'half'"):
        pipe(tiny.image(1), features=NAME, output_dtype="half")


def test_a_failed_call_leaves_the_pipeline_usable(pipe):
    with pytest.raises(ValueError, match="expected 1 or 2 prompts"):
        pipe(tiny.image(2), ["a", "horse", "street"], NAME)
    assert pipe(tiny.image(2), "a", NAME).features[NAME].shape[0] == 2


def test_sequences_of_timesteps_pictures_of_two_sizes_and_globs_of_the_text(pipe):
    noise = torch.zeros(2, 4, 16, 16)
    call = {"features": NAME, "height": 32, "width": 32, "noise": noise}
    pictures = [tiny.image(1, 32, 32), tiny.image(1, 48, 64, seed=1)]
    out = pipe(pictures, **call, timestep=[1, 2])
    for steps in (range(1, 3), np.array([1, 2])):
        again = pipe(pictures, **call, timestep=steps)
        assert again.names == out.names == [f"{NAME}@1", f"{NAME}@2"]
        assert torch.equal(again.features[f"{NAME}@2"], out.features[f"{NAME}@2"])
    alone = pipe(pictures[1], **{**call, "noise": noise[:1]}, timestep=1)
    assert torch.allclose(alone.features[NAME][0], out.features[f"{NAME}@1"][1], atol=1e-5)
    text = pipe(tiny.image(1), features="up-level1-*-cross-v", as_tokens=True)
    assert text.names == [f"up-level1-repeat{i}-vit-block0-cross-v" for i in range(3)]
    assert all(tensor.ndim == 3 for tensor in text.features.values())
    assert not any(
        name.endswith("cross-v") for name in pipe(tiny.image(1), features="*", as_tokens=True).names
    )
