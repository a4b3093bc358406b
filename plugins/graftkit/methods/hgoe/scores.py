"""Scores of the reference detectors, higher = more out-of-distribution.

Energy: ``-T logsumexp(logits / T)`` (GNNSafe's energy, at graph level). Sphere: ``|z - c|^2`` (Deep SVDD,
OCGIN). Contrast: how badly a graph, or a node, recognises itself in its second view (GOOD-D as run in HGOE's
code, positive pair left out of the denominator); s = 0 means "as similar to its other view as to all others
together".

>>> energy(torch.zeros(1, 4)).item() == -torch.tensor(4.0).log().item()
True
"""

import torch
from torch import Tensor
from torch.nn import functional as F

__all__ = ["energy", "graph_contrast", "node_contrast", "sphere_distance"]


def energy(logits: Tensor, temperature: float = 1.0) -> Tensor:
    """Free energy of class logits.

    Parameters
    ----------
    logits : Tensor of shape (B, C)
        Class logits.
    temperature : float, default=1.0
        T > 0.

    Returns
    -------
    Tensor of shape (B,)
        Energies.
    """
    return -temperature * torch.logsumexp(logits / temperature, dim=1)


def sphere_distance(z: Tensor, centre: Tensor) -> Tensor:
    """Squared distance to the centre.

    Parameters
    ----------
    z : Tensor of shape (B, d)
        Embeddings.
    centre : Tensor of shape (d,)
        c.

    Returns
    -------
    Tensor of shape (B,)
        Distances.
    """
    return (z - centre).square().sum(1)


def graph_contrast(first: Tensor, second: Tensor, temperature: float = 0.2) -> Tensor:
    """Cross-view contrast of graphs within a batch.

    Parameters
    ----------
    first, second : Tensor of shape (B, d)
        Two views.
    temperature : float, default=0.2
        tau > 0.

    Returns
    -------
    Tensor of shape (B,)
        Minus half the sum over rows and columns of ``log(e^sim_ii / sum_{j != i} e^sim_ij)``. A batch of
        one graph has no negatives: 0.
    """
    similarity = F.normalize(first, dim=1) @ F.normalize(second, dim=1).T / temperature
    own = similarity.diagonal()
    if len(own) < 2:
        return own * 0
    others = similarity.masked_fill(torch.eye(len(own), dtype=torch.bool, device=own.device), -torch.inf)
    return ((torch.logsumexp(others, 1) - own) + (torch.logsumexp(others, 0) - own)) / 2


def node_contrast(
    first: Tensor, second: Tensor, batch: Tensor, num_graphs: int, temperature: float = 0.2
) -> Tensor:
    """Cross-view contrast of nodes within their graph, averaged over each graph.

    Parameters
    ----------
    first, second : Tensor of shape (N, d)
        Two views of all nodes.
    batch : Tensor of shape (N,)
        Graph of each node, ascending.
    num_graphs : int
        B.
    temperature : float, default=0.2
        tau > 0.

    Returns
    -------
    Tensor of shape (B,)
        0 for a graph of one node or none, which has no negatives.
    """
    counts = torch.bincount(batch, minlength=num_graphs)
    start = counts.cumsum(0) - counts
    place = torch.arange(len(batch), device=batch.device) - start[batch]
    width = max(int(counts.max()) if num_graphs else 0, 1)
    dense = first.new_zeros(2, num_graphs, width, first.shape[1])
    dense = dense.index_put((torch.zeros_like(batch), batch, place), F.normalize(first, dim=1))
    dense = dense.index_put((torch.ones_like(batch), batch, place), F.normalize(second, dim=1))
    similarity = dense[0] @ dense[1].transpose(1, 2) / temperature
    present = torch.arange(width, device=batch.device) < counts[:, None]
    own = similarity.diagonal(dim1=1, dim2=2)
    # |similarity| <= 1 / tau, so the exponentials need no shift.
    weight = similarity.exp() * (present[:, :, None] & present[:, None, :])
    weight = weight * ~torch.eye(width, dtype=torch.bool, device=batch.device)
    used = present & (counts > 1)[:, None]
    rows = torch.where(used, weight.sum(2), 1.0).log()
    columns = torch.where(used, weight.sum(1), 1.0).log()
    node = torch.where(used, (rows + columns) / 2 - own, 0.0)
    return node.sum(1) / counts.clamp(min=1)
