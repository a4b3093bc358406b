"""A one-class detector: the distance of a graph's embedding to a fixed centre (OCGIN, Deep SVDD).

>>> from torch_geometric.data import Batch, Data
>>> data = Data(x=torch.ones(2, 1), edge_index=torch.tensor([[0, 1], [1, 0]]))
>>> detector = GraphSVDD(in_channels=1, hidden=4, norm=False)
>>> detector.prepare([Batch.from_data_list([data, data])])
>>> detector.score(Batch.from_data_list([data])).round(decimals=6).tolist()
[0.0]
"""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from graftkit.core.validation import raise_invalid
from graftkit.methods.hgoe.networks import GINEncoder, build
from graftkit.methods.hgoe.scores import sphere_distance
from graftkit.pyg.hgoe_detector import Detector, checked_encoder, features_of, norm_name

__all__ = ["GraphSVDD"]


class GraphSVDD(Detector):
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
        self.encoder = checked_encoder(encoder) or build(
            lambda: GINEncoder(in_channels, hidden, layers, pooling, norm_name(norm), bias=False), seed
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
                graph, _ = self.embed(self.encoder, features_of(batch), batch)
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
        return sphere_distance(self.embed(self.encoder, features_of(batch), batch)[0], self.centre)

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
