"""Data with a label tree: Omniglot, CIFAR-10, scikit-learn's digits, and a Gaussian tree made to order.

>>> (x, y), (test_x, test_y), tree = load_digits_tree(per_class=10)
>>> tuple(x.shape), tree
((100, 1, 8, 8), LabelTree(levels=2, classes=3/10))
"""

import io
import os
import zipfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from sklearn.datasets import load_digits
from torch import Tensor

from graftkit.core.extras import require
from graftkit.core.random import numpy_generator, torch_generator
from graftkit.core.validation import check_integer, check_number, raise_invalid
from graftkit.methods.bilt.tree import LabelTree

__all__ = ["gaussian_tree", "load_cifar10", "load_digits_tree", "load_omniglot"]

Split = tuple[Tensor, Tensor]

CIFAR10_PATHS = (
    ("animal", "pet", "cat"), ("animal", "pet", "dog"), ("animal", "hoofed", "deer"),
    ("animal", "hoofed", "horse"), ("animal", "small", "bird"), ("animal", "small", "frog"),
    ("vehicle", "road", "automobile"), ("vehicle", "road", "truck"),
    ("vehicle", "air and sea", "airplane"), ("vehicle", "air and sea", "ship"),
)  # fmt: skip
# Closed loops, strokes, hooks.
DIGIT_GROUPS = {"loops": "0689", "strokes": "147", "hooks": "235"}


def load_omniglot(
    path: str | os.PathLike[str], *, train: int = 10, size: int = 28
) -> tuple[Split, Split, LabelTree]:
    """Handwritten characters with the tree alphabet -> character.

    Parameters
    ----------
    path : str or path-like
        A zip with ``<root>/<alphabet>/<character>/*.png``.
    train : int, default=10
        Drawings of each character for training, those of the first drawers; the others are for test.
    size : int, default=28
        Height and width to which the drawings are reduced.

    Returns
    -------
    tuple of ((Tensor, Tensor), (Tensor, Tensor), LabelTree)
        Images of shape (N, 1, size, size), strokes 1, and labels, for training and test; the tree.

    Raises
    ------
    ValueError
        If the zip holds no such folders or a character has no drawing left for test.
    """
    check_integer("train", train, low=1)
    check_integer("size", size, low=8)
    image = require("PIL.Image", extra="examples", distribution="pillow")
    files: dict[tuple[str, str], list[str]] = {}
    with zipfile.ZipFile(path) as archive:
        for name in sorted(archive.namelist()):
            parts = Path(name).parts
            if len(parts) == 4 and name.endswith(".png") and not parts[3].startswith("._"):
                files.setdefault((parts[1], f"{parts[1]}/{parts[2]}"), []).append(name)
        short = [
            f"{character} ({len(names)})" for (_, character), names in files.items() if len(names) <= train
        ]
        if not files or short:
            raise_invalid("path", str(path), f"more than {train} drawings a character, got {short or 'none'}")
        tree = LabelTree.from_paths(list(files))
        parts_: list[tuple[list[Tensor], list[int]]] = [([], []), ([], [])]
        for label, names in enumerate(files.values()):
            for position, name in enumerate(sorted(names, key=lambda n: n.rsplit("_", 1)[-1])):
                opened = image.open(io.BytesIO(archive.read(name))).convert("L")
                pixels = np.asarray(opened.resize((size, size), resample=image.Resampling.BOX))
                images, labels = parts_[position >= train]
                images.append(torch.from_numpy(1 - pixels.astype(np.float32) / 255)[None])
                labels.append(label)
    training, test = ((torch.stack(images), torch.tensor(labels)) for images, labels in parts_)
    return training, test, tree


def load_cifar10(
    path: str | os.PathLike[str], *, per_class: int = 500, test_per_class: int = 200
) -> tuple[Split, Split, LabelTree]:
    """CIFAR-10 with the tree animal or vehicle -> kind -> class.

    Parameters
    ----------
    path : str or path-like
        A zip with ``train/<class>/*.jpg`` and ``test/<class>/*.jpg``.
    per_class : int, default=500
        At most so many training images a class, the first ones; a long tail stays where it is shorter.
    test_per_class : int, default=200
        Test images a class.

    Returns
    -------
    tuple of ((Tensor, Tensor), (Tensor, Tensor), LabelTree)
        Images of shape (N, 3, 32, 32), normalised by the training set's channels, and labels, for training
        and test; the tree.

    Raises
    ------
    ValueError
        If a class is missing.
    """
    check_integer("per_class", per_class, low=1)
    check_integer("test_per_class", test_per_class, low=1)
    image = require("PIL.Image", extra="examples", distribution="pillow")
    tree = LabelTree.from_paths(CIFAR10_PATHS)
    files: dict[tuple[str, str], list[str]] = {}
    splits = []
    with zipfile.ZipFile(path) as archive:
        for name in sorted(archive.namelist()):
            parts = Path(name).parts
            if len(parts) >= 3 and name.endswith(".jpg"):
                files.setdefault((parts[-3], parts[-2]), []).append(name)
        for split, most in (("train", per_class), ("test", test_per_class)):
            missing = [name for name in tree.names() if (split, name) not in files]
            if missing:
                raise_invalid("path", str(path), f"a zip with {split}/<class>/*.jpg, missing {missing}")
            chosen = [
                (k, member) for k, name in enumerate(tree.names()) for member in files[split, name][:most]
            ]
            pixels = [
                np.asarray(image.open(io.BytesIO(archive.read(member))).convert("RGB"))
                for _, member in chosen
            ]
            x = torch.from_numpy(np.stack(pixels)).permute(0, 3, 1, 2).float() / 255
            splits.append((x, torch.tensor([k for k, _ in chosen])))
    (x, y), (test_x, test_y) = splits
    mean, std = x.mean((0, 2, 3), keepdim=True), x.std((0, 2, 3), keepdim=True)
    return ((x - mean) / std, y), ((test_x - mean) / std, test_y), tree


def load_digits_tree(*, per_class: int = 10, random_state: int | None = 0) -> tuple[Split, Split, LabelTree]:
    """scikit-learn's digits in three groups: closed loops, strokes, hooks.

    Parameters
    ----------
    per_class : int, default=10
        Training images a class; the others are for test.
    random_state : int or None, default=0
        Draws them.

    Returns
    -------
    tuple of ((Tensor, Tensor), (Tensor, Tensor), LabelTree)
        Images of shape (N, 1, 8, 8) in [0, 1] and labels, for training and test; the tree.
    """
    check_integer("per_class", per_class, low=1, high=100)
    images, labels = load_digits(return_X_y=True)
    x = torch.from_numpy(images.reshape(-1, 1, 8, 8) / 16).float()
    y = torch.from_numpy(labels).long()
    order = torch.from_numpy(numpy_generator(random_state).permutation(len(y)))
    x, y = x[order], y[order]
    chosen = torch.cat([torch.nonzero(y == c).flatten()[:per_class] for c in range(10)])
    rest = torch.ones(len(y), dtype=torch.bool)
    rest[chosen] = False
    group = {digit: name for name, digits in DIGIT_GROUPS.items() for digit in digits}
    tree = LabelTree.from_paths([(group[str(digit)], str(digit)) for digit in range(10)])
    return (x[chosen], y[chosen]), (x[rest], y[rest]), tree


def gaussian_tree(
    branching: Sequence[int] = (4, 4, 4),
    *,
    dim: int = 32,
    scales: Sequence[float] = (1.0, 0.6, 0.4),
    train: int = 10,
    test: int = 20,
    line: Sequence[float] | None = None,
    random_state: int | None = 0,
) -> tuple[Split, Split, LabelTree, Tensor]:
    """Classes around centres that are sums of offsets, one a level.

    Parameters
    ----------
    branching : sequence of int, default=(4, 4, 4)
        Children of a node, by level.
    dim : int, default=32
        Features.
    scales : sequence of float, default=(1.0, 0.6, 0.4)
        Standard deviation of the offsets by level; samples have 1 around their centre.
    train : int, default=10
        Samples a class.
    test : int, default=20
        Samples a class.
    line : sequence of float or None, default=None
        Places of the finest siblings on a line of random direction, in place of random offsets: siblings
        at unequal distances.
    random_state : int or None, default=0
        Draws everything.

    Returns
    -------
    tuple of ((Tensor, Tensor), (Tensor, Tensor), LabelTree, Tensor of shape (C, dim))
        Samples and labels for training and test, the tree and the centres.

    Raises
    ------
    ValueError
        If the numbers of levels differ or `line` does not place each sibling.
    """
    if len(scales) != len(branching):
        raise_invalid("scales", scales, f"{len(branching)} numbers, one a level")
    if line is not None and len(line) != branching[-1]:
        raise_invalid("line", line, f"{branching[-1]} places")
    for scale in scales:
        check_number("scales", scale, low=0)
    g = torch_generator(random_state)
    rows: list[tuple[str, ...]] = [()]
    centres = torch.zeros(1, dim)
    for level, (width, scale) in enumerate(zip(branching, scales, strict=True)):
        check_integer("branching", width, low=1)
        offsets = scale * torch.randn(len(rows), width, dim, generator=g)
        if line is not None and level == len(branching) - 1:
            direction = torch.nn.functional.normalize(offsets[:, :1], dim=2)
            offsets = scale * dim**0.5 * torch.tensor(line)[None, :, None] * direction
        centres = (centres[:, None] + offsets).reshape(-1, dim)
        rows = [(*row, "".join([*row[-1:], chr(97 + k)])) for row in rows for k in range(width)]

    def sample(n: int) -> Split:
        y = torch.arange(len(rows)).repeat_interleave(n)
        return centres[y] + torch.randn(len(y), dim, generator=g), y

    return sample(train), sample(test), LabelTree.from_paths(rows), centres
