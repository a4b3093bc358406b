"""Comparing activations one by one: a cheap probe on pixels of some images, mIoU on others.

Source: the quantitative comparison of arXiv 2410.03558 (section 5.2, appendix C.3) with a cheaper default
probe. The forward, which costs most, is shared by all activations; the probe sees each alone.

>>> maps = [np.stack([np.eye(2), 1 - np.eye(2)])] * 4
>>> score_maps(maps, [np.eye(2, dtype=int)] * 4, [([0, 1], [2, 3])], RidgeProbe())
[1.0]
"""

from collections.abc import Sequence
from copy import deepcopy
from typing import Any

import numpy as np
import numpy.typing as npt

from graftkit.core.random import numpy_generator
from graftkit.core.validation import check_integer, raise_invalid
from graftkit.methods.diffusion_feature.metrics import confusion_matrix, mean_iou
from graftkit.methods.diffusion_feature.pixels import pixel_chunks, pixel_table
from graftkit.methods.diffusion_feature.probes import RidgeProbe

__all__ = ["make_probe", "read_splits", "score_maps"]

Array = npt.NDArray[Any]


def make_probe(probe: Any) -> Any:
    """A fresh probe from its name, or a copy of the one given.

    Parameters
    ----------
    probe : {"ridge", "logistic"} or object with fit and predict
        ``"logistic"`` standardises and fits a multinomial logistic regression.

    Returns
    -------
    object
        Unfitted.

    Raises
    ------
    TypeError
        If it is neither.
    ValueError
        If the name is unknown.
    """
    if isinstance(probe, str):
        if probe == "ridge":
            return RidgeProbe()
        if probe == "logistic":
            from sklearn.linear_model import LogisticRegression
            from sklearn.pipeline import make_pipeline
            from sklearn.preprocessing import StandardScaler

            return make_pipeline(StandardScaler(), LogisticRegression(max_iter=300))
        raise_invalid("probe", probe, "'ridge', 'logistic' or an estimator")
    if not (hasattr(probe, "fit") and hasattr(probe, "predict")):
        raise_invalid("probe", probe, "'ridge', 'logistic' or an estimator", error=TypeError)
    return deepcopy(probe)


def read_splits(cv: Any, count: int, rng: np.random.Generator) -> list[tuple[list[int], list[int]]]:
    """Training and validation images.

    Parameters
    ----------
    cv : int or sequence of (train, test)
        A number of folds over shuffled images, or the indices themselves.
    count : int
        Number of images.
    rng : numpy.random.Generator
        Shuffles.

    Returns
    -------
    list of (list of int, list of int)
        One a fold.

    Raises
    ------
    TypeError
        If `cv` is neither.
    ValueError
        If there are fewer images than folds, or a split is empty, overlaps or names an unknown image.
    """
    if isinstance(cv, Sequence) and not isinstance(cv, str | bytes):
        try:
            splits = [([int(i) for i in train], [int(i) for i in test]) for train, test in cv]
        except (TypeError, ValueError):
            raise_invalid("cv", cv, "pairs of training and test indices", error=TypeError)
    else:
        folds = check_integer("cv", cv, low=2)
        if count < folds:
            raise_invalid("cv", cv, f"at most {count} folds for {count} images")
        parts = np.array_split(rng.permutation(count), folds)
        splits = [
            (
                sorted(int(i) for j, part in enumerate(parts) if j != k for i in part),
                sorted(map(int, parts[k])),
            )
            for k in range(folds)
        ]
    for train, test in splits:
        inside = all(0 <= i < count for i in (*train, *test))
        if not train or not test or set(train) & set(test) or not inside:
            raise_invalid("cv", cv, f"splits of images 0..{count - 1}, not empty and without overlap")
    if not splits:
        raise_invalid("cv", cv, "at least one split")
    return splits


def score_maps(
    maps: Sequence[Array],
    labels: Sequence[Array],
    splits: Sequence[tuple[list[int], list[int]]],
    probe: Any,
    *,
    pixels_per_image: int | None = 500,
    ignore_index: int | None = 255,
    random_state: Any = 0,
) -> list[float]:
    """Set-level mIoU of a probe on one activation, split by split.

    Parameters
    ----------
    maps : sequence of ndarray of shape (C, h, w)
        One an image.
    labels : sequence of ndarray of int, of shape (H, W)
        Label maps; the maps are sampled at their resolution.
    splits : sequence of (train, test)
        Indices of images.
    probe : object with fit and predict
        Copied for every split.
    pixels_per_image : int or None, default=500
        Labelled pixels drawn from each training image; all labelled pixels of test images count.
    ignore_index : int or None, default=255
        Pixels without a label.
    random_state : int, Generator or None, default=0
        Of the draw: with an int, every activation sees the same pixels.

    Returns
    -------
    list of float
        One a split.

    Raises
    ------
    ValueError
        If no training pixel has a label.
    """
    classes = 1 + max((int(label[label != ignore_index].max(initial=-1)) for label in labels), default=-1)
    scores = []
    for train, test in splits:
        rng = numpy_generator(random_state)
        table, target = pixel_table(
            [maps[i] for i in train], [labels[i] for i in train],
            per_image=pixels_per_image, rng=rng, ignore_index=ignore_index,
        )  # fmt: skip
        fitted = make_probe(probe)
        fitted.fit(table, target)
        counts = np.zeros((classes, classes), np.int64)
        for i in test:
            flat = labels[i].ravel()
            for rows, pixels in pixel_chunks(maps[i], (labels[i].shape[0], labels[i].shape[1])):
                counts += confusion_matrix(
                    flat[rows], fitted.predict(pixels), n_classes=classes, ignore_index=ignore_index
                )
        scores.append(mean_iou(counts))
    return scores
