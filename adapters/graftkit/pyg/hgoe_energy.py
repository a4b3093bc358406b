"""A graph classifier whose free energy tells unknown graphs (GNNSafe's energy, at graph level).

>>> import torch
>>> from torch_geometric.data import Batch, Data
>>> data = Data(x=torch.ones(2, 1), edge_index=torch.tensor([[0, 1], [1, 0]]), y=torch.tensor([1]))
>>> batch = Batch.from_data_list([data, data])
>>> detector = EnergyGIN(in_channels=1, num_classes=2, hidden=4)
>>> scores = detector.score(batch)
>>> scores.shape, detector.id_loss(batch, scores).shape
(torch.Size([2]), torch.Size([]))
"""

from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from graftkit.core.validation import check_integer, check_number, raise_invalid
from graftkit.methods.hgoe.networks import GINEncoder, build
from graftkit.methods.hgoe.scores import energy
from graftkit.pyg.hgoe_detector import Detector, checked_encoder, features_of, norm_name

__all__ = ["EnergyGIN"]


class EnergyGIN(Detector):
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
        self.encoder = checked_encoder(encoder) or build(
            lambda: GINEncoder(in_channels, hidden, layers, pooling, norm_name(norm)), seed
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
        logits: Tensor = self.head(self.embed(self.encoder, features_of(batch), batch)[0])
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
            If there are no labels, or a label is negative, as an outlier's is, or `num_classes` or more.
        """
        del scores
        logits, self._logits = self._logits, None
        if logits is None or len(logits) < batch.num_graphs:
            logits = self.logits(batch)
        y = batch.get("y")
        if y is None or y.dim() != 1 or y.is_floating_point() or bool((y < 0).any()):
            raise_invalid("y", y, "one class label >= 0 for each ID graph")
        classes = logits.shape[1]
        if len(y) and int(y.max()) >= classes:
            raise_invalid("y", int(y.max()), f"labels below num_classes={classes}")
        return F.cross_entropy(logits[: batch.num_graphs], y.long())
