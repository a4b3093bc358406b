"""LoRA adapters through diffusers' own loaders, fused for a while: same features, same weights after."""

import pytest
import torch

from graftkit.diffusers import DiffusionFeaturePipeline, Technique, VariantBackbone
from graftkit.diffusers.techniques import applied
from tests.adapters.diffusers import tiny
from tests.adapters.diffusers.content_shift_pipes import FAST, NAMES
from tests.adapters.diffusers.test_adapters import lora_state

PLAIN, FUSED = Technique("plain", adapters="own"), Technique("fused", adapters="own", fuse=True)


def lora_weights(unet, rank=2, width=None):
    """What a trainer saves: factors of every query and value projection."""
    generator = torch.Generator().manual_seed(0)
    found = {}
    for name, module in unet.named_modules():
        if name.endswith((".to_q", ".to_v")):
            inner = width or module.in_features
            for part, shape in (("A", (rank, inner)), ("B", (module.out_features, rank))):
                found[f"unet.{name}.lora_{part}.weight"] = 0.3 * torch.randn(shape, generator=generator)
    return found


@pytest.fixture
def loaded(tmp_path):
    pytest.importorskip("peft", reason="LoRA needs peft")
    source = tiny.sd_pipe(tmp_path)
    weights = lora_weights(source.unet)
    source.save_lora_weights(tmp_path / "lora", unet_lora_layers={k[5:]: v for k, v in weights.items()})
    with torch.random.fork_rng():
        source.load_lora_weights(tmp_path / "lora", adapter_name="own")
    pipe = DiffusionFeaturePipeline.from_pipe(source)
    pipe.set_progress_bar_config(disable=True)
    return source, pipe


def weights_of(pipe):
    return {name: (p.data_ptr(), p.detach().clone()) for name, p in pipe.unet.named_parameters()}


def is_as_before(pipe, before):
    return all(
        p.data_ptr() == before[name][0] and torch.equal(p, before[name][1])
        for name, p in pipe.unet.named_parameters()
    )


def test_a_loaded_adapter_is_a_technique_fused_or_not(loaded):
    source, pipe = loaded
    before, layers = weights_of(pipe), lora_state(pipe)
    found = pipe.extract_variants(tiny.image(), [Technique("basic"), PLAIN, FUSED], NAMES)
    for name in NAMES:
        torch.testing.assert_close(
            found["fused"].features[name], found["plain"].features[name], atol=1e-5, rtol=1e-4
        )
        assert not torch.allclose(found["basic"].features[name], found["plain"].features[name], atol=1e-3)
    assert is_as_before(pipe, before)
    assert lora_state(pipe) == layers
    # The same as diffusers' own fusing.
    source.fuse_lora()
    source.unload_lora_weights()
    fused = pipe.extract_variants(tiny.image(), Technique("basic"), NAMES)["basic"].features
    torch.testing.assert_close(found["fused"].features[NAMES[0]], fused[NAMES[0]], atol=1e-5, rtol=1e-4)


def test_weights_of_half_the_adapter_and_the_guideline(loaded):
    _, pipe = loaded
    before = weights_of(pipe)
    half = [Technique(f"{fuse}", adapters="own", adapter_weights=0.5, fuse=fuse) for fuse in (True, False)]
    rows = pipe.gate(tiny.image(), half, metrics="mse", **FAST).table
    assert rows[0]["gain_mean"] == pytest.approx(rows[1]["gain_mean"], abs=1e-4)
    assert rows[0]["gain_mean"] != 0
    assert is_as_before(pipe, before)


def test_forwards_run_on_plain_layers_while_fused(loaded):
    _, pipe = loaded
    layer = next(m for m in pipe.unet.modules() if hasattr(m, "lora_A"))
    called = []
    handle = layer.lora_A["own"].register_forward_hook(lambda *_: called.append(1))
    try:
        with applied(pipe, FUSED):
            assert layer.merged_adapters == ["own"]
            pipe(tiny.image(), features=NAMES)
        assert not called
        with applied(pipe, PLAIN):
            pipe(tiny.image(), features=NAMES)
        assert called
    finally:
        handle.remove()


def test_a_backbone_blends_fused_and_plain_variants(loaded):
    _, pipe = loaded
    before = weights_of(pipe)
    (found,) = VariantBackbone(pipe, [PLAIN, FUSED], [[NAMES[1]]])(2 * tiny.image(1) - 1)
    (alone,) = VariantBackbone(pipe, PLAIN, [[NAMES[1]]])(2 * tiny.image(1) - 1)
    torch.testing.assert_close(found, alone, atol=1e-5, rtol=1e-4)
    assert is_as_before(pipe, before)


@pytest.mark.parametrize("where", ["inside", "entering", "merging"])
def test_weights_come_back_after_an_error(loaded, where, monkeypatch):
    _, pipe = loaded
    before, layers = weights_of(pipe), lora_state(pipe)

    def boom(*_args, **_kwargs):
        raise RuntimeError("in the middle")

    technique = FUSED
    if where == "entering":
        technique = Technique("t", adapters="own", fuse=True, apply=boom)
    if where == "merging":
        some = [m for m in pipe.unet.modules() if hasattr(m, "lora_A")]
        monkeypatch.setattr(some[len(some) // 2], "merge", boom)
    with pytest.raises(RuntimeError, match="in the middle"), applied(pipe, technique):
        boom()
    assert is_as_before(pipe, before)
    assert lora_state(pipe) == layers
    assert not any(m.merged_adapters for m in pipe.unet.modules() if hasattr(m, "lora_A"))


def test_a_broken_adapter_is_not_fused(loaded):
    _, pipe = loaded
    with torch.no_grad():
        next(p for n, p in pipe.unet.named_parameters() if "lora_B" in n).fill_(torch.nan)
    before = {n: p.clone() for n, p in pipe.unet.named_parameters() if "lora" not in n}
    with pytest.raises(ValueError, match="NaNs detected"):
        pipe.extract_variants(tiny.image(), FUSED, NAMES)
    assert all(torch.equal(before[n], p) for n, p in pipe.unet.named_parameters() if n in before)


def test_an_adapter_of_another_architecture_is_no_technique(tmp_path):
    """diffusers refuses to load it, with nothing left behind; asked for all the same, it is unknown."""
    pytest.importorskip("peft", reason="LoRA needs peft")
    source = tiny.sd_pipe(tmp_path)
    weights = lora_weights(source.unet, width=20)
    with torch.random.fork_rng(), pytest.raises(RuntimeError, match="size mismatch"):
        source.load_lora_weights(weights, adapter_name="other")
    pipe = DiffusionFeaturePipeline.from_pipe(source)

    def forbidden(*_):
        raise AssertionError("the denoiser ran")

    pipe.unet.register_forward_pre_hook(forbidden)
    with pytest.raises(ValueError, match=r"technique 'other': adapters: unknown \['other'\]"):
        pipe.gate(tiny.image(), Technique("other", adapters="other"), **FAST)
