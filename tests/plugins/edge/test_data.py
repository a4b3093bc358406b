"""The two tasks: what lies in the pictures is what the targets say, and nothing is shared with the test."""

import zipfile

import numpy as np
import pytest
import torch

from graftkit.methods.edge.collages import HELD_OUT, cifar_task, photo_crops, read_pictures
from graftkit.methods.edge.composites import digit_task, draw_labels, make_textures, place_tiles


@pytest.fixture(scope="module")
def task():
    return digit_task(3, n_train=400, n_test=300)


def test_labels_one_to_three_by_weight():
    y = draw_labels(20_000, 30.0 ** (-np.arange(8) / 7), np.random.default_rng(0))
    sizes = y.sum(1)
    assert [float((sizes == k).mean()) for k in (1, 2, 3)] == pytest.approx([0.5, 0.35, 0.15], abs=0.02)
    counts = y.sum(0)
    assert bool((np.diff(counts) < 0).all())
    # The specification's figures for 3,000 pictures: about 1676 down to 77.
    assert counts[0] * 3000 / 20_000 == pytest.approx(1676, rel=0.03)
    assert counts[7] * 3000 / 20_000 == pytest.approx(77, rel=0.15)
    assert draw_labels(5, [1.0], np.random.default_rng(0)).tolist() == [[1.0]] * 5


def test_tiles_lie_in_cells_of_their_own():
    y = draw_labels(300, np.ones(6), np.random.default_rng(1))
    pools = [np.full((2, 1, 3, 3), label + 1.0, dtype=np.float32) for label in range(6)]
    images = place_tiles(y, pools, np.random.default_rng(2), cell=5)
    for image, targets in zip(images, y, strict=True):
        cells = [image[0, r : r + 5, c : c + 5] for r in (0, 5) for c in (0, 5)]
        found = sorted(int(cell.max()) - 1 for cell in cells if cell.any())
        assert found == np.flatnonzero(targets).tolist()
        assert all((cell > 0).sum() in (0, 9) for cell in cells)  # whole, and not over another


def test_task_is_drawn_anew_every_epoch_and_the_same_every_time(task):
    x, y = task.draw(0)
    assert x.shape == (400, 1, 20, 20)
    assert y.shape == (400, 8)
    assert 0 <= float(x.min()) < float(x.max()) <= 1
    again = digit_task(3, n_train=400, n_test=300)
    assert torch.equal(again.draw(0)[0], x)
    assert torch.equal(again.draw_outliers(1), task.draw_outliers(1))
    assert torch.equal(again.x, task.x)
    assert not torch.equal(task.draw(1)[0], x)
    assert not torch.equal(digit_task(4, n_train=400).draw(0)[0], x)
    # The share of a label over all epochs.
    expected = task.counts / 400
    seen = torch.stack([task.draw(e)[1].mean(0) for e in range(10)]).mean(0)
    torch.testing.assert_close(seen, expected.to(seen), rtol=0.25, atol=0.01)


def test_training_and_test_share_no_glyph_and_no_kind(task):
    from graftkit.methods.edge.composites import _glyphs

    train, test = _glyphs(3)
    flat = [{image.tobytes() for pool in side for image in pool} for side in (train, test)]
    assert len(flat[0] & flat[1]) <= 2  # digits drawn twice in scikit-learn's set
    assert sum(map(len, train)) == pytest.approx(0.6 * 1797, abs=1)
    assert set(task.kinds).isdisjoint(name.split(" (")[0] for name in task.ood)
    assert [len(v) for v in task.ood.values()] == [150] * 4


@pytest.mark.parametrize("kind", ["digit 8", "grating", "noise", "faint noise", "inverted"])
def test_outliers_of_one_kind(task, kind):
    u = task.draw_outliers(0, [kind])
    assert u.shape == (400, 1, 20, 20)
    assert float(u.min()) >= 0
    assert float(u.max()) <= (0.3 if kind == "faint noise" else 1)
    assert (float(u.mean()) > 0.5) == (kind == "inverted") or kind in ("grating", "noise")


@pytest.mark.parametrize("kind", ["grating", "checker", "blobs", "noise"])
def test_textures(kind):
    images = make_textures(kind, 20, 0)
    assert images.shape == (20, 1, 20, 20)
    assert images.dtype == torch.float32
    if kind != "noise":
        assert images.amin((1, 2, 3)).tolist() == [0.0] * 20
        assert images.amax((1, 2, 3)).tolist() == [1.0] * 20
    # Neighbours agree except in white noise.
    flat = images - images.mean((1, 2, 3), keepdim=True)
    alike = float((flat[..., 1:] * flat[..., :-1]).mean() / (flat**2).mean())
    assert alike == pytest.approx(0, abs=0.05) if kind == "noise" else alike > 0.3
    assert torch.equal(make_textures(kind, 20, 0), images)


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda _: make_textures("stripes", 1), ValueError, "kind: expected one of 'grating'"),
        (lambda _: make_textures("noise", -1), ValueError, "n: expected an integer >= 0"),
        (lambda _: digit_task(-1), ValueError, "random_state: expected an integer >= 0"),
        (lambda _: digit_task(n_train=1.5), TypeError, "n_train: expected an integer"),
        (lambda _: digit_task(n_test=1), ValueError, "n_test: expected an integer >= 2"),
        (lambda t: t.draw_outliers(0, ["digit 9"]), ValueError, "kinds: expected one of 'digit 8'"),
        (lambda t: t.draw_outliers(0, []), ValueError, "kinds: expected at least one kind"),
        (
            lambda _: cifar_task("nowhere"),
            ValueError,
            "data: expected a folder with cifar10_lt100.zip, camvid",
        ),
        (lambda _: cifar_task("nowhere", n_train=0), ValueError, "n_train: expected an integer >= 2"),
    ],
)
def test_refusals(task, call, error, words):
    with pytest.raises(error, match=words):
        call(task)


def test_crops_of_photographs():
    crops = photo_crops(10, np.random.default_rng(0))
    assert crops.shape == (10, 3, 32, 32)
    assert 0 <= float(crops.min()) < float(crops.max()) <= 1


@pytest.fixture(scope="module")
def archives(tmp_path_factory):
    """The data folder's form in small: ten classes of flat colour, streets, characters."""
    image = pytest.importorskip("PIL.Image", reason="needs the examples extra")
    root = tmp_path_factory.mktemp("data")

    def write(path, members):
        path.parent.mkdir()
        with zipfile.ZipFile(path, "w") as file:
            for name, (size, value) in members.items():
                with file.open(name, "w") as member:
                    image.new("RGB", size, (value, value, value)).save(member, "png")

    names = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
    write(
        root / "cifar10_lt" / "cifar10_lt100.zip",
        {
            f"{side}/{name}/{k:04}.png": ((32, 32), 20 * (label + 1))
            for side in ("train", "test")
            for label, name in enumerate(names)
            for k in range(10 - label if side == "train" else 2)
        },
    )
    write(root / "camvid" / "camvid_240x180.zip", {"val/images/a.png": ((240, 180), 99)})
    write(
        root / "omniglot" / "images_background_small1.zip",
        {"images_background_small1/A/c/1.png": ((105, 105), 250)},
    )
    return root


def test_collages_hold_the_classes_that_the_targets_name(archives):
    small = cifar_task(archives, 0, n_train=60, n_test=40)
    x, y = small.draw(0)
    assert x.shape == (60, 3, 32, 32)
    # Flat tiles: each label's grey is on the canvas, 256 pixels of it. Held-out classes are no labels.
    greys = [20 * (k + 1) / 255 for k in range(10) if k not in (3, 4)]
    for image, targets in zip(x, y, strict=True):
        for label, grey in enumerate(greys):
            tiles = int(((image[0] - grey).abs() < 1e-4).sum() / 256 + 0.01)
            assert tiles == int(targets[label])
    assert bool((small.counts.diff() < 0).all())
    assert list(small.ood) == ["cat (near)", "CamVid (far)", "Omniglot (far)"]
    assert HELD_OUT == {"outlier": "deer", "near": "cat"}
    deer = small.draw_outliers(0, ["deer collages"])
    assert bool((((deer[:, 0] - 100 / 255).abs() < 1e-4).sum((1, 2)) >= 256).all())
    assert torch.allclose(small.ood["CamVid (far)"], torch.tensor(99 / 255))
    assert len(small.draw_outliers(0)) == 60
    assert 0 <= float(x.min()) <= float(x.max()) <= 1


def test_fewer_pictures_keep_the_frequencies(archives):
    whole, few = (cifar_task(archives, 0, n_train=60, n_test=40, per_class=k) for k in (None, 1))
    assert torch.equal(whole.counts, few.counts)
    with pytest.raises(ValueError, match="per_class: expected an integer >= 1"):
        cifar_task(archives, 0, per_class=0)


def test_reading_pictures(archives):
    path = archives / "cifar10_lt" / "cifar10_lt100.zip"
    assert read_pictures(path, "train/airplane/", limit=3).shape == (3, 3, 32, 32)
    assert read_pictures(path, "train/airplane/", size=(8, 4)).shape == (10, 3, 4, 8)
    with pytest.raises(ValueError, match="prefix: expected the beginning of a picture's name"):
        read_pictures(path, "train/zebra/")


@pytest.mark.data
def test_real_collages(data_root):
    task = cifar_task(data_root, 0, n_train=200, n_test=100, per_class=40)
    x, y = task.draw(0)
    assert x.shape == (200, 3, 32, 32)
    assert y.shape == (200, 8)
    ratio = float(task.counts[0] / task.counts[-1])
    assert 40 < ratio < 110  # 5000 to 50, less what drawing without replacement evens out
    assert {len(v) for v in task.ood.values()} == {50}
