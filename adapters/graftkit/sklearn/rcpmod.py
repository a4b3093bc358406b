"""RCPMOD as a scikit-learn outlier detector.

>>> from graftkit.sklearn import RCPMOD
>>> labels = RCPMOD().fit_predict([X_image, X_text])  # doctest: +SKIP
"""

from __future__ import annotations

from numbers import Integral, Real
from typing import Any, ClassVar

import numpy as np

from graftkit.core.random import numpy_generator
from graftkit.core.validation import check_choice, check_jobs, raise_invalid
from graftkit.methods.rcpmod import PRESETS, Settings, contamination_threshold, fit_pairs
from graftkit.sklearn.rcpmod_fitted import FittedMixin
from sklearn.base import BaseEstimator, OutlierMixin, _fit_context, clone
from sklearn.utils import Tags
from sklearn.utils._param_validation import HasMethods, Interval, StrOptions

__all__ = ["RCPMOD"]


class RCPMOD(FittedMixin, OutlierMixin, BaseEstimator):
    r"""Regularized contrastive partial multi-view outlier detection.

    One autoencoder a view, trained so that the views of a row agree; a row is outlying when its views
    reconstruct badly or disagree:

    .. math:: s_i = R_w \,\mathrm{mm}(r_i) + \mathrm{mm}(c_i)

    It sees *class outliers*, whose views are each normal but belong to different groups, which no
    detector that scores views one by one can. Rows may miss views; a row with one view of a pair carries
    no evidence about a mismatch there.

    Parameters
    ----------
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
        Neighbour ranks drawn a step for that loss; ``None`` takes all `n_neighbors`, as published. A draw
        is unbiased; one rank saved a quarter to a third of the first epochs of a deep encoder, hardly a
        tenth of a full schedule, and accuracy fell by 0.01 (``tests/benchmarks/RESULTS.md``).
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
    view_slices : "auto", int, list or dict, default="auto"
        How *one* 2-D array falls into views: a number of contiguous near-equal blocks, block widths,
        slices or index arrays, or names with columns. ``"auto"`` takes two blocks and warns; ``None``
        refuses one array. Lists and dicts of views do not need it.
    partial_nan : {"raise", "missing", "impute"}, default="raise"
        What a NaN in part of a view's row means: an error, a missing view, or the column's training mean.
    pairing : {"sequential", "independent"}, default="sequential"
        With more than two views: hand the autoencoders on from pair to pair, as published, or train each
        pair afresh (in parallel with `n_jobs`).
    reshuffle : bool, default=True
        Draw batches anew every epoch; the public code repeats one order.
    n_reference : int or "auto", default="auto"
        Training rows in the score's denominator; all up to 5 000, else 2 048.
    knn_backend : {"auto", "sklearn", "faiss"}, default="auto"
        Neighbour search; ``"auto"`` is exact up to 50 000 rows, then faiss where it is installed.
    contamination : float in (0, 0.5] or "auto", default="auto"
        Share of outliers that sets ``offset_``; ``"auto"`` is median plus 3 scaled MADs of the scores.
    random_state : int, RandomState, Generator or None, default=None
        Seeds initial weights, batches and draws; global generators are not touched.
    device : str, default="cpu"
        torch device of the training.
    dtype : {"float32", "float64"}, default="float32"
        Precision of the training; scoring is always float64.
    n_jobs : int or None, default=None
        Workers for independent pairs and for scoring, through joblib; results do not depend on it.
    verbose : int, default=0
        1 shows a progress bar on standard error.

    Attributes
    ----------
    offset_ : float
        ``decision_function = score_samples - offset_``.
    outlier_scores_ : ndarray of shape (n_samples,)
        The published, transductive score of the training rows; larger is more outlying. Where references
        are sampled (more than 5 000 rows, or `n_reference`), the score that new rows get.
    labels_ : ndarray of shape (n_samples,)
        +1 for inliers, -1 for outliers among the training rows.
    n_views_ : int
        Number of views.
    view_names_ : tuple
        Their names; ``view0``, ``view1``, ... for a list.
    n_features_per_view_ : tuple of int
        Their widths.
    n_features_in_ : int
        Total number of features.
    feature_names_in_ : ndarray of str, shape (n_features_in_,)
        Column names, when one DataFrame with string names was given.
    n_iter_ : int
        Epochs run, over all pairs.
    loss_curve_ : list of dict
        Each loss term by pair and epoch.
    pairs_ : tuple of (name, name)
        The pairs of views.
    model_ : FittedPairs
        Plain arrays that score without torch.

    See Also
    --------
    graftkit.pyod.RCPMODDetector : The same method in PyOD's conventions (0/1 labels, larger is outlying).
    sklearn.ensemble.IsolationForest : For one view.

    Notes
    -----
    Labels and signs are scikit-learn's: +1 inlier, -1 outlier, larger ``score_samples`` is more normal.
    scikit-learn's ``roc_auc`` scorer therefore wants ``y`` with **1 for inliers and 0 for outliers**.

    Differs from the public code: batches are reshuffled, training is float32, rows with a missing view do
    not enter the bank, neighbours are exact. The paper's body could not be read, so its equations, its
    tables and its threshold are unverified; the formulas follow the public code.

    References
    ----------
    .. [1] Y. Wang, Q. Xu, Y. Jiang, S. Dai, Q. Huang, "Regularized Contrastive Partial Multi-view Outlier
       Detection", ACM MM 2024, arXiv 2408.07819.

    Examples
    --------
    >>> import numpy as np
    >>> from graftkit.sklearn import RCPMOD
    >>> rng = np.random.default_rng(0)
    >>> group = rng.integers(0, 3, 90)
    >>> views = [rng.normal(group[:, None] * 4, 0.3, (90, d)) for d in (4, 3)]
    >>> views[1][0] = rng.normal(((group[0] + 1) % 3) * 4, 0.3, 3)  # the views of row 0 disagree
    >>> views[1][1] = np.nan  # row 1 misses a view
    >>> detector = RCPMOD(hidden_layer_sizes=(32,), latent_dim=8, random_state=0).fit(views)
    >>> int(detector.outlier_scores_.argmax())
    0
    """

    _parameter_constraints: ClassVar[dict[str, list[Any]]] = {
        "n_neighbors": [Interval(Integral, 1, None, closed="left")],
        "hidden_layer_sizes": [tuple, list],
        "latent_dim": [Interval(Integral, 1, None, closed="left")],
        "n_epochs": [Interval(Integral, 1, None, closed="left")],
        "batch_size": [Interval(Integral, 2, None, closed="left")],
        "learning_rate": [Interval(Real, 0, None, closed="neither")],
        "temperature": [Interval(Real, 0, None, closed="neither")],
        "outlier_weight": [Interval(Real, 0, None, closed="left")],
        "neighbor_weight": [Interval(Real, 0, None, closed="left")],
        "alignment_ranks": [Interval(Integral, 1, None, closed="left"), None],
        "spread_weight": [Interval(Real, 0, None, closed="left")],
        "spread_warm": [Interval(Real, 0, None, closed="left")],
        "spread_schedule": [Interval(Integral, 102, None, closed="left")],
        "negative_rank": [Interval(Integral, 1, None, closed="left")],
        "memory_size": [Interval(Integral, 0, None, closed="left")],
        "memory_fraction": [Interval(Real, 0, 1, closed="right")],
        "recon_weight": [Interval(Real, 0, None, closed="left")],
        "neighbor_refresh": [Interval(Integral, 1, None, closed="left")],
        "negative_refresh": [Interval(Integral, 1, None, closed="left")],
        "impute_from": [Interval(Integral, 0, None, closed="left")],
        "scale": [StrOptions({"feature", "global"}), None],
        "view_slices": [
            StrOptions({"auto"}),
            Interval(Integral, 2, None, closed="left"),
            list,
            tuple,
            dict,
            np.ndarray,
            None,
        ],
        "partial_nan": [StrOptions({"raise", "missing", "impute"})],
        "pairing": [StrOptions({"sequential", "independent"})],
        "reshuffle": ["boolean"],
        "n_reference": [StrOptions({"auto"}), Interval(Integral, 1, None, closed="left")],
        "knn_backend": [StrOptions({"auto", "sklearn", "faiss"})],
        "contamination": [StrOptions({"auto"}), Interval(Real, 0, 0.5, closed="right")],
        "random_state": ["random_state", HasMethods(["integers", "spawn"])],
        "device": [str],
        "dtype": [StrOptions({"float32", "float64"})],
        "n_jobs": [Integral, None],
        "verbose": ["verbose"],
    }

    def __init__(
        self,
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
        view_slices: Any = "auto",
        partial_nan: str = "raise",
        pairing: str = "sequential",
        reshuffle: bool = True,
        n_reference: int | str = "auto",
        knn_backend: str = "auto",
        contamination: float | str = "auto",
        random_state: Any = None,
        device: str = "cpu",
        dtype: str = "float32",
        n_jobs: int | None = None,
        verbose: int = 0,
    ) -> None:
        self.n_neighbors = n_neighbors
        self.hidden_layer_sizes = hidden_layer_sizes
        self.latent_dim = latent_dim
        self.n_epochs = n_epochs
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.temperature = temperature
        self.outlier_weight = outlier_weight
        self.neighbor_weight = neighbor_weight
        self.alignment_ranks = alignment_ranks
        self.spread_weight = spread_weight
        self.spread_warm = spread_warm
        self.spread_schedule = spread_schedule
        self.negative_rank = negative_rank
        self.memory_size = memory_size
        self.memory_fraction = memory_fraction
        self.recon_weight = recon_weight
        self.neighbor_refresh = neighbor_refresh
        self.negative_refresh = negative_refresh
        self.impute_from = impute_from
        self.scale = scale
        self.view_slices = view_slices
        self.partial_nan = partial_nan
        self.pairing = pairing
        self.reshuffle = reshuffle
        self.n_reference = n_reference
        self.knn_backend = knn_backend
        self.contamination = contamination
        self.random_state = random_state
        self.device = device
        self.dtype = dtype
        self.n_jobs = n_jobs
        self.verbose = verbose

    @classmethod
    def from_preset(cls, name: str, **overrides: Any) -> RCPMOD:
        """Build an estimator with a published configuration.

        Parameters
        ----------
        name : {"bdgp", "scene15", "landuse21", "fashion", "handwritten"}
            The data set whose configuration the public code ships (``configure.py``).
        **overrides : object
            Constructor arguments that replace the preset's.

        Returns
        -------
        RCPMOD
            Unfitted.

        Raises
        ------
        ValueError
            If `name` is unknown.
        TypeError
            If an override is no constructor argument.
        """
        check_choice("name", name, PRESETS)
        return cls(**{**PRESETS[name], **overrides})

    @_fit_context(prefer_skip_nested_validation=True)
    def fit(self, X: Any, y: Any = None, *, view_mask: Any = None, callback: Any = None) -> RCPMOD:  # noqa: ARG002
        """Train on multi-view data; an interrupted fit leaves the estimator as it was.

        Parameters
        ----------
        X : list or dict of arrays of shape (n_samples, n_features_v), or one 2-D array
            The views; an all-NaN row is a missing view.
        y : object, default=None
            Ignored.
        view_mask : array-like of bool, shape (n_samples, n_views), or None, default=None
            False marks a missing view.
        callback : callable or None, default=None
            ``callback(epoch, losses)`` after each epoch; a true return ends the pair's training.

        Returns
        -------
        RCPMOD
            The fitted estimator.

        Raises
        ------
        ValueError
            If the views do not fit together, a row has no view, NaN or infinity stand where they may not,
            or a pair of views shares too few rows.
        TypeError
            If a view, the mask or a setting is of the wrong type.
        RuntimeError
            If training diverges.
        """
        if callback is not None and not callable(callback):
            raise_invalid("callback", callback, "a callable or None", error=TypeError)
        check_jobs(self.n_jobs)
        names = Settings.__dataclass_fields__
        settings = Settings(**{name: getattr(self, name) for name in names})
        # scikit-learn's checks record the input's form at once; a twin keeps self untouched until the end.
        form = clone(self)
        data = form._read(X, view_mask, reset=True)
        model, outlier_scores, curve = fit_pairs(
            data.arrays,
            data.mask,
            data.layout.names,
            settings,
            numpy_generator(self.random_state),
            n_jobs=self.n_jobs,
            verbose=int(self.verbose),
            callback=callback,
            stacklevel=4,  # this method, scikit-learn's fit context, the caller
        )
        training_scores = model.score(data.arrays, data.mask, n_jobs=self.n_jobs)
        threshold = contamination_threshold(training_scores, self.contamination)
        fitted = {
            "model_": model,
            "outlier_scores_": outlier_scores,
            "offset_": -threshold,
            "labels_": np.where(-training_scores - -threshold >= 0, 1, -1),
            "n_views_": len(data.layout.names),
            "view_names_": data.layout.names,
            "n_features_per_view_": data.layout.widths,
            "n_features_in_": getattr(form, "n_features_in_", sum(data.layout.widths)),
            "n_iter_": len(curve),
            "loss_curve_": curve,
            "pairs_": tuple((data.layout.names[a], data.layout.names[b]) for a, b in model.pairs),
            "_layout": data.layout,
            "_score_moments": (float(training_scores.mean()), float(training_scores.std())),
        }
        if hasattr(form, "feature_names_in_"):
            fitted["feature_names_in_"] = form.feature_names_in_
        kept = {name: value for name, value in vars(self).items() if name != "feature_names_in_"}
        self.__dict__ = {**kept, **fitted}  # one step, which no interrupt can halve
        return self

    def __sklearn_tags__(self) -> Tags:
        """State that NaN is allowed where `partial_nan` gives it a meaning."""
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = self.partial_nan != "raise"
        return tags
