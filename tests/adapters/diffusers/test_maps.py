"""Attention maps equal those of explicit processors, whatever the chunk, the mask or the family."""

import diffusers
import pytest
import torch
from diffusers.models.attention_processor import AttnProcessor

from graftkit.diffusers import DiffusionFeaturePipeline
from graftkit.diffusers.requests import aggregate_maps, map_window
from tests.adapters.diffusers import tiny


class Recording(AttnProcessor):
    """diffusers' explicit processor, whose probabilities are kept."""

    def __init__(self, store, name):
        super().__init__()
        self.store, self.name = store, name

    def __call__(self, attn, hidden_states, *args, **kwargs):
        original = attn.get_attention_scores

        def scores(*a, **k):
            found = original(*a, **k)
            self.store[self.name] = found.unflatten(0, (-1, attn.heads))
            return found

        attn.get_attention_scores = scores
        try:
            return super().__call__(attn, hidden_states, *args, **kwargs)
        finally:
            del attn.get_attention_scores


def explicit_maps(model, forward):
    store, own = {}, dict(model.attn_processors)
    model.set_attn_processor({name: Recording(store, name) for name in own})
    with torch.no_grad():
        forward()
    model.set_attn_processor(own)
    return store


@pytest.fixture
def pipe():
    scheduler = diffusers.DDIMScheduler(**tiny.SCHEDULE)
    return DiffusionFeaturePipeline(unet=tiny.sd_unet().double(), scheduler=scheduler)


@pytest.fixture
def inputs():
    generator = torch.Generator().manual_seed(1)
    draw = lambda *shape: torch.randn(*shape, generator=generator, dtype=torch.float64)  # noqa: E731
    return {"latents": draw(2, 4, 16, 8), "noise": torch.zeros(2, 4, 16, 8), "prompt_embeds": draw(2, 5, 12)}


PLACES = {
    "mid-vit": "mid_block.attentions.0",
    "up-level1-repeat2-vit": "up_blocks.1.attentions.2",
    "down-level0-repeat1-vit": "down_blocks.0.attentions.1",
}


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("reduce", ["mean", "none"])
def test_unet_maps_equal_the_explicit_processor(pipe, inputs, place, reduce):
    signal = float(pipe.scheduler.alphas_cumprod[50]) ** 0.5
    expected = explicit_maps(
        pipe.unet, lambda: pipe.unet(inputs["latents"] * signal, 50, inputs["prompt_embeds"])
    )
    for kind, attn in (("self", "attn1"), ("cross", "attn2")):
        name = f"{place}-block0-{kind}-map"
        found = pipe(**inputs, features=name, map_reduce=reduce).features[name]
        wanted = expected[f"{PLACES[place]}.transformer_blocks.0.{attn}.processor"]  # (B, heads, HW, keys)
        keys, (height, width) = wanted.shape[-1], found.shape[-2:]
        wanted = wanted.mean(1, keepdim=True) if reduce == "mean" else wanted
        wanted = wanted.transpose(-1, -2).reshape(2, -1, height, width)
        assert height == 2 * width
        assert found.shape[1] == keys * (1 if reduce == "mean" else 2)
        assert torch.allclose(found, wanted, atol=1e-12, rtol=0)
        assert torch.allclose(found.sum(1), torch.full_like(found[:, 0], found.shape[1] / keys), atol=1e-12)


def test_masked_tokens_get_no_weight():
    scheduler = diffusers.DDIMScheduler(**tiny.SCHEDULE)
    pipe = DiffusionFeaturePipeline(transformer=tiny.pixart().double(), scheduler=scheduler)
    generator = torch.Generator().manual_seed(0)
    mask = torch.tensor([[1, 1, 0, 0, 0], [1, 1, 1, 1, 0]])
    inputs = {
        "latents": torch.randn(2, 4, 6, 8, generator=generator, dtype=torch.float64),
        "noise": torch.zeros(2, 4, 6, 8),
        "prompt_embeds": torch.randn(2, 5, 12, generator=generator, dtype=torch.float64),
        "prompt_attention_mask": mask,
    }
    name = "vit-block1-cross-map"
    found = pipe(**inputs, features=name).features[name]
    assert found.shape == (2, 5, 3, 4)
    assert torch.allclose(found.sum(1), torch.ones(2, 3, 4, dtype=torch.float64), atol=1e-12)
    assert found[0, 2:].abs().max() < 1e-12
    assert found[0, :2].min() > 0
    assert found[1, 4].abs().max() < 1e-12
    signal = float(scheduler.alphas_cumprod[50]) ** 0.5
    expected = explicit_maps(
        pipe.transformer,
        lambda: pipe.transformer(
            inputs["latents"] * signal,
            inputs["prompt_embeds"],
            torch.full((2,), 50),
            encoder_attention_mask=mask,
            added_cond_kwargs={"resolution": None, "aspect_ratio": None},
        ),
    )["transformer_blocks.1.attn2.processor"]
    assert torch.allclose(found, expected.mean(1).transpose(1, 2).reshape(2, 5, 3, 4), atol=1e-12)


@pytest.mark.parametrize("kind", ["sd3", "flux"])
def test_joint_maps_share_one_softmax_and_rebuild_the_attention(kind):
    """The quadrants add up to one, and applied to v they give the attention's own output."""
    model = getattr(tiny, kind)().double()
    pipe = DiffusionFeaturePipeline(transformer=model, scheduler=diffusers.FlowMatchEulerDiscreteScheduler())
    generator = torch.Generator().manual_seed(0)
    width, pooled = (32, 24) if kind == "sd3" else (12, 12)
    draw = lambda *shape: torch.randn(*shape, generator=generator, dtype=torch.float64)  # noqa: E731
    inputs = {
        "latents": draw(2, 4, 6, 8), "noise": draw(2, 4, 6, 8), "prompt_embeds": draw(2, 5, width),
        "pooled_prompt_embeds": draw(2, pooled),
    }  # fmt: skip
    blocks = [0, 1] if kind == "sd3" else [0, 1, 2, 3]  # of Flux the last two are single-stream
    for block in blocks:
        attn = (
            model.transformer_blocks[block] if block < 2 else model.single_transformer_blocks[block - 2]
        ).attn
        values, outputs = {}, []
        handles = []
        for key in ("to_v", "add_v_proj"):
            if getattr(attn, key, None) is not None:
                keep = lambda _, __, out, key=key, values=values: values.__setitem__(key, out)  # noqa: E731
                handles.append(getattr(attn, key).register_forward_hook(keep))
        handles.append(attn.register_forward_hook(lambda _, __, out, outputs=outputs: outputs.append(out)))
        names = [f"vit-block{block}-self-map", f"vit-block{block}-cross-map"]
        maps = pipe(**inputs, features=names, map_reduce="none", early_exit=False).features
        for handle in handles:
            handle.remove()
        heads = attn.heads
        own, cross = (maps[name].flatten(2).unflatten(1, (heads, -1)).transpose(-1, -2) for name in names)
        assert own.shape == (2, heads, 12, 12)
        assert cross.shape == (2, heads, 12, 5)
        assert torch.allclose(
            own.sum(-1) + cross.sum(-1), torch.ones(2, heads, 12, dtype=torch.float64), atol=1e-12
        )
        value = values["to_v"].unflatten(-1, (heads, -1)).transpose(1, 2)
        text = (
            values["add_v_proj"].unflatten(-1, (heads, -1)).transpose(1, 2)
            if "add_v_proj" in values
            else None
        )
        if text is None:
            text, value = value[:, :, :5], value[:, :, 5:]
        mixed = (own @ value + cross @ text).transpose(1, 2).flatten(2)
        expected = outputs[0][0] if isinstance(outputs[0], tuple) else outputs[0][:, 5:]
        if getattr(attn, "to_out", None) is not None:
            mixed = attn.to_out[0](mixed)
        assert torch.allclose(mixed, expected, atol=1e-12)


def test_hunyuan_maps_rebuild_the_attention_with_its_rotation():
    model = tiny.hunyuan().double()
    pipe = DiffusionFeaturePipeline(transformer=model, scheduler=diffusers.DDPMScheduler(**tiny.SCHEDULE))
    generator = torch.Generator().manual_seed(0)
    draw = lambda *shape: torch.randn(*shape, generator=generator, dtype=torch.float64)  # noqa: E731
    inputs = {
        "latents": draw(1, 4, 6, 8), "noise": draw(1, 4, 6, 8), "prompt_embeds": draw(1, 77, 12),
        "prompt_embeds_2": draw(1, 256, 16), "prompt_attention_mask": torch.ones(1, 77),
        "prompt_attention_mask_2": torch.ones(1, 256),
    }  # fmt: skip
    for kind, attn in (("self", model.blocks[1].attn1), ("cross", model.blocks[1].attn2)):
        seen = {}
        handles = [
            attn.to_v.register_forward_hook(lambda _, __, out, seen=seen: seen.__setitem__("v", out)),
            attn.register_forward_hook(lambda _, __, out, seen=seen: seen.__setitem__("out", out)),
        ]
        name = f"vit-block1-{kind}-map"
        found = pipe(**inputs, features=name, map_reduce="none").features[name]
        for handle in handles:
            handle.remove()
        weights = found.flatten(2).unflatten(1, (2, -1)).transpose(-1, -2)
        value = seen["v"].unflatten(-1, (2, -1)).transpose(1, 2)
        mixed = attn.to_out[0]((weights @ value).transpose(1, 2).flatten(2))
        # The rotation's angles are float32 in diffusers.
        assert torch.allclose(mixed, seen["out"], atol=1e-6)


def test_huge_maps_are_refused_by_size(pipe, inputs):
    name = "up-level3-repeat0-vit-block0-self-map"
    with pytest.raises(ValueError, match=rf"'{name}' has 32768 elements .* max_map_elements=1000"):
        pipe(**inputs, features=name, max_map_elements=1000)
    assert pipe(**inputs, features=name, max_map_elements=32768).features[name].shape == (2, 128, 16, 8)


def test_attn_averages_layers_within_the_window(tmp_path):
    pipe = DiffusionFeaturePipeline.from_pipe(tiny.sd_pipe(tmp_path))
    names = pipe.activation_names("up-*-cross-map")
    maps = pipe(tiny.image(1, 64, 64), features=names, generator=torch.Generator().manual_seed(0)).features
    # The up stage's maps are 8, 16 and 32 cells wide (level 1 to 3); the window is 8 to 16.
    with_window = pipe(
        tiny.image(1, 64, 64), features=["attn", names[0]], map_resolutions=(1 / 8, 1 / 4),
        generator=torch.Generator().manual_seed(0),
    ).features  # fmt: skip
    means = [sum(maps[n] for n in names if f"level{level}" in n) / 3 for level in (1, 2)]
    small = torch.nn.functional.interpolate(means[1], (8, 8), mode="bilinear", align_corners=False)
    assert torch.allclose(with_window["attn"], torch.cat([means[0], small], 1), atol=1e-6)
    assert with_window["attn"].shape == (1, 2 * 16, 8, 8)
    assert list(with_window) == ["attn", names[0]]


def test_attn_without_a_layer_in_the_window_says_so():
    with pytest.raises(ValueError, match="no cross-attention map lies within map_resolutions"):
        aggregate_maps([torch.empty(0)], (64, 64))


def test_window_of_the_published_size():
    low, high = map_window(None, (512, 512), transformer=False)
    assert [low <= cells**2 <= high for cells in (8, 16, 32, 64)] == [False, True, True, False]
    low, high = map_window(None, (512, 512), transformer=True)
    assert low <= 64**2 <= high


@pytest.mark.parametrize(
    ("value", "words"), [((0.5,), "coarsest and the finest"), ((1, 0.5), "coarsest share first")]
)
def test_window_is_checked(value, words):
    with pytest.raises(ValueError, match=words):
        map_window(value, (64, 64), transformer=False)
