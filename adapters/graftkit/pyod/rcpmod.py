"""RCPMOD in PyOD's contract: labels 0/1, larger scores are more outlying.

>>> from graftkit.pyod import RCPMODDetector
>>> RCPMODDetector(contamination=0.05).contamination
0.05
"""

from __future__ import annotations

from copy import copy
from typing import Any
from warnings import warn

import numpy as np
import numpy.typing as npt
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted

from graftkit.core.random import numpy_generator
from graftkit.core.validation import check_choice, check_integer, check_jobs, check_number
from graftkit.methods.rcpmod import (
    MultiViewData,
    Settings,
    fit_pairs,
    is_view_collection,
    outlier_probability,
    read_views,
)
from pyod.models.base import BaseDetector

__all__ = ["RCPMODDetector"]

FloatArray = npt.NDArray[np.float64]


class RCPMODDetector(BaseDetector):
    """Regularized contrastive partial multi-view outlier detection, for PyOD.

    Unlike ``MultiModalOD``, which scores each modality apart, it sees rows whose views are each normal
    but do not belong together, and accepts missing views.

    Parameters
    ----------
    contamination : float in (0, 0.5] or PyThresh object, default=0.1
        Sets ``threshold_``, as in every PyOD detector.
    n_neighbors : int, default=6
        Neighbours of the alignment loss and of the transfer to missing views.
    hidden_layer_sizes : tuple of int, default=(256,)
        Hidden widths of each encoder; decoders mirror them.
    latent_dim : int, default=64
        Width of the latent space.
    n_epochs : int, default=100
        Epochs per pair of views.
    batch_size : int, default=256
        Rows a step.
    learning_rate : float, default=1e-3
        Adam's step size.
    temperature : float, default=0.5
        Temperature of the contrastive losses and of the score.
    outlier_weight : float, default=1.0
        Weight of the outlier-aware contrastive loss.
    neighbor_weight : float, default=1.0
        Weight of the neighbour-alignment loss.
    alignment_ranks : int or None, default=None
        Neighbour ranks drawn a step for that loss; ``None`` takes all `n_neighbors`, as published.
    spread_weight : float, default=0.2
        Target weight of the spreading term, at the end of its schedule.
    spread_warm : float, default=0.02
        Its plateau after 100 epochs.
    spread_schedule : int, default=1000
        Length of its schedule in epochs, at least 102.
    negative_rank : int, default=50
        Rank of the negative in the spreading term's rank loss.
    memory_size : int, default=10
        Blocks in the memory bank of potential outliers; 0 turns it off.
    memory_fraction : float, default=0.05
        Share of a batch's complete rows that enters the bank.
    recon_weight : float, default=1.0
        Weight :math:`R_w` of the reconstruction part; the most sensitive setting. The published values are
        0.25 to 0.7, a data set each; 1 was chosen after a look at planted labels of digits.
    neighbor_refresh : int, default=50
        Epochs between refreshes of the neighbour tables.
    negative_refresh : int, default=5
        Epochs between refreshes of the rank loss's negatives.
    impute_from : int, default=50
        First epoch (0-based) in which imputed rows join the contrastive loss.
    scale : {"feature", "global"} or None, default="feature"
        Min-max scaling per column, per view as published, or none (inputs must lie in [0, 1]).
    pairing : {"sequential", "independent"}, default="sequential"
        With more than two views: hand the autoencoders on from pair to pair, as published, or train each
        pair afresh (in parallel with `n_jobs`).
    reshuffle : bool, default=True
        Draw batches anew every epoch; the public code repeats one order.
    n_reference : int or "auto", default="auto"
        Training rows in the score's denominator; all up to 5 000, else 2 048.
    knn_backend : {"auto", "sklearn", "faiss"}, default="auto"
        Neighbour search; ``"auto"`` is exact up to 50 000 rows, then faiss where it is installed.
    device : str, default="cpu"
        torch device of the training.
    dtype : {"float32", "float64"}, default="float32"
        Precision of the training; scoring is always float64.
    view_slices : "auto", int, list or dict, default="auto"
        How *one* 2-D array falls into views: a number of contiguous near-equal blocks, block widths,
        slices or index arrays, or names with columns. ``"auto"`` takes two blocks and warns; ``None``
        refuses one array. Lists and dicts of views do not need it.
    partial_nan : {"raise", "missing", "impute"}, default="raise"
        What a NaN in part of a view's row means: an error, a missing view, or the column's training mean.
    random_state : int, RandomState, Generator or None, default=None
        Seeds initial weights, batches and draws; global generators are not touched.
    n_jobs : int or None, default=None
        Workers for independent pairs and for scoring, through joblib; results do not depend on it.
    verbose : int, default=0
        1 shows a progress bar on standard error.

    Attributes
    ----------
    decision_scores_ : ndarray of shape (n_samples,)
        Training scores; equal to ``decision_function`` of the training rows.
    threshold_ : float
        Score above which a row is labelled 1.
    labels_ : ndarray of shape (n_samples,)
        0 for inliers, 1 for outliers.
    outlier_scores_ : ndarray of shape (n_samples,)
        The published, transductive scores of the training rows.
    model_ : FittedPairs
        Plain arrays that score without torch.

    Notes
    -----
    The method, its source and what is unverified: see `graftkit.sklearn.RCPMOD`.
    """

    def __init__(
        self,
        contamination: Any = 0.1,
        *,
        n_neighbors: int = 6,
        hidden_layer_sizes: tuple[int, ...] = (256,),
        latent_dim: int = 64,
        n_epochs: int = 100,
        batch_size: int = 256,
        learning_rate: float = 1e-3,
        temperature: float = 0.5,
        outlier_weight: float = 1.0,
        neighbor_weight: float = 1.0,
        alignment_ranks: int | None = None,
        spread_weight: float = 0.2,
        spread_warm: float = 0.02,
        spread_schedule: int = 1000,
        negative_rank: int = 50,
        memory_size: int = 10,
        memory_fraction: float = 0.05,
        recon_weight: float = 1.0,
        neighbor_refresh: int = 50,
        negative_refresh: int = 5,
        impute_from: int = 50,
        scale: str | None = "feature",
        pairing: str = "sequential",
        reshuffle: bool = True,
        n_reference: int | str = "auto",
        knn_backend: str = "auto",
        device: str = "cpu",
        dtype: str = "float32",
        view_slices: Any = "auto",
        partial_nan: str = "raise",
        random_state: Any = None,
        n_jobs: int | None = None,
        verbose: int = 0,
    ) -> None:
        super().__init__(contamination=contamination)
        given = dict(locals())
        for name in ("self", "__class__", "contamination"):
            given.pop(name)
        # Stored untouched, one attribute an argument, which is what clone and get_params read.
        self.__dict__.update(given)

    def fit(self, X: Any, y: Any = None, *, view_mask: Any = None) -> RCPMODDetector:
        """Train on multi-view data.

        Parameters
        ----------
        X : list or dict of arrays of shape (n_samples, n_features_v), or one 2-D array
            The views; an all-NaN row is a missing view.
        y : object, default=None
            Ignored; PyOD warns when it is given.
        view_mask : array-like of bool, shape (n_samples, n_views), or None, default=None
            False marks a missing view. PyOD's `predict` takes no mask: there a missing view is a row of NaN.

        Returns
        -------
        RCPMODDetector
            The fitted detector.

        Raises
        ------
        ValueError
            If the views do not fit together, or a setting is out of range.
        TypeError
            If a view, the mask or a setting is of the wrong type.
        """
        check_jobs(self.n_jobs)
        settings = Settings(**{name: getattr(self, name) for name in Settings.__dataclass_fields__})
        if not hasattr(self.contamination, "fit"):  # a PyThresh object fits itself
            check_number("contamination", self.contamination, low=0, high=0.5, closed="(]")
        verbose = check_integer(
            "verbose", int(self.verbose) if isinstance(self.verbose, bool) else self.verbose, low=0
        )
        if y is not None:
            check_classification_targets(y)
        if isinstance(self.view_slices, str) and not is_view_collection(X):
            warn(
                "RCPMODDetector got one 2-D array and view_slices='auto': its columns are split into two "
                "contiguous blocks. Pass a list of arrays, or view_slices, to say what the views are",
                UserWarning,
                stacklevel=2,
            )
        data = read_views(X, view_slices=self.view_slices, view_mask=view_mask, partial_nan=self.partial_nan)
        model, outlier_scores, _ = fit_pairs(
            data.arrays,
            data.mask,
            data.layout.names,
            settings,
            numpy_generator(self.random_state),
            n_jobs=self.n_jobs,
            verbose=verbose,
            stacklevel=3,
        )
        scores = model.score(data.arrays, data.mask, n_jobs=self.n_jobs)
        # PyOD's own steps may refuse the threshold: a twin takes what they write, self only a whole result.
        twin = copy(self)
        twin._set_n_classes(y)
        twin.model_, twin._layout = model, data.layout
        twin.outlier_scores_, twin.decision_scores_ = outlier_scores, scores
        twin._process_decision_scores()
        self.__dict__.update(vars(twin))
        return self

    def decision_function(self, X: Any, *, view_mask: Any = None) -> FloatArray:
        """Outlier scores of rows.

        Parameters
        ----------
        X : list or dict of arrays of shape (n_samples, n_features_v), or one 2-D array
            In the form given to `fit`.
        view_mask : array-like of bool, shape (n_samples, n_views), or None, default=None
            False marks a missing view.

        Returns
        -------
        ndarray of shape (n_samples,)
            Larger is more outlying.

        Raises
        ------
        NotFittedError
            If the detector is not fitted.
        ValueError
            If `X` does not match what `fit` saw.
        """
        data = self._read(X, view_mask)
        scores: FloatArray = self.model_.score(data.arrays, data.mask, n_jobs=self.n_jobs)
        return scores

    def predict_proba(self, X: Any, method: str = "linear", return_confidence: bool = False) -> Any:
        """Probabilities of being an inlier and an outlier.

        PyOD's own method reads ``X.shape``, which a list of views lacks.

        Parameters
        ----------
        X : list or dict of arrays of shape (n_samples, n_features_v), or one 2-D array
            In the form given to `fit`.
        method : {"linear", "unify"}, default="linear"
            Min-max scaling by the training scores, or the error function of the standardised score.
        return_confidence : bool, default=False
            Also return PyOD's confidence.

        Returns
        -------
        ndarray of shape (n_samples, 2), or a tuple of it and an ndarray of shape (n_samples,)
            Columns: inlier, outlier.

        Raises
        ------
        NotFittedError
            If the detector is not fitted.
        ValueError
            If `method` is unknown.
        """
        check_choice("method", method, ("linear", "unify"))
        scores = self.decision_function(X)
        if method == "unify":
            outlying = outlier_probability(scores, self._mu, self._sigma)
        else:
            low, high = self.decision_scores_.min(), self.decision_scores_.max()
            outlying = (
                np.clip(np.interp(scores, [low, high], [0.0, 1.0]), 0, 1) if high > low else scores * 0.0
            )
        probability = np.column_stack((1 - outlying, outlying))
        return (probability, self.predict_confidence(X)) if return_confidence else probability

    def _read(self, X: Any, view_mask: Any) -> MultiViewData:
        check_is_fitted(self, ["model_", "decision_scores_", "threshold_"])
        return read_views(
            X,
            view_slices=self.view_slices,
            view_mask=view_mask,
            partial_nan=self.partial_nan,
            layout=self._layout,
        )
