"""A user's vectors among the items, in the manner of scikit-learn's displays."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from graftkit.core.extras import require
from graftkit.core.validation import raise_invalid
from graftkit.methods.dpcml.interests import nearest_vectors
from graftkit.methods.dpcml.plane import fit_plane
from sklearn.utils.validation import check_is_fitted

if TYPE_CHECKING:
    from graftkit.sklearn.dpcml_interests import InterestsMixin

__all__ = ["DPCMLDisplay"]


class DPCMLDisplay:
    """One user's vectors among the item vectors, projected to two dimensions.

    Parameters
    ----------
    items : ndarray of shape (n_items, 2)
        Projected item vectors.
    vectors : ndarray of shape (C_u, 2)
        Projected vectors of the user.
    liked : ndarray of int, shape (m,)
        The user's items.
    interests : ndarray of int, shape (m,)
        For each of them, the user's nearest vector.
    user_id : int
        The user, for the title.
    groups : ndarray of shape (n_items,) or None, default=None
        Labels that colour the other items.

    Attributes
    ----------
    figure_ : matplotlib.figure.Figure
        The figure, after `plot`.
    ax_ : matplotlib.axes.Axes
        The axes, after `plot`.
    """

    def __init__(
        self,
        *,
        items: npt.NDArray[np.floating[Any]],
        vectors: npt.NDArray[np.floating[Any]],
        liked: npt.NDArray[np.int64],
        interests: npt.NDArray[np.int64],
        user_id: int,
        groups: npt.NDArray[Any] | None = None,
    ) -> None:
        self.items = items
        self.vectors = vectors
        self.liked = liked
        self.interests = interests
        self.user_id = user_id
        self.groups = groups

    @classmethod
    def from_estimator(
        cls, estimator: InterestsMixin, user_id: int, *, groups: Any = None, ax: Any = None
    ) -> DPCMLDisplay:
        """Project and draw with a fitted estimator.

        Parameters
        ----------
        estimator : DPCML
            Fitted, with ``store_interactions=True``.
        user_id : int
            A trained user.
        groups : array-like of shape (n_items,) or None, default=None
            Labels that colour the other items.
        ax : matplotlib axes or None, default=None
            Where to draw; None makes a figure.

        Returns
        -------
        DPCMLDisplay
            Drawn. The plane is that of the user's vectors and items (principal components), which shows
            interests apart that a plane of all items would hide.

        Raises
        ------
        ImportError
            If matplotlib is not installed.
        ValueError
            If `groups` does not have one label an item, `user_id` is no single id, or the interactions were
            not stored.
        IndexError
            If `user_id` is out of range.
        """
        check_is_fitted(estimator, "user_vectors_")
        if isinstance(user_id, list | tuple) or np.ndim(user_id):
            raise_invalid("user_id", user_id, "one id")
        (vectors,) = estimator.get_user_vectors(user_id)
        labels = None if groups is None else np.asarray(groups)
        if labels is not None and labels.shape != (estimator.n_features_in_,):
            raise_invalid("groups", groups, f"one label for each of the {estimator.n_features_in_} items")
        if estimator.interactions_ is None:
            raise ValueError("plot: expected an estimator with store_interactions=True")
        liked = estimator.interactions_[int(user_id)].indices.astype(np.int64)
        own = estimator.item_vectors_[liked]
        in_plane = fit_plane(np.concatenate((vectors, own)))
        return cls(
            items=in_plane(estimator.item_vectors_),
            vectors=in_plane(vectors),
            liked=liked,
            interests=nearest_vectors(vectors, own)[0],
            user_id=int(user_id),
            groups=labels,
        ).plot(ax=ax)

    def plot(self, *, ax: Any = None) -> DPCMLDisplay:
        """Draw.

        Parameters
        ----------
        ax : matplotlib axes or None, default=None
            Where to draw; None makes a figure.

        Returns
        -------
        DPCMLDisplay
            This object.

        Raises
        ------
        ImportError
            If matplotlib is not installed.
        """
        pyplot = require("matplotlib.pyplot", extra="examples", distribution="matplotlib")
        if ax is None:
            _, ax = pyplot.subplots(figsize=(6, 5), layout="constrained")
        colours = "0.8" if self.groups is None else np.unique(self.groups, return_inverse=True)[1]
        options = {} if self.groups is None else {"cmap": "Pastel1"}
        ax.scatter(*self.items.T, s=8, c=colours, label="items", **options)
        for c, vector in enumerate(self.vectors):
            colour = f"C{c % 10}"
            mine = self.items[self.liked[self.interests == c]]
            ax.scatter(*mine.T, s=28, color=colour, edgecolor="black", linewidth=0.4)
            ax.scatter(
                *vector, s=180, marker="*", color=colour, edgecolor="black", label=f"vector {c}: {len(mine)}"
            )
        ax.set(
            title=f"user {self.user_id}: vectors and the items they stand for",
            xlabel="first component",
            ylabel="second component",
        )
        ax.legend(fontsize="small")
        self.ax_ = ax
        self.figure_ = ax.figure
        return self
