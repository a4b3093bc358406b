"""What a call does with batches, noise, timesteps, sizes, precision and randomness."""

import warnings

import diffusers
import numpy as np
import PIL.Image
import pytest
import torch

from graftkit.diffusers import DiffusionFeaturePipeline
from graftkit.diffusers.noising import noise_level, noise_level_at_sigma
from tests.adapters.diffusers import tiny

NAMES = ["up-level1-repeat0-vit-block0-cross-q", "up-level2-repeat1-res-out"]


@pytest.fixture(scope="module")
def pipe(tmp_path_factory):
    return DiffusionFeaturePipeline.from_pipe(tiny.sd_pipe(tmp_path_factory.mktemp("sd")))


def generators(*seeds):
    return [torch.Generator().manual_seed(seed) for seed in seeds]


def equal(a, b, rows=slice(None), tolerance=1e-5):
    return all(torch.allclose(a.features[n], b.features[n][rows], atol=tolerance) for n in a.features)


def test_a_batch_equals_its_images_one_by_one(pipe):
    images, prompts = tiny.image(3), ["a horse", "a street", "photo"]
    batch = pipe(images, prompts, NAMES, generator=generators(0, 1, 2))
    for i in range(3):
        one = pipe(images[i : i + 1], prompts[i], NAMES, generator=generators(i))
        assert equal(one, batch, slice(i, i + 1))
    order = [2, 0, 1]
    mixed = pipe(images[order], [prompts[i] for i in order], NAMES, generator=generators(*order))
    assert equal(mixed, batch, order)


def test_batch_size_changes_nothing_and_counts_batches(pipe, capsys):
    images = tiny.image(5)
    whole = pipe(images, "a horse", NAMES, generator=generators(*range(5)))
    assert capsys.readouterr().err == ""
    parts = pipe(images, "a horse", NAMES, generator=generators(*range(5)), batch_size=2)
    assert equal(parts, whole)
    assert "3/3" in capsys.readouterr().err
    pipe.set_progress_bar_config(disable=True)
    pipe(images, "a horse", NAMES, generator=generators(*range(5)), batch_size=2)
    assert capsys.readouterr().err == ""
    pipe.set_progress_bar_config()


def test_same_generator_same_features_and_no_global_state(pipe):
    state = torch.get_rng_state()
    first = pipe(tiny.image(), features=NAMES, generator=torch.Generator().manual_seed(3))
    second = pipe(tiny.image(), features=NAMES, generator=torch.Generator().manual_seed(3))
    for name in NAMES:
        assert torch.equal(first.features[name], second.features[name])
    free = [pipe(tiny.image(), features=NAMES).features[NAMES[0]] for _ in range(2)]
    assert not torch.equal(*free)  # without a generator it is random, and not from the global state
    assert torch.equal(torch.get_rng_state(), state)


def test_the_mode_needs_no_randomness_and_the_sample_draws(pipe):
    noise = torch.randn(2, 4, 16, 24, generator=torch.Generator().manual_seed(0))
    first = pipe(tiny.image(), features=NAMES, noise=noise)
    assert equal(first, pipe(tiny.image(), features=NAMES, noise=noise), tolerance=0)
    sampled = [
        pipe(tiny.image(), features=NAMES, noise=noise, latent_mode="sample", generator=g).features[NAMES[0]]
        for g in generators(0, 0, 1)
    ]
    assert torch.equal(sampled[0], sampled[1])
    assert not torch.equal(sampled[0], sampled[2])
    assert not torch.equal(sampled[0], first.features[NAMES[0]])


def test_several_draws_are_the_mean_of_single_calls(pipe):
    noise = torch.randn(3, 2, 4, 16, 24, generator=torch.Generator().manual_seed(0))
    mean = pipe(tiny.image(), features=NAMES, noise=noise, num_noise=3)
    singles = [pipe(tiny.image(), features=NAMES, noise=draw) for draw in noise]
    for name in NAMES:
        expected = torch.stack([single.features[name] for single in singles]).mean(0)
        assert torch.allclose(mean.features[name], expected, atol=1e-5)


def test_several_timesteps_share_one_encoding(pipe, monkeypatch):
    calls = []
    original = type(pipe.vae).encode
    monkeypatch.setattr(type(pipe.vae), "encode", lambda *a, **k: calls.append(1) or original(*a, **k))
    noise = torch.randn(2, 4, 16, 24, generator=torch.Generator().manual_seed(0))
    both = pipe(tiny.image(), features=NAMES, timestep=[0, 261], noise=noise)
    assert len(calls) == 1
    assert both.names == [f"{name}@{t}" for t in (0, 261) for name in NAMES]
    alone = pipe(tiny.image(), features=NAMES, timestep=261, noise=noise)
    assert torch.equal(both.features[f"{NAMES[1]}@261"], alone.features[NAMES[1]])
    again = pipe(latents=alone.latents, features=NAMES, timestep=261, noise=noise)
    assert torch.equal(again.features[NAMES[1]], alone.features[NAMES[1]])


SCHEDULERS = ["DDPM", "DDIM", "PNDM", "EulerDiscrete", "DPMSolverMultistep", "UniPCMultistep"]


@pytest.mark.parametrize("name", SCHEDULERS)
@pytest.mark.parametrize("t", [0, 50, 999])
def test_a_timestep_is_literal_under_every_scheduler(name, t):
    scheduler = getattr(diffusers, f"{name}Scheduler")(**tiny.SCHEDULE)
    level = noise_level(scheduler, t)
    reference = diffusers.DDPMScheduler(**tiny.SCHEDULE)
    clean, draw = torch.ones(1, 1, 1, 2), torch.tensor([[[[0.5, -2.0]]]])
    expected = reference.add_noise(clean, draw, torch.tensor([t]))
    assert level.time == t
    assert torch.allclose(level.apply(clean, draw), expected, atol=1e-5)
    # Euler's own form: (z0 + sigma n) / sqrt(1 + sigma^2).
    assert torch.allclose((clean + level.sigma * draw) / (1 + level.sigma**2) ** 0.5, expected, atol=1e-5)


@pytest.mark.parametrize("name", SCHEDULERS)
def test_the_schedulers_state_is_untouched_and_the_features_agree(name):
    scheduler = getattr(diffusers, f"{name}Scheduler")(**tiny.SCHEDULE)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # some of diffusers' own are behind NumPy
        scheduler.set_timesteps(10)
    before = {k: v.clone() if isinstance(v, torch.Tensor) else v for k, v in vars(scheduler).items()}
    noise, latents, text = (
        torch.randn(1, 4, 16, 8, generator=torch.Generator().manual_seed(0)),
        torch.ones(1, 4, 16, 8),
        torch.zeros(1, 3, 12),
    )
    own = DiffusionFeaturePipeline(unet=tiny.sd_unet(), scheduler=scheduler)
    ddim = DiffusionFeaturePipeline(unet=tiny.sd_unet(), scheduler=diffusers.DDIMScheduler(**tiny.SCHEDULE))
    found, expected = (
        p(latents=latents, noise=noise, prompt_embeds=text, features=NAMES) for p in (own, ddim)
    )
    assert equal(found, expected)
    after = vars(scheduler)
    assert before.keys() == after.keys()
    for key, value in before.items():
        same = torch.equal(value, after[key]) if isinstance(value, torch.Tensor) else value is after[key]
        assert same or value == after[key]


def test_sigma_and_timestep_say_the_same():
    scheduler = diffusers.DDIMScheduler(**tiny.SCHEDULE)
    level = noise_level(scheduler, 261)
    direct = noise_level_at_sigma(scheduler, level.sigma)
    assert direct.time == pytest.approx(261, abs=1e-3)
    assert direct.alpha_bar == pytest.approx(level.alpha_bar, abs=1e-6)
    flow = diffusers.FlowMatchEulerDiscreteScheduler()
    assert noise_level_at_sigma(flow, 0.184).time == pytest.approx(184)
    assert noise_level(flow, 50, noise_match="linear").sigma == pytest.approx(0.05)


def test_entering_later_steps_once_a_timestep_and_reads_at_the_end(pipe):
    calls = []
    handle = pipe.unet.register_forward_pre_hook(
        lambda _, __, kwargs: calls.append(int(kwargs["timestep"][0])), with_kwargs=True
    )
    noise = torch.randn(2, 4, 16, 24, generator=torch.Generator().manual_seed(0))
    found = pipe(tiny.image(), features=NAMES, noise=noise, denoise_from=60)
    handle.remove()
    assert calls == [*range(60, 50, -1), 50]
    # The same steps with diffusers' DDIM over a schedule of 1000.
    ddim = diffusers.DDIMScheduler(**tiny.SCHEDULE, clip_sample=False, set_alpha_to_one=False)
    ddim.set_timesteps(1000)
    text = pipe.encode_text(None).embeds.expand(2, -1, -1)
    latents = found.latents
    noisy = ddim.add_noise(latents, noise, torch.tensor([60]))
    with torch.no_grad():
        for t in range(60, 50, -1):
            noisy = ddim.step(pipe.unet(noisy, t, text).sample, t, noisy).prev_sample
    signal = float(ddim.alphas_cumprod[50]) ** 0.5
    expected = pipe(latents=noisy / signal, noise=torch.zeros_like(noise), features=NAMES)
    assert equal(found, expected, tolerance=1e-4)


@pytest.mark.parametrize(("height", "width"), [(32, 80), (48, 16), (50, 70)])
def test_sizes_need_be_neither_square_nor_multiples(pipe, height, width):
    out = pipe(tiny.image(1, height, width), features=NAMES, generator=torch.Generator().manual_seed(0))
    rows, columns = height // 16 * 16, width // 16 * 16
    assert out.features[NAMES[0]].shape[-2:] == (rows // 8, columns // 8)
    assert out.strides == {NAMES[0]: (8, 8), NAMES[1]: (4, 4)}


def test_latents_of_any_size_work(pipe):
    out = pipe(latents=torch.zeros(1, 4, 11, 13), features=["up-level3-repeat0-vit-block0-self-k", *NAMES])
    assert out.features["up-level3-repeat0-vit-block0-self-k"].shape[-2:] == (11, 13)
    assert out.features[NAMES[0]].shape[-2:] == (3, 4)


def test_every_kind_of_picture_gives_the_same(pipe):
    array = (tiny.image(1).permute(0, 2, 3, 1).numpy() * 255).round().astype(np.uint8)
    noise = torch.randn(1, 4, 16, 24, generator=torch.Generator().manual_seed(0))
    forms = [
        PIL.Image.fromarray(array[0]),
        [PIL.Image.fromarray(array[0])],
        array,
        array[0],
        torch.from_numpy(array).permute(0, 3, 1, 2),
        torch.from_numpy(array / 255.0).permute(0, 3, 1, 2).float(),
    ]
    found = [pipe(form, features=NAMES, noise=noise) for form in forms]
    assert all(equal(found[0], other, tolerance=1e-4) for other in found[1:])


def test_resizing_follows_the_request(pipe):
    picture = PIL.Image.fromarray(np.zeros((40, 60, 3), np.uint8))
    for mode in ("default", "fill", "crop"):
        out = pipe(picture, features=NAMES, height=64, width=32, resize_mode=mode)
        assert out.latents.shape[-2:] == (32, 16)
    assert pipe(picture, features=NAMES).latents.shape[-2:] == (16, 24)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_precision_is_kept_and_agrees(dtype):
    unet = tiny.sd_unet()
    scheduler = diffusers.DDIMScheduler(**tiny.SCHEDULE)
    inputs = {
        "latents": torch.ones(1, 4, 16, 16), "prompt_embeds": torch.zeros(1, 3, 12), "features": NAMES,
        "noise": torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(0)),
    }  # fmt: skip
    expected = DiffusionFeaturePipeline(unet=unet, scheduler=scheduler)(**inputs)
    other = DiffusionFeaturePipeline(unet=tiny.sd_unet().to(dtype), scheduler=scheduler)(**inputs)
    tolerance = {torch.float64: 1e-4, torch.float16: 0.02, torch.bfloat16: 0.2}[dtype]
    for name in NAMES:
        assert other.features[name].dtype == dtype
        assert torch.allclose(other.features[name].float(), expected.features[name], atol=tolerance)


def test_output_dtype_and_device(pipe):
    out = pipe(tiny.image(), features=NAMES, output_dtype=torch.float16, output_device="cpu")
    assert out.features[NAMES[0]].dtype == torch.float16
    assert pipe.unet.dtype == torch.float32


def test_class_conditional_and_pixel_space_models():
    config = {
        "sample_size": 16,
        "in_channels": 3,
        "out_channels": 3,
        "block_out_channels": (8, 8),
        "norm_num_groups": 4,
        "down_block_types": ("DownBlock2D", "AttnDownBlock2D"),
        "up_block_types": ("AttnUpBlock2D", "UpBlock2D"),
        "attention_head_dim": 4,
        "layers_per_block": 1,
    }
    scheduler = diffusers.DDPMScheduler()
    plain = DiffusionFeaturePipeline(
        unet=tiny.seeded(lambda: diffusers.UNet2DModel(**config)), scheduler=scheduler
    )
    names = plain.activation_names()
    assert "up-level0-repeat0-vit-block0-self-q" in names
    out = plain(tiny.image(2, 16, 24), features=[*names, "up-level0-repeat0-vit-block0-self-map"])
    assert out.features["unet-in"].shape == (2, 3, 16, 24)
    assert out.features["up-level0-repeat0-vit-block0-self-q"].shape == (2, 8, 8, 12)
    assert out.features["up-level0-repeat0-vit-block0-self-map"].shape == (2, 96, 8, 12)
    assert plain.activation_info(names, 16, 24)["up-level0-repeat0-vit-out"]["size"] == (8, 12)
    classes = tiny.seeded(lambda: diffusers.UNet2DModel(**config, num_class_embeds=5))
    labelled = DiffusionFeaturePipeline(unet=classes, scheduler=scheduler)
    noise = torch.zeros(2, 3, 16, 16)
    found = [
        labelled(tiny.image(2, 16, 16), features="mid-repeat0-res-out", noise=noise, class_labels=c).features
        for c in (1, [1, 1], torch.tensor([1, 2]))
    ]
    a, b, c = (f["mid-repeat0-res-out"] for f in found)
    assert torch.equal(a, b)
    assert torch.equal(a[0], c[0])
    assert not torch.equal(a[1], c[1])


def test_decoded_prediction_needs_the_whole_forward(pipe):
    out = pipe(tiny.image(), features=["vae-out", NAMES[0]], generator=torch.Generator().manual_seed(0))
    assert out.sample is not None
    assert out.names == ["vae-out", NAMES[0]]
    assert out.features["vae-out"].shape == (2, 3, 32, 48)
    assert out.strides["vae-out"] == (1, 1)


def test_text_tokens_are_given_only_where_asked(pipe):
    name = "up-level1-repeat0-vit-block0-cross-k"
    assert pipe(tiny.image(), features=name, as_tokens=True).features[name].shape == (2, 16, 16)


def test_a_tuple_holds_the_same(pipe):
    noise = torch.zeros(2, 4, 16, 24)
    out = pipe(tiny.image(), features=NAMES, noise=noise)
    features, strides, *_ = pipe(tiny.image(), features=NAMES, noise=noise, return_dict=False)
    assert features.keys() == out.features.keys()
    assert all(torch.equal(features[n], out.features[n]) for n in NAMES)
    assert strides == out.strides
    assert repr(out).startswith(f"DiffusionFeatureOutput({NAMES[0]}: (2, ")
