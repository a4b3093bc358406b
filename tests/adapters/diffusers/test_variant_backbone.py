"""Variants blended inside a backbone, and before a probe: the same maps, trained, saved, moved, refused."""

import copy
import pickle

import pytest
import torch

from graftkit.diffusers import FeatureAggregator, FeatureAmalgamation, Technique, VariantBackbone
from graftkit.methods.content_shift import fit_amalgamation
from graftkit.sklearn import DenseProbe
from tests.adapters.diffusers import tiny
from tests.adapters.diffusers.content_shift_pipes import EDGES, NAMES, controlnet, feature_pipe

LEVELS = [[NAMES[1]], [NAMES[0], "up-level1-repeat2-res-out"]]
WORDS = Technique("words", prompt="a horse")
BOTH = [WORDS, EDGES]


@pytest.fixture(scope="module")
def pipe(tmp_path_factory):
    return feature_pipe(tmp_path_factory.mktemp("sd"), controlnet=controlnet())


def pixels(count=2):
    return 2 * tiny.image(count) - 1


def test_the_mean_of_the_pipelines_variants(pipe):
    """Image by image, as extract_variants draws another noise for each image of a batch."""
    backbone = VariantBackbone(pipe, BOTH, [[NAMES[1]]], seed=3)
    (found,) = backbone(pixels())
    assert backbone.penalty == 0
    for row in range(2):
        picture = tiny.image()[row : row + 1]
        one = pipe.extract_variants(picture, BOTH, [NAMES[1]], seed=3)
        mean = (one["words"].features[NAMES[1]] + one["edges"].features[NAMES[1]]) / 2
        torch.testing.assert_close(found[row : row + 1], mean, atol=1e-4, rtol=1e-4)


def test_sizes_are_announced_and_the_size_of_the_batch_does_not_matter(pipe):
    backbone = VariantBackbone(pipe, BOTH, LEVELS, {"kind": "conv", "num_assigners": 2}, size=(32, 48)).eval()
    maps = backbone(pixels())
    assert backbone.feature_info.channels() == [m.shape[1] for m in maps] == [2 * 8, 2 * 32]
    assert backbone.feature_info.reduction() == [32 // m.shape[-2] for m in maps]
    single = [torch.cat(parts) for parts in zip(*(backbone(x[None]) for x in pixels()), strict=True)]
    for a, b in zip(maps, single, strict=True):
        torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-4)
    # Sides that do not divide, and values that are normalised otherwise.
    assert backbone(torch.zeros(1, 3, 37, 50))[0].shape[-2:] == maps[0].shape[-2:]
    normed = VariantBackbone(pipe, BOTH, LEVELS, mean=[0.5] * 3, std=[0.25] * 3)
    plain = VariantBackbone(pipe, BOTH, LEVELS)
    torch.testing.assert_close(normed(2 * pixels())[0], plain(pixels())[0], atol=1e-4, rtol=1e-4)


def test_only_assigners_learn_and_the_penalty_reaches_them(pipe):
    backbone = VariantBackbone(pipe, BOTH, LEVELS, {"kind": "conv", "sparsity": 0.5, "dropout": 0.0}).train()
    assert not any(part.training for part in (backbone.denoiser, backbone.vae, backbone.controlnet))
    assert backbone.amalgamations.training
    backbone(pixels())
    assert -1.0 <= backbone.penalty.item() <= -0.5 * 2 * 2**-0.5 + 1e-6  # two levels, norms in [1/sqrt 2, 1]
    backbone.penalty.backward()
    learned = {name for name, p in backbone.named_parameters() if p.requires_grad}
    assert learned == {name for name, _ in backbone.named_parameters() if name.startswith("amalgamations")}
    assert all(
        p.grad.abs().sum() > 0 for n, p in backbone.named_parameters() if n in learned and "0.weight" in n
    )


def test_it_is_saved_copied_and_pickled(pipe):
    backbone = VariantBackbone(pipe, BOTH, [[NAMES[1]]], {"kind": "conv", "sparsity": 1.0}).eval()
    expected = backbone(pixels())[0]
    copied, unpickled = copy.deepcopy(backbone), pickle.loads(pickle.dumps(backbone))
    with torch.no_grad():
        for parameter in backbone.amalgamations.parameters():
            parameter.add_(0.3 * torch.sin(torch.arange(parameter.numel()).reshape(parameter.shape)))
    assert not torch.allclose(backbone(pixels())[0], expected, atol=1e-3)
    for other in (copied, unpickled):
        assert torch.equal(other(pixels())[0], expected)
    assert any(name.startswith("texts.0.embeds") for name in backbone.state_dict())
    backbone.load_state_dict(copied.state_dict())
    assert torch.equal(backbone(pixels())[0], expected)


def test_each_technique_counts_and_the_pipeline_is_left_alone(pipe):
    state = torch.get_rng_state()
    backbone = VariantBackbone(pipe, [WORDS, EDGES, Technique("plain")], [[NAMES[1]]], prompt="a street")
    words, edges, plain = (maps[NAMES[1]] for maps in backbone.variants(pixels()))
    assert not torch.allclose(words, plain, atol=1e-3)
    assert not torch.allclose(edges, plain, atol=1e-3)
    assert torch.equal(torch.get_rng_state(), state)
    assert not any(m._forward_hooks for m in pipe.unet.modules())
    (two,) = VariantBackbone(pipe, Technique("s", prompt="a street"), [[NAMES[1]]])(pixels())
    torch.testing.assert_close(two, plain, atol=1e-4, rtol=1e-4)


def test_the_attention_feature_is_joined_behind_every_level(pipe):
    """The cross maps of one technique, by hand; not weighed, and announced."""
    street = Technique("attention", prompt="a street")
    amalgamation = {"kind": "conv", "num_assigners": 2}
    backbone = VariantBackbone(pipe, BOTH, LEVELS, amalgamation, attention=street, size=(32, 48)).eval()
    plain = VariantBackbone(pipe, BOTH, LEVELS, amalgamation, size=(32, 48)).eval()
    plain.amalgamations.load_state_dict(backbone.amalgamations.state_dict())
    found, without = backbone(pixels()), plain(pixels())
    assert backbone.feature_info.channels() == [m.shape[1] for m in found]
    for row in range(2):
        picture = tiny.image()[row : row + 1]
        asked = {"seed": 0, "map_resolutions": (1e-3, 1.0)}
        attn = pipe.extract_variants(picture, street, ["attn"], **asked)["attention"].features["attn"]
        for level, base in zip(found, without, strict=True):
            torch.testing.assert_close(level[:, : base.shape[1]], base, atol=1e-5, rtol=1e-4)
            joined = level[row : row + 1, base.shape[1] :]
            expected = torch.nn.functional.interpolate(
                attn, joined.shape[-2:], mode="bilinear", align_corners=False, antialias=False
            )
            assert joined.shape == expected.shape
            assert torch.corrcoef(torch.stack([joined.flatten(), expected.flatten()]))[0, 1] > 0.99
    with pytest.raises(ValueError, match="attention_maps: expected names of cross-attention maps"):
        VariantBackbone(pipe, BOTH, LEVELS, attention=street, attention_maps=NAMES)
    with pytest.raises(ValueError, match="technique 'a': prompt: expected one text for all images"):
        VariantBackbone(pipe, BOTH, LEVELS, attention=Technique("a", prompt=["a", "of"]))
    with pytest.raises(TypeError, match="techniques"):
        VariantBackbone(pipe, BOTH, LEVELS, attention="attn")


@pytest.mark.parametrize(
    ("techniques", "options", "error", "words"),
    [
        ([], {}, ValueError, "at least one technique"),
        ([WORDS, WORDS], {}, ValueError, "duplicate"),
        (Technique("w", prompt=["a", "photo"]), {}, ValueError, "technique 'w': prompt: expected one text"),
        (Technique("l", adapters="z"), {}, ValueError, "technique 'l': adapters: unknown"),
        (Technique("s", denoise_from=20), {}, ValueError, "technique 's': denoise_from"),
        (WORDS, {"amalgamation": "mean"}, TypeError, "amalgamation: expected a mapping"),
        (WORDS, {"amalgamation": {"kind": "nn"}}, ValueError, "kind"),
        (WORDS, {"levels": [["nothing-out"]]}, ValueError, "unknown activation"),
    ],
)
def test_arguments_are_checked(pipe, techniques, options, error, words):
    with pytest.raises(error, match=words):
        VariantBackbone(pipe, techniques, **{"levels": LEVELS, **options})


def test_images_are_checked(pipe):
    with pytest.raises(ValueError, match=r"x: expected shape \(B, 3, H, W\)"):
        VariantBackbone(pipe, WORDS, LEVELS)(pixels()[0])


def test_a_technique_without_its_controlnet_is_refused(tmp_path):
    with pytest.raises(ValueError, match="technique 'edges': controlnet_image"):
        VariantBackbone(feature_pipe(tmp_path), EDGES, LEVELS)


def test_blends_go_into_a_probe(pipe):
    """Variants to maps to a blend to scikit-learn's probe, mean and trained."""
    pictures = tiny.image(6)
    labels = (pictures.mean(1) > 0.5).long()
    found = pipe.extract_variants(pictures, BOTH, LEVELS[1])
    maps = torch.stack([FeatureAggregator((16, 24))(one) for one in found.values()], 1)
    mean = FeatureAmalgamation(maps.shape[2], 2, kind="mean")
    learned = FeatureAmalgamation(maps.shape[2], 2, sparsity=0.01)
    fit_amalgamation(learned, maps, labels, steps=5, random_state=0)
    for blend in (mean, learned):
        fused = blend(maps)[0].detach()
        probe = DenseProbe(random_state=0).fit(fused[:4], labels[:4].numpy())
        assert probe.predict(fused[4:]).shape == (2, 32, 48)
        assert probe.n_channels_ == maps.shape[2]
