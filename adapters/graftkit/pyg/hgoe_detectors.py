"""Three reference detectors that outlier exposure can be added to.

A detector has ``prepare(loader)``, ``score(batch)`` (higher = more out-of-distribution, one number a graph,
or a dictionary of such vectors), ``id_loss(batch, scores)`` and ``batch_coupled``. Any module with these
works. They follow the original formulas (energy of GNNSafe, OCGIN's Deep SVDD, GOOD-D without its group
level), not the papers' settings.

>>> detector = EnergyGIN(in_channels=1, num_classes=2, hidden=4)
>>> from torch_geometric.data import Batch, Data
>>> data = Data(x=torch.ones(2, 1), edge_index=torch.tensor([[0, 1], [1, 0]]), y=torch.tensor([1]))
>>> batch = Batch.from_data_list([data, data])
>>> scores = detector.score(batch)
>>> scores.shape, detector.id_loss(batch, scores).shape
(torch.Size([2]), torch.Size([]))
"""

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from graftkit.core.validation import check_bool, check_integer, check_number, raise_invalid
from graftkit.methods.hgoe.balance import PartBalance
from graftkit.methods.hgoe.networks import GINEncoder, build
from graftkit.methods.hgoe.scores import energy, graph_contrast, node_contrast, sphere_distance

__all__ = ["EnergyGIN", "GOODDLite", "GraphSVDD"]


def _features(batch: Any, key: str = "x") -> Tensor:
    value = batch.get(key)
    if value is None:
        remedy = {
            "x": "HGOEHarmonize(features='constant') gives every node a 1",
            "x_s": "Use transform=HGOEStructuralEncoding() on ID graphs, outliers and test graphs",
        }[key]
        raise ValueError(f"{key}: the batch has none. {remedy}")
    features: Tensor = value
    return features.float()


def _norm(norm: bool) -> str | None:
    return "inner" if check_bool("norm", norm) else None


class _Detector(nn.Module):
    batch_coupled = False

    def prepare(self, loader: Iterable[Any]) -> None:
        """Nothing to prepare; detectors that need the ID graphs beforehand use this.

        Parameters
        ----------
        loader : iterable of Batch
            ID batches.
        """

    def _embed(self, encoder: nn.Module, x: Tensor, batch: Any) -> tuple[Tensor, Tensor]:
        graph, node = encoder(x, batch.edge_index, batch.batch, batch.num_graphs)
        return graph, node


class EnergyGIN(_Detector):
    """A graph classifier whose free energy is the score.

    ``s = -T logsumexp(logits / T)``; the loss of ID graphs is the cross-entropy on ``batch.y``.

    Parameters
    ----------
    in_channels : int
        Width of ``x``.
    num_classes : int
        ID classes.
    hidden : int, default=32
        Width of a layer.
    layers : int, default=3
        GIN layers.
    pooling : {"mean", "sum"}, default="mean"
        Over nodes.
    norm : bool, default=True
        Batch normalisation; ID graphs and outliers then go through one pass.
    temperature : float, default=1.0
        T.
    seed : int, default=0
        Initial weights.
    encoder : torch.nn.Module or None, default=None
        Used instead of the GIN: called with ``(x, edge_index, batch, num_graphs)``, returns graph and node
        embeddings, and has ``out_channels``.

    Raises
    ------
    TypeError
        If an argument has the wrong type.
    ValueError
        If it is out of range.
    """

    def __init__(
        self,
        in_channels: int,
        num_classes: int,
        hidden: int = 32,
        layers: int = 3,
        pooling: str = "mean",
        norm: bool = True,
        temperature: float = 1.0,
        seed: int = 0,
        encoder: nn.Module | None = None,
    ) -> None:
        super().__init__()
        classes = check_integer("num_classes", num_classes, low=1)
        self.temperature = check_number("temperature", temperature, low=0, closed="()")
        self.encoder = encoder or build(
            lambda: GINEncoder(in_channels, hidden, layers, pooling, _norm(norm)), seed
        )
        width: Any = self.encoder.out_channels
        self.head = build(lambda: nn.Linear(width, classes), seed + 1)
        self._logits: Tensor | None = None

    def logits(self, batch: Any) -> Tensor:
        """Class logits.

        Parameters
        ----------
        batch : Batch
            Graphs with ``x``.

        Returns
        -------
        Tensor of shape (B, num_classes)
            Logits.
        """
        logits: Tensor = self.head(self._embed(self.encoder, _features(batch), batch)[0])
        return logits

    def score(self, batch: Any) -> Tensor:
        """Energies.

        Parameters
        ----------
        batch : Batch
            Graphs with ``x``.

        Returns
        -------
        Tensor of shape (B,)
            Scores.
        """
        logits = self.logits(batch)
        self._logits = logits if self.training else None  # for id_loss, which follows
        return energy(logits, self.temperature)

    def id_loss(self, batch: Any, scores: Tensor) -> Tensor:
        """Cross-entropy of the ID graphs that `score` has just seen, first in its batch.

        Parameters
        ----------
        batch : Batch
            ID graphs with labels 0 to ``num_classes - 1``.
        scores : Tensor of shape (B,)
            Their scores.

        Returns
        -------
        Tensor of shape ()
            The loss.

        Raises
        ------
        ValueError
            If there are no labels, or a label is negative, as an outlier's is.
        """
        del scores
        logits, self._logits = self._logits, None
        if logits is None or len(logits) < batch.num_graphs:
            logits = self.logits(batch)
        y = batch.get("y")
        if y is None or y.dim() != 1 or y.is_floating_point() or bool((y < 0).any()):
            raise_invalid("y", y, "one class label >= 0 for each ID graph")
        return F.cross_entropy(logits[: batch.num_graphs], y.long())


class GraphSVDD(_Detector):
    """One-class GIN: the squared distance to a centre (OCGIN).

    Parameters
    ----------
    in_channels : int
        Width of ``x``.
    hidden : int, default=32
        Width of a layer.
    layers : int, default=3
        GIN layers, without biases.
    pooling : {"mean", "sum"}, default="mean"
        Over nodes.
    norm : bool, default=True
        Batch normalisation; ID graphs and outliers then go through one pass.
    seed : int, default=0
        Initial weights.
    encoder : torch.nn.Module or None, default=None
        Used instead of the GIN, see `EnergyGIN`.

    Attributes
    ----------
    centre : Tensor of shape (out_channels,)
        Mean initial embedding of the ID graphs, fixed by `prepare`.
    """

    centre: Tensor

    def __init__(
        self,
        in_channels: int,
        hidden: int = 32,
        layers: int = 3,
        pooling: str = "mean",
        norm: bool = True,
        seed: int = 0,
        encoder: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.encoder = encoder or build(
            lambda: GINEncoder(in_channels, hidden, layers, pooling, _norm(norm), bias=False), seed
        )
        width: Any = self.encoder.out_channels
        self.register_buffer("centre", torch.full((width,), torch.nan))

    def prepare(self, loader: Iterable[Any]) -> None:
        """Set the centre to the mean embedding of the ID graphs under the initial weights.

        Parameters
        ----------
        loader : iterable of Batch
            ID batches.

        Raises
        ------
        ValueError
            If there are none.
        """
        # Normalised as in training, where batches set the scale, without moving the running statistics.
        buffers = {name: value.clone() for name, value in self.encoder.named_buffers()}
        mode = self.encoder.training
        self.encoder.train()
        total, count = torch.zeros_like(self.centre), 0
        with torch.no_grad():
            for batch in loader:
                batch = batch.to(self.centre.device)
                if batch.num_nodes < 2:
                    continue  # batch normalisation needs two nodes
                graph, _ = self._embed(self.encoder, _features(batch), batch)
                total, count = total + graph.sum(0), count + batch.num_graphs
            for name, value in self.encoder.named_buffers():
                value.copy_(buffers[name])
        self.encoder.train(mode)
        if count == 0:
            raise_invalid("loader", loader, "at least one ID batch")
        self.centre.copy_(torch.nan_to_num(total / count))

    def score(self, batch: Any) -> Tensor:
        """Squared distances to the centre.

        Parameters
        ----------
        batch : Batch
            Graphs with ``x``.

        Returns
        -------
        Tensor of shape (B,)
            Scores.

        Raises
        ------
        RuntimeError
            If `prepare` was not called.
        """
        if bool(torch.isnan(self.centre).any()):
            raise RuntimeError("GraphSVDD: call prepare(loader) before scoring; the centre is not set")
        return sphere_distance(self._embed(self.encoder, _features(batch), batch)[0], self.centre)

    def id_loss(self, batch: Any, scores: Tensor) -> Tensor:
        """Mean distance.

        Parameters
        ----------
        batch : Batch
            ID graphs.
        scores : Tensor of shape (B,)
            Their scores.

        Returns
        -------
        Tensor of shape ()
            The loss.
        """
        del batch
        return scores.mean()


class GOODDLite(_Detector):
    """Contrast between features and structure, at graph and node level (GOOD-D without its group level).

    Scores depend on the batch, because batch mates are the negatives; ID graphs and outliers go through
    separate passes. Needs ``x_s`` from `HGOEStructuralEncoding`.

    Parameters
    ----------
    in_channels : int
        Width of ``x``.
    structural_channels : int, default=32
        Width of ``x_s``.
    hidden : int, default=16
        Width of a layer.
    layers : int, default=5
        GIN layers, sum pooling, no normalisation.
    temperature : float, default=0.2
        tau.
    alpha : float, default=0.0
        Exponent of the adaptive weights of the two levels; 0 weighs them alike.
    seed : int, default=0
        Initial weights.

    Attributes
    ----------
    balance : PartBalance
        Weights and statistics of the two levels.

    Raises
    ------
    TypeError
        If an argument has the wrong type.
    ValueError
        If it is out of range.
    """

    batch_coupled = True

    def __init__(
        self,
        in_channels: int,
        structural_channels: int = 32,
        hidden: int = 16,
        layers: int = 5,
        temperature: float = 0.2,
        alpha: float = 0.0,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.temperature = check_number("temperature", temperature, low=0, closed="()")
        width = check_integer("hidden", hidden, low=1) * check_integer("layers", layers, low=1)

        def head() -> nn.Module:
            return nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, width))

        def parts() -> nn.Module:
            return nn.ModuleDict(
                {
                    "x": GINEncoder(in_channels, hidden, layers, "sum", norm=None),
                    "x_s": GINEncoder(structural_channels, hidden, layers, "sum", norm=None),
                    "graph_x": head(),
                    "graph_x_s": head(),
                    "node_x": head(),
                    "node_x_s": head(),
                }
            )

        self.parts: Any = build(parts, seed)
        self.balance = PartBalance(("graph", "node"), alpha)

    @property
    def part_weights(self) -> dict[str, float]:
        """Adaptive weights of the two levels, for the ID loss and for the exposure loss.

        Returns
        -------
        dict of str to float
            By part.
        """
        return self.balance.weights()

    def score(self, batch: Any) -> dict[str, Tensor]:
        """Contrast scores at both levels.

        Parameters
        ----------
        batch : Batch
            Graphs with ``x`` and ``x_s``.

        Returns
        -------
        dict of str to Tensor of shape (B,)
            "graph" and "node"; 0 for a graph without negatives.
        """
        views = {key: self._embed(self.parts[key], _features(batch, key), batch) for key in ("x", "x_s")}
        graph = [self.parts[f"graph_{key}"](views[key][0]) for key in views]
        node = [self.parts[f"node_{key}"](views[key][1]) for key in views]
        return {
            "graph": graph_contrast(graph[0], graph[1], self.temperature),
            "node": node_contrast(node[0], node[1], batch.batch, batch.num_graphs, self.temperature),
        }

    def id_loss(self, batch: Any, scores: Mapping[str, Tensor]) -> Tensor:
        """Weighted sum of the mean scores; their statistics are kept for the next epoch.

        Parameters
        ----------
        batch : Batch
            ID graphs.
        scores : mapping of str to Tensor of shape (B,)
            Their scores.

        Returns
        -------
        Tensor of shape ()
            The loss.
        """
        del batch
        self.balance.see(scores)
        weights = self.part_weights
        return torch.stack([weights[name] * value.mean() for name, value in scores.items()]).sum()

    def end_epoch(self) -> None:
        """Take the epoch's ID statistics over; `fit_outlier_exposure` calls this."""
        self.balance.end_epoch()

    def combine(self, scores: Mapping[str, Tensor]) -> Tensor:
        """One score a graph: the sum of the levels, each standardised by the last epoch's ID statistics.

        Parameters
        ----------
        scores : mapping of str to Tensor of shape (B,)
            From `score`.

        Returns
        -------
        Tensor of shape (B,)
            Scores.
        """
        return self.balance.combine(scores)
