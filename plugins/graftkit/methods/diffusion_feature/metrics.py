"""Mean intersection over union with ignored pixels, and the share of correct key points.

mIoU is accumulated over the whole set and masks ignored pixels before counting, so a prediction there is no
false positive (the public code of arXiv 2410.03558 counts it). PCK pools *points* over all pairs, as that
code does.

>>> mean_iou(confusion_matrix([0, 1, 1], [0, 1, 0], n_classes=2))
0.5
"""

from typing import Any

import numpy as np
import numpy.typing as npt

from graftkit.core.validation import check_integer, check_number, raise_invalid

__all__ = ["confusion_matrix", "correct_points", "mean_iou"]

Counts = npt.NDArray[np.int64]


def confusion_matrix(
    target: npt.ArrayLike, predicted: npt.ArrayLike, *, n_classes: int, ignore_index: int | None = 255
) -> Counts:
    """Count pixels by true and predicted class.

    Parameters
    ----------
    target, predicted : array-like of int, of one shape
        Labels of any shape.
    n_classes : int
        The number of classes.
    ignore_index : int or None, default=255
        Target pixels that do not count.

    Returns
    -------
    ndarray of shape (n_classes, n_classes)
        Rows are true classes.

    Raises
    ------
    TypeError
        If `n_classes` is no integer.
    ValueError
        If shapes differ or a label is out of range.
    """
    n = check_integer("n_classes", n_classes, low=1)
    truth, guess = np.asarray(target).ravel(), np.asarray(predicted).ravel()
    if truth.shape != guess.shape:
        raise_invalid("predicted", predicted, f"the shape of target, {np.shape(target)}")
    keep = np.ones(truth.shape, bool) if ignore_index is None else truth != ignore_index
    truth, guess = truth[keep].astype(np.int64), guess[keep].astype(np.int64)
    for name, labels in (("target", truth), ("predicted", guess)):
        if labels.size and not 0 <= labels.min() <= labels.max() < n:
            raise_invalid(name, labels[(labels < 0) | (labels >= n)][0], f"labels in 0..{n - 1}")
    return np.bincount(truth * n + guess, minlength=n * n).reshape(n, n)


def mean_iou(confusion: Counts, *, absent: str = "exclude") -> float:
    """Mean over classes of intersection over union.

    Parameters
    ----------
    confusion : ndarray of shape (n_classes, n_classes)
        Rows are true classes.
    absent : {"exclude", "zero"}, default="exclude"
        A class that is neither there nor predicted is left out, or counts as 0.

    Returns
    -------
    float
        In [0, 1]; NaN if nothing was counted.

    Raises
    ------
    ValueError
        If `confusion` is not square or `absent` is another word.
    """
    counts = np.asarray(confusion)
    if counts.ndim != 2 or counts.shape[0] != counts.shape[1]:
        raise_invalid("confusion", confusion, "a square matrix")
    if absent not in ("exclude", "zero"):
        raise_invalid("absent", absent, "'exclude' or 'zero'")
    if counts.sum() == 0:
        return float("nan")
    hits = np.diag(counts).astype(float)
    union = counts.sum(0) + counts.sum(1) - hits
    present = union > 0
    shares = np.divide(hits, union, out=np.zeros_like(hits), where=present)
    return float(shares[present].mean() if absent == "exclude" else shares.mean())


def correct_points(
    predicted: npt.ArrayLike, target: npt.ArrayLike, size: Any, *, alpha: float = 0.1
) -> npt.NDArray[np.bool_]:
    """Which key points lie within ``alpha * max(h, w)`` of their target (PCK before its mean).

    Concatenate over pairs and take the mean: PCK pools points.

    Parameters
    ----------
    predicted, target : array-like of shape (n, 2)
        Points in original pixels.
    size : array-like of shape (2,) or (n, 2)
        Height and width of the target image (PCK by image) or of the target's box (PCK by box).
    alpha : float > 0, default=0.1
        The share of the longer side.

    Returns
    -------
    ndarray of bool, of shape (n,)
        Per point.

    Raises
    ------
    TypeError
        If `alpha` is no number.
    ValueError
        If shapes do not fit, or `alpha` or a size is not positive.
    """
    check_number("alpha", alpha, low=0, closed="()")
    guess, truth = np.asarray(predicted, float), np.asarray(target, float)
    sides = np.asarray(size, float)
    if guess.ndim != 2 or guess.shape[-1] != 2 or guess.shape != truth.shape:
        raise_invalid("predicted", predicted, f"shape (n, 2) equal to target's, {truth.shape}")
    if sides.shape not in ((2,), truth.shape) or not (sides > 0).all():
        raise_invalid("size", size, "positive height and width, one pair or one a point")
    near: npt.NDArray[np.bool_] = np.linalg.norm(guess - truth, axis=1) <= alpha * sides.max(axis=-1)
    return near
