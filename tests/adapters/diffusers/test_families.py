"""Every family: non-square grids, block conventions, fused projections, LoRA, ControlNet, text."""

import diffusers
import pytest
import torch
from diffusers.models.controlnets.multicontrolnet import MultiControlNetModel

from graftkit.diffusers import DiffusionBackbone, DiffusionFeaturePipeline, extract_features
from tests.adapters.diffusers import tiny

FLOW = diffusers.FlowMatchEulerDiscreteScheduler
DDPM = lambda: diffusers.DDPMScheduler(**tiny.SCHEDULE)  # noqa: E731
G = lambda: torch.Generator().manual_seed(0)  # noqa: E731


def transformer_case(family):
    """Pipeline and inputs of a 6 x 8 latent, without text encoders."""
    draw = lambda *shape: torch.randn(*shape, generator=G())  # noqa: E731
    inputs = {"latents": draw(2, 4, 6, 8), "noise": draw(2, 4, 6, 8)}
    if family == "dit":
        inputs["class_labels"] = torch.tensor([1, 2])
    elif family == "pixart":
        inputs["prompt_embeds"] = draw(2, 5, 12)
    elif family == "hunyuan":
        inputs |= {"prompt_embeds": draw(2, 77, 12), "prompt_embeds_2": draw(2, 256, 16)}
        inputs |= {"prompt_attention_mask": torch.ones(2, 77), "prompt_attention_mask_2": torch.ones(2, 256)}
    else:
        width, pooled = (32, 24) if family == "sd3" else (12, 12)
        inputs |= {"prompt_embeds": draw(2, 5, width), "pooled_prompt_embeds": draw(2, pooled)}
    scheduler = FLOW() if family in ("sd3", "flux") else DDPM()
    return DiffusionFeaturePipeline(transformer=getattr(tiny, family)(), scheduler=scheduler), inputs


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


# Text, by the family's own pipeline.


@pytest.mark.parametrize("family", ["sd", "sdxl", "pixart", "sd3", "flux", "hunyuan"])
def test_prompts_are_encoded_by_the_source_pipeline(family, tmp_path):
    source = getattr(tiny, f"{family}_pipe")(*([] if family == "pixart" else [tmp_path]))
    pipe = DiffusionFeaturePipeline.from_pipe(source)
    text = pipe.encode_text(["a horse", "a street", "a horse"], 3)
    plain = {"prompt": ["a horse"], "num_images_per_prompt": 1, "device": torch.device("cpu")}
    if family == "flux":
        expected = source.encode_prompt(prompt_2=None, max_sequence_length=10, **plain)[:2]
    else:
        extra = {"prompt_2": None, "prompt_3": None} if family == "sd3" else {}
        expected = source.encode_prompt(**plain, **extra, do_classifier_free_guidance=False)
        expected = (expected[0], expected[2]) if family in ("sdxl", "sd3") else (expected[0],)
    assert torch.allclose(text.embeds[[0]], expected[0], atol=1e-4)
    assert torch.equal(text.embeds[0], text.embeds[2])
    assert not torch.equal(text.embeds[0], text.embeds[1])
    if len(expected) > 1:
        assert torch.allclose(text.pooled[[0]], expected[1], atol=1e-4)
    assert pipe.encode_text(None).embeds.shape[0] == 1


def test_a_prompt_changes_features_and_a_distinct_one_is_encoded_once(tmp_path):
    pipe = DiffusionFeaturePipeline.from_pipe(tiny.sd_pipe(tmp_path))
    calls = []
    handle = pipe.text_encoder.register_forward_pre_hook(
        lambda _, args, kwargs: calls.append(len((args or [kwargs["input_ids"]])[0])), with_kwargs=True
    )
    noise = torch.zeros(3, 4, 16, 16)
    name = "up-level1-repeat0-vit-block0-cross-out"
    out = pipe(tiny.image(3, 32, 32), ["a horse", "a street", "a horse"], name, noise=noise).features[name]
    handle.remove()
    assert calls == [2]
    same = pipe(tiny.image(3, 32, 32), "a horse", name, noise=noise).features[name]
    assert torch.allclose(out[[0, 2]], same[[0, 2]], atol=1e-6)
    assert not torch.allclose(out[1], same[1], atol=1e-4)
    empty = pipe(tiny.image(3, 32, 32), None, name, noise=noise).features[name]
    assert torch.equal(empty, pipe(tiny.image(3, 32, 32), "", name, noise=noise).features[name])


def test_sdxl_gets_sizes_and_pooled_text(tmp_path):
    pipe = DiffusionFeaturePipeline.from_pipe(tiny.sdxl_pipe(tmp_path))
    seen = []
    handle = pipe.unet.register_forward_pre_hook(
        lambda _, __, kwargs: seen.append(kwargs["added_cond_kwargs"]), with_kwargs=True
    )
    pipe(tiny.image(2, 32, 48), "a horse", generator=G())
    pipe(
        tiny.image(2, 32, 48), "a horse", generator=G(), original_size=(64, 96), crops_coords_top_left=(8, 4)
    )
    handle.remove()
    assert [entry["time_ids"][0].tolist() for entry in seen] == [
        [32, 48, 0, 0, 32, 48],
        [64, 96, 8, 4, 32, 48],
    ]
    assert seen[0]["text_embeds"].shape == (2, 12)


def test_fused_projections_give_the_same(tmp_path):
    pipe = DiffusionFeaturePipeline.from_pipe(tiny.sd_pipe(tmp_path))
    names = [f"up-level2-repeat0-vit-block0-{kind}" for kind in ("self-q", "self-k", "self-v", "cross-q")]
    names += ["up-level2-repeat0-vit-block0-self-map", "up-level2-repeat0-vit-block0-cross-map"]
    text = "up-level2-repeat0-vit-block0-cross-v"
    arguments = {"features": [*names, text], "noise": torch.zeros(1, 4, 16, 24), "as_tokens": True}
    before = pipe(tiny.image(1), **arguments).features
    pipe.unet.fuse_qkv_projections()
    fused = pipe(tiny.image(1), **arguments).features
    pipe.unet.unfuse_qkv_projections()
    for name in arguments["features"]:
        assert torch.allclose(before[name], fused[name], atol=1e-5), name


def test_fused_flux_and_sd3_give_the_same():
    for family in ("flux", "sd3"):
        pipe, inputs = transformer_case(family)
        names = [f"vit-block0-{k}" for k in ("q", "k", "v", "self-map", "cross-map")]
        names += ["vit-block2-q"] if family == "flux" else []
        before = pipe(**inputs, features=names).features
        pipe.transformer.fuse_qkv_projections()
        fused = pipe(**inputs, features=names).features
        for name in names:
            assert torch.allclose(before[name], fused[name], atol=1e-5), name


def test_lora_changes_what_it_wraps_and_leaves_nothing(tmp_path):
    peft = pytest.importorskip("peft")
    source = tiny.sd_pipe(tmp_path)
    pipe = DiffusionFeaturePipeline.from_pipe(source)
    name = "up-level1-repeat0-vit-block0-cross-q"
    arguments = {"features": name, "noise": torch.zeros(1, 4, 16, 24)}
    before = pipe(tiny.image(1), **arguments).features[name]
    source.unet.add_adapter(peft.LoraConfig(r=2, target_modules=["to_q"], init_lora_weights=False), "mine")
    with_lora = pipe(tiny.image(1), **arguments).features[name]
    assert not torch.allclose(before, with_lora, atol=1e-3)
    half = pipe(tiny.image(1), **arguments, cross_attention_kwargs={"scale": 0.5}).features[name]
    none = pipe(tiny.image(1), **arguments, cross_attention_kwargs={"scale": 0.0}).features[name]
    assert torch.allclose(none, before, atol=1e-5)
    assert not torch.allclose(half, with_lora, atol=1e-4)
    # The early exit leaves the scale as it was.
    assert torch.equal(with_lora, pipe(tiny.image(1), **arguments).features[name])
    source.unet.delete_adapters("mine")
    assert torch.allclose(before, pipe(tiny.image(1), **arguments).features[name], atol=1e-6)


def controlnet(unet, filled=True):
    net = tiny.seeded(
        lambda: diffusers.ControlNetModel.from_unet(unet, conditioning_embedding_out_channels=(4, 8))
    )
    if filled:
        with torch.no_grad():
            for index, parameter in enumerate(net.parameters()):
                parameter.add_(
                    0.05 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(index))
                )
    return net


def test_controlnet_adds_its_residuals(tmp_path):
    source = tiny.sd_pipe(tmp_path)
    unet, noise = source.unet, torch.zeros(2, 4, 16, 24)
    name = "up-level1-repeat0-vit-block0-cross-q"
    plain = DiffusionFeaturePipeline.from_pipe(source)(tiny.image(), features=name, noise=noise).features[
        name
    ]
    image = tiny.image(2, seed=1)
    nets = controlnet(unet), controlnet(unet)
    pipe = DiffusionFeaturePipeline.from_pipe(source, controlnet=nets[0])
    one = pipe(tiny.image(), features=name, noise=noise, controlnet_image=image).features[name]
    assert not torch.allclose(one, plain, atol=1e-3)
    assert torch.equal(
        plain, pipe(tiny.image(), features=name, noise=noise).features[name]
    )  # without an image
    zero = pipe(
        tiny.image(), features=name, noise=noise, controlnet_image=image, controlnet_conditioning_scale=0.0
    )
    assert torch.allclose(zero.features[name], plain, atol=1e-6)
    fresh = DiffusionFeaturePipeline.from_pipe(source, controlnet=controlnet(unet, filled=False))
    assert torch.equal(
        fresh(tiny.image(), features=name, noise=noise, controlnet_image=image).features[name], plain
    )
    # Two nets of half the weight are one.
    both = DiffusionFeaturePipeline.from_pipe(source, controlnet=MultiControlNetModel(list(nets)))
    halves = both(
        tiny.image(),
        features=name,
        noise=noise,
        controlnet_image=[image, image],
        controlnet_conditioning_scale=0.5,
    )
    assert torch.allclose(halves.features[name], one, atol=1e-4)
    parts = pipe(tiny.image(), features=name, noise=noise, controlnet_image=image, batch_size=1).features[
        name
    ]
    assert torch.allclose(parts, one, atol=1e-5)


@pytest.mark.parametrize("family", ["pixart", "sd3", "flux", "hunyuan"])
def test_one_prompt_serves_a_batch_to_the_last_layer(family, tmp_path):
    """An expanded row has stride 0, which Hunyuan-DiT's view refuses."""
    source = getattr(tiny, f"{family}_pipe")(*([] if family == "pixart" else [tmp_path]))
    pipe = DiffusionFeaturePipeline.from_pipe(source)
    call = {"features": "vit-block1-out", "noise": torch.zeros(2, 4, 12, 16), "early_exit": False}
    one, two = (pipe(tiny.image(2, 24, 32), prompt, **call) for prompt in ("a horse", ["a horse"] * 2))
    assert torch.allclose(one.sample, two.sample, atol=1e-5)
    assert one.sample.shape[-2:] == (12, 16)


def test_class_vectors_are_projected_and_labels_have_a_range():
    projecting = tiny.sd_unet(class_embed_type="projection", projection_class_embeddings_input_dim=6)
    name = "mid-repeat0-res-out"
    call = {"latents": torch.zeros(2, 4, 8, 8), "noise": torch.zeros(2, 4, 8, 8), "features": name}
    call["prompt_embeds"] = torch.zeros(1, 3, 12)
    pipe = DiffusionFeaturePipeline(unet=projecting, scheduler=DDPM())
    both = pipe(**call, class_labels=torch.eye(6)[:2]).features[name]
    one = pipe(**call, class_labels=torch.eye(6)[:1]).features[name]
    assert torch.allclose(both[0], one[0], atol=1e-6)
    assert not torch.allclose(both[1], one[1], atol=1e-4)
    assert pipe.activation_info(name)[name]["channels"] == 16
    with pytest.raises(ValueError, match=r"class_labels: expected floating vectors of shape \(1 or B, 6\)"):
        pipe(**call, class_labels=[1, 2])
    counting = DiffusionFeaturePipeline(unet=tiny.sd_unet(num_class_embeds=4), scheduler=DDPM())
    assert counting(**call, class_labels=3).features[name].shape[0] == 2
    for wrong in ([0, 4], -1):
        with pytest.raises(ValueError, match=r"class_labels: expected integers in 0\.\.3, got"):
            counting(**call, class_labels=wrong)
    with pytest.raises(TypeError, match=r"class_labels: expected integers in 0\.\.3, got"):
        counting(**call, class_labels=[0.5, 1.0])
    with pytest.raises(ValueError, match=r"class_labels: expected shape \(1,\) or \(B,\)"):
        counting(**call, class_labels=[[1], [2]])
    dit, inputs = transformer_case("dit")
    assert dit(**{**inputs, "class_labels": 1000}, features="vit-block0-out").features  # no class
    with pytest.raises(ValueError, match=r"integers in 0\.\.1000"):
        dit(**{**inputs, "class_labels": 1001}, features="vit-block0-out")


def test_a_class_conditional_transformer_is_a_backbone_and_is_extracted(tmp_path):
    pipe = DiffusionFeaturePipeline(transformer=tiny.dit(), scheduler=DDPM(), vae=tiny.vae())
    image, name = tiny.image(1, 24, 32), "vit-block0-out"
    expected = pipe(image, features=name, class_labels=7, generator=[G()]).features[name]
    backbone = DiffusionBackbone(pipe, [[name]], class_label=7)
    assert torch.allclose(backbone(2 * image - 1)[0], expected, atol=1e-5)
    with pytest.raises(ValueError, match="class_labels: expected labels, as this model is class-conditional"):
        DiffusionBackbone(pipe, [[name]])(2 * image - 1)
    with pytest.raises(TypeError, match="class_label: expected an integer"):
        DiffusionBackbone(pipe, [[name]], class_label="horse")
    seven = extract_features(pipe, [image], tmp_path, features=name, class_label=7)
    seven_order = seven.order
    generator = torch.Generator().manual_seed(int(seven.order[0][:15], 16))
    own = pipe(image, features=name, class_labels=7, generator=[generator]).features[name][0]
    assert torch.allclose(seven[0][name], own, atol=1e-6)
    assert extract_features(pipe, [image], tmp_path, features=name, class_label=8).order != seven_order


def test_sdxls_refiner_is_told_an_aesthetic_score(tmp_path):
    unet = tiny.sdxl_unet(projection_class_embeddings_input_dim=5 * 4 + 12, cross_attention_dim=12)
    source = diffusers.StableDiffusionXLImg2ImgPipeline(
        vae=tiny.vae(), text_encoder=None, tokenizer=None, text_encoder_2=tiny.clip(projection=True),
        tokenizer_2=tiny.clip_tokenizer(tmp_path), unet=unet, add_watermarker=False,
        scheduler=diffusers.EulerDiscreteScheduler(**tiny.SCHEDULE), requires_aesthetics_score=True,
    )  # fmt: skip
    pipe, seen = DiffusionFeaturePipeline.from_pipe(source), []
    pipe.unet.register_forward_pre_hook(
        lambda _, __, kwargs: seen.append(kwargs["added_cond_kwargs"]["time_ids"]), with_kwargs=True
    )
    assert pipe(tiny.image(1), "a horse").features
    assert seen[0].tolist() == [[32, 48, 0, 0, 6]]
    assert pipe.activation_info("unet-out")["unet-out"]["channels"] == 4
