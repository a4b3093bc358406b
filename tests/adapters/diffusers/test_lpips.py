"""The named LPIPS metric, with torchvision's AlexNet of random weights put where its download would lie."""

import sys

import pytest
import torch
from torch.nn import functional

from graftkit.diffusers import Technique
from graftkit.diffusers.lpips import LPIPS
from tests.adapters.diffusers import tiny
from tests.adapters.diffusers.content_shift_pipes import FAST, feature_pipe

pytest.importorskip("torchmetrics", reason="needs torchmetrics")
SHIFT = torch.tensor([-0.030, -0.088, -0.188])[:, None, None]
SCALE = torch.tensor([0.458, 0.448, 0.450])[:, None, None]


@pytest.fixture
def weights(tmp_path, monkeypatch):
    """No network: `torch.hub` takes a file that is there; the unused classifier is a broadcast zero."""
    import torchvision

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    torch.manual_seed(0)
    with torch.device("meta"):
        shapes = torchvision.models.alexnet(weights=None).state_dict()
    state = {
        key: 0.05 * torch.randn(v.shape) if key.startswith("features") else torch.zeros(1).expand(v.shape)
        for key, v in shapes.items()
    }
    folder = tmp_path / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    url = torchvision.models.AlexNet_Weights.IMAGENET1K_V1.url
    torch.save(state, folder / url.rsplit("/", 1)[1])
    return state


def by_hand(weights, linear, image, other):
    """Zhang et al., equation 1: unit-length channels, squared differences weighted, averaged over places."""
    total, stack = 0.0, []
    for picture in (image, other):
        x, found = (2 * picture - 1 - SHIFT) / SCALE, []
        for index, stride, padding in ((0, 4, 2), (3, 1, 2), (6, 1, 1), (8, 1, 1), (10, 1, 1)):
            if index in (3, 6):
                x = functional.max_pool2d(x, 3, 2)
            w, b = weights[f"features.{index}.weight"], weights[f"features.{index}.bias"]
            x = functional.conv2d(x[None], w, b, stride, padding)[0].relu()
            found.append(x / (x.square().sum(0, keepdim=True).sqrt() + 1e-10))
        stack.append(found)
    for w, a, b in zip(linear, *stack, strict=True):
        total += float((w[:, None, None] * (a - b).square()).sum(0).mean())
    return total


def test_distances_are_the_papers(weights):
    metric = LPIPS()
    images, others = torch.rand(2, 3, 64, 48), torch.rand(2, 3, 64, 48)
    linear = [layer.model[-1].weight.detach()[0, :, 0, 0] for layer in metric.metric.net.lins]
    expected = [by_hand(weights, linear, *pair) for pair in zip(images, others, strict=True)]
    assert expected[0] != expected[1]
    torch.testing.assert_close(metric(images, others), torch.tensor(expected), rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(metric(images, others), metric(images, others))  # nothing adds up
    torch.testing.assert_close(metric(images, images), torch.zeros(2))


@pytest.mark.usefixtures("weights")
def test_the_global_generator_is_left_alone():
    torch.manual_seed(5)
    expected = torch.rand(())
    torch.manual_seed(5)
    LPIPS()
    assert torch.rand(()) == expected


@pytest.mark.usefixtures("weights")
def test_gate_takes_it_by_name(tmp_path):
    pipe = feature_pipe(tmp_path)
    report = pipe.gate(tiny.image(2), Technique("w", prompt="a horse"), metrics=("lpips", "mse"), **FAST)
    assert [row["metric"] for row in report.table] == ["lpips", "mse"]
    assert report.settings["verdict_by"] == "lpips"
    assert report.table[0]["gain_sd"] > 0


@pytest.mark.usefixtures("weights")
@pytest.mark.parametrize("shape", [(1, 3, 31, 64), (1, 1, 64, 64)])
def test_pictures_that_the_network_cannot_read(shape):
    with pytest.raises(ValueError, match=r"images: expected 3 channels, 32 x 32 pixels or more, for lpips"):
        LPIPS()(torch.rand(shape), torch.rand(shape))


def test_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "torchmetrics.image.lpip", None)
    with pytest.raises(ImportError, match=r"needs torchmetrics .*graftkit\[lightning\]"):
        LPIPS()
