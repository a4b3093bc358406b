"""A contrastive detector: a graph that does not recognise itself in its structure is unknown (GOOD-D).

This is GOOD-D as run in HGOE's public code (`jweihe/HGOE@2cf8c82`), where its group level is switched off.

>>> from torch_geometric.data import Batch, Data
>>> data = Data(x=torch.ones(2, 1), x_s=torch.eye(2), edge_index=torch.tensor([[0, 1], [1, 0]]))
>>> detector = GOODDLite(in_channels=1, structural_channels=2, hidden=4, layers=2)
>>> sorted(detector.score(Batch.from_data_list([data, data])))
['graph', 'node']
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from graftkit.core.validation import check_integer, check_number
from graftkit.methods.hgoe.balance import PartBalance
from graftkit.methods.hgoe.networks import GINEncoder, build
from graftkit.methods.hgoe.scores import graph_contrast, node_contrast
from graftkit.pyg.hgoe_detector import Detector, features_of

__all__ = ["GOODDLite"]


class GOODDLite(Detector):
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
        check_integer("structural_channels", structural_channels, low=1)
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
        views = {key: self.embed(self.parts[key], features_of(batch, key), batch) for key in ("x", "x_s")}
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
