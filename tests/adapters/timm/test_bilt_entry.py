"""The registered model "bilt": built by ``timm.create_model`` from a tree or a file of one."""

import importlib
import subprocess
import sys

import pytest
import torch

pytest.importorskip("timm", reason="needs the timm extra")

import timm

from graftkit.timm import HierarchicalClassifier
from tests.adapters.timm.bilt_cases import TREE


@pytest.fixture
def tree_file(tmp_path):
    file = tmp_path / "tree.json"
    file.write_text(TREE.to_json())
    return str(file)


def test_create_model(tree_file):
    model = timm.create_model(
        "bilt", base="test_resnet", tree=tree_file, num_classes=5, neck=8, drop_rate=0.1
    )
    assert isinstance(model, HierarchicalClassifier)
    assert model.tree == TREE
    assert model.backbone.drop_rate == 0.1
    assert model(torch.zeros(2, 3, 64, 64)).scores.shape == (2, 5)
    with pytest.raises(
        ValueError, match=r"num_classes: expected 5, the finest classes of the tree, got 1000"
    ):
        timm.create_model("bilt", base="test_resnet", tree=tree_file, num_classes=1000)


def test_trees_of_every_file(tmp_path):
    TREE.to_csv(tmp_path / "tree.csv")
    (tmp_path / "isa.txt").write_text("r a\nr b\na x\nb y\n")
    assert timm.create_model("bilt", base="test_resnet", tree=tmp_path / "tree.csv").tree == TREE
    assert timm.create_model("bilt", base="test_resnet", tree=str(tmp_path / "isa.txt")).num_classes == 2
    assert timm.create_model("bilt", base="test_resnet", tree=TREE).tree == TREE


def test_registered_once_and_importing_twice_is_harmless():
    importlib.reload(sys.modules["graftkit.timm.bilt_entry"])
    assert timm.list_models("bilt") == ["bilt"]


def test_a_name_clash_raises():
    code = (
        "import timm\nfrom timm.models import register_model\n"
        "def bilt(**kwargs): ...\nregister_model(bilt)\nimport graftkit.timm"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert "timm already has a model named 'bilt'" in done.stderr


def test_the_bases_configuration_can_be_overlaid():
    overlay = {"input_size": (3, 64, 64)}
    model = timm.create_model("bilt", base="test_resnet", tree=TREE, pretrained_cfg_overlay=overlay)
    assert model.pretrained_cfg["input_size"] == (3, 64, 64)
