"""Every family: non-square grids, block conventions, fused projections, LoRA, ControlNet, text."""

import diffusers
import pytest
import torch

from graftkit.diffusers import DiffusionFeaturePipeline
from tests.adapters.diffusers import tiny
from tests.adapters.diffusers.family_cases import FLOW, transformer_case


@pytest.mark.parametrize("family", ["dit", "pixart", "hunyuan", "sd3", "flux"])
def test_transformer_activations_lie_on_the_patch_grid(family):
    pipe, inputs = transformer_case(family)
    names = pipe.activation_names() + pipe.activation_names("*map*")
    out = pipe(**inputs, features=names)
    info = pipe.activation_info(names, 6, 8)
    for name in names:
        shape = out.features[name].shape
        assert shape[-2:] == (3, 4)
        assert info[name]["size"] == (3, 4)
        assert info[name]["stride"] == (2, 2)
        if not name.endswith("cross-map"):
            assert info[name]["channels"] == shape[1]
    assert out.names == names
    assert out.sample is None  # the last block ends it
    assert pipe.family == family
    assert pipe.preset is None


@pytest.mark.parametrize("family", ["dit", "pixart", "hunyuan", "sd3", "flux"])
def test_transformer_early_exit_changes_nothing(family):
    pipe, inputs = transformer_case(family)
    name = "vit-block1-out"
    full = pipe(**inputs, features=name, early_exit=False)
    assert full.sample is not None
    assert full.sample.shape[-2:] == (6, 8)
    assert torch.equal(full.features[name], pipe(**inputs, features=name).features[name])


def test_dit_puts_its_patches_where_they_belong():
    """diffusers' own DiT crashes on 6 x 8, or, on 2 x 8, gives a picture of 4 x 4."""
    pipe, inputs = transformer_case("dit")
    call = {"features": "vit-block0-out", "early_exit": False, "class_labels": [1, 2]}
    square = inputs["latents"][:, :, :, :6]
    own = []
    handle = pipe.transformer.register_forward_hook(lambda _, __, out: own.append(out[0]))
    out = pipe(latents=square, noise=square, **call).sample
    handle.remove()
    assert torch.equal(out, own[0])
    tokens = []
    pipe.transformer.proj_out_2.register_forward_hook(lambda _, __, out: tokens.append(out))
    for height, width in ((6, 8), (2, 8)):
        latents = inputs["latents"][:, :, :height, :width]
        sample = pipe(latents=latents, noise=latents, **call).sample
        assert sample.shape == (2, 8, height, width)
        for row in range(height):
            for column in range(width):
                token = tokens[-1][:, row // 2 * (width // 2) + column // 2]
                start = (row % 2 * 2 + column % 2) * 8
                assert torch.equal(sample[:, :, row, column], token[:, start : start + 8])
    steps = pipe(**inputs, features="vit-block0-out", denoise_from=52).features["vit-block0-out"]
    assert steps.shape == (2, 16, 3, 4)
    assert len(pipe.transformer.proj_out_2._forward_hooks) == 1


@pytest.mark.parametrize("family", ["sd3", "flux"])
def test_joint_blocks_return_their_image_stream(family):
    pipe, inputs = transformer_case(family)
    model = pipe.transformer
    blocks = [*model.transformer_blocks, *getattr(model, "single_transformer_blocks", [])]
    returned, handles = {}, []
    for index, block in enumerate(blocks):
        handles.append(
            block.register_forward_hook(lambda _, __, out, index=index: returned.__setitem__(index, out))
        )
    names = [f"vit-block{index}-out" for index in range(len(blocks))]
    out = pipe(**inputs, features=names, early_exit=False)
    for handle in handles:
        handle.remove()
    for index, name in enumerate(names):
        tokens = returned[index][1]
        assert tokens.shape == (2, 12, 16 if family == "sd3" else 32)
        assert torch.equal(out.features[name], tokens.transpose(1, 2).reshape(2, -1, 3, 4))
    # The double-stream output is not its normalised MLP input (a defect of the published code).
    seen = []
    blocks[0].ff.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    norm = pipe(**inputs, features="vit-block0-norm-out").features["vit-block0-norm-out"]
    assert torch.equal(norm, seen[0].transpose(1, 2).reshape(2, -1, 3, 4))
    assert not torch.allclose(norm, out.features["vit-block0-out"])


def test_flux_numbers_single_blocks_after_double_ones_and_cuts_the_text():
    pipe, inputs = transformer_case("flux")
    assert list(pipe.activation_names("*-block?-q")) == [f"vit-block{i}-q" for i in range(4)]
    rows = []
    handle = pipe.transformer.single_transformer_blocks[0].attn.to_q.register_forward_hook(
        lambda _, __, out: rows.append(out)
    )
    found = pipe(**inputs, features="vit-block2-q").features["vit-block2-q"]
    handle.remove()
    assert rows[0].shape[1] == 5 + 12
    assert torch.equal(found, rows[0][:, 5:].transpose(1, 2).reshape(2, -1, 3, 4))


def test_flux_unpacks_its_output_as_diffusers_does():
    pipe, inputs = transformer_case("flux")
    out = pipe(**inputs, features="vit-block0-out", early_exit=False)
    packed = []
    pipe.transformer.register_forward_hook(lambda _, __, value: packed.append(value[0]))
    pipe(**inputs, features="vit-block0-out", early_exit=False)
    expected = diffusers.FluxPipeline._unpack_latents(packed[0], 6 * 8, 8 * 8, 8)
    assert torch.equal(out.sample, expected)


def test_flux_with_guidance_embedding_runs():
    _, inputs = transformer_case("flux")
    pipe = DiffusionFeaturePipeline(transformer=tiny.flux(guidance_embeds=True), scheduler=FLOW())
    assert pipe(**inputs, features="vit-block0-out").features["vit-block0-out"].shape == (2, 32, 3, 4)


def test_flow_models_are_told_the_matched_time():
    for family, scale in (("sd3", 1.0), ("flux", 1e-3)):
        pipe, inputs = transformer_case(family)
        seen = []
        pipe.transformer.register_forward_pre_hook(
            lambda _, __, kwargs, seen=seen: seen.append(kwargs["timestep"]), with_kwargs=True
        )
        pipe(**inputs, features="vit-block0-out")
        pipe(**inputs, features="vit-block0-out", noise_match="linear")
        pipe(**inputs, features="vit-block0-out", sigma=0.3)
        values = [value[0].item() / scale for value in seen]
        assert values == pytest.approx([184.061, 50.0, 300.0], rel=1e-4)
        # Two steps down in sigma, by the network's velocity.
        assert (
            pipe(**inputs, features="vit-block0-out", denoise_from=52)
            .features["vit-block0-out"]
            .isfinite()
            .all()
        )


def test_transformers_have_a_generic_pool_and_no_preset():
    pipe, inputs = transformer_case("pixart")
    assert pipe.candidate_pool("generic") == [
        f"vit-block{i}-{kind}" for i in range(2) for kind in ("cross-q", "out")
    ]
    with pytest.raises(ValueError, match=r"no published preset for this PixArt.*candidate_pool"):
        pipe(**inputs)
    with pytest.raises(ValueError, match="expected 'generic'"):
        pipe.candidate_pool("paper")
