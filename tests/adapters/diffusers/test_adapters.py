"""LoRA and IP-Adapters as techniques, and that everything is as before afterwards."""

import copy
import warnings

import pytest
import torch

from graftkit.diffusers import Technique
from graftkit.diffusers.techniques import applied
from tests.adapters.diffusers import tiny
from tests.adapters.diffusers.content_shift_pipes import FAST, NAMES, feature_pipe


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


def test_fused_adapters_are_refused_and_their_weights_stay(adapted):
    """Run so, peft would take the adapter out of the weights at the first technique without it."""
    adapted.unet.fuse_lora()
    weights = {name: value.clone() for name, value in adapted.unet.state_dict().items()}
    for call in (adapted.gate, adapted.extract_variants, adapted.content_shift_score):
        with pytest.raises(ValueError, match=r"technique '\w+': adapters: expected .* not fused"):
            call(tiny.image(), Technique("t"))
    assert all(torch.equal(weights[name], value) for name, value in adapted.unet.state_dict().items())
    adapted.unet.unload_lora()
    assert torch.isfinite(
        adapted.extract_variants(tiny.image(), Technique("t"), NAMES)["t"].features[NAMES[0]]
    ).all()


@pytest.mark.parametrize("in_text", [False, True])
def test_texts_are_encoded_again_only_for_adapters_of_the_encoder(adapted, in_text):
    import peft

    if in_text:
        config = peft.LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights=False)
        adapted.text_encoder.add_adapter(config, "x")
    counted = []
    handle = adapted.text_encoder.register_forward_hook(lambda *_: counted.append(1))
    techniques = [Technique("plain"), Technique("x", adapters="x"), Technique("y", adapters="y")]
    try:
        found = adapted.extract_variants(tiny.image(), techniques, NAMES)
    finally:
        handle.remove()
    assert len(counted) == (3 if in_text else 1)
    assert not torch.allclose(found["plain"].features[NAMES[0]], found["x"].features[NAMES[0]], atol=1e-4)
