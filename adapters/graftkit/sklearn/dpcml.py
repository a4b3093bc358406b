"""DPCML as a scikit-learn style recommender for implicit feedback.

>>> from graftkit.sklearn import DPCML
>>> ids, scores = DPCML().fit(user_items).recommend([0, 1], n=10)  # doctest: +SKIP
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from graftkit.core.validation import check_bool, check_choice, check_integer, check_jobs, check_number
from graftkit.methods.dpcml import PRESETS, PerUserRatioSplit, Settings, evaluate
from graftkit.methods.dpcml.interactions import matching_interactions
from graftkit.methods.dpcml.stopping import check_scoring
from graftkit.methods.dpcml.vectors import pad_vectors
from graftkit.sklearn.dpcml_interests import InterestsMixin
from graftkit.sklearn.dpcml_recommender import RecommenderMixin
from graftkit.sklearn.dpcml_scores import ScoresMixin
from graftkit.sklearn.dpcml_updates import UpdatesMixin
from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.utils import Tags
from sklearn.utils.validation import check_is_fitted

__all__ = ["DPCML"]


class DPCML(
    RecommenderMixin,
    ScoresMixin,
    InterestsMixin,
    UpdatesMixin,
    ClassNamePrefixFeaturesOutMixin,
    TransformerMixin,
    BaseEstimator,
):
    r"""Diversity-promoting collaborative metric learning: a recommender that keeps every interest of a user.

    A user has several vectors, an item one; the score is the smallest squared distance,

    .. math:: s(u, i) = \min_{c \le C_u} \lVert p_u^c - q_i \rVert^2

    so that a minority interest is not averaged away. Training is a hinge over triplets with sampled
    negatives and a penalty that keeps a user's vectors neither too close nor too far apart. With
    ``n_vectors=1`` it is CML (``sampling="uniform"``) or HarS (``"hard"``).

    Parameters
    ----------
    n_components : int, default=100
        Width of the vectors.
    n_vectors : int, default=5
        Vectors a user; with ``assignment="apa"`` the most a user can get.
    assignment : {"bpa", "apa"}, callable or array of int, shape (n_users,), default="bpa"
        The same number for all, or more for users with more interactions (floor of log2, at least 1), or
        ``callable(counts)``, or the numbers. ``"apa"`` is **reconstructed** from a remark in the authors'
        code.
    margin : float, default=1.0
        Margin of the hinge.
    sampling : {"hard", "uniform", "dihars", "popular"}, default="hard"
        The nearest candidate counts (HarS, DPCML2), all count (DPCML1), the nearest share `beta` counts, or
        all count and are drawn by popularity. ``"dihars"`` is **reconstructed** from the abstract of the
        2024 paper.
    n_negatives : int, default=10
        Candidates a positive, drawn anew each pass.
    beta : float, default=0.3
        Share of the candidates for ``"dihars"``, in (0, 1].
    dihars_mode : {"topk", "threshold"}, default="topk"
        Exact mean of the largest losses, or a learned threshold a user.
    dcrs : {"pairwise", "mean"} or None, default="pairwise"
        The diversity penalty of the public code, of the paper, or none.
    dcrs_weight : float, default=1.0
        Its weight eta.
    delta_min, delta_max : float, default=0.05, 0.5
        Its bounds: squared distances of pairs (``"pairwise"``) or half their mean (``"mean"``).
    dcrs_scale : {"paper", "code", "full"}, default="paper"
        Mean over the users of the batch; the public code's weight in expectation; the public code's term
        over all users in every step, which is slow.
    init : {"jitter", "random"}, default="jitter"
        Each user's vectors start near one direction, or independently as in the public code.
    user_norm, item_norm : {"sphere", "ball"} or None, default="sphere", "ball"
        Norm constraints; they are part of the method.
    max_norm : float, default=1.0
        Their radius.
    optimizer : {"lazy_adam", "adam", "adagrad"}, default="lazy_adam"
        Adam on the rows that a step touches, dense Adam as published, or row-wise Adagrad.
    learning_rate : float, default=3e-3
        Step size.
    batch_size : int, default=1024
        Positives a step.
    max_iter : int, default=100
        Passes over the positives. 100 rather than 50 was chosen on the validation part of Steam-200k.
    weight_decay : float, default=0.0
        L2 in the gradient.
    early_stopping : bool, default=False
        Watch `scoring` on held-out interactions and keep the best pass.
    validation_fraction : float, default=0.1
        Share of up to 2 000 users' interactions held out for that, where `fit` gets no ``X_val``.
    scoring : str or callable, default="ndcg@10"
        What is watched: a metric's name, or a function of (ranker, training matrix, held-out matrix).
    patience : int or None, default=5
        Passes without a rise before training ends; None runs all passes and keeps the best.
    tol : float, default=0.0
        What counts as a rise.
    store_interactions : bool, default=True
        Keep the training matrix, which `filter_seen`, `explain` and `score` need.
    dtype : {"float32", "float64"}, default="float32"
        Precision of the vectors.
    device : str, default="cpu"
        torch device of training and ranking.
    random_state : int, RandomState, Generator or None, default=None
        Seeds start, order and candidates; global generators are not touched.
    n_jobs : int or None, default=None
        Workers of `recommend` and `recommend_for`, through joblib: threads, or the backend of a
        ``joblib.parallel_config``. Results do not depend on it.
    verbose : int, default=0
        1 shows a progress bar on standard error.

    Attributes
    ----------
    user_vectors_ : ndarray of shape (sum of C_u, n_components)
        Trained vectors of all users, user after user. Not what `transform` returns.
    user_ptr_ : ndarray of int, shape (n_users + 1,)
        User u owns rows ``user_ptr_[u]`` to ``user_ptr_[u + 1]``.
    item_vectors_ : ndarray of shape (n_items, n_components)
        Item vectors.
    n_vectors_per_user_ : ndarray of int, shape (n_users,)
        C_u.
    n_users_ : int
        Number of users.
    n_features_in_ : int
        Number of items.
    feature_names_in_ : ndarray of str, shape (n_items,)
        Column names, where `X` was a DataFrame with string names.
    interactions_ : csr_matrix of shape (n_users, n_items) or None
        What was seen, unless ``store_interactions=False``.
    item_counts_ : ndarray of shape (n_items,)
        Users an item.
    history_ : list of dict
        ``loss``, ``diversity``, ``active`` and, where watched, ``validation`` of each pass.
    n_iter_ : int
        Passes run.
    best_iter_ : int or None
        The pass that was kept by early stopping.

    See Also
    --------
    graftkit.sklearn.cross_validate_ranking : Model selection; row-wise splitters do not fit a recommender.
    graftkit.sklearn.ranking_metrics : Evaluation on held-out entries.

    Notes
    -----
    The matrix is users x items everywhere. Any value above 0 is a positive.

    `transform` and `recommend_for` fold users in: their vectors are centres of their items' vectors. That
    needs the user's full history, works for unseen users, and depends on nothing but the row.

    Defaults differ from the published settings, which are presets: the start, row-wise Adam, the larger
    batch and the scale of the penalty. Results are the same for the same seed on one thread.

    References
    ----------
    .. [1] S. Bao, Q. Xu, Z. Yang, Y. He, X. Cao, Q. Huang, "The Minority Matters: A Diversity-Promoting
    Collaborative
       Metric Learning Algorithm", NeurIPS 2022, arXiv 2209.15292.
    .. [2] The same, "Improved Diversity-Promoting Collaborative Metric Learning for Recommendation", TPAMI
    2024,
       arXiv 2409.01012 (only its abstract could be read).

    Examples
    --------
    >>> from graftkit.sklearn import DPCML, make_multi_interest
    >>> data = make_multi_interest(random_state=0)
    >>> model = DPCML(n_components=16, n_vectors=2, max_iter=20, random_state=0).fit(data.train)
    >>> ids, scores = model.recommend([0, 1], n=3)
    >>> ids.shape
    (2, 3)
    """

    def __init__(
        self,
        n_components: int = 100,
        n_vectors: int = 5,
        *,
        assignment: Any = "bpa",
        margin: float = 1.0,
        sampling: str = "hard",
        n_negatives: int = 10,
        beta: float = 0.3,
        dihars_mode: str = "topk",
        dcrs: str | None = "pairwise",
        dcrs_weight: float = 1.0,
        delta_min: float = 0.05,
        delta_max: float = 0.5,
        dcrs_scale: str = "paper",
        init: str = "jitter",
        user_norm: str | None = "sphere",
        item_norm: str | None = "ball",
        max_norm: float = 1.0,
        optimizer: str = "lazy_adam",
        learning_rate: float = 3e-3,
        batch_size: int = 1024,
        max_iter: int = 100,
        weight_decay: float = 0.0,
        early_stopping: bool = False,
        validation_fraction: float = 0.1,
        scoring: Any = "ndcg@10",
        patience: int | None = 5,
        tol: float = 0.0,
        store_interactions: bool = True,
        dtype: str = "float32",
        device: str = "cpu",
        random_state: Any = None,
        n_jobs: int | None = None,
        verbose: int = 0,
    ) -> None:
        self.n_components = n_components
        self.n_vectors = n_vectors
        self.assignment = assignment
        self.margin = margin
        self.sampling = sampling
        self.n_negatives = n_negatives
        self.beta = beta
        self.dihars_mode = dihars_mode
        self.dcrs = dcrs
        self.dcrs_weight = dcrs_weight
        self.delta_min = delta_min
        self.delta_max = delta_max
        self.dcrs_scale = dcrs_scale
        self.init = init
        self.user_norm = user_norm
        self.item_norm = item_norm
        self.max_norm = max_norm
        self.optimizer = optimizer
        self.learning_rate = learning_rate
        self.batch_size = batch_size
        self.max_iter = max_iter
        self.weight_decay = weight_decay
        self.early_stopping = early_stopping
        self.validation_fraction = validation_fraction
        self.scoring = scoring
        self.patience = patience
        self.tol = tol
        self.store_interactions = store_interactions
        self.dtype = dtype
        self.device = device
        self.random_state = random_state
        self.n_jobs = n_jobs
        self.verbose = verbose

    @classmethod
    def from_preset(cls, name: str, **overrides: Any) -> DPCML:
        """Build an estimator with a published configuration (Steam-200k).

        Parameters
        ----------
        name : {"unis", "hars", "dpcml1", "dpcml2"}
            The paper's name: uniform or hard negatives with one vector, the same with five vectors and DCRS.
        **overrides : object
            Constructor arguments that replace the preset's.

        Returns
        -------
        DPCML
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

    def transform(self, X: Any) -> npt.NDArray[np.float64]:
        """Vectors of users by fold-in, one row a user; **not** the trained vectors.

        Parameters
        ----------
        X : array-like or sparse matrix of shape (m, n_items)
            The users' full histories.

        Returns
        -------
        ndarray of shape (m, C_max * n_components)
            Users with fewer vectors repeat their last one. Each row depends on that row alone.

        Raises
        ------
        ValueError
            If `X` has another number of columns than the training matrix.
        NotFittedError
            If the estimator is not fitted.
        """
        check_is_fitted(self, "user_vectors_")
        matrix = self._read(self, X, reset=False)
        vectors, ptr = self._fold_in(matrix)
        padded, _ = pad_vectors(vectors, ptr, width=self._most)
        return np.asarray(padded.reshape(len(padded), -1), dtype=np.float64)

    def score(self, X: Any, y: Any = None, *, users: str = "auto") -> float:  # noqa: ARG002
        """NDCG@10 of interactions.

        Parameters
        ----------
        X : array-like or sparse matrix of shape (m, n_items)
            Held-out interactions of the trained users, or the histories of other users.
        y : object, default=None
            Ignored.
        users : {"auto", "trained", "new"}, default="auto"
            ``"trained"`` ranks the entries of `X` for the trained users, training items masked. ``"new"``
            holds out a fifth of each row (users with two items or more), folds the rest in and ranks the
            fifth; that is what a row-wise splitter such as GridSearchCV's needs. ``"auto"`` takes the first
            where `X` has the shape of the training matrix and no entry in common with it.

        Returns
        -------
        float
            Mean over users, in [0, 1]; 0 where no user can be scored.

        Raises
        ------
        ValueError
            If `X` does not match what `fit` saw, or `users` is unknown.
        NotFittedError
            If the estimator is not fitted.
        """
        check_is_fitted(self, "user_vectors_")
        check_choice("users", users, ("auto", "trained", "new"))
        matrix = self._read(self, X, reset=False)
        if users == "auto":
            apart = matrix.shape == self._shape() and not self._seen("score").multiply(matrix).nnz
            users = "trained" if apart else "new"
        if users == "trained":
            matching_interactions(matrix, self._shape(), "X")
            found = evaluate(self._ranker.score, self._seen("score"), matrix, ["ndcg@10"])
        else:
            split = PerUserRatioSplit((0.8, 0.2), min_interactions=2, random_state=0)
            rest, held = split.split(matrix)[0]
            found = evaluate(self._folded_ranker(rest).score, rest, held, ["ndcg@10"])
        value = float(found["ndcg@10"])
        return 0.0 if np.isnan(value) else value

    @property
    def _n_features_out(self) -> int:
        """Width of `transform`, which names its columns by it."""
        return int(self._most * self.item_vectors_.shape[1])

    def _settings(self) -> Settings:
        """Check every argument."""
        check_bool("early_stopping", self.early_stopping)
        check_bool("store_interactions", self.store_interactions)
        check_number("validation_fraction", self.validation_fraction, low=0, high=1, closed="()")
        check_number("tol", self.tol, low=0)
        if self.patience is not None:
            check_integer("patience", self.patience, low=1)
        if not isinstance(self.verbose, bool | np.bool_):
            check_integer("verbose", self.verbose, low=0)
        check_jobs(self.n_jobs)
        check_scoring(self.scoring)
        names = Settings.__dataclass_fields__
        return Settings(**{name: getattr(self, name) for name in names})

    def __sklearn_tags__(self) -> Tags:
        """Sparse input is welcome, negative values are not."""
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = True
        tags.input_tags.positive_only = True
        return tags
