"""Generated street scenes, and CamVid from its zip."""

import zipfile

import pytest
import torch
from PIL import Image

from graftkit.methods.aucseg.data import (
    CAMVID_CLASSES,
    CAMVID_GROUPS,
    SCENE_CLASSES,
    SCENE_GROUPS,
    load_camvid,
    street_scenes,
    write_split,
)
from graftkit.torch import count_pixels, split_classes


def test_scenes_have_a_long_tail():
    images, labels = street_scenes(200, random_state=1)
    assert images.dtype == labels.dtype == torch.uint8
    counts = count_pixels(labels, len(SCENE_CLASSES))
    assert split_classes(counts, tail_below=0.006, head_above=0.08) == SCENE_GROUPS
    with_pedestrian = (labels == 5).flatten(1).any(1).float().mean()
    assert 0.08 < with_pedestrian < 0.25
    assert (labels[:, -1] == 255).all()


def test_scenes_repeat_by_seed():
    first, again, other = (street_scenes(3, random_state=s) for s in (0, 0, 1))
    assert torch.equal(first[0], again[0])
    assert torch.equal(first[1], again[1])
    assert not torch.equal(first[0], other[0])


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [((0,), ValueError, "n"), ((1.5,), TypeError, "n"), ((1, (10, 30)), ValueError, "size")],
)
def test_bad_scenes(arguments, error, words):
    with pytest.raises(error, match=words):
        street_scenes(*arguments)


def test_written_scenes_are_read_again(tmp_path):
    images, labels = street_scenes(3)
    write_split(tmp_path / "train", images, labels)
    assert sorted(p.name for p in (tmp_path / "train" / "images").iterdir()) == [
        "0000.jpg",
        "0001.jpg",
        "0002.jpg",
    ]
    paths = sorted((tmp_path / "train" / "labels").iterdir())
    assert torch.equal(count_pixels(paths, 6), count_pixels(labels, 6))
    with zipfile.ZipFile(tmp_path / "set.zip", "w") as file:
        for path in (tmp_path / "train").rglob("*.*g"):
            file.write(path, path.relative_to(tmp_path))
    again, same = load_camvid(tmp_path / "set.zip", "train")
    assert torch.equal(same, labels)
    assert (again.float().mean((0, 2, 3)) - images.float().mean((0, 2, 3))).abs().max() < 3  # JPEG
    with pytest.raises(ValueError, match="images and labels"):
        write_split(tmp_path, images.float(), labels)
    with pytest.raises(ValueError, match="images and labels"):
        write_split(tmp_path, images, labels[:2])


@pytest.fixture
def archive(tmp_path):
    path = tmp_path / "set.zip"
    with zipfile.ZipFile(path, "w") as file:
        for k in range(5):
            Image.new("RGB", (240, 180), (k, 0, 0)).save(tmp_path / "a.jpg")
            Image.new("L", (240, 180), k).save(tmp_path / "a.png")
            file.write(tmp_path / "a.jpg", f"train/images/{k}.jpg")
            file.write(tmp_path / "a.png", f"train/labels/{k}.png")
    return path


def test_zip_is_read_in_order(archive):
    images, labels = load_camvid(archive, "train")
    assert images.shape == (5, 3, 180, 240)
    assert labels[:, 0, 0].tolist() == [0, 1, 2, 3, 4]
    _, some = load_camvid(archive, "train", limit=3)
    assert some[:, 0, 0].tolist() == [0, 2, 4]


def test_bad_zip(archive):
    with pytest.raises(ValueError, match=r"path.*val/images"):
        load_camvid(archive, "val")
    with pytest.raises(ValueError, match=r"split.*'train', 'val'"):
        load_camvid(archive, "test")
    with pytest.raises(ValueError, match="limit"):
        load_camvid(archive, "train", limit=0)


@pytest.mark.data
def test_camvid(data_root):
    images, labels = load_camvid(data_root / "camvid" / "camvid_240x180.zip", "val")
    assert images.shape == (101, 3, 180, 240)
    assert set(labels.unique().tolist()) <= {*range(11), 255}
    assert sorted(c for group in CAMVID_GROUPS.values() for c in group) == list(range(len(CAMVID_CLASSES)))
