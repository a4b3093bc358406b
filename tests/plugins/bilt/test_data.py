"""Loaders on made archives and on the real ones; the Gaussian tree as it was ordered."""

import io
import zipfile

import pytest
import torch
from PIL import Image

from graftkit.methods.bilt import check_labels
from graftkit.methods.bilt.data import (
    CIFAR10_PATHS,
    gaussian_tree,
    load_cifar10,
    load_digits_tree,
    load_omniglot,
)


def picture(value, size, mode):
    file = io.BytesIO()
    Image.new(mode, size, value).save(file, "PNG" if mode == "L" else "JPEG")
    return file.getvalue()


@pytest.fixture
def omniglot(tmp_path):
    """Two alphabets of two and one characters, three drawings each, darker with the drawer."""
    file = tmp_path / "omniglot.zip"
    with zipfile.ZipFile(file, "w") as archive:
        for alphabet, character, number in (("Greek", "c01", 11), ("Greek", "c02", 12), ("Latin", "c01", 5)):
            for drawer in (3, 1, 2):
                name = f"images/{alphabet}/{character}/{number:04d}_{drawer:02d}.png"
                archive.writestr(name, picture(255 - 51 * drawer, (105, 105), "L"))
    return file


def test_omniglot_splits_by_drawer_and_builds_the_tree(omniglot):
    (x, y), (test_x, test_y), tree = load_omniglot(omniglot, train=2, size=16)
    assert tree.paths() == [("Greek", "Greek/c01"), ("Greek", "Greek/c02"), ("Latin", "Latin/c01")]
    assert x.shape == (6, 1, 16, 16)
    assert y.tolist() == [0, 0, 1, 1, 2, 2]
    assert test_y.tolist() == [0, 1, 2]
    torch.testing.assert_close(x[:2, 0, 0, 0], torch.tensor([0.2, 0.4]))  # drawers 1 and 2, strokes near 1
    torch.testing.assert_close(test_x[:, 0, 0, 0], torch.full((3,), 0.6))


def test_omniglot_refuses(omniglot, tmp_path):
    with pytest.raises(ValueError, match=r"more than 3 drawings a character, got .*Greek/c01 \(3\)"):
        load_omniglot(omniglot, train=3)
    with zipfile.ZipFile(tmp_path / "empty.zip", "w"):
        pass
    with pytest.raises(ValueError, match=r"path: expected .*got none"):
        load_omniglot(tmp_path / "empty.zip")
    with pytest.raises(ValueError, match="train"):
        load_omniglot(omniglot, train=0)


@pytest.mark.data
def test_the_real_omniglot(data_root):
    (x, y), (test_x, test_y), tree = load_omniglot(data_root / "omniglot" / "images_background_small1.zip")
    assert tree.sizes == (5, 136)
    assert x.shape == test_x.shape == (1360, 1, 28, 28)
    assert 0.02 < float(x.mean()) < 0.2  # strokes on an empty page
    for labels in (y, test_y):
        assert torch.equal(labels.bincount(), torch.full((136,), 10))


def test_cifar10_has_three_levels_and_a_cap(tmp_path):
    file = tmp_path / "cifar.zip"
    with zipfile.ZipFile(file, "w") as archive:
        for k, (*_, name) in enumerate(CIFAR10_PATHS):
            for split, n in (("train", 2 + k % 2), ("test", 2)):
                for i in range(n):
                    archive.writestr(
                        f"root/{split}/{name}/{i:04d}.jpg", picture((20 * k, 0, 255 - k), (32, 32), "RGB")
                    )
    (x, y), (test_x, test_y), tree = load_cifar10(file, per_class=2, test_per_class=1)
    assert tree.sizes == (2, 5, 10)
    assert tree.names(1) == ("animal", "vehicle")
    assert (x.shape, test_x.shape) == ((20, 3, 32, 32), (10, 3, 32, 32))
    assert test_y.tolist() == list(range(10))
    torch.testing.assert_close(x[:, 0].mean(), torch.tensor(0.0), atol=1e-5, rtol=0)
    check_labels(y, tree)
    with zipfile.ZipFile(tmp_path / "other.zip", "w") as archive:
        archive.writestr("train/cat/0.jpg", picture(0, (32, 32), "RGB"))
    with pytest.raises(ValueError, match=r"train/<class>/\*.jpg, missing \['dog'"):
        load_cifar10(tmp_path / "other.zip")


@pytest.mark.data
def test_the_real_cifar10(data_root):
    (_, y), (_, test_y), tree = load_cifar10(
        data_root / "cifar10_lt" / "cifar10_lt100.zip", per_class=60, test_per_class=5)  # fmt: skip
    counts = dict(zip(tree.names(), y.bincount().tolist(), strict=True))
    assert counts["truck"] == 50  # the tail is shorter than the cap
    assert counts["airplane"] == 60
    assert torch.equal(test_y.bincount(), torch.full((10,), 5))


def test_digits_have_their_groups_and_repeat():
    (x, y), (test_x, _), tree = load_digits_tree(per_class=3, random_state=1)
    assert tree.paths()[8] == ("loops", "8")
    assert torch.equal(y.bincount(), torch.full((10,), 3))
    assert len(x) + len(test_x) == 1797
    assert torch.equal(load_digits_tree(per_class=3, random_state=1)[0][0], x)
    assert not torch.equal(load_digits_tree(per_class=3, random_state=2)[0][0], x)


def test_gaussian_classes_lie_nearer_within_a_branch():
    (x, y), _, tree, centres = gaussian_tree((3, 3, 3), dim=64, train=4, test=1)
    assert tree.sizes == (3, 9, 27)
    assert x.shape == (108, 64)
    assert torch.equal(y.bincount(), torch.full((27,), 4))
    gaps = torch.cdist(centres, centres)
    means = [float(gaps[tree.distance() == d].mean()) for d in (1, 2, 3)]
    assert means == sorted(means)
    within = x - centres[y]
    assert float(within.std()) == pytest.approx(1, abs=0.05)


def test_siblings_on_a_line_are_where_they_were_put():
    *_, tree, centres = gaussian_tree((2, 4), scales=(1.0, 0.5), dim=16, line=(0.0, 0.25, 1.0, 1.25))
    gaps = torch.cdist(centres[:4], centres[:4])
    torch.testing.assert_close(gaps[0] / gaps[0, 2], torch.tensor([0.0, 0.25, 1.0, 1.25]), atol=1e-4, rtol=0)
    assert tree.sizes == (2, 8)


def test_gaussian_arguments():
    with pytest.raises(ValueError, match=r"scales: expected 3 numbers"):
        gaussian_tree(scales=(1.0,))
    with pytest.raises(ValueError, match=r"line: expected 4 places"):
        gaussian_tree(line=(0.0, 1.0))
    with pytest.raises(ValueError, match="scales"):
        gaussian_tree(scales=(1.0, -1.0, 1.0))
    before = torch.get_rng_state()
    gaussian_tree((2, 2), scales=(1, 1))
    assert torch.equal(torch.get_rng_state(), before)
