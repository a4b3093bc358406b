"""IP-Adapters through diffusers' own loader and its own image embeddings."""

import pytest
import torch
from torchvision.transforms.functional import to_pil_image
from transformers import CLIPImageProcessor, CLIPVisionConfig, CLIPVisionModelWithProjection

from graftkit.diffusers import DiffusionFeaturePipeline, Technique
from tests.adapters.diffusers import tiny
from tests.adapters.diffusers.content_shift_pipes import FAST, NAMES

WIDTH = 6


def adapter_weights(unet):
    """A state dict of the original's form: a projection, keys and values of every cross-attention."""
    generator = torch.Generator().manual_seed(0)

    def drawn(*shape):
        return torch.randn(shape, generator=generator)

    text = unet.config.cross_attention_dim
    projection = {
        "proj.weight": drawn(4 * text, WIDTH), "proj.bias": drawn(4 * text),
        "norm.weight": torch.ones(text), "norm.bias": torch.zeros(text),
    }  # fmt: skip
    layers = {}
    for index, name in enumerate(n for n in unet.attn_processors if n.endswith("attn2.processor")):
        width = unet.get_submodule(name.removesuffix(".processor")).to_q.out_features
        for key in ("to_k_ip", "to_v_ip"):
            layers[f"{2 * index + 1}.{key}.weight"] = drawn(width, text)
    return {"image_proj": projection, "ip_adapter": layers}


@pytest.fixture
def loaded(tmp_path):
    config = CLIPVisionConfig(
        hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=2, image_size=16,
        patch_size=8, projection_dim=WIDTH,
    )  # fmt: skip
    source = tiny.sd_pipe(
        tmp_path,
        image_encoder=tiny.seeded(lambda: CLIPVisionModelWithProjection(config)),
        feature_extractor=CLIPImageProcessor(size=16, crop_size=16),
    )
    basic = DiffusionFeaturePipeline.from_pipe(source)
    basic.set_progress_bar_config(disable=True)
    before = basic.extract_variants(tiny.image(), Technique("basic"), NAMES)["basic"].features
    source.load_ip_adapter(adapter_weights(source.unet), subfolder="", weight_name="")
    pipe = DiffusionFeaturePipeline.from_pipe(source)
    pipe.set_progress_bar_config(disable=True)
    return source, pipe, before


def seen(source, pictures):
    """One row a picture, as the source pipeline's own method gives it without guidance."""
    rows = [
        source.prepare_ip_adapter_image_embeds([to_pil_image(picture)], None, "cpu", 1, False)[0]
        for picture in pictures
    ]
    return torch.cat(rows)


def test_a_loaded_adapter_is_a_technique(loaded):
    source, pipe, before = loaded
    scales = [list(p.scale) for p in pipe.unet.attn_processors.values() if hasattr(p, "scale")]
    embeds = seen(source, tiny.image())
    assert embeds.shape == (2, 1, WIDTH)
    own = Technique("ip", ip_adapter_image_embeds=embeds, ip_adapter_scale=0.5)
    found = pipe.extract_variants(tiny.image(), [Technique("basic"), own], NAMES)
    # Switched off, the model is the one of before.
    for name in NAMES:
        torch.testing.assert_close(found["basic"].features[name], before[name])
        assert not torch.allclose(found["ip"].features[name], before[name], atol=1e-3)
    # The same as the model called by hand.
    source.set_ip_adapter_scale(0.5)
    caught = []
    handle = source.unet.up_blocks[2].resnets[1].register_forward_hook(lambda *a: caught.append(a[2]))
    noise = torch.randn(found["ip"].latents.shape, generator=torch.Generator().manual_seed(0))
    a = source.scheduler.alphas_cumprod[50]
    text = source.encode_prompt("", "cpu", 1, False)[0].expand(2, -1, -1)
    with torch.no_grad():
        source.unet(
            a.sqrt() * found["ip"].latents + (1 - a).sqrt() * noise, 50, encoder_hidden_states=text,
            added_cond_kwargs={"image_embeds": [embeds]},
        )  # fmt: skip
    handle.remove()
    torch.testing.assert_close(found["ip"].features[NAMES[1]], caught[0], atol=1e-5, rtol=1e-4)
    source.set_ip_adapter_scale(1.0)
    assert scales == [list(p.scale) for p in pipe.unet.attn_processors.values() if hasattr(p, "scale")]


@pytest.mark.parametrize("fails", [False, True])
def test_projection_and_scales_come_back(loaded, fails):
    source, pipe, _ = loaded
    projection = pipe.unet.encoder_hid_proj

    def boom(_):
        raise RuntimeError("in the middle")

    own = Technique("ip", ip_adapter_image_embeds=seen(source, tiny.image()), ip_adapter_scale=0.3)
    techniques = [own, Technique("words", prompt="a horse", apply=boom if fails else None)]
    if fails:
        with pytest.raises(RuntimeError, match="in the middle"):
            pipe.gate(tiny.image(), techniques, **FAST)
    else:
        report = pipe.gate(tiny.image(), techniques, **FAST)
        assert report.table[0]["control_gain"] is not None
    assert pipe.unet.encoder_hid_proj is projection
    assert all(p.scale == [1.0] for p in pipe.unet.attn_processors.values() if hasattr(p, "scale"))
    assert not pipe.unet._forward_pre_hooks
