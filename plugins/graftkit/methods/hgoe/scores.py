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
    first, second = F.normalize(first, dim=1), F.normalize(second, dim=1)
    counts = torch.bincount(batch, minlength=num_graphs)
    start = counts.cumsum(0) - counts
    score = first.new_zeros(num_graphs)
    # Graphs of like size share a padded block; one block for all would be mostly padding.
    width = 2
    while bool((counts > width // 2).any()):
        chosen = ((counts > width // 2) & (counts <= width) & (counts > 1)).nonzero().flatten()
        if len(chosen):
            present = torch.arange(width, device=batch.device) < counts[chosen, None]
            node = (start[chosen, None] + torch.arange(width, device=batch.device)).clamp(max=len(batch) - 1)
            block = _block_contrast(first[node], second[node], present, temperature)
            score = score.index_put((chosen,), block)
        width *= 2
    return score


def _block_contrast(first: Tensor, second: Tensor, present: Tensor, temperature: float) -> Tensor:
    """Mean contrast of the present nodes of each graph: (b, w, d), (b, w, d), (b, w) -> (b,)."""
    similarity = first @ second.transpose(1, 2) / temperature
    own = similarity.diagonal(dim1=1, dim2=2)
    # |similarity| <= 1 / tau, so the exponentials need no shift.
    other = ~torch.eye(present.shape[1], dtype=torch.bool, device=present.device)
    weight = similarity.exp() * (present[:, :, None] & present[:, None, :] & other)
    rows = torch.where(present, weight.sum(2), 1.0).log()
    columns = torch.where(present, weight.sum(1), 1.0).log()
    node = torch.where(present, (rows + columns) / 2 - own, 0.0)
    return node.sum(1) / present.sum(1)
