"""Hooks leave nothing behind, the forward stops where it can, and what would be lost is an error."""

import diffusers
import pytest
import torch
from torch import nn
from torch.nn import functional

from graftkit.diffusers import DiffusionFeaturePipeline
from graftkit.diffusers.capture import Capture
from graftkit.diffusers.taps import Tap, denoiser_taps
from tests.adapters.diffusers import tiny

NAMES = [
    "up-level1-repeat0-vit-block0-cross-q",
    "down-level1-repeat1-res-out",
    "up-level2-repeat1-res-increment",
    "mid-vit-block0-self-map",
]


@pytest.fixture
def pipe():
    return DiffusionFeaturePipeline(unet=tiny.sd_unet(), scheduler=diffusers.DDIMScheduler(**tiny.SCHEDULE))


@pytest.fixture
def inputs():
    generator = torch.Generator().manual_seed(1)
    return {
        "latents": torch.randn(2, 4, 16, 8, generator=generator),
        "noise": torch.randn(2, 4, 16, 8, generator=generator),
        "prompt_embeds": torch.randn(2, 5, 12, generator=generator),
    }


def count_hooks(model: nn.Module) -> int:
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())


def plain(pipe, inputs):
    with torch.no_grad():
        return pipe.unet(inputs["latents"], 50, inputs["prompt_embeds"]).sample


def test_early_exit_and_full_forward_are_bit_equal_in_every_order(pipe, inputs):
    full = pipe(**inputs, features=NAMES, early_exit=False)
    assert full.sample is not None
    for order in (NAMES, NAMES[::-1], NAMES[2:] + NAMES[:2]):
        early = pipe(**inputs, features=order)
        assert early.sample is None
        assert early.names == order
        for name in order:
            assert torch.equal(early.features[name], full.features[name])


def test_nothing_stays_behind(pipe, inputs):
    before, hooks = plain(pipe, inputs), count_hooks(pipe.unet)
    processors = {k: id(v) for k, v in pipe.unet.attn_processors.items()}
    pipe(**inputs, features=NAMES)
    pipe(**inputs, features=NAMES, early_exit=False)
    assert count_hooks(pipe.unet) == hooks
    assert {k: id(v) for k, v in pipe.unet.attn_processors.items()} == processors
    assert torch.equal(plain(pipe, inputs), before)


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_nothing_stays_behind_when_a_users_hook_fails(pipe, inputs, error):
    def fail(*_):
        raise error("mine")

    handle = pipe.unet.up_blocks[0].register_forward_hook(fail)
    hooks = count_hooks(pipe.unet)
    with pytest.raises(error, match="mine"):
        pipe(**inputs, features=NAMES)
    assert count_hooks(pipe.unet) == hooks
    handle.remove()
    assert plain(pipe, inputs).shape == (2, 4, 16, 8)


def test_users_hooks_still_fire_and_stay(pipe, inputs):
    calls = []
    pipe.unet.up_blocks[1].resnets[0].register_forward_hook(lambda *_: calls.append(1))
    pipe(**inputs, features="up-level1-repeat0-res-out")
    assert calls == [1]


def test_a_tap_that_is_not_reached_is_an_error_and_leaves_nothing(pipe, inputs):
    pipe.unet.spare = nn.Identity()
    hooks = count_hooks(pipe.unet)
    with pytest.raises(RuntimeError, match="'module:spare' not reached"):
        pipe(**inputs, features=["module:spare", NAMES[0]])
    assert count_hooks(pipe.unet) == hooks


def test_the_stop_really_stops(pipe, inputs):
    calls = {"conv_out": 0, "after": 0, "tapped": 0}

    def count(key):
        return lambda *_: calls.__setitem__(key, calls[key] + 1)

    pipe.unet.conv_out.register_forward_hook(count("conv_out"))
    pipe.unet.up_blocks[2].register_forward_pre_hook(count("after"))
    pipe.unet.up_blocks[1].resnets[1].register_forward_pre_hook(count("after"))
    pipe.unet.up_blocks[1].attentions[0].register_forward_pre_hook(count("tapped"))
    pipe(**inputs, features=NAMES[:2])
    assert calls == {"conv_out": 0, "after": 0, "tapped": 1}
    pipe(**inputs, features=NAMES[:2], early_exit=False)
    assert calls == {"conv_out": 1, "after": 2, "tapped": 2}


def test_fused_attention_is_kept_with_maps_on(pipe, inputs, monkeypatch):
    calls = []
    original = functional.scaled_dot_product_attention

    def counting(*args, **kwargs):
        calls.append(1)
        return original(*args, **kwargs)

    monkeypatch.setattr(functional, "scaled_dot_product_attention", counting)
    pipe(**inputs, features="unet-out")
    without = len(calls)
    calls.clear()
    pipe(**inputs, features=["*-map", "unet-out"])
    assert len(calls) == without == 2 * 16


def test_only_the_asked_layers_compute_maps(pipe, inputs, monkeypatch):
    from graftkit.diffusers import attention_maps

    calls = []
    original = attention_maps.attention_map
    monkeypatch.setattr(attention_maps, "attention_map", lambda *a, **k: calls.append(1) or original(*a, **k))
    pipe(**inputs, features="up-level1-*-cross-map")
    assert len(calls) == 3


def test_a_module_that_runs_twice_is_an_error(pipe, inputs):
    # ResnetBlock2D calls one activation function three times.
    with pytest.raises(RuntimeError, match=r"'module:mid_block.resnets.0.nonlinearity' fired 3 times"):
        pipe(**inputs, features="module:mid_block.resnets.0.nonlinearity")


def test_a_shared_module_is_an_error_even_where_the_first_call_would_stop(pipe, inputs):
    attention = pipe.unet.up_blocks[1].attentions
    attention[1] = attention[0]
    with pytest.raises(RuntimeError, match="fired 2 times"):
        pipe(**inputs, features="up-level1-repeat0-vit-block0-cross-q")


def test_chunked_feed_forward_is_an_error(pipe, inputs):
    block = pipe.unet.mid_block.attentions[0].transformer_blocks[0]
    block.set_chunk_feed_forward(1, 1)
    with pytest.raises(ValueError, match="forward chunking"):
        pipe(**inputs, features="mid-vit-block0-ffn-inner")
    assert pipe(**inputs, features="mid-vit-block0-out").features


def test_module_paths_give_the_same_as_names_and_stop_too(pipe, inputs):
    path = "module:up_blocks.1.attentions.0.transformer_blocks.0.attn2.to_q"
    both = pipe(**inputs, features=[path, NAMES[0]])
    assert both.sample is None
    assert torch.equal(both.features[path], both.features[NAMES[0]])
    block = pipe(**inputs, features="module:up_blocks.1.attentions.0")
    assert block.sample is None
    assert torch.equal(
        block.features["module:up_blocks.1.attentions.0"],
        pipe(**inputs, features="up-level1-repeat0-vit-out").features["up-level1-repeat0-vit-out"],
    )


def test_taps_do_not_copy_unless_something_changes_them_in_place(pipe, inputs):
    first = pipe(**inputs, features=["up-level0-upsampler-out", "up-level1-repeat0-res-out"])
    pipe.unet.enable_freeu(s1=0.9, s2=0.2, b1=1.5, b2=1.6)
    second = pipe(**inputs, features=["up-level0-repeat0-res-out", "unet-out"])
    pipe.unet.disable_freeu()
    third = pipe(**inputs, features=["up-level0-repeat0-res-out"], early_exit=False)
    assert first.features
    assert (
        second.features["up-level0-repeat0-res-out"].shape
        == third.features["up-level0-repeat0-res-out"].shape
    )


def test_freeu_does_not_reach_into_what_was_read(pipe, inputs):
    """FreeU multiplies the hidden state in place after the ResNet returned it."""
    pipe.unet.enable_freeu(s1=0.9, s2=0.2, b1=1.5, b2=1.6)
    name = "up-level0-repeat0-res-out"
    early = pipe(**inputs, features=name).features[name]
    late = pipe(**inputs, features=name, early_exit=False).features[name]
    assert torch.equal(early, late)


def test_capture_removes_its_hooks_when_registering_fails(pipe):
    class Broken(nn.Module):
        def register_forward_hook(self, *_, **__):
            raise RuntimeError("no hooks here")

    taps = [denoiser_taps(pipe.unet)[1], Tap("broken", Broken())]
    with pytest.raises(RuntimeError, match="no hooks here"), Capture(taps):
        pass
    assert count_hooks(pipe.unet) == 0


def test_a_replaced_denoiser_counts(pipe, inputs):
    before = pipe(**inputs, features=NAMES[0]).features[NAMES[0]]
    changed = tiny.sd_unet()
    with torch.no_grad():
        changed.conv_in.weight.mul_(2)
    pipe.unet = changed
    after = pipe(**inputs, features=NAMES[0]).features[NAMES[0]]
    assert not torch.equal(before, after)


def test_training_mode_is_given_back_and_dropout_is_off(pipe, inputs):
    pipe.unet.train()
    pipe.unet.mid_block.eval()
    for module in pipe.unet.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.5
    first = pipe(**inputs, features=NAMES[0]).features[NAMES[0]]
    assert torch.equal(first, pipe(**inputs, features=NAMES[0]).features[NAMES[0]])
    assert pipe.unet.training
    assert not pipe.unet.mid_block.training


def test_a_compiled_denoiser_runs_without_a_stop(pipe, inputs):
    expected = pipe(**inputs, features=NAMES[0]).features[NAMES[0]]
    pipe.unet = torch.compile(pipe.unet, backend="eager")
    out = pipe(**inputs, features=NAMES[0])
    assert out.sample is not None
    assert torch.equal(out.features[NAMES[0]], expected)
    with pytest.raises(ValueError, match="compiled denoiser cannot be stopped"):
        pipe(**inputs, features=NAMES[0], early_exit=True)
