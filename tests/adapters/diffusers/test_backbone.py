"""The backbone: what it announces is what it gives; gradients, freezing, state, pickling."""

import copy
import pickle

import diffusers
import pytest
import torch
from torch.utils.data import DataLoader, Dataset

from graftkit.diffusers import DiffusionBackbone, DiffusionFeaturePipeline
from tests.adapters.diffusers import tiny

LEVELS = [
    ["up-level3-repeat0-vit-block0-self-k"],
    ["up-level2-repeat1-vit-block0-cross-q", "up-level1-repeat2-res-out"],
]


@pytest.fixture
def pipe(tmp_path):
    return DiffusionFeaturePipeline.from_pipe(tiny.sd_pipe(tmp_path))


def pixels(count=2, height=32, width=48):
    return 2 * tiny.image(count, height, width) - 1


def test_feature_info_agrees_with_what_comes_out(pipe):
    backbone = DiffusionBackbone(pipe, LEVELS, prompt="a street", size=(32, 48))
    maps = backbone(pixels())
    assert backbone.feature_info.channels() == [m.shape[1] for m in maps] == [8, 8 + 16]
    assert backbone.feature_info.reduction() == [32 // m.shape[-2] for m in maps] == [2, 4]
    assert backbone.feature_info.channels(1) == 24
    assert backbone.feature_info.module_name(0) == LEVELS[0][0]
    assert len(backbone.feature_info) == 2
    assert backbone.feature_info[1]["reduction"] == 4
    assert not any(m.requires_grad for m in maps)


def test_its_maps_are_the_pipelines(pipe):
    backbone = DiffusionBackbone(pipe, [LEVELS[0]], prompt="a street", seed=3)
    generators = [torch.Generator().manual_seed(3) for _ in range(2)]
    expected = pipe(tiny.image(), "a street", LEVELS[0], generator=generators).features[LEVELS[0][0]]
    assert torch.allclose(backbone(pixels())[0], expected, atol=1e-5)
    normed = DiffusionBackbone(
        pipe, [LEVELS[0]], prompt="a street", seed=3, mean=[0.4, 0.5, 0.6], std=[0.2] * 3
    )
    shift = torch.tensor([0.4, 0.5, 0.6]).view(1, 3, 1, 1)
    assert torch.allclose(normed((tiny.image() - shift) / 0.2)[0], expected, atol=1e-4)


def test_the_preset_becomes_a_pyramid(pipe):
    backbone = DiffusionBackbone(pipe)
    assert [len(level) for level in backbone.levels] == [1, 1, 2]
    assert backbone.feature_info.reduction() == [2, 4, 8]


def test_noise_is_fixed_or_fresh_and_never_global(pipe):
    state = torch.get_rng_state()
    fixed = DiffusionBackbone(pipe, [LEVELS[0]])
    one, two = fixed(pixels()), fixed(pixels()[:1])
    assert torch.allclose(one[0][:1], two[0], atol=1e-5)
    fresh = DiffusionBackbone(pipe, [LEVELS[0]], noise="random")
    assert not torch.equal(fresh(pixels())[0], fresh(pixels())[0])
    assert torch.equal(torch.get_rng_state(), state)


def test_gradients_reach_a_neck_and_the_denoiser_only_where_asked(pipe):
    frozen = DiffusionBackbone(pipe, [LEVELS[1]])
    neck = torch.nn.Conv2d(24, 2, 1)
    neck(frozen(pixels())[0]).sum().backward()
    assert neck.weight.grad.abs().sum() > 0
    assert all(p.grad is None and not p.requires_grad for p in frozen.parameters())
    trainable = DiffusionBackbone(pipe, [LEVELS[1]], trainable=True)
    neck(trainable(pixels())[0]).square().sum().backward()
    unet = trainable.denoiser
    assert unet.down_blocks[0].resnets[0].conv1.weight.grad.abs().sum() > 0
    assert unet.up_blocks[1].resnets[0].conv1.weight.grad.abs().sum() > 0
    assert unet.conv_out.weight.grad is None  # after the last tap
    assert unet.up_blocks[3].resnets[0].conv1.weight.grad is None
    assert all(p.grad is None for p in trainable.vae.parameters())


def test_training_mode_stops_at_the_diffusion_model(pipe):
    backbone = DiffusionBackbone(pipe, LEVELS, trainable=True).train()
    assert backbone.training
    assert not backbone.denoiser.training
    assert not backbone.vae.training


def test_state_goes_round_and_copies_stand_alone(pipe):
    backbone = DiffusionBackbone(pipe, [LEVELS[0]], prompt="a street")
    expected = backbone(pixels())[0]
    copied, unpickled = copy.deepcopy(backbone), pickle.loads(pickle.dumps(backbone))
    with torch.no_grad():
        for parameter in backbone.denoiser.parameters():
            parameter.mul_(0.5)
    assert not torch.allclose(backbone(pixels())[0], expected, atol=1e-3)
    assert torch.equal(copied(pixels())[0], expected)
    assert torch.equal(unpickled(pixels())[0], expected)
    backbone.load_state_dict(copied.state_dict())
    assert torch.equal(backbone(pixels())[0], expected)


class Features(Dataset):
    def __init__(self, backbone):
        self.backbone = backbone

    def __len__(self):
        return 2

    def __getitem__(self, index):
        return self.backbone(pixels(1))[0][0]


def test_workers_can_carry_it(pipe):
    backbone = DiffusionBackbone(pipe, [LEVELS[0]])
    (batch,) = DataLoader(Features(backbone), batch_size=2)
    assert torch.allclose(batch[0], backbone(pixels(1))[0][0], atol=1e-5)


def test_odd_sizes_are_resized(pipe):
    backbone = DiffusionBackbone(pipe, [LEVELS[0]])
    assert backbone(pixels(1, 37, 50))[0].shape[-2:] == (16, 24)


def test_transformers_and_pixel_models_are_backbones_too():
    flow = DiffusionFeaturePipeline(
        unet=tiny.seeded(
            lambda: diffusers.UNet2DModel(
                sample_size=16,
                block_out_channels=(8, 8),
                norm_num_groups=4,
                down_block_types=("DownBlock2D",) * 2,
                up_block_types=("UpBlock2D",) * 2,
                layers_per_block=1,
            )
        ),
        scheduler=diffusers.DDPMScheduler(),
    )
    backbone = DiffusionBackbone(flow, [["up-level1-repeat1-res-out"], ["mid-repeat1-res-out"]])
    assert [tuple(m.shape) for m in backbone(pixels(1, 16, 16))] == [(1, 8, 16, 16), (1, 8, 8, 8)]


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"pipe": 3}, TypeError, "pipe: expected a DiffusionFeaturePipeline"),
        ({"levels": "up-*"}, ValueError, "levels: expected a list with a list of names"),
        ({"levels": []}, ValueError, "levels: expected a list with a list of names"),
        ({"levels": [["attn"]]}, ValueError, "the extras have no fixed size"),
        ({"levels": [["nothing-out"]]}, ValueError, "unknown activation"),
        ({"prompt": ["a", "b"]}, TypeError, "one string for all images"),
        ({"noise": "none"}, ValueError, "noise: expected one of"),
        ({"mean": [0.5] * 3}, ValueError, "mean, std: expected both or neither"),
        ({"trainable": 1}, TypeError, "trainable: expected True or False"),
        ({"timestep": -1}, ValueError, "timestep: expected an integer >= 0"),
    ],
)
def test_arguments_are_checked(pipe, change, error, words):
    with pytest.raises(error, match=words):
        DiffusionBackbone(**{"pipe": pipe, "levels": LEVELS, **change})


def test_images_are_checked(pipe):
    with pytest.raises(ValueError, match=r"x: expected shape \(B, 3, H, W\)"):
        DiffusionBackbone(pipe, [LEVELS[0]])(pixels()[0])
    with pytest.raises(ValueError, match=r"pixels: expected .* sides divisible by 16"):
        pipe.forward_features(pixels(1, 37, 50), pipe.encode_text(None))
