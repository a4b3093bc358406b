"""What a detector needs for outlier exposure: the protocol, and what the reference detectors share.

A detector has ``prepare(loader)``, ``score(batch)`` (higher = more out-of-distribution, one number a graph,
or a dictionary of such vectors), ``id_loss(batch, scores)`` and ``batch_coupled``. Any module with these
works.

>>> from graftkit.pyg import EnergyGIN
>>> isinstance(EnergyGIN(1, 2), GraphOODDetector), isinstance(nn.Linear(1, 2), GraphOODDetector)
(True, False)
"""

from collections.abc import Iterable, Mapping
from typing import Any, Protocol, runtime_checkable

from torch import Tensor, nn

from graftkit.core.validation import check_bool, raise_invalid

__all__ = ["Detector", "GraphOODDetector", "check_detector", "checked_encoder", "features_of", "norm_name"]

Scores = Tensor | Mapping[str, Tensor]


@runtime_checkable
class GraphOODDetector(Protocol):
    """What a detector needs for outlier exposure; any module with these members will do.

    Optional members: ``part_weights`` (a dictionary of floats), ``end_epoch()`` and ``combine(scores)`` for
    detectors with several parts.

    Parameters
    ----------
    *args, **kwargs
        None: a protocol describes a class and makes no object.

    Attributes
    ----------
    batch_coupled : bool
        Whether a graph's score depends on its batch mates.

    Raises
    ------
    TypeError
        If it is called.
    """

    batch_coupled: bool

    def prepare(self, loader: Iterable[Any]) -> None:
        """Look at the ID graphs once before training.

        Parameters
        ----------
        loader : iterable of Batch
            ID batches.
        """

    def score(self, batch: Any) -> Scores:
        """Score graphs, higher = more out-of-distribution.

        Parameters
        ----------
        batch : Batch
            B graphs.

        Returns
        -------
        Tensor of shape (B,) or mapping of them
            Scores, or the scores of several parts.
        """

    def id_loss(self, batch: Any, scores: Any) -> Tensor:
        """Loss of the ID graphs that were just scored.

        Parameters
        ----------
        batch : Batch
            ID graphs.
        scores : Tensor of shape (B,) or mapping of them
            Their scores.

        Returns
        -------
        Tensor of shape ()
            The loss.
        """


def features_of(batch: Any, key: str = "x") -> Tensor:
    """Node features of a batch, as floats.

    Parameters
    ----------
    batch : Batch
        Graphs.
    key : {"x", "x_s"}, default="x"
        Which.

    Returns
    -------
    Tensor of shape (N, d)
        Features.

    Raises
    ------
    ValueError
        If the batch has none; the message says which transform makes them.
    """
    value = batch.get(key)
    if value is None:
        remedy = {
            "x": "HGOEHarmonize(features='constant') gives every node a 1",
            "x_s": "Use transform=HGOEStructuralEncoding() on ID graphs, outliers and test graphs",
        }[key]
        raise ValueError(f"{key}: the batch has none. {remedy}")
    features: Tensor = value
    return features.float()


def checked_encoder(encoder: Any) -> nn.Module | None:
    """A user's own encoder, or None.

    Parameters
    ----------
    encoder : torch.nn.Module or None
        What came.

    Returns
    -------
    torch.nn.Module or None
        The same.

    Raises
    ------
    TypeError
        If it is no module with ``out_channels``.
    """
    if encoder is not None and not (isinstance(encoder, nn.Module) and hasattr(encoder, "out_channels")):
        raise_invalid("encoder", encoder, "a torch.nn.Module with out_channels, or None", error=TypeError)
    return encoder


def check_detector(detector: Any) -> None:
    """Refuse what cannot be trained with outlier exposure.

    Parameters
    ----------
    detector : object
        What came.

    Raises
    ------
    TypeError
        If it is no module or lacks a member of the protocol.
    """
    missing = [m for m in ("prepare", "score", "id_loss", "batch_coupled") if not hasattr(detector, m)]
    if missing or not isinstance(detector, nn.Module):
        raise_invalid(
            "detector",
            detector,
            f"a torch.nn.Module with {', '.join(missing) or 'parameters'}",
            error=TypeError,
        )


def norm_name(norm: bool) -> str | None:
    """The encoder's name for with or without batch normalisation.

    Parameters
    ----------
    norm : bool
        Whether.

    Returns
    -------
    str or None
        "inner" or None.
    """
    return "inner" if check_bool("norm", norm) else None


class Detector(nn.Module):
    """Base of the reference detectors.

    They follow the original formulas (energy of GNNSafe, OCGIN's Deep SVDD, GOOD-D without its group level),
    not the papers' settings.
    """

    batch_coupled = False

    def prepare(self, loader: Iterable[Any]) -> None:
        """Nothing to prepare; detectors that need the ID graphs beforehand use this.

        Parameters
        ----------
        loader : iterable of Batch
            ID batches.
        """

    def embed(self, encoder: nn.Module, x: Tensor, batch: Any) -> tuple[Tensor, Tensor]:
        """Call an encoder on a batch.

        Parameters
        ----------
        encoder : torch.nn.Module
            See `EnergyGIN`.
        x : Tensor of shape (N, d)
            Node features.
        batch : Batch
            B graphs.

        Returns
        -------
        graph : Tensor of shape (B, w)
            Graph embeddings.
        node : Tensor of shape (N, w)
            Node embeddings.
        """
        graph, node = encoder(x, batch.edge_index, batch.batch, batch.num_graphs)
        return graph, node
