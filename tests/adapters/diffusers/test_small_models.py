"""The small models that examples and benchmarks train: training moves only what it is for."""

import torch

from graftkit.diffusers import Technique
from graftkit.diffusers.small_models import (
    FoldingVAE,
    small_pipeline,
    train_controlnet,
    train_lora,
    train_pipeline,
)
from graftkit.methods.content_shift.data import object_scenes, scene_words


def test_folding_loses_nothing():
    pixels = torch.rand(2, 3, 16, 24, generator=torch.Generator().manual_seed(0))
    vae = FoldingVAE()
    latents = vae.encode(pixels).latent_dist.mode()
    assert latents.shape == (2, 48, 4, 6)
    assert torch.equal(vae.decode(latents).sample, pixels)
    assert torch.equal(vae.decode(latents, return_dict=False)[0], pixels)


def test_training_moves_its_own_part_alone_and_every_technique_runs():
    images, _, prompts = object_scenes(12, random_state=0)
    pictures = torch.from_numpy(images)
    pipe = small_pipeline(scene_words(), channels=(8, 16))
    state = torch.get_rng_state()
    distinct = sorted(set(prompts))
    texts = pipe.encode_text(distinct, batch=len(distinct)).embeds
    assert torch.pdist(texts.flatten(1)).min() > 0.1

    def weights():
        return {name: p.clone() for name, p in pipe.unet.named_parameters() if "lora" not in name}

    def same(before):
        now = {name.replace(".base_layer", ""): p for name, p in weights().items()}
        return all(torch.equal(now[name.replace(".base_layer", "")], p) for name, p in before.items())

    before = weights()
    assert len(train_pipeline(pipe, pictures, prompts, steps=2)) == 2
    assert not same(before)
    before = weights()
    assert len(train_controlnet(pipe, pictures, prompts, steps=2)) == 2
    assert same(before)
    assert pipe.controlnet.controlnet_mid_block.weight.abs().sum() > 0  # zero before
    assert len(train_lora(pipe, pictures, prompts, "own", steps=2)) == 2
    assert same(before)
    moved = [p.abs().sum() for name, p in pipe.unet.named_parameters() if "lora_B.own" in name]
    assert moved
    assert all(one > 0 for one in moved)
    assert torch.equal(torch.get_rng_state(), state)
    report = pipe.gate(
        pictures[:2],
        [
            Technique("prompt", prompt=prompts[:2]),
            Technique("edges", controlnet_image="input-sobel"),
            Technique("LoRA", adapters="own"),
        ],
        num_inference_steps=2, seeds=(0,),
    )  # fmt: skip
    assert all(row["gain_mean"] != 0 for row in report.table if row["metric"] == "mse")
