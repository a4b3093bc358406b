"""The figure of `HierarchicalMetrics`: how far mistakes go, and where in the tree they happen.

>>> from graftkit.methods.bilt.tree import LabelTree
>>> tree = LabelTree.from_paths([("animal", "cat"), ("animal", "dog"), ("vehicle", "car")])
>>> [float(x) for x in places(tree)[1]]
[0.0, 1.0, 2.0]
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from torch import Tensor

from graftkit.core.extras import require
from graftkit.core.validation import raise_invalid
from graftkit.methods.bilt.tree import LabelTree

__all__ = ["HierarchicalMetricsDisplay", "places"]

# Above this, names of finest classes would overlap.
NAMED = 40
NAMED_COARSE = 12


def places(tree: LabelTree) -> list[np.ndarray[Any, Any]]:
    """Horizontal places of all nodes: leaves side by side by family, parents in the middle.

    Parameters
    ----------
    tree : LabelTree
        The tree.

    Returns
    -------
    list of ndarray of shape (C_h,)
        Coarse to fine.
    """
    ancestors = tree.ancestors.numpy()
    order = np.lexsort(ancestors[::-1])
    x = np.empty(tree.num_classes)
    x[order] = np.arange(tree.num_classes)
    return [np.bincount(row, weights=x) / np.bincount(row) for row in ancestors]


class HierarchicalMetricsDisplay:
    """Mistakes by distance, and the tree with every node's accuracy.

    Parameters
    ----------
    tree : LabelTree
        The tree.
    histogram : Tensor of shape (H + 1,)
        Samples by distance of their prediction; entry 0 counts the right ones.
    node_accuracy : sequence of Tensor of shape (C_h,)
        Accuracy by level, coarse to fine; NaN where there is no sample.

    Attributes
    ----------
    figure_ : matplotlib.figure.Figure
        The figure, after `plot`.
    axes_ : ndarray of matplotlib.axes.Axes, shape (2,)
        Mistakes and tree, after `plot`.
    """

    def __init__(self, *, tree: LabelTree, histogram: Tensor, node_accuracy: Sequence[Tensor]) -> None:
        self.tree = tree
        self.histogram = histogram
        self.node_accuracy = node_accuracy

    def plot(self, *, ax: Any = None) -> "HierarchicalMetricsDisplay":
        """Draw.

        Parameters
        ----------
        ax : sequence of two matplotlib axes or None, default=None
            Where to draw; None makes a figure.

        Returns
        -------
        HierarchicalMetricsDisplay
            This object.

        Raises
        ------
        ImportError
            If matplotlib is not installed.
        ValueError
            If `ax` does not hold two axes.
        """
        pyplot = require("matplotlib.pyplot", extra="examples", distribution="matplotlib")
        if ax is None:
            width = min(16.0, 5 + 0.2 * min(self.tree.num_classes, NAMED) + 4)
            _, axes = pyplot.subplots(1, 2, figsize=(width, 4), layout="constrained", width_ratios=(1, 2))
        else:
            axes = np.asarray(ax, dtype=object).ravel()
            if len(axes) != 2:
                raise_invalid("ax", ax, "two axes")
        self._mistakes(axes[0])
        self._tree(axes[1])
        self.axes_ = axes
        self.figure_ = axes[0].figure
        return self

    def _mistakes(self, ax: Any) -> None:
        counts = self.histogram.double().numpy()
        wrong = counts[1:].sum()
        ax.bar(np.arange(1, len(counts)), counts[1:] / max(wrong, 1), color="tab:blue")
        ax.set_xticks(np.arange(1, len(counts)))
        ax.set(xlabel="levels up to the common ancestor", ylabel="share of the mistakes",
               title=f"{wrong:.0f} mistakes of {counts.sum():.0f}")  # fmt: skip

    def _tree(self, ax: Any) -> None:
        x = places(self.tree)
        levels = self.tree.num_levels
        for h in range(1, levels):
            parents = self.tree.lineage(h + 1)[-2].numpy()
            lines = np.stack([x[h - 1][parents], x[h]])
            ax.plot(lines, np.array([[-h], [-h - 1]]), color="lightgrey", linewidth=0.8, zorder=1)
        drawn = None
        for h, accuracy in enumerate(self.node_accuracy, start=1):
            drawn = ax.scatter(x[h - 1], np.full(len(x[h - 1]), -h), c=accuracy.cpu().numpy(), vmin=0, vmax=1,
                               cmap="viridis", s=18 if self.tree.sizes[h - 1] <= NAMED else 5, zorder=2,
                               plotnonfinite=True)  # fmt: skip
            if h < levels and self.tree.sizes[h - 1] <= NAMED_COARSE:
                for place, name in zip(x[h - 1], self.tree.names(h), strict=True):
                    ax.annotate(name, (place, -h), xytext=(0, 6), textcoords="offset points", ha="center",
                                fontsize="x-small")  # fmt: skip
        ax.figure.colorbar(drawn, ax=ax, label="accuracy (by roll-up)")
        ax.set_yticks(-np.arange(1, levels + 1), [f"level {h}" for h in range(1, levels + 1)])
        if self.tree.num_classes <= NAMED:
            ax.set_xticks(x[-1], self.tree.names(), rotation=90, fontsize="x-small")
        else:
            ax.set_xticks([])
        ax.margins(y=0.15)
        ax.set_title("accuracy below every node")
