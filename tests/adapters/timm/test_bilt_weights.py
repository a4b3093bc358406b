"""Weights of a wrapped model travel with their tree: safetensors, timm's checkpoints, another tree."""

import pytest
import torch

pytest.importorskip("timm", reason="needs the timm extra")

import timm
from timm.models import load_checkpoint

from graftkit.timm import HierarchicalClassifier, wrap_timm
from tests.adapters.timm.bilt_cases import TREE, pictures, small


def test_weights_travel_as_safetensors_with_their_tree(tmp_path):
    model, file = small(), tmp_path / "weights.safetensors"
    model.save_weights(file)
    assert [path.name for path in tmp_path.iterdir()] == ["weights.safetensors"]
    x, _ = pictures()
    for load in (HierarchicalClassifier.load_weights, load_checkpoint):
        twin = wrap_timm("test_resnet", TREE, neck=8)
        load(twin, file)
        assert torch.equal(twin.eval()(x).scores, model.eval()(x).scores)
    other = wrap_timm("test_resnet", TREE.align(["tram", "bus", "car", "dog", "cat"]), neck=8)
    before = {name: value.clone() for name, value in other.state_dict().items()}
    for load in (HierarchicalClassifier.load_weights, load_checkpoint):
        with pytest.raises(ValueError, match=r"same label tree .* got the same classes in another order"):
            load(other, file)
    assert all(torch.equal(value, before[name]) for name, value in other.state_dict().items())


def test_a_checkpoint_by_its_path(tmp_path):
    model = small()
    torch.save({"state_dict": model.state_dict(), "epoch": 1}, tmp_path / "last.pth.tar")
    twin = timm.create_model("bilt", base="test_resnet", tree=TREE, neck=8,
                             checkpoint_path=str(tmp_path / "last.pth.tar"))  # fmt: skip
    x, _ = pictures(2)
    assert torch.equal(twin.eval()(x).scores, model.eval()(x).scores)
