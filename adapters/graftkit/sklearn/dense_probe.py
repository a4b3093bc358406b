"""A scikit-learn estimator over feature maps: any classifier, fitted on labelled pixels of some images.

>>> from graftkit.sklearn import DenseProbe
>>> maps = np.random.default_rng(0).normal(size=(3, 4, 6, 6)); labels = (maps[:, 0] > 0).astype(int)
>>> DenseProbe(random_state=0).fit(maps, labels).predict(maps)[0].shape
(6, 6)
"""

from __future__ import annotations

from collections.abc import Mapping
from numbers import Integral
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from graftkit.core.random import numpy_generator
from graftkit.core.validation import check_integer, raise_invalid
from sklearn.base import BaseEstimator, ClassifierMixin, _fit_context, clone
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils._param_validation import HasMethods, Interval
from sklearn.utils.validation import check_is_fitted

__all__ = ["DenseProbe"]

Array = npt.NDArray[Any]


class DenseProbe(ClassifierMixin, BaseEstimator):
    """Semantic segmentation by a classifier of single pixels on dense features.

    Feature maps are sampled bilinearly at the pixels of the label maps, so neither has to be resized. What
    the classifier sees is a table (pixels, channels), with scikit-learn's own checks.

    Parameters
    ----------
    estimator : classifier or None, default=None
        Cloned and fitted on pixels. ``None`` standardises and fits a multinomial logistic regression.
    pixels_per_image : int or None, default=500
        Labelled pixels drawn from each image; ``None`` takes all.
    ignore_index : int or None, default=255
        Pixels without a label, in `fit` and in `score`.
    random_state : int, RandomState, Generator or None, default=None
        Of the draw.

    Attributes
    ----------
    estimator_ : classifier
        The fitted one.
    classes_ : ndarray of shape (n_classes,)
        Labels seen.
    n_channels_ : int
        Channels of the maps.
    label_size_ : tuple of int, or None
        Size of the label maps in `fit`; ``None`` if they differed.

    Examples
    --------
    >>> maps = np.stack([np.stack([np.eye(4), 1 - np.eye(4)])] * 2)
    >>> float(DenseProbe().fit(maps, [np.eye(4, dtype=int)] * 2).score(maps, [np.eye(4, dtype=int)] * 2))
    1.0
    """

    _parameter_constraints: ClassVar[dict[str, list[Any]]] = {
        "estimator": [HasMethods(["fit", "predict"]), None],
        "pixels_per_image": [Interval(Integral, 1, None, closed="left"), None],
        "ignore_index": [Integral, None],
        "random_state": ["random_state", np.random.Generator],
    }

    def __init__(
        self,
        estimator: Any = None,
        pixels_per_image: int | None = 500,
        ignore_index: int | None = 255,
        random_state: Any = None,
    ) -> None:
        self.estimator = estimator
        self.pixels_per_image = pixels_per_image
        self.ignore_index = ignore_index
        self.random_state = random_state

    @_fit_context(prefer_skip_nested_validation=False)
    def fit(self, X: Any, y: Any) -> DenseProbe:
        """Fit on labelled pixels.

        Parameters
        ----------
        X : array-like of shape (n, C, h, w), or list of arrays of shape (C, h, w)
            One map an image; torch tensors too.
        y : array-like of shape (n, H, W), or list of arrays of shape (H, W)
            Integer label maps of any size.

        Returns
        -------
        DenseProbe
            Itself.

        Raises
        ------
        TypeError
            If labels are no integers, or an argument is of another wrong type.
        ValueError
            If shapes do not fit, values are not finite, or no pixel is labelled.
        """
        from graftkit.methods.diffusion_feature.pixels import pixel_table

        if isinstance(self.pixels_per_image, bool):
            raise_invalid("pixels_per_image", self.pixels_per_image, "an integer or None", error=TypeError)
        maps = _read_maps(X)
        labels = _read_labels(y, len(maps))
        table, target = pixel_table(
            maps, labels, per_image=self.pixels_per_image, rng=numpy_generator(self.random_state),
            ignore_index=self.ignore_index,
        )  # fmt: skip
        estimator = clone(self.estimator) if self.estimator is not None else _default()
        estimator.fit(table, target)
        sizes = {label.shape for label in labels}
        self.estimator_, self.classes_ = estimator, np.unique(target)
        self.n_channels_ = maps[0].shape[0]
        self.label_size_ = next(iter(sizes)) if len(sizes) == 1 else None
        return self

    def predict(self, X: Any, size: tuple[int, int] | None = None) -> Array:
        """Label maps.

        Parameters
        ----------
        X : array-like of shape (n, C, h, w), or list of arrays of shape (C, h, w)
            Feature maps.
        size : (int, int) or None, default=None
            Of the result; ``None`` takes the size of the label maps in `fit`.

        Returns
        -------
        ndarray of shape (n, H, W)
            Predicted labels.

        Raises
        ------
        TypeError
            If `size` is no pair of integers.
        ValueError
            If channels differ from `fit`'s, or there is no size.
        """
        check_is_fitted(self)
        chosen = self.label_size_ if size is None else size
        if chosen is None:
            raise_invalid("size", None, "a size, as the label maps in fit differed")
        if not isinstance(chosen, tuple | list) or len(chosen) != 2:
            raise_invalid("size", chosen, "height and width", error=TypeError)
        height, width = (check_integer("size", side, low=1) for side in chosen)
        return np.stack([self._predict_one(one, (height, width)) for one in self._checked(X)])

    def score(self, X: Any, y: Any, sample_weight: None = None) -> float:
        """Mean IoU over the set, ignored pixels left out.

        Parameters
        ----------
        X : array-like of shape (n, C, h, w), or list of arrays of shape (C, h, w)
            Feature maps.
        y : array-like of shape (n, H, W), or list of arrays of shape (H, W)
            Integer label maps of any size.
        sample_weight : None
            Not supported; for scikit-learn's signature.

        Returns
        -------
        float
            In [0, 1]; classes neither there nor predicted do not count.

        Raises
        ------
        TypeError
            If labels are no integers.
        ValueError
            If shapes do not fit, `sample_weight` is given, or no pixel is labelled.
        """
        from graftkit.methods.diffusion_feature.metrics import confusion_matrix, mean_iou

        check_is_fitted(self)
        if sample_weight is not None:
            raise_invalid("sample_weight", sample_weight, "None")
        maps = self._checked(X)
        labels = _read_labels(y, len(maps))
        known = [label[label != self.ignore_index] for label in labels]
        if not sum(map(len, known)):
            raise_invalid(
                "y",
                f"only {self.ignore_index}",
                "at least one labelled pixel",
                fix="There is no labelled pixel",
            )
        present = np.unique(np.concatenate([self.classes_, *known]))
        counts = np.zeros((len(present), len(present)), np.int64)
        for feature_map, label in zip(maps, labels, strict=True):
            predicted = self._predict_one(feature_map, label.shape)
            keep = np.ones(label.shape, bool) if self.ignore_index is None else label != self.ignore_index
            codes = np.searchsorted(present, label[keep]), np.searchsorted(present, predicted[keep])
            counts += confusion_matrix(*codes, n_classes=len(present), ignore_index=None)
        return mean_iou(counts)

    def _predict_one(self, feature_map: Array, size: tuple[int, ...]) -> Array:
        from graftkit.methods.diffusion_feature.pixels import pixel_chunks

        result = np.empty(size[0] * size[1], dtype=self.classes_.dtype)
        for rows, pixels in pixel_chunks(feature_map, (size[0], size[1])):
            result[rows] = self.estimator_.predict(pixels)
        return result.reshape(size)

    def _checked(self, X: Any) -> list[Array]:
        maps = _read_maps(X)
        if maps[0].shape[0] != self.n_channels_:
            raise_invalid("X", maps[0], f"{self.n_channels_} channels, as in fit")
        return maps


def _to_array(one: Any) -> Array:
    """An array, of a tensor on any device and attached to any graph too."""
    if hasattr(one, "detach"):
        one = one.detach().cpu()
        one = one.float() if "bfloat16" in str(one.dtype) else one  # which NumPy does not have
    return np.asarray(one)


def _default() -> Any:
    return make_pipeline(StandardScaler(), LogisticRegression(max_iter=300))


def _read_maps(X: Any) -> list[Array]:
    if not hasattr(X, "__iter__") or isinstance(X, str | Mapping) or getattr(X, "shape", None) == ():
        raise_invalid("X", X, "an array or a list of maps", error=TypeError)
    maps = [_to_array(one) for one in X]
    if not maps:
        raise_invalid("X", X, "at least one map")
    for one in maps:
        if one.ndim != 3 or one.shape[0] != maps[0].shape[0] or 0 in one.shape:
            raise_invalid("X", one, "maps of shape (C, h, w) with one number of channels")
        if not np.issubdtype(one.dtype, np.number) or np.iscomplexobj(one):
            raise_invalid("X", one, "real numbers")
        if not np.isfinite(one).all():
            raise_invalid("X", one, "finite numbers")
    return [one.astype(np.float64 if one.dtype == np.float64 else np.float32, copy=False) for one in maps]


def _read_labels(y: Any, count: int) -> list[Array]:
    if not hasattr(y, "__iter__") or isinstance(y, str | Mapping) or getattr(y, "shape", None) == ():
        raise_invalid("y", y, "an array or a list of label maps", error=TypeError)
    labels = [_to_array(one) for one in y]
    if len(labels) != count:
        raise ValueError(f"y: expected {count} label maps for {count} feature maps, got {len(labels)}")
    for one in labels:
        if one.ndim != 2 or 0 in one.shape:
            raise_invalid("y", one, "label maps of shape (H, W)")
        if not np.issubdtype(one.dtype, np.integer):
            raise_invalid("y", one, "integer labels", error=TypeError)
    return labels
