"""Collages of CIFAR-10-LT pictures: a multi-label task of natural images with a long tail.

A canvas of 32 x 32 holds one to three pictures of 16 x 16 in a 2 x 2 grid; its labels are their classes,
drawn in proportion to the class sizes of the long-tailed training set. Two classes are held
out: one is an outlier for training, together with crops of scikit-learn's two photographs, the other the near
unknown of the test. Crops of CamVid and Omniglot's characters are the far unknowns. Training uses
the training pictures, the test the test pictures. Data: see the README's note on ``GRAFTKIT_DATA``.

>>> from graftkit.core.random import numpy_generator
>>> photo_crops(3, numpy_generator(0)).shape
torch.Size([3, 3, 32, 32])
"""

import io
import os
import zipfile
from collections import Counter
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d

from graftkit.core.extras import require
from graftkit.core.validation import check_integer, raise_invalid
from graftkit.methods.edge.composites import (
    FloatArray,
    OODTask,
    _check_kinds,
    _shares,
    draw_labels,
    place_tiles,
)

__all__ = ["cifar_task", "photo_crops", "read_pictures"]

CELL = 16
HELD_OUT = {"outlier": "deer", "near": "cat"}  # the middle of the tail: enough pictures on either side


def cifar_task(
    data: str | os.PathLike[str],
    random_state: int = 0,
    *,
    n_train: int = 3000,
    n_test: int = 3000,
    per_class: int | None = None,
) -> OODTask:
    """The task of the module's description.

    Parameters
    ----------
    data : path
        Folder with ``cifar10_lt``, ``camvid`` and ``omniglot``.
    random_state : int, default=0
        Seeds every draw.
    n_train : int, default=3000
        Collages, and outliers, an epoch; drawn anew every epoch.
    n_test : int, default=3000
        Known test collages; half as many of each unknown kind.
    per_class : int or None, default=None
        Read at most so many pictures of each class; the labels' frequencies stay.

    Returns
    -------
    OODTask
        Eight labels, the classes that are not held out.

    Raises
    ------
    TypeError
        If a number is no integer.
    ValueError
        If a number is out of range, or the folder lacks an archive.
    """
    check_integer("random_state", random_state, low=0)
    check_integer("n_train", n_train, low=2)
    check_integer("n_test", n_test, low=2)
    root = Path(data)
    archives = [
        root / name
        for name in (
            "cifar10_lt/cifar10_lt100.zip",
            "camvid/camvid_240x180.zip",
            "omniglot/images_background_small1.zip",
        )
    ]
    missing = [path.name for path in archives if not path.is_file()]
    if missing:
        raise_invalid("data", str(root), f"a folder with {', '.join(missing)}")
    if per_class is not None:
        check_integer("per_class", per_class, low=1)
    train, test = (_classes(archives[0], side, per_class) for side in ("train", "test"))
    sizes = {name: size for name, (size, _) in train.items() if name not in HELD_OUT.values()}
    labels = sorted(sizes, key=lambda name: -sizes[name])
    weights = np.array([sizes[name] for name in labels], dtype=np.float64)

    def collages(
        pools: Sequence[FloatArray], n: int, rng: np.random.Generator, share: Any
    ) -> tuple[Tensor, Tensor]:
        y = draw_labels(n, share, rng)
        x = place_tiles(y, pools, rng, cell=CELL)
        empty = ~x.any(1, keepdims=True)  # cells without a picture: noise
        noise = rng.normal(0.5, 0.1, x.shape).astype(np.float32).clip(0, 1)
        return torch.from_numpy(x + empty * noise), torch.from_numpy(y)

    def held_out(tiles: FloatArray, n: int, rng: np.random.Generator) -> Tensor:
        # One to three pictures of one class: as many as a known collage has.
        return collages([tiles] * 4, n, rng, np.ones(4))[0]

    def draw(epoch: int) -> tuple[Tensor, Tensor]:
        rng = np.random.default_rng([random_state, 1, epoch])
        return collages([train[name][1] for name in labels], n_train, rng, weights)

    def draw_outliers(epoch: int, kinds: Sequence[str] | None = None) -> Tensor:
        rng = np.random.default_rng([random_state, 2, epoch])
        chosen = _check_kinds(kinds, KINDS)
        parts = [
            held_out(train[HELD_OUT["outlier"]][1], n, rng) if kind == KINDS[0] else photo_crops(n, rng)
            for kind, n in zip(chosen, _shares(n_train, len(chosen)), strict=True)
        ]
        return torch.cat(parts)

    rng = np.random.default_rng([random_state, 3])
    x, y = collages([test[name][1] for name in labels], n_test, rng, weights)
    ood = {f"{HELD_OUT['near']} (near)": held_out(test[HELD_OUT["near"]][1], n_test // 2, rng)}
    streets = read_pictures(archives[1], "val/images/", size=(120, 90))
    ood["CamVid (far)"] = _crops(streets, n_test // 2, rng)
    characters = read_pictures(archives[2], "images_background_small1/", size=(32, 32), limit=2000)
    ood["Omniglot (far)"] = characters[torch.from_numpy(rng.integers(len(characters), size=n_test // 2))]
    counts = (
        torch.from_numpy(draw_labels(20_000, weights, np.random.default_rng(0)).sum(0)) * n_train / 20_000
    )
    return OODTask("CIFAR-10-LT collages", 8, draw, draw_outliers, KINDS, counts, x, y, ood)


KINDS = (f"{HELD_OUT['outlier']} collages", "photographs")


def photo_crops(n: int, rng: np.random.Generator) -> Tensor:
    """Random crops of scikit-learn's two sample photographs, at a quarter of their size.

    Parameters
    ----------
    n : int
        How many.
    rng : numpy.random.Generator
        Private randomness.

    Returns
    -------
    Tensor of shape (n, 3, 32, 32)
        In [0, 1].
    """
    from sklearn.datasets import load_sample_images

    photos = torch.from_numpy(np.stack(load_sample_images().images)).permute(0, 3, 1, 2) / 255
    return _crops(avg_pool2d(photos, 4), n, rng)


def read_pictures(
    archive: str | os.PathLike[str],
    prefix: str,
    *,
    size: tuple[int, int] | None = None,
    limit: int | None = None,
) -> Tensor:
    """Read pictures out of a zip archive without unpacking it.

    Parameters
    ----------
    archive : path
        The archive.
    prefix : str
        Names that begin so are read, in sorted order.
    size : tuple of int or None, default=None
        Width and height to scale to.
    limit : int or None, default=None
        So many, evenly over the sorted names.

    Returns
    -------
    Tensor of shape (n, 3, h, w)
        In [0, 1].

    Raises
    ------
    ImportError
        If Pillow is not installed.
    ValueError
        If no picture has that prefix.
    """
    image = require("PIL.Image", extra="examples", distribution="pillow")
    with zipfile.ZipFile(archive) as file:
        names = sorted(n for n in file.namelist() if n.startswith(prefix) and n.endswith((".jpg", ".png")))
        if not names:
            raise_invalid("prefix", prefix, "the beginning of a picture's name in the archive")
        if limit is not None and len(names) > limit:
            names = [names[k * len(names) // limit] for k in range(limit)]
        pictures = []
        for name in names:
            picture = image.open(io.BytesIO(file.read(name))).convert("RGB")
            pictures.append(
                np.asarray(picture if size is None else picture.resize(size, image.Resampling.BOX))
            )
    return torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).float() / 255


@lru_cache(maxsize=4)  # tens of seconds for all pictures, and every seed reads the same
def _classes(archive: Path, side: str, limit: int | None) -> dict[str, tuple[int, FloatArray]]:
    """Number of pictures and tiles of each class."""
    with zipfile.ZipFile(archive) as file:
        listed = [n.split("/")[1] for n in file.namelist() if n.startswith(f"{side}/") and n.count("/") == 2]
    return {
        name: (
            size,
            avg_pool2d(read_pictures(archive, f"{side}/{name}/", limit=limit), 32 // CELL).numpy(),
        )
        for name, size in sorted(Counter(listed).items())
    }


def _crops(pictures: Tensor, n: int, rng: np.random.Generator) -> Tensor:
    side = 2 * CELL
    height, width = pictures.shape[2:]
    which = rng.integers(len(pictures), size=n)
    top, left = rng.integers(height - side + 1, size=n), rng.integers(width - side + 1, size=n)
    return torch.stack(
        [pictures[w, :, t : t + side, k : k + side] for w, t, k in zip(which, top, left, strict=True)]
    )
