"""Golden values of the specification; official name lists, pools and presets."""

import math

import diffusers
import pytest
import torch

from graftkit.diffusers import DiffusionFeaturePipeline
from graftkit.diffusers.noising import noise_level
from graftkit.diffusers.taps import denoiser_taps
from graftkit.methods.diffusion_feature.names import is_extension
from graftkit.methods.diffusion_feature.presets import PRESETS
from tests.adapters.diffusers import tiny

# name: shape, mean, unbiased standard deviation, element [1, 0, 2, 3]
GOLDEN = {
    "unet-after-conv-in": ((2, 8, 6, 8), 0.0014606320, 0.0761716546, -0.0713666515),
    "down-level0-repeat0-res-increment": ((2, 8, 6, 8), -0.0396715072, 0.9178258981, -1.3137858802),
    "down-level0-repeat0-res-out": ((2, 8, 6, 8), -0.0382108751, 0.9090604952, -1.3851525317),
    "down-level0-repeat0-vit-block0-self-v": ((2, 8, 6, 8), -0.0589764510, 1.3481788384, -1.6331774360),
    "down-level0-repeat0-vit-out": ((2, 8, 6, 8), 0.0081470240, 2.4158286642, -1.7330271888),
    "down-level0-downsampler-out": ((2, 8, 3, 4), -1.4900679209, 3.1527486193, -0.1548990579),
    "mid-vit-block0-cross-q": ((2, 16, 3, 4), 0.0030857615, 0.3849066817, -0.3678153684),
    "mid-vit-block0-ffn-inner": ((2, 64, 3, 4), 0.0548106728, 0.0829659939, 0.0371678643),
    "mid-vit-out": ((2, 16, 3, 4), 0.0657464335, 2.7538181307, -6.0158474552),
    "up-level0-upsampler-out": ((2, 16, 6, 8), -0.0433013026, 0.5053314125, 0.2841241870),
    "up-level1-repeat0-vit-block0-self-q": ((2, 8, 6, 8), -0.0118055531, 1.3923563054, -0.8736913438),
    "up-level1-repeat0-vit-block0-self-k": ((2, 8, 6, 8), -0.0437710665, 1.3698470347, 1.9037998816),
    "up-level1-repeat0-vit-block0-cross-q": ((2, 8, 6, 8), 0.0277627299, 1.3065058104, -0.6693086870),
    "up-level1-repeat0-vit-block0-out": ((2, 8, 6, 8), 0.0866939822, 2.9713137533, 3.0716957413),
    "up-level1-repeat1-vit-out": ((2, 8, 6, 8), -0.1089336514, 3.7715094582, 2.8614468704),
    "unet-out": ((2, 4, 6, 8), -0.0668828720, 0.5053103306, -0.3277344159),
}
MAP = "up-level1-repeat0-vit-block0-cross-map"


def wave(step: float, *shape: int, function=torch.sin) -> torch.Tensor:
    return function(step * torch.arange(math.prod(shape), dtype=torch.float64)).reshape(shape)


@pytest.fixture(scope="module")
def pipe():
    return DiffusionFeaturePipeline(
        unet=tiny.golden_unet(), scheduler=diffusers.DDPMScheduler(**tiny.SCHEDULE)
    )


@pytest.fixture(scope="module")
def arguments(pipe):
    """The golden input reaches the network unchanged: divided by the signal's factor, no noise."""
    z = wave(0.1, 2, 4, 6, 8)
    signal = math.sqrt(float(pipe.scheduler.alphas_cumprod[50]))
    text = wave(0.3, 2, 3, 6, function=torch.cos)
    return {"latents": z / signal, "noise": torch.zeros_like(z), "prompt_embeds": text}


@pytest.fixture(scope="module")
def features(pipe, arguments):
    return pipe(**arguments, features=[*GOLDEN, MAP], early_exit=False)


@pytest.mark.parametrize("name", GOLDEN)
def test_activation_has_its_golden_value(features, name):
    shape, mean, deviation, element = GOLDEN[name]
    found = features.features[name]
    assert tuple(found.shape) == shape
    assert found.mean().item() == pytest.approx(mean, abs=1e-6)
    assert found.std().item() == pytest.approx(deviation, abs=1e-6)
    assert found[1, 0, 2, 3].item() == pytest.approx(element, abs=1e-6)


def test_cross_map_has_its_golden_value_and_sums_to_one(features):
    found = features.features[MAP]
    assert found.shape == (2, 3, 6, 8)
    assert found[0, :, 0, 0].tolist() == pytest.approx([0.4410336748, 0.2233752014, 0.3355911238], abs=1e-6)
    assert torch.allclose(found.sum(1), torch.ones(2, 6, 8, dtype=torch.float64), atol=1e-12)


def test_last_activation_is_the_sample(features):
    assert torch.equal(features.sample, features.features["unet-out"])


def test_number_of_names(pipe):
    names = [name for name in pipe.activation_names() if not name.endswith(("ffn-out", "vit-increment"))]
    assert len(names) == 57
    assert len([name for name in names if not is_extension(name)]) == 49


def test_noise_level_and_noisy_latent_have_their_golden_values(pipe):
    level = noise_level(pipe.scheduler, 50)
    assert level.alpha_bar == pytest.approx(0.9515766501, abs=1e-6)  # the scheduler computes in float32
    noisy = level.apply(wave(0.1, 2, 4, 6, 8), wave(0.2, 2, 4, 6, 8, function=torch.cos))
    assert noisy.mean().item() == pytest.approx(0.0082175690, abs=1e-6)
    assert noisy[1, 2, 3, 4].item() == pytest.approx(0.3838577313, abs=1e-6)


@pytest.mark.parametrize(
    ("t", "ratio", "sigma"),
    [
        (0, 0.0291672, 0.0283405),
        (50, 0.2255819, 0.1840611),
        (100, 0.3439312, 0.2559143),
        (261, 0.7246786, 0.4201818),
    ],
)
def test_matched_noise_has_its_golden_value(pipe, t, ratio, sigma):
    assert noise_level(pipe.scheduler, t).sigma == pytest.approx(ratio, abs=1e-6)
    flow = noise_level(diffusers.FlowMatchEulerDiscreteScheduler(), t)
    assert flow.sigma == pytest.approx(sigma, abs=1e-6)
    assert flow.time == pytest.approx(1000 * sigma, abs=1e-3)


# The real architectures, without weights.


SD15 = {
    "block_out_channels": (320, 640, 1280, 1280), "cross_attention_dim": 768, "attention_head_dim": 8,
    "sample_size": 64,
}  # fmt: skip
SDXL = {
    "block_out_channels": (320, 640, 1280),
    "down_block_types": ("DownBlock2D",) + ("CrossAttnDownBlock2D",) * 2,
    "up_block_types": ("CrossAttnUpBlock2D",) * 2 + ("UpBlock2D",),
    "transformer_layers_per_block": (1, 2, 10),
    "attention_head_dim": (5, 10, 20),
    "cross_attention_dim": 2048,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 256,
    "projection_class_embeddings_input_dim": 2816,
    "use_linear_projection": True,
    "sample_size": 128,
}
KINDS = ("self-q", "self-k", "self-v", "self-map", "cross-q", "cross-map", "ffn-inner", "out")


def meta(config):
    with torch.device("meta"):
        return DiffusionFeaturePipeline(
            unet=diffusers.UNet2DConditionModel(**config),
            vae=diffusers.AutoencoderKL(block_out_channels=(4, 4, 4, 4), norm_num_groups=4,
                                        down_block_types=("DownEncoderBlock2D",) * 4,
                                        up_block_types=("UpDecoderBlock2D",) * 4),
            scheduler=diffusers.DDPMScheduler(**tiny.SCHEDULE),
        )  # fmt: skip


@pytest.fixture(scope="module")
def sd15():
    return meta(SD15)


@pytest.fixture(scope="module")
def sdxl():
    return meta(SDXL)


def official_names(vits: dict[str, int], resnets: list[str], samplers: list[str]) -> set[str]:
    """The lists of the public configurations, put together from a count of parts."""
    names = {"unet-in", "unet-after-conv-in", "unet-out", *(f"{place}-out" for place in samplers)}
    for place in resnets:
        names |= {f"{place}-res-increment", f"{place}-res-out"}
    for place, blocks in vits.items():
        names |= {f"{place}-block{b}-{kind}" for b in range(blocks) for kind in KINDS} | {f"{place}-out"}
    return names


def test_sd15_has_the_197_official_names(sd15):
    down = [f"down-level{level}-repeat{r}" for level in range(4) for r in range(2)]
    up = [f"up-level{level}-repeat{r}" for level in range(4) for r in range(3)]
    vits = {f"{place}-vit": 1 for place in [*down[:6], *up[3:], "mid"]}
    samplers = [f"down-level{i}-downsampler" for i in range(3)] + [f"up-level{i}-upsampler" for i in range(3)]
    expected = official_names(vits, [*down, *up, "mid-repeat0", "mid-repeat1"], samplers)
    found = [t.name for t in denoiser_taps(sd15.unet) if not t.text and not is_extension(t.name)]
    assert len(expected) == 197
    assert len(found) == len(set(found))
    assert set(found) == expected


def test_sdxl_has_the_612_official_names(sdxl):
    down = [f"down-level{level}-repeat{r}" for level in range(3) for r in range(2)]
    up = [f"up-level{level}-repeat{r}" for level in range(3) for r in range(3)]
    vits = {f"{place}-vit": 2 for place in [*down[2:4], *up[3:6]]}
    vits |= {f"{place}-vit": 10 for place in [*down[4:], *up[:3], "mid"]}
    samplers = [f"down-level{i}-downsampler" for i in range(2)] + [f"up-level{i}-upsampler" for i in range(2)]
    expected = official_names(vits, [*down, *up, "mid-repeat0", "mid-repeat1"], samplers)
    found = {t.name for t in denoiser_taps(sdxl.unet) if not t.text and not is_extension(t.name)}
    assert len(expected) == 612
    assert found == expected


def test_pools_of_the_real_models(sd15, sdxl):
    for pipe, count in ((sd15, 33), (sdxl, 63)):
        pool = pipe.candidate_pool("paper")
        assert len(set(pool)) == len(pool) == count
        names = pipe.activation_names()
        assert [name for name in names if name in pool] == pool  # all exist, in the order of execution


@pytest.mark.parametrize(
    ("preset", "total", "grids"),
    [
        ("sd15", 3520, [16, 16, 32, 64]),
        ("sd15-legacy", 3520, [16, 32, 64, 64]),
        ("sdxl", 3840, [32, 32, 64, 64]),
        ("sdxl-legacy", 2240, [64, 128, 128]),
        ("pgv2", 1280, [32]),
        ("pgv2-complex", 1280, [32]),
        ("sdxl-t-complex/sdxl", 4480, [32, 32, 64, 64, 128]),
        ("sdxl-t-complex/pgv2", 2560, [32, 64, 128]),
    ],
)
def test_preset_channels_and_grids_on_the_real_models(sd15, sdxl, preset, total, grids):
    pipe, side = (sd15, 512) if PRESETS[preset].layout == "sd15" else (sdxl, 1024)
    info = pipe.activation_info(preset, side, side)
    assert tuple(entry["channels"] for entry in info.values()) == PRESETS[preset].widths
    assert sum(entry["channels"] for entry in info.values()) == PRESETS[preset].channels == total
    assert [entry["size"] for entry in info.values()] == [(grid, grid) for grid in grids]
    assert [entry["stride"][0] for entry in info.values()] == [side // grid for grid in grids]


def test_ensemble_part_has_2880_channels_and_154_of_maps(sd15):
    preset = PRESETS["sdxl-t/sd15"]
    info = sd15.activation_info([name for name in preset.names if name != "attn"], 512, 512)
    assert sum(entry["channels"] for entry in info.values()) == 2880
    assert preset.channels == 2880 + 154
    assert preset.widths[-1] == 2 * 77


def test_presets_memory_is_what_the_specification_measured(sd15):
    info = sd15.activation_info("preset", 512, 512)
    assert sum(entry["bytes"] for entry in info.values()) / 2 / 2**20 == pytest.approx(
        5.0, abs=0.05
    )  # in fp16
