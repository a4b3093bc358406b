"""The classifier that is audited: what it must offer, and its ``predict`` as a callable."""

from __future__ import annotations

from typing import Any

import numpy as np

from graftkit.methods.qedg.modes import eval_mode

__all__ = ["Predict", "check_victim", "clip_range", "index_labels"]


class Predict:
    """The classifier's ``predict`` and nothing else, preprocessing and postprocessing defences included.

    Parameters
    ----------
    classifier : art.estimators.classification.ClassifierMixin
        The audited classifier; its network comes back in the mode that it was in.
    batch_size : int
        Rows a call.
    """

    def __init__(self, classifier: Any, batch_size: int) -> None:
        self.classifier, self.batch_size = classifier, batch_size

    def __call__(self, x: Any) -> Any:
        """Scores.

        Parameters
        ----------
        x : ndarray of shape (n, ...)
            Rows within the clip values.

        Returns
        -------
        ndarray of shape (n, C)
            What ``predict`` gives.
        """
        # ART's own predict leaves the network in eval mode.
        with eval_mode(getattr(self.classifier, "model", None)):
            return self.classifier.predict(x, batch_size=self.batch_size)


def check_victim(classifier: Any) -> None:
    """Refuse a classifier that queries cannot be made for.

    Parameters
    ----------
    classifier : object
        The audited classifier.

    Raises
    ------
    ValueError
        If it has no clip values or several ranges, wants channels last, or takes neither images nor vectors.
    """
    if classifier.clip_values is None:
        raise ValueError("The classifier needs `clip_values`: queries are made within them.")
    clip_range(classifier.clip_values)
    if getattr(classifier, "channels_first", True) is False:
        raise ValueError("The classifier has to take channels first.")
    shape = classifier.input_shape
    if not isinstance(shape, tuple | list) or len(shape) not in (1, 3):
        raise ValueError(f"The classifier's `input_shape` has to be (c, H, W) or (d,), got {shape!r}.")


def clip_range(clip_values: Any) -> tuple[float, float]:
    """Clip values as one pair of numbers.

    Parameters
    ----------
    clip_values : pair of float or of ndarray
        ART's.

    Returns
    -------
    (float, float)
        Low and high.

    Raises
    ------
    ValueError
        If features have different ranges.
    """
    low, high = (np.unique(np.asarray(bound, dtype=np.float64)) for bound in clip_values)
    if len(low) != 1 or len(high) != 1 or not low[0] < high[0]:
        raise ValueError(
            f"The classifier's `clip_values` have to be one range for all features, got {clip_values!r}."
        )
    return float(low[0]), float(high[0])


def index_labels(y: Any, nb_classes: int) -> Any:
    """Labels in any of ART's forms as indices.

    Parameters
    ----------
    y : array-like of shape (n,), (n, 1) or (n, nb_classes)
        Indices, or one-hot rows.
    nb_classes : int
        C.

    Returns
    -------
    ndarray of shape (n,)
        Indices; another shape is passed on, to be refused.

    Raises
    ------
    ValueError
        If the rows are not one-hot.
    """
    labels = np.asarray(y)
    if labels.ndim != 2 or labels.shape[1] not in (1, nb_classes):
        return labels
    if labels.shape[1] == 1:
        return labels[:, 0]
    if not (np.isin(labels, (0, 1)).all() and (labels.sum(axis=1) == 1).all()):
        raise ValueError("`y_eval` has to hold indices of classes, or one-hot rows.")
    return labels.argmax(axis=1)
