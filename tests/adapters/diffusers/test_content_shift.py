"""The guideline and the score on real diffusers pipelines of tiny models: pairing, controls, restoration."""

import copy
import warnings

import diffusers
import numpy as np
import pytest
import torch
from diffusers.models.controlnets.multicontrolnet import MultiControlNetModel

from graftkit.diffusers import DiffusionFeaturePipeline, GateReport, Technique
from graftkit.diffusers.reconstruction import levels_of
from graftkit.diffusers.techniques import applied, negative_control
from tests.adapters.diffusers import tiny

NAMES = ["up-level1-repeat0-vit-block0-cross-q", "up-level2-repeat1-res-out"]
FAST = {"num_inference_steps": 4, "strength": 0.75, "seeds": (0, 1)}


def controlnet(seed: int = 0, unet=None, trained: bool = True):
    net = diffusers.ControlNetModel.from_unet(
        unet or tiny.sd_unet(), conditioning_embedding_out_channels=(4, 4)
    ).eval()
    if trained:  # its output layers start at zero
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for block in (
                *net.controlnet_down_blocks,
                net.controlnet_mid_block,
                net.controlnet_cond_embedding.conv_out,
            ):
                block.weight.normal_(0, 0.3, generator=generator)
    return net


def feature_pipe(folder, **changes):
    changes = dict(changes)
    net = changes.pop("controlnet", None)
    pipe = DiffusionFeaturePipeline.from_pipe(tiny.sd_pipe(folder, **changes), controlnet=net)
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    return feature_pipe(tmp_path_factory.mktemp("sd"))


@pytest.fixture(scope="module")
def controlled(tmp_path_factory):
    return feature_pipe(tmp_path_factory.mktemp("sd"), controlnet=controlnet())


@pytest.fixture
def adapted(tmp_path):
    """A pipeline whose U-Net carries two LoRA adapters, the first of them active."""
    peft = pytest.importorskip("peft", reason="LoRA needs peft")
    pipe = feature_pipe(tmp_path)
    config = peft.LoraConfig(r=2, lora_alpha=2, target_modules=["to_q", "to_v"], init_lora_weights=False)
    with warnings.catch_warnings(), torch.random.fork_rng():
        warnings.simplefilter("ignore")  # peft warns of a second adapter
        for name in ("x", "y"):
            pipe.unet.add_adapter(config, name)
    pipe.unet.set_adapters(["x"], [0.7])
    return pipe


EDGES = Technique("edges", controlnet_image="input-sobel")


# -- the guideline ------------------------------------------------------------------------------------


def test_a_technique_that_changes_nothing_has_no_gain(plain):
    report = plain.gate(tiny.image(3), Technique("same"), **FAST)
    assert report.verdict == {"same": "no evidence"}
    assert all(row["gain_mean"] == 0 and row["p_value"] == 1 and row["n"] == 6 for row in report.table)


def test_the_reconstruction_is_diffusers_img2img(tmp_path):
    """DDIM from the same noise: the same picture as StableDiffusionImg2ImgPipeline's."""
    scheduler = diffusers.DDIMScheduler(
        **tiny.SCHEDULE, clip_sample=False, steps_offset=1, timestep_spacing="trailing"
    )
    source = tiny.sd_pipe(tmp_path, scheduler=scheduler)
    pipe = DiffusionFeaturePipeline.from_pipe(source)
    picture = tiny.image(1)
    report = pipe.gate(
        picture,
        Technique("t", prompt="a horse"),
        seeds=(3,),
        strength=0.5,
        num_inference_steps=4,
        keep_images=True,
    )
    # StableDiffusionImg2ImgPipeline's steps, from the mode of the VAE's distribution and our noise.
    latents = source.vae.encode(2 * picture - 1).latent_dist.mode() * source.vae.config.scaling_factor
    noise = torch.randn(latents.shape, generator=torch.Generator().manual_seed(3))
    scheduler.set_timesteps(4)
    steps = scheduler.timesteps[2:]
    text = source.encode_prompt("a horse", "cpu", 1, False)[0]
    x = scheduler.add_noise(latents, noise, steps[:1])
    for t in steps:
        with torch.no_grad():
            x = scheduler.step(
                source.unet(x, t, encoder_hidden_states=text).sample, t, x, eta=0.0
            ).prev_sample
    expected = source.vae.decode(x / source.vae.config.scaling_factor).sample
    found = report.images["t"][0]
    torch.testing.assert_close(found, (expected.detach() / 2 + 0.5).clamp(0, 1), atol=2e-3, rtol=0)


def test_levels_are_the_last_share_of_the_schedule(plain):
    assert [level.time for level in levels_of(plain.scheduler, 0.5, 4)] == [499, 249]
    assert [level.time for level in levels_of(plain.scheduler, 1, 2)] == [999, 499]
    assert len(levels_of(plain.scheduler, 0.3, 10)) == 3


def test_a_denoiser_that_knows_the_image_gains_1(plain):
    """`apply` replaces the forward by the noise that was really added: the reconstruction is the latent's."""
    picture = tiny.image(2)
    latents = plain.vae.encode(2 * picture - 1).latent_dist.mode() * plain.vae.config.scaling_factor
    target = (plain.vae.decode(latents / plain.vae.config.scaling_factor).sample.detach() / 2 + 0.5).clamp(
        0, 1
    )

    class Knowing:
        def __init__(self, pipe):
            self.pipe = pipe

        def __enter__(self):
            alphas = self.pipe.scheduler.alphas_cumprod

            def answer(_module, args, kwargs, _output):
                a = alphas[int(kwargs["timestep"][0])]
                return ((args[0] - a.sqrt() * latents) / (1 - a).sqrt(),)

            self.handle = self.pipe.unet.register_forward_hook(answer, with_kwargs=True)

        def __exit__(self, *_):
            self.handle.remove()

    def to_target(_, pictures):
        return (pictures - target).square().mean((1, 2, 3))

    report = plain.gate(
        picture, Technique("knows", apply=Knowing), metrics=to_target,
        seeds=(0, 1, 2), num_inference_steps=4, batch_size=2,
    )  # fmt: skip
    assert report.table[0]["gain_mean"] == pytest.approx(1, abs=1e-4)
    assert report.verdict["knows"] == "helps"


def test_a_technique_that_inverts_the_picture_harms(plain):
    picture = tiny.image(4)

    class Inverting:
        def __init__(self, pipe):
            self.decoder = pipe.vae.decoder

        def __enter__(self):
            self.handle = self.decoder.register_forward_hook(lambda *_: (1 - 2 * picture).repeat(2, 1, 1, 1))

        def __exit__(self, *_):
            self.handle.remove()

    report = plain.gate(picture, [Technique("worse", apply=Inverting)], **FAST)
    assert report.table[0]["gain_mean"] < 0
    assert report.verdict["worse"] == "harms"


def test_seeds_order_and_batches_change_nothing(controlled):
    techniques = [EDGES, Technique("words", prompt=["a horse", "a street", "photo"])]
    first = controlled.gate(tiny.image(3), techniques, **FAST)
    again = controlled.gate(tiny.image(3), techniques[::-1], batch_size=1, **FAST)
    assert first.ranking == again.ranking
    by_name = {(row["technique"], row["metric"]): row for row in again.table}
    for row in first.table:
        other = by_name[row["technique"], row["metric"]]
        assert row["gain_mean"] == pytest.approx(other["gain_mean"], abs=1e-5)
        assert row["control_gain"] == pytest.approx(other["control_gain"], abs=1e-5)


def test_controls_give_every_image_another_ones_inputs():
    words = Technique("w", prompt=["a", "b", "c"])
    assert negative_control(words, 3).prompt == ("b", "c", "a")
    assert negative_control(Technique("w", prompt="a"), 3) is None
    pixels = tiny.image(4)
    rolled = negative_control(EDGES, 4).controls[0](pixels)
    own = EDGES.controls[0]
    assert own == "input-sobel"
    from graftkit.methods.content_shift import edge_image

    assert torch.equal(rolled, edge_image(pixels, "sobel").roll(2, 0))
    given = torch.arange(4.0).reshape(4, 1, 1, 1).expand(4, 3, 2, 2)
    assert negative_control(Technique("t", controlnet_image=given), 4).controls[0][:, 0, 0, 0].tolist() == [
        2,
        3,
        0,
        1,
    ]
    assert negative_control(Technique("t", controlnet_image=given[:1]), 4) is None


def test_controls_are_reported_and_can_be_left_out(controlled):
    report = controlled.gate(tiny.image(2), EDGES, metrics="mse", **FAST)
    assert report.table[0]["control_gain"] is not None
    assert report.table[0]["control_gain"] != report.table[0]["gain_mean"]
    report = controlled.gate(tiny.image(1), EDGES, negative_controls=False, metrics="mse", **FAST)
    assert report.table[0]["control_gain"] is None


def test_kept_images_make_a_sheet(controlled, tmp_path):
    report = controlled.gate(tiny.image(2), EDGES, keep_images=True, **FAST)
    assert report.images["edges"].shape == (2, 2, 3, 32, 48)
    assert set(report.images) == {"basic", "edges"}
    report.plot().savefig(tmp_path / "sheet.png")
    report.to_json(tmp_path / "gate.json")
    assert GateReport.from_json(tmp_path / "gate.json") == report


def test_guidance_mixes_two_forwards(plain):
    calls = []
    handle = plain.unet.register_forward_hook(lambda *_: calls.append(1))
    try:
        plain.gate(tiny.image(1), Technique("t", guidance_scale=1.0), negative_controls=False, **FAST)
        assert len(calls) == 2 * 3
        calls.clear()
        report = plain.gate(
            tiny.image(1),
            Technique("t", prompt="a horse", guidance_scale=3.0, negative_prompt="street"),
            **FAST,
        )
        assert len(calls) == 3 + 2 * 3
    finally:
        handle.remove()
    assert report.table[0]["gain_mean"] != 0


def test_gate_makes_the_forwards_that_it_reports(controlled):
    """Three levels; basic, technique and its control; two images and two seeds in one batch of four."""
    calls = []
    handle = controlled.unet.register_forward_hook(lambda *_: calls.append(1))
    try:
        report = controlled.gate(tiny.image(2), EDGES, batch_size=4, **FAST)
    finally:
        handle.remove()
    assert len(calls) == 3 * 3
    assert report.settings["forwards"] == 3


def test_encoders_run_once(controlled):
    counted = {"vae": 0, "text": 0}
    handles = [
        controlled.vae.encoder.register_forward_hook(
            lambda *_: counted.__setitem__("vae", counted["vae"] + 1)
        ),
        controlled.text_encoder.register_forward_hook(
            lambda *_: counted.__setitem__("text", counted["text"] + 1)
        ),
    ]
    try:
        controlled.gate(tiny.image(2), [EDGES, Technique("words", prompt="a horse")], **FAST)
    finally:
        for handle in handles:
            handle.remove()
    assert counted == {"vae": 1, "text": 2}


# -- ControlNet --------------------------------------------------------------------------------------


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


def test_pipeline_with_a_controlnet_saves_and_loads(controlled, tmp_path):
    controlled.save_pretrained(tmp_path / "p")
    again = DiffusionFeaturePipeline.from_pretrained(tmp_path / "p")
    again.set_progress_bar_config(disable=True)
    a = controlled.extract_variants(tiny.image(), EDGES, NAMES)["edges"].features
    b = again.extract_variants(tiny.image(), EDGES, NAMES)["edges"].features
    assert all(torch.equal(a[name], b[name]) for name in NAMES)


# -- LoRA and IP-Adapter -----------------------------------------------------------------------------


def lora_state(pipe):
    layers = [m for m in pipe.unet.modules() if hasattr(m, "_active_adapter") and hasattr(m, "scaling")]
    return [(copy.copy(m._active_adapter), m._disable_adapters, dict(m.scaling)) for m in layers]


def test_basic_is_without_adapters_and_techniques_choose_theirs(adapted):
    picture = tiny.image()
    found = adapted.extract_variants(
        picture,
        [
            Technique("basic"), Technique("x", adapters="x"),
            Technique("half", adapters="x", adapter_weights=0.5),
            Technique("both", adapters=("x", "y"), adapter_weights=(1.0, 0.3)),
            Technique("zero", adapters="y", adapter_weights=0.0),
        ],
        NAMES,
    )  # fmt: skip

    def direct(names, weights):
        if names:
            adapted.unet.enable_adapters()
            adapted.unet.set_adapters(names, weights)
        else:
            adapted.unet.disable_adapters()
        noise = torch.randn(found["basic"].latents.shape, generator=torch.Generator().manual_seed(0))
        return adapted(picture, "", NAMES, noise=noise).features

    for name, arguments in {
        "basic": ([], []), "x": (["x"], [1.0]), "half": (["x"], [0.5]), "both": (["x", "y"], [1.0, 0.3]),
    }.items():  # fmt: skip
        expected = direct(*arguments)
        for key in NAMES:
            torch.testing.assert_close(found[name].features[key], expected[key], atol=1e-5, rtol=1e-4)
    for key in NAMES:
        torch.testing.assert_close(found["zero"].features[key], found["basic"].features[key])
        assert not torch.allclose(found["x"].features[key], found["basic"].features[key], atol=1e-3)


@pytest.mark.parametrize("fails", [False, True])
def test_everything_is_as_before_afterwards(adapted, fails):
    def boom(_):
        if fails:
            raise RuntimeError("in the middle")
        return torch.no_grad()

    adapted.unet.train()
    before = lora_state(adapted)
    trained = {name: p.requires_grad for name, p in adapted.unet.named_parameters()}
    processors = dict(adapted.unet.attn_processors)
    config, rng = dict(adapted.scheduler.config), torch.get_rng_state()
    weights = {name: value.clone() for name, value in adapted.unet.state_dict().items()}
    techniques = [
        Technique("a", adapters="y"),
        Technique("b", apply=boom),
        Technique("c", adapters=("x", "y")),
    ]
    for call in (
        lambda: adapted.extract_variants(tiny.image(), techniques, NAMES),
        lambda: adapted.gate(tiny.image(), techniques, **FAST),
        lambda: adapted.content_shift_score(tiny.image(), techniques, NAMES),
    ):
        if fails:
            with pytest.raises(RuntimeError, match="in the middle"):
                call()
        else:
            call()
    assert lora_state(adapted) == before
    assert {name: p.requires_grad for name, p in adapted.unet.named_parameters()} == trained
    assert adapted.unet.attn_processors == processors
    assert dict(adapted.scheduler.config) == config
    assert torch.equal(torch.get_rng_state(), rng)
    assert adapted.unet.training
    assert all(torch.equal(weights[name], value) for name, value in adapted.unet.state_dict().items())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in adapted.unet.modules())


def test_image_embeddings_reach_the_ip_adapter_row_by_row(tmp_path):
    from diffusers.models.attention_processor import IPAdapterAttnProcessor2_0
    from diffusers.models.embeddings import ImageProjection, MultiIPAdapterImageProjection

    pipe = feature_pipe(tmp_path)
    unet = pipe.unet
    with torch.random.fork_rng():
        torch.manual_seed(0)
        unet.encoder_hid_proj = MultiIPAdapterImageProjection([ImageProjection(6, 12, 2)]).eval()
        processors = {}
        for name, module in unet.attn_processors.items():
            if "attn2" not in name:
                processors[name] = module
                continue
            width = unet.get_submodule(name.removesuffix(".processor")).to_q.out_features
            processors[name] = IPAdapterAttnProcessor2_0(width, 12, num_tokens=(2,), scale=[0.6])
    unet.set_attn_processor(processors)
    unet.config.encoder_hid_dim_type = "ip_image_proj"
    embeds = torch.randn(3, 1, 6, generator=torch.Generator().manual_seed(1))
    technique = Technique("ip", ip_adapter_image_embeds=embeds, ip_adapter_scale=0.9)
    whole = pipe.extract_variants(tiny.image(3), technique, NAMES)["ip"].features
    parts = pipe.extract_variants(tiny.image(3), technique, NAMES, batch_size=2)["ip"].features
    off = pipe.extract_variants(
        tiny.image(3), Technique("off", ip_adapter_image_embeds=embeds, ip_adapter_scale=0.0), NAMES
    )["off"].features
    for name in NAMES:
        torch.testing.assert_close(parts[name], whole[name], atol=1e-5, rtol=1e-4)
        assert not torch.allclose(off[name], whole[name], atol=1e-3)
    assert all(p.scale == [0.6] for n, p in unet.attn_processors.items() if "attn2" in n)
    report = pipe.gate(
        tiny.image(3),
        technique,
        basic=Technique("basic", ip_adapter_image_embeds=embeds, ip_adapter_scale=0.0),
        **FAST,
    )
    assert report.table[0]["control_gain"] is not None
    with pytest.raises(ValueError, match="one for each of 1"):
        pipe.extract_variants(tiny.image(3), Technique("ip", ip_adapter_image_embeds=[embeds, embeds]), NAMES)
    with pytest.raises(ValueError, match="1 or 2 rows"):
        pipe.extract_variants(tiny.image(2), technique, NAMES)


# -- the score ---------------------------------------------------------------------------------------


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


# -- bad input ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("techniques", "options", "error", "words"),
    [
        ([], {}, ValueError, "at least one technique"),
        ([Technique("a"), Technique("a")], {}, ValueError, "duplicate"),
        (Technique("basic"), {}, ValueError, "duplicate name 'basic'"),
        ("a", {}, TypeError, "techniques"),
        (Technique("a"), {"strength": 0}, ValueError, "strength"),
        (Technique("a"), {"strength": 1.2}, ValueError, "strength"),
        (Technique("a"), {"strength": 0.1, "num_inference_steps": 5}, ValueError, "no denoising step"),
        (Technique("a"), {"num_inference_steps": 5000}, ValueError, "at most the schedule's"),
        (Technique("a"), {"num_inference_steps": 0}, ValueError, "num_inference_steps"),
        (EDGES, {}, ValueError, "technique 'edges': controlnet_image.*no controlnet"),
        (Technique("a", adapters="z"), {}, ValueError, r"technique 'a': adapters: unknown \['z'\]"),
        (
            Technique("a", prompt=["x", "y", "z"]),
            {},
            ValueError,
            "technique 'a': prompt: expected 1 or 2 texts",
        ),
        (
            Technique("a", ip_adapter_image_embeds=torch.zeros(1, 1, 4)),
            {},
            ValueError,
            "no IP-Adapter is loaded",
        ),
        (Technique("a"), {"seeds": ()}, ValueError, "seeds"),
        (Technique("a"), {"seeds": (0, 0)}, ValueError, "different seeds"),
        (Technique("a"), {"seeds": 3}, ValueError, "seeds"),
        (Technique("a"), {"seeds": (-1,)}, ValueError, "seeds"),
        (Technique("a"), {"metrics": "lpips"}, ValueError, "metrics"),
        (Technique("a"), {"metrics": ()}, ValueError, "metrics"),
        (Technique("a"), {"metrics": ("mse", "mse")}, ValueError, "different names"),
        (Technique("a"), {"batch_size": 0}, ValueError, "batch_size"),
        (Technique("a"), {"negative_controls": 1}, TypeError, "negative_controls"),
        (Technique("a"), {"keep_images": None}, TypeError, "keep_images"),
        (Technique("a"), {"class_labels": [1, 2, 3]}, ValueError, "class_labels"),
    ],
)
def test_gate_refuses_before_any_forward(plain, techniques, options, error, words):
    def forbidden(*_):
        raise AssertionError("the denoiser ran")

    handle = plain.unet.register_forward_pre_hook(forbidden)
    try:
        with pytest.raises(error, match=words):
            plain.gate(tiny.image(2), techniques, **options)
    finally:
        handle.remove()


def test_one_image_has_no_negative_control(controlled):
    with pytest.raises(ValueError, match="at least 2 images"):
        controlled.gate(tiny.image(1), EDGES, **FAST)


def test_controlnets_that_do_not_fit(tmp_path, controlled):
    other = controlnet(unet=tiny.sd_unet(in_channels=6))
    pipe = feature_pipe(tmp_path, controlnet=other)
    with pytest.raises(ValueError, match=r"technique 'edges': controlnet: expected in_channels=4 .* got 6"):
        pipe.gate(tiny.image(2), EDGES)
    with pytest.raises(ValueError, match=r"technique 't': controlnet_image: expected one for each of 1"):
        controlled.gate(tiny.image(2), Technique("t", controlnet_image=("input-sobel", "input-sobel")))
    with pytest.raises(
        ValueError, match=r"technique 't': controlnet_image: expected shape \(1 or 2, 3, H, W\)"
    ):
        controlled.gate(tiny.image(2), Technique("t", controlnet_image=torch.zeros(2, 4, 32, 48)))
    with pytest.raises(ValueError, match=r"technique 't': controlnet_image\(\): expected shape"):
        controlled.gate(tiny.image(2), Technique("t", controlnet_image=lambda pixels: pixels[0]))


@pytest.mark.parametrize(
    ("technique", "options", "error", "words"),
    [
        (Technique("a"), {"anchor_timestep": 50}, ValueError, "anchor_timestep"),
        (Technique("a"), {"reference": "clean"}, ValueError, "reference"),
        (Technique("a"), {"metric": "l2"}, ValueError, "metric"),
        (Technique("a"), {"padding": "circular"}, ValueError, "padding"),
        (Technique("a"), {"normalize": "yes"}, TypeError, "normalize"),
        (
            Technique("a", denoise_from=50),
            {},
            ValueError,
            "technique 'a': denoise_from: expected a timestep above 50",
        ),
        (Technique("a"), {"seed": -1}, ValueError, "seed"),
        (Technique("a"), {"features": ["up-level9-res-out"]}, ValueError, "up-level9"),
        (Technique("a"), {"batch_size": 1.5}, TypeError, "batch_size"),
    ],
)
def test_score_refuses(plain, technique, options, error, words):
    with pytest.raises(error, match=words):
        plain.content_shift_score(tiny.image(2), technique, **{"features": NAMES, **options})


def test_applied_restores_when_entering_fails(adapted):
    before = lora_state(adapted)

    def boom(_):
        raise RuntimeError("cannot enter")

    with (
        pytest.raises(RuntimeError, match="cannot enter"),
        applied(adapted, Technique("t", adapters="y", apply=boom)),
    ):
        pass
    assert lora_state(adapted) == before
