"""GraphCL: graph embeddings by contrasting each graph with an altered copy of itself.

Two GIN layers of 32, sum pooling, layers concatenated; a projection head of two layers for the loss only;
InfoNCE between graphs at temperature 0.2; Adam. The altered copy is, at random: what random walks from 1000
nodes reach in 10 steps, 10 % of the nodes dropped, 10 % of the features masked, or 10 % of the edges removed.
Source: `jweihe/HGOE@2cf8c82`, graph_ssl/GraphCL.py, by way of PyGCL; its settings, written anew. The
embedding is the pooled vector before the head, in evaluation mode, not normalised.

>>> graphs = PackedGraphs(torch.tensor([[0, 1, 2, 3], [1, 0, 3, 2]]), torch.tensor([2, 2]))
>>> embed(graphs, seed=0, epochs=1, hidden=4).shape
torch.Size([2, 8])
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from graftkit.methods.hgoe.graphs import PackedGraphs
from graftkit.methods.hgoe.networks import GINEncoder, build
from graftkit.methods.hgoe.streams import stream

__all__ = ["alter", "embed", "info_nce"]

WAYS = ("walk", "nodes", "features", "edges")


def embed(
    graphs: PackedGraphs,
    *,
    seed: int,
    epochs: int = 50,
    learning_rate: float = 0.1,
    hidden: int = 32,
    batch_size: int = 128,
    temperature: float = 0.2,
) -> Tensor:
    """Train the encoder on these graphs and embed them.

    Parameters
    ----------
    graphs : PackedGraphs
        ID training graphs; without features every node gets 1.
    seed : int
        The user's seed.
    epochs : int, default=50
        Passes over the graphs.
    learning_rate : float, default=0.1
        Adam's step size.
    hidden : int, default=32
        Width of a layer.
    batch_size : int, default=128
        Graphs a step.
    temperature : float, default=0.2
        tau of InfoNCE.

    Returns
    -------
    Tensor of shape (G, 2 * hidden)
        float32 embeddings.
    """
    x = torch.ones(int(graphs.num_nodes.sum()), 1) if graphs.x is None else graphs.x.float()
    graphs = PackedGraphs(graphs.edge_index, graphs.num_nodes, x)
    encoder, head = build(
        lambda: nn.ModuleList(
            [
                GINEncoder(x.shape[1], hidden, 2, "sum", norm="outer"),
                nn.Sequential(
                    nn.Linear(2 * hidden, 2 * hidden), nn.ReLU(), nn.Linear(2 * hidden, 2 * hidden)
                ),
            ]
        ),
        stream(seed, "graphcl", "weights").initial_seed(),
    ).children()
    optimizer = torch.optim.Adam([*encoder.parameters(), *head.parameters()], lr=learning_rate)
    generator = stream(seed, "graphcl", "views")
    for _ in range(epochs):
        for rows in torch.randperm(len(graphs), generator=generator).split(batch_size):
            if len(rows) < 2:  # nothing to contrast with
                continue
            part = graphs.select(rows)
            way = WAYS[int(torch.randint(4, (1,), generator=generator))]
            first = head(_encode(encoder, part))
            second = head(_encode(encoder, alter(part, way, generator)))
            optimizer.zero_grad()
            info_nce(first, second, temperature).backward()
            optimizer.step()
    encoder.eval()
    with torch.no_grad():
        parts = torch.arange(len(graphs)).split(batch_size)
        return torch.cat([_encode(encoder, graphs.select(part)) for part in parts])


def alter(graphs: PackedGraphs, way: str, generator: torch.Generator, rate: float = 0.1) -> PackedGraphs:
    """An altered copy of each graph.

    Parameters
    ----------
    graphs : PackedGraphs
        With features.
    way : {"walk", "nodes", "features", "edges"}
        What is done.
    generator : torch.Generator
        Private randomness.
    rate : float, default=0.1
        Share that is dropped.

    Returns
    -------
    PackedGraphs
        As many graphs; some may have no node left.
    """
    edges, x = graphs.edge_index, graphs.x
    total = int(graphs.num_nodes.sum())
    if way == "features" and x is not None:
        keep = torch.rand(x.shape[1], generator=generator) >= rate
        return PackedGraphs(edges, graphs.num_nodes, x * keep)
    if way == "edges":
        keep = torch.rand(edges.shape[1], generator=generator) >= rate
        return PackedGraphs(edges[:, keep], graphs.num_nodes, x)
    if way == "nodes":
        kept = torch.rand(total, generator=generator) >= rate
    else:
        kept = _walked(edges, total, generator)
    number = kept.long().cumsum(0) - 1
    inside = kept[edges[0]] & kept[edges[1]]
    counts = torch.bincount(graphs.batch[kept], minlength=len(graphs))
    return PackedGraphs(number[edges[:, inside]], counts, None if x is None else x[kept])


def info_nce(first: Tensor, second: Tensor, temperature: float = 0.2) -> Tensor:
    """InfoNCE between two views, both directions, the positive pair in the denominator.

    Parameters
    ----------
    first, second : Tensor of shape (B, d)
        Views.
    temperature : float, default=0.2
        tau > 0.

    Returns
    -------
    Tensor of shape ()
        The loss.
    """
    similarity = F.normalize(first, dim=1) @ F.normalize(second, dim=1).T / temperature
    own = torch.arange(len(first), device=first.device)
    return (F.cross_entropy(similarity, own) + F.cross_entropy(similarity.T, own)) / 2


def _walked(
    edges: Tensor, total: int, generator: torch.Generator, seeds: int = 1000, steps: int = 10
) -> Tensor:
    """Nodes that random walks from up to 1000 nodes of the batch come through."""
    order = edges[0].argsort(stable=True)
    target = edges[1][order]
    degree = torch.bincount(edges[0], minlength=total)
    first = degree.cumsum(0) - degree
    here = torch.randperm(total, generator=generator)[:seeds]
    here = here[degree[here] > 0]  # a node with a neighbour never walks to one without
    kept = torch.zeros(total, dtype=torch.bool)
    kept[here] = True
    for _ in range(steps):
        turn = torch.rand(len(here), generator=generator) * degree[here]
        here = target[first[here] + turn.long().clamp(max=degree[here] - 1)]
        kept[here] = True
    return kept


def _encode(encoder: nn.Module, graphs: PackedGraphs) -> Tensor:
    graph: Tensor = encoder(graphs.x, graphs.edge_index, graphs.batch, len(graphs))[0]
    return graph
