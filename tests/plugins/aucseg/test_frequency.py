"""Counting pixels and splitting classes by their share."""

import numpy as np
import pytest
import torch
from PIL import Image

from graftkit.torch import count_pixels, split_classes


def test_counts_by_hand_of_arrays_tensors_and_files(tmp_path):
    first = np.array([[0, 0, 1], [2, 2, 255]], dtype=np.uint8)
    Image.fromarray(first).save(tmp_path / "grey.png")
    palette = Image.fromarray(first, mode=None).convert("L").convert("P")
    palette.putpalette(list(range(256)) * 3)
    palette.putdata(first.flatten().tolist())
    palette.save(tmp_path / "palette.png")
    entries = [first, torch.from_numpy(first).long(), str(tmp_path / "grey.png"), tmp_path / "palette.png"]
    for entry in entries:
        assert count_pixels([entry], 4).tolist() == [2, 1, 2, 0]
    assert count_pixels(entries, 4).tolist() == [8, 4, 8, 0]
    assert count_pixels([], 3).tolist() == [0, 0, 0]
    assert count_pixels([first], 256, ignore_index=0)[255] == 1


def test_cityscapes_split():
    """Well-known shares of Cityscapes' training pixels in per cent: the published tail comes out."""
    shares = [36.9, 6.1, 22.8, 0.66, 0.88, 1.23, 0.21, 0.55, 15.9, 1.16, 4.0, 1.22, 0.135, 7.0, 0.27, 0.235,
              0.233, 0.0987, 0.414]  # fmt: skip
    split = split_classes(shares)
    assert split["tail"] == [6, 12, 14, 15, 16, 17, 18]
    assert split["head"] == [0, 1, 2, 8, 10, 13]
    assert split["middle"] == [3, 4, 5, 7, 9, 11]


def test_borders_and_classes_without_pixels():
    counts = torch.tensor([0, 5, 20, 975])
    assert split_classes(counts.float().requires_grad_()) == split_classes(counts)
    assert split_classes(counts) == {"head": [3], "middle": [1, 2], "tail": [0]}
    assert split_classes(counts, tail_below=0.0051, head_above=0.0199) == {
        "head": [2, 3], "middle": [], "tail": [0, 1]
    }  # fmt: skip


@pytest.mark.data
def test_camvids_split(data_root):
    from graftkit.methods.aucseg.data import CAMVID_GROUPS, load_camvid

    _, labels = load_camvid(data_root / "camvid" / "camvid_240x180.zip", "train")
    counts = count_pixels(labels, 11)
    assert split_classes(counts, tail_below=0.011, head_above=0.08) == CAMVID_GROUPS
    shares = counts / counts.sum()
    assert shares[10] == pytest.approx(0.0030, abs=5e-5)  # bicyclist
    assert shares[3] == pytest.approx(0.328, abs=5e-4)  # road


@pytest.mark.parametrize(
    ("labels", "options", "error", "words"),
    [
        ([np.array([[3]])], {"num_classes": 3}, ValueError, "num_classes=3, got 'label 3 in label map 0'"),
        ([np.array([[-1]])], {"num_classes": 3}, ValueError, "num_classes=3, got 'label -1 in label map 0'"),
        ([np.array([[0]]), np.array([[0.5]])], {"num_classes": 3}, TypeError, "label map 1"),
        ([np.array([[True]])], {"num_classes": 3}, TypeError, "label map 0"),
        ([], {"num_classes": 0}, ValueError, "num_classes"),
        ("labels.png", {"num_classes": 3}, TypeError, "labels.*a list"),
        (7, {"num_classes": 3}, TypeError, "labels.*a list"),
        ([], {"num_classes": 3, "ignore_index": 0.5}, TypeError, "ignore_index"),
    ],
)
def test_bad_labels(labels, options, error, words):
    with pytest.raises(error, match=words):
        count_pixels(labels, **options)


@pytest.mark.parametrize(
    ("counts", "options", "words"),
    [
        ([0, 0], {}, "counts.*not all zero"),
        ([], {}, "counts"),
        ([1, -1], {}, "counts.*negative"),
        ([1, float("nan")], {}, "counts"),
        ([[1, 2]], {}, "counts"),
        ([[1], [1, 2]], {}, "counts"),
        ("abc", {}, "counts.*'abc'"),
        (None, {}, "counts"),
        ([1, 2], {"tail_below": 0.1, "head_above": 0.05}, "tail_below.*head_above=0.05"),
        ([1, 2], {"tail_below": -0.1}, "tail_below"),
        ([1, 2], {"head_above": 1.1}, "head_above"),
    ],
)
def test_bad_counts(counts, options, words):
    with pytest.raises(ValueError, match=words):
        split_classes(counts, **options)
