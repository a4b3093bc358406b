"""Device and type as diffusers says them, without its walks; offloading by module, by model and by group."""

from types import SimpleNamespace

import accelerate
import diffusers
import pytest
import torch
from diffusers.hooks import apply_group_offloading

from graftkit.diffusers import DiffusionFeaturePipeline
from graftkit.diffusers.images import encode_images
from graftkit.diffusers.placement import compute_dtype, execution_device, moves_weights
from tests.adapters.diffusers import tiny

NAME = "up-level1-repeat0-vit-block0-cross-q"
NOISE = torch.zeros(1, 4, 16, 24)


@pytest.fixture
def pipe(tmp_path):
    return DiffusionFeaturePipeline.from_pipe(tiny.sd_pipe(tmp_path))


def call(pipe, **changes):
    return pipe(tiny.image(1), "a horse", NAME, noise=NOISE, **changes)


def test_it_is_what_diffusers_says(pipe):
    assert execution_device(pipe) == pipe._execution_device == torch.device("cpu")
    assert compute_dtype(pipe.unet) == pipe.unet.dtype == torch.float32
    pipe.to(torch.float16)
    assert compute_dtype(pipe.unet) == pipe.unet.dtype == torch.float16


def test_a_split_pipeline_works_where_its_accelerator_is():
    class Far(torch.nn.Module):
        def parameters(self):
            yield SimpleNamespace(device=torch.device("cuda", 1))

    near, parts = torch.nn.Linear(1, 1), {"scheduler": object()}
    split = SimpleNamespace(components={"text_encoder": near, "unet": Far(), "vae": near.to("meta"), **parts})
    assert execution_device(split) == torch.device("cuda", 1)
    # Without a single weight diffusers is asked.
    bare = SimpleNamespace(components={"vae": torch.nn.Identity()}, _execution_device=torch.device("meta"))
    assert execution_device(bare) == torch.device("meta")


def test_layers_kept_in_float32_do_not_decide_the_type():
    model = tiny.pixart().to(torch.float16)
    model._keep_in_fp32_modules = ["pos_embed"]
    torch.nn.Module.to(model.pos_embed, torch.float32)
    assert compute_dtype(model) == model.dtype
    cast = tiny.sd_unet()
    cast.enable_layerwise_casting(storage_dtype=torch.float16, compute_dtype=torch.float64)
    assert next(cast.parameters()).dtype != torch.float64
    assert compute_dtype(cast) == cast.dtype == torch.float64


def test_a_call_asks_diffusers_only_where_hooks_decide(pipe, monkeypatch):
    """Its properties name every module several times over; on a small U-Net that is a tenth of a forward."""
    asked = []
    for owner, name in ((diffusers.DiffusionPipeline, "_execution_device"), (type(pipe.unet), "dtype")):
        own = getattr(owner, name)
        monkeypatch.setattr(
            owner, name, property(lambda self, own=own, name=name: asked.append(name) or own.fget(self))
        )
    text = pipe.encode_text("a horse").embeds
    asked.clear()
    pipe(tiny.image(1), prompt_embeds=text, features=NAME, noise=NOISE)
    assert asked == []


@pytest.mark.parametrize("early_exit", ["auto", True, False])
def test_offloading_module_by_module_changes_no_feature(pipe, early_exit):
    expected = call(pipe).features[NAME]
    for part in (pipe.vae, pipe.unet, pipe.text_encoder):
        accelerate.cpu_offload(part, torch.device("cpu"))
    assert pipe.unet.device.type == pipe.vae.device.type == "meta"
    assert moves_weights(pipe.unet)
    out = call(pipe, early_exit=early_exit)
    assert torch.equal(out.features[NAME], expected)
    # Weights are put back by what runs after a forward, so a stop is made only where it is told to.
    assert (out.sample is None) == (early_exit is True)
    assert {p.device.type for p in pipe.unet.parameters()} == {"meta"}


@pytest.mark.parametrize("kind", ["leaf_level", "block_level"])
def test_offloading_by_groups_changes_no_feature(pipe, kind):
    expected = call(pipe).features[NAME]
    blocks = {} if kind == "leaf_level" else {"num_blocks_per_group": 1}
    for part in (pipe.vae, pipe.unet):
        apply_group_offloading(
            part, onload_device=torch.device("cpu"), offload_device=torch.device("cpu"), offload_type=kind,
            **blocks,
        )  # fmt: skip
    assert moves_weights(pipe.unet)
    out = call(pipe)
    assert torch.equal(out.features[NAME], expected)
    assert out.sample is not None


def test_offloading_whole_models_keeps_the_early_exit(pipe):
    expected = call(pipe).features[NAME]
    for part in (pipe.text_encoder, pipe.unet, pipe.vae):
        accelerate.cpu_offload_with_hook(part, torch.device("cpu"))
    out = call(pipe)
    assert not moves_weights(pipe.unet)
    assert out.sample is None
    assert torch.equal(out.features[NAME], expected)


def test_pictures_go_where_the_offloaded_vae_will_be():
    """Until it encodes, its weights are elsewhere: pictures sent there would not meet them."""
    vae = tiny.vae()
    accelerate.cpu_offload_with_hook(vae, torch.device("meta"))  # stands in for an accelerator
    assert vae.device.type == "cpu"
    assert encode_images(vae, tiny.image(1)).device.type == "meta"
