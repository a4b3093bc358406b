"""What families are conditioned on: text, sizes, classes, LoRA, ControlNet."""

import diffusers
import pytest
import torch
from diffusers.models.controlnets.multicontrolnet import MultiControlNetModel

from graftkit.diffusers import DiffusionBackbone, DiffusionFeaturePipeline, extract_features
from tests.adapters.diffusers import tiny
from tests.adapters.diffusers.family_cases import DDPM, G, transformer_case


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
