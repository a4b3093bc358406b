r"""Measures of how bad mistakes are, gathered over batches and processes.

With :math:`\pi_1, \ldots, \pi_k` the finest classes by falling score and D the tree distance:

.. math::
    \text{severity} = \mathrm{mean}_{\text{wrong}}\, D_{y \pi_1}, \qquad
    \mathrm{HD@}k = \mathrm{mean}\, \tfrac1k \sum_{j \le k} D_{y \pi_j}

Severity is NaN without a mistake. HD@k has a lower bound above 0 for k > 1, which is reported beside it. The
paper leaves out 1/k, its code averages (specification section 2.6). wAP is unverified: its definition comes
from a secondary source. The hierarchical precision and recall of ``hF`` count shared ancestors.

The object works as torchmetrics' do (update, compute, reset, forward, and the sum over processes at
compute), without needing torchmetrics.

>>> tree = LabelTree.from_paths([("animal", "cat"), ("animal", "dog"), ("vehicle", "car")])
>>> metrics = HierarchicalMetrics(tree, ks=(1, 2))
>>> metrics.update(torch.tensor([[3.0, 2.0, 1.0], [3.0, 2.0, 1.0]]), torch.tensor([0, 1]))
>>> {name: round(float(value), 2) for name, value in metrics.compute().items() if name.startswith("hd")}
{'hd@1': 0.5, 'hd@1_bound': 0.0, 'hd@2': 0.5, 'hd@2_bound': 0.5}
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from graftkit.core.validation import check_bool, check_choice, check_integer, raise_invalid
from graftkit.methods.bilt.decoding import SOURCES
from graftkit.methods.bilt.head import HierarchicalOutput
from graftkit.methods.bilt.metric_counts import check_scores, count_batch, on_device
from graftkit.methods.bilt.metric_values import bounds, values_of
from graftkit.methods.bilt.targets import check_targets
from graftkit.methods.bilt.tree import LabelTree

__all__ = ["HierarchicalMetrics"]


class HierarchicalMetrics(nn.Module):
    """Top-k accuracy, mistake severity, HD@k, consistency and accuracy by level.

    Parameters
    ----------
    tree : LabelTree
        That of the model.
    ks : sequence of int or None, default=None
        How many classes to look at; None takes those of 1, 5 and 20 that the tree has.
    source : {"risk", "prob", "crm"}, default="risk"
        What classes are ranked by, as in ``predict``.
    sync_on_compute : bool, default=True
        Sum over the processes of the default group, where there is one; every process must call `compute`.

    Raises
    ------
    TypeError
        If an argument has the wrong type.
    ValueError
        If a k is below 1 or above the number of classes, or comes twice.
    """

    ancestors: Tensor
    bounds: Tensor
    histogram: Tensor
    hits: Tensor
    distances: Tensor
    level_hits: Tensor
    rollup_hits: Tensor
    paths: Tensor
    classes: Tensor
    node_hits: Tensor
    shared: Tensor
    precision: Tensor

    def __init__(
        self,
        tree: LabelTree,
        ks: Sequence[int] | None = None,
        *,
        source: str = "risk",
        sync_on_compute: bool = True,
    ) -> None:
        super().__init__()
        if not isinstance(tree, LabelTree):
            raise_invalid("tree", tree, "a LabelTree", error=TypeError)
        if ks is None:
            ks = [k for k in (1, 5, 20) if k <= tree.num_classes]
        if not isinstance(ks, Sequence):
            raise_invalid("ks", ks, "a sequence of integers", error=TypeError)
        self.ks = tuple(sorted(check_integer("ks", k, low=1, high=tree.num_classes) for k in ks))
        if not self.ks or len(set(self.ks)) < len(self.ks):
            raise_invalid("ks", ks, "different numbers, at least one")
        self.tree, self.source = tree, source
        check_choice("source", source, SOURCES)
        self.sync_on_compute = check_bool("sync_on_compute", sync_on_compute)
        self.register_buffer("ancestors", tree.ancestors, persistent=False)
        self.register_buffer("bounds", bounds(tree, self.ks), persistent=False)
        levels, nodes = tree.num_levels, sum(tree.sizes)
        self._shapes = {
            "histogram": (levels + 1,),  # samples by distance of the first prediction
            "hits": (len(self.ks),),
            "distances": (len(self.ks),),
            "level_hits": (levels,),
            "rollup_hits": (levels,),
            "paths": (2,),  # all levels right; predictions that are no path
            "classes": (tree.num_classes,),  # samples by finest class
            "node_hits": (nodes,),  # right by roll-up, by true node of every level
            "shared": (1,),
        }
        for name, shape in self._shapes.items():
            self.register_buffer(name, self.ancestors.new_zeros(shape), persistent=False)
        self.register_buffer("precision", torch.zeros_like(self.hits, dtype=torch.float64), persistent=False)

    def update(self, output: HierarchicalOutput | Tensor, target: Tensor) -> None:
        """Add a batch.

        Parameters
        ----------
        output : HierarchicalOutput or Tensor of shape (B, C_H)
            What a model returned; plain scores are those of the finest level, larger is better.
        target : Tensor of shape (B,)
            int64 finest labels.

        Raises
        ------
        TypeError
            If `output` is neither, or its numbers are not floating.
        ValueError
            If sizes or labels do not fit the tree, or scores or logits of any level are NaN; nothing is
            added then.
        """
        if isinstance(output, Tensor):
            output = HierarchicalOutput(output, (output,), (output,), ())
        if not hasattr(output, "level_logits"):
            raise_invalid("output", output, "a HierarchicalOutput or scores", error=TypeError)
        device = self.ancestors.device
        scores = output.scores.detach()
        if scores.ndim != 2 or scores.shape[1] != self.tree.num_classes:
            raise_invalid("output", scores, f"scores of shape (B, {self.tree.num_classes})")
        check_targets(target, self.tree, self.ancestors, values=False)
        if target.ndim != 1 or target.is_floating_point() or len(target) != len(scores):
            raise_invalid("target", target, f"{len(scores)} finest labels")
        target = target.to(device)
        check_targets(target, self.tree, self.ancestors, values=True)
        check_scores(output)
        with torch.no_grad():
            moved = on_device(output, device)
            # All counted before any is added, so that a failure adds nothing.
            for name, counted in count_batch(moved, target, self.tree, self.ancestors, self.ks, self.source):
                getattr(self, name).add_(counted)

    def compute(self) -> dict[str, Tensor]:
        """All measures over what was added.

        Returns
        -------
        dict
            0-d float64 tensors: ``top<k>``, ``mistake_severity``, ``mistakes``, ``hd@<k>`` and its
            ``_bound``, ``hp@<k>`` (hierarchical precision), ``level<h>`` by the level's own head and its
            ``_rollup``, ``fpa`` (all levels right), ``tice`` (share that is no path), ``wap``, ``hf``,
            ``samples``, and ``mistakes@<d>``, the share of mistakes at each distance.

        Raises
        ------
        ValueError
            If nothing was added.
        """
        counts = self.counts()
        if not int(counts["classes"].sum()):
            raise ValueError("compute: expected at least one sample, got none; call update first")
        return values_of(counts, self.tree, self.ks, self.bounds)

    def counts(self) -> dict[str, Tensor]:
        """What was counted, over all processes.

        Returns
        -------
        dict
            Tensors by name.
        """
        names = [*self._shapes, "precision"]
        counts = {name: getattr(self, name).clone() for name in names}
        if self.sync_on_compute and torch.distributed.is_available() and torch.distributed.is_initialized():
            whole = torch.cat([counts[name] for name in self._shapes])
            torch.distributed.all_reduce(whole)
            torch.distributed.all_reduce(counts["precision"])
            parts = whole.split([getattr(self, name).numel() for name in self._shapes])
            counts.update(zip(self._shapes, parts, strict=True))
        return counts

    def node_accuracy(self) -> list[Tensor]:
        """Accuracy by roll-up below every node: of its samples, the share predicted below it.

        Returns
        -------
        list of Tensor of shape (C_h,)
            Coarse to fine; NaN for a node without a sample.
        """
        counts = self.counts()
        ancestors = self.ancestors
        accuracy = []
        for hits, row in zip(counts["node_hits"].split(self.tree.sizes), ancestors, strict=True):
            samples = torch.zeros_like(hits).index_add_(0, row, counts["classes"])
            accuracy.append(torch.where(samples > 0, hits / samples.clamp_min(1), torch.nan))
        return accuracy

    def forward(self, output: HierarchicalOutput | Tensor, target: Tensor) -> dict[str, Tensor]:
        """Add a batch and return the measures of this batch alone.

        Parameters
        ----------
        output : HierarchicalOutput or Tensor of shape (B, C_H)
            As in `update`.
        target : Tensor of shape (B,)
            As in `update`.

        Returns
        -------
        dict
            As in `compute`, of this process.
        """
        alone = HierarchicalMetrics(self.tree, self.ks, source=self.source, sync_on_compute=False)
        alone.to(self.ancestors.device).update(output, target)
        for name in [*self._shapes, "precision"]:
            getattr(self, name).add_(getattr(alone, name))
        return alone.compute()

    def _apply(self, fn: Any, recurse: bool = True) -> "HierarchicalMetrics":
        """Move, but keep the type of sums: half of a model would lose samples."""
        kept = {name: getattr(self, name) for name in ("bounds", "precision")}
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        for name, before in kept.items():
            setattr(self, name, before.to(getattr(self, name).device))
        return self

    def reset(self) -> None:
        """Forget all batches."""
        for name in [*self._shapes, "precision"]:
            getattr(self, name).zero_()

    def plot(self, ax: Any = None) -> Any:
        """Draw mistakes by distance and the tree with the accuracy of every node.

        Parameters
        ----------
        ax : sequence of two matplotlib axes or None, default=None
            Where to draw; None makes a figure.

        Returns
        -------
        HierarchicalMetricsDisplay
            With ``figure_`` and ``axes_``.
        """
        from graftkit.methods.bilt.metric_display import HierarchicalMetricsDisplay

        shown = HierarchicalMetricsDisplay(
            tree=self.tree, histogram=self.counts()["histogram"].cpu(), node_accuracy=self.node_accuracy()
        )
        return shown.plot(ax=ax)

    def extra_repr(self) -> str:
        """Arguments for ``repr``.

        Returns
        -------
        str
            In the order of the signature.
        """
        return f"tree={self.tree}, ks={self.ks}, source={self.source!r}"
