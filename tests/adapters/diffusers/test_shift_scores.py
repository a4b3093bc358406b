"""The score and the variants on tiny pipelines of several families."""

import diffusers
import numpy as np
import pytest
import torch

from graftkit.diffusers import DiffusionFeaturePipeline, Technique
from tests.adapters.diffusers import tiny
from tests.adapters.diffusers.content_shift_pipes import EDGES, FAST, NAMES, controlnet, feature_pipe


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    return feature_pipe(tmp_path_factory.mktemp("sd"))


@pytest.fixture(scope="module")
def controlled(tmp_path_factory):
    return feature_pipe(tmp_path_factory.mktemp("sd"), controlnet=controlnet())


def test_score_is_the_formula_on_the_calls_features(controlled):
    from graftkit.methods.content_shift import shift_score

    picture = tiny.image()
    scores = controlled.content_shift_score(picture, EDGES, NAMES, timestep=100, anchor_timestep=500, seed=4)
    assert set(scores) == {"basic", "edges"}

    def features(technique, t):
        return controlled.extract_variants(picture, technique, NAMES, timestep=t, seed=4)[
            technique.name
        ].features

    basic = Technique("basic")
    for technique in (basic, EDGES):
        for name in NAMES:
            expected = shift_score(
                features(technique, 0)[name], features(technique, 100)[name], features(basic, 500)[name]
            )
            torch.testing.assert_close(scores[technique.name][name], expected)
    against_basic = controlled.content_shift_score(
        picture, EDGES, NAMES, timestep=100, anchor_timestep=500, seed=4, reference="basic", metric="cosine"
    )
    expected = shift_score(
        features(basic, 0)[NAMES[0]],
        features(EDGES, 100)[NAMES[0]],
        features(basic, 500)[NAMES[0]],
        metric="cosine",
    )
    torch.testing.assert_close(against_basic["edges"][NAMES[0]], expected)


def test_attention_features_want_a_fixed_prompt(plain):
    technique = Technique("w", prompt=["a horse", "a street"])
    with pytest.raises(ValueError, match="fixed prompt"):
        plain.extract_variants(tiny.image(), technique, ["attn"])
    found = plain.extract_variants(
        tiny.image(), technique, ["attn"], allow_varying_prompts=True, map_resolutions=(1 / 32, 1 / 2)
    )
    assert torch.isfinite(found["w"].features["attn"]).all()


def test_noise_is_shared_unless_asked(plain):
    twice = [Technique("a"), Technique("b")]
    same = plain.extract_variants(tiny.image(), twice, NAMES)
    apart = plain.extract_variants(tiny.image(), twice, NAMES, share_noise=False)
    assert torch.equal(same["a"].features[NAMES[0]], same["b"].features[NAMES[0]])
    assert not torch.allclose(apart["a"].features[NAMES[0]], apart["b"].features[NAMES[0]])
    assert torch.equal(apart["a"].features[NAMES[0]], same["a"].features[NAMES[0]])


@pytest.mark.parametrize("family", ["sdxl", "sd3", "pixart"])
def test_other_families(family, tmp_path):
    source = {
        "sdxl": lambda: tiny.sdxl_pipe(tmp_path), "sd3": lambda: tiny.sd3_pipe(tmp_path),
        "pixart": tiny.pixart_pipe,
    }[family]()  # fmt: skip
    pipe = DiffusionFeaturePipeline.from_pipe(source)
    pipe.set_progress_bar_config(disable=True)
    name = pipe.activation_names()[-3]
    techniques = [Technique("words", prompt=["a horse", "a street"])]
    report = pipe.gate(tiny.image(2, 32, 32), techniques, **FAST)
    assert all(np.isfinite(row["gain_mean"]) for row in report.table)
    scores = pipe.content_shift_score(tiny.image(2, 32, 32), techniques, [name])
    assert scores["words"][name].shape == (2,)
    with pytest.raises(ValueError, match="technique 'edges': controlnet_image"):
        pipe.gate(tiny.image(2, 32, 32), EDGES, **FAST)


def test_pixel_models_without_text():
    unet = tiny.seeded(
        lambda: diffusers.UNet2DModel(
            sample_size=16, block_out_channels=(8, 16), norm_num_groups=4, layers_per_block=1,
            down_block_types=("DownBlock2D", "AttnDownBlock2D"),
            up_block_types=("AttnUpBlock2D", "UpBlock2D"),
        )
    )  # fmt: skip
    pipe = DiffusionFeaturePipeline(scheduler=diffusers.DDPMScheduler(), unet=unet)
    pipe.set_progress_bar_config(disable=True)
    report = pipe.gate(tiny.image(2, 16, 16), Technique("same"), keep_images=True, **FAST)
    assert report.images["same"].shape == (2, 2, 3, 16, 16)
    with pytest.raises(ValueError, match=r"technique 'w': prompt.*no text encoder"):
        pipe.gate(tiny.image(2, 16, 16), Technique("w", prompt="a"), **FAST)


def test_the_default_is_a_coarse_level(controlled):
    scores = controlled.content_shift_score(tiny.image(1), EDGES)
    assert list(scores["edges"]) == controlled.activation_names("up-level1-*")
    assert scores["edges"]


def test_the_default_asks_for_names_where_a_model_has_no_such_level(tmp_path):
    pipe = DiffusionFeaturePipeline.from_pipe(tiny.sd3_pipe(tmp_path))
    words = r"features: no activation matches 'up-level1-\*'.* such as 'vit-block0-q'.*activation_names"
    with pytest.raises(ValueError, match=words):
        pipe.content_shift_score(tiny.image(1), Technique("w", prompt="a horse"))
