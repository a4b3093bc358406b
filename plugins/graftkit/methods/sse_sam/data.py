"""Long-tailed image sets and the recall by class frequency that long-tail papers report.

Classes are many-shot, medium or few-shot by their training counts (CIFAR-10-LT: more than 1000, fewer than
200; specification section 2.1); an empty group is NaN. CIFAR-10-LT is read from a zip of JPEG folders;
scikit-learn's digits, thinned by the same exponential profile, need no download.

>>> (train, _), _ = long_tailed_digits(imbalance=20)
>>> train.shape[1:]
torch.Size([1, 8, 8])
"""

import io
import zipfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from sklearn.datasets import load_digits
from torch import Tensor

from graftkit.core.extras import require
from graftkit.core.random import numpy_generator
from graftkit.core.validation import check_number, raise_invalid

__all__ = ["load_cifar10_lt", "long_tailed_digits", "recall_by_frequency"]

Split = tuple[Tensor, Tensor]


def load_cifar10_lt(path: str | Path, *, share: float = 1.0, test_share: float = 1.0) -> tuple[Split, Split]:
    """Read CIFAR-10-LT from a zip of ``{train,test}/<class>/NNNN.jpg``.

    Parameters
    ----------
    path : str or pathlib.Path
        The zip file.
    share, test_share : float in (0, 1], default=1.0
        Keep the first part of every class's images.

    Returns
    -------
    ((Tensor, Tensor), (Tensor, Tensor))
        Images of shape (N, 3, 32, 32), float32, normalised by the training set's channels, and labels, for
        training and test. Classes are numbered from the most to the least frequent in training.

    Raises
    ------
    ValueError
        If the zip holds no such folders.
    """
    image = require("PIL.Image", extra="examples", distribution="pillow")
    check_number("share", share, low=0, high=1, closed="(]")
    check_number("test_share", test_share, low=0, high=1, closed="(]")
    files: dict[tuple[str, str], list[str]] = {}
    with zipfile.ZipFile(path) as archive:
        for name in sorted(archive.namelist()):
            pieces = name.split("/")
            if name.endswith(".jpg") and len(pieces) >= 3:
                files.setdefault((pieces[-3], pieces[-2]), []).append(name)
        classes = sorted(
            {c for split, c in files if split == "train"}, key=lambda c: (-len(files["train", c]), c)
        )
        if not classes:
            raise_invalid("path", str(path), "a zip with train/<class>/*.jpg and test/<class>/*.jpg")
        splits = []
        for split, part in (("train", share), ("test", test_share)):
            pixels, labels = [], []
            for label, name in enumerate(classes):
                members = files[split, name]
                for member in members[: max(1, round(len(members) * part))]:
                    pixels.append(np.asarray(image.open(io.BytesIO(archive.read(member))).convert("RGB")))
                    labels.append(label)
            splits.append(
                (torch.from_numpy(np.stack(pixels)).permute(0, 3, 1, 2) / 255, torch.tensor(labels))
            )
    (x, y), (test_x, test_y) = splits
    mean, std = x.mean((0, 2, 3), keepdim=True), x.std((0, 2, 3), keepdim=True)
    return ((x - mean) / std, y), ((test_x - mean) / std, test_y)


def long_tailed_digits(*, imbalance: float = 20.0, random_state: int | None = 0) -> tuple[Split, Split]:
    """scikit-learn's digits with exponentially falling class sizes, and a balanced test half.

    Parameters
    ----------
    imbalance : float, default=20.0
        Most frequent class over the rarest.
    random_state : int or None, default=0
        Draws the halves.

    Returns
    -------
    ((Tensor, Tensor), (Tensor, Tensor))
        Images of shape (N, 1, 8, 8) in [0, 1], float32, and labels, for training and test.
    """
    check_number("imbalance", imbalance, low=1)
    images, labels = load_digits(return_X_y=True)
    order = numpy_generator(random_state).permutation(len(labels))
    images, labels = images[order].reshape(-1, 1, 8, 8) / 16, labels[order]
    half = len(labels) // 2
    keep = []
    for c in range(10):
        of_class = np.flatnonzero(labels[:half] == c)
        keep.append(of_class[: max(2, int(85 * imbalance ** (-c / 9)))])
    rows = np.sort(np.concatenate(keep))

    def tensors(x: np.ndarray, y: np.ndarray) -> Split:
        return torch.from_numpy(x).float(), torch.from_numpy(y).long()

    return tensors(images[rows], labels[rows]), tensors(images[half:], labels[half:])


def recall_by_frequency(
    predicted: Tensor, targets: Tensor, class_counts: Sequence[int], *, many: float, few: float
) -> dict[str, float]:
    """Mean recall of many-shot, medium and few-shot classes, and of all.

    Parameters
    ----------
    predicted, targets : Tensor of shape (N,)
        Class indices.
    class_counts : sequence of int
        Training samples a class.
    many, few : float
        More than `many` is many-shot, fewer than `few` is few-shot.

    Returns
    -------
    dict
        ``many, medium, few, all`` in percent; an empty group is NaN.
    """
    recalls = torch.tensor(
        [float((predicted[targets == c] == c).double().mean()) for c in range(len(class_counts))]
    )
    counts = torch.as_tensor(class_counts)
    groups = {"many": counts > many, "few": counts < few}
    groups = {"many": groups["many"], "medium": ~(groups["many"] | groups["few"]), "few": groups["few"]}
    result = {name: 100 * float(recalls[mask].mean()) for name, mask in groups.items()}
    return {**result, "all": 100 * float(recalls.mean())}
