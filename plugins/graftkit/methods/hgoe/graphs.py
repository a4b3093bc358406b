"""Many graphs in two tensors: the form in which HGOE counts, samples and encodes them.

Graph g owns the nodes ``ptr[g] .. ptr[g + 1] - 1``; edges name nodes by that global number. Node counts are
given, never inferred from edges, so isolated nodes at the end of a graph stay (the public code loses them).

>>> graphs = PackedGraphs(torch.tensor([[0, 1, 3], [1, 0, 4]]), torch.tensor([3, 2]))
>>> len(graphs), graphs.select(torch.tensor([1])).edge_index.tolist()
(2, [[0], [1]])
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from graftkit.core.validation import raise_invalid

__all__ = ["PackedGraphs", "concatenate", "ranges"]


@dataclass(frozen=True)
class PackedGraphs:
    """Graphs side by side.

    Parameters
    ----------
    edge_index : Tensor of shape (2, E)
        Global node numbers, int64, the edges of one graph next to each other and graphs in order.
    num_nodes : Tensor of shape (G,)
        Nodes of each graph, int64.
    x : Tensor of shape (N, d) or None, default=None
        Node features, N the sum of `num_nodes`.

    Raises
    ------
    TypeError
        If a tensor has the wrong type.
    ValueError
        If a shape is wrong, an edge leaves its graph or a feature is not finite; the graph is named.
    """

    edge_index: Tensor
    num_nodes: Tensor
    x: Tensor | None = None

    def __post_init__(self) -> None:
        """Check what came from outside; all later code relies on it."""
        for name, value in (("edge_index", self.edge_index), ("num_nodes", self.num_nodes)):
            if not isinstance(value, Tensor) or value.dtype != torch.int64:
                raise_invalid(name, value, "an int64 tensor", error=TypeError)
        if self.edge_index.dim() != 2 or self.edge_index.shape[0] != 2:
            raise_invalid("edge_index", self.edge_index, "shape (2, E)")
        if self.num_nodes.dim() != 1 or bool((self.num_nodes < 0).any()):
            raise_invalid("num_nodes", self.num_nodes, "a vector of counts >= 0")
        total = int(self.num_nodes.sum())
        if self.edge_index.numel():
            low, high = int(self.edge_index.min()), int(self.edge_index.max())
            if low < 0 or high >= total:
                raise_invalid("edge_index", low if low < 0 else high, f"node numbers in [0, {total - 1}]")
            owner = self.batch[self.edge_index]
            crossing = owner[0] != owner[1]
            if bool(crossing.any()):
                graph = int(owner[0, crossing.nonzero()[0, 0]])
                raise ValueError(f"edge_index: graph {graph} has an edge that ends in another graph")
            if bool((owner[0].diff() < 0).any()):
                raise_invalid("edge_index", self.edge_index, "edges in the order of their graphs")
        if self.x is not None:
            if self.x.dim() != 2 or self.x.shape[0] != total:
                raise_invalid("x", self.x, f"shape ({total}, d)")
            if self.x.is_floating_point() and not bool(torch.isfinite(self.x).all()):
                node = int((~torch.isfinite(self.x).all(1)).nonzero()[0, 0])
                raise ValueError(f"x: graph {int(self.batch[node])} has a feature that is NaN or infinite")

    @classmethod
    def trusted(cls, edge_index: Tensor, num_nodes: Tensor, x: Tensor | None = None) -> "PackedGraphs":
        """Graphs that this package has just made: nothing is looked at, which saves a third of the time.

        Parameters
        ----------
        edge_index : Tensor of shape (2, E)
            As in the class.
        num_nodes : Tensor of shape (G,)
            As in the class.
        x : Tensor of shape (N, d) or None, default=None
            As in the class.

        Returns
        -------
        PackedGraphs
            The graphs.
        """
        graphs: PackedGraphs = object.__new__(cls)
        graphs.__dict__.update(edge_index=edge_index, num_nodes=num_nodes, x=x)
        return graphs

    @classmethod
    def from_lists(
        cls, edges: Sequence[Tensor], num_nodes: Sequence[int], x: Sequence[Tensor] | None = None
    ) -> "PackedGraphs":
        """Put graphs with local node numbers side by side.

        Parameters
        ----------
        edges : sequence of Tensor of shape (2, E_g)
            Edges of each graph, node numbers from 0.
        num_nodes : sequence of int
            Nodes of each graph.
        x : sequence of Tensor of shape (n_g, d) or None, default=None
            Features of each graph.

        Returns
        -------
        PackedGraphs
            All of them.

        Raises
        ------
        ValueError
            If an edge names a node that its graph does not have; the message gives the graph's index.
        """
        counts = torch.as_tensor(list(num_nodes), dtype=torch.int64)
        lengths = torch.tensor([edge.shape[1] for edge in edges], dtype=torch.int64)
        joined = torch.cat(list(edges), 1).long() if len(edges) else torch.empty(2, 0, dtype=torch.int64)
        owner = torch.repeat_interleave(torch.arange(len(counts)), lengths)
        outside = (joined < 0).any(0) | (joined >= counts[owner]).any(0)
        if bool(outside.any()):
            first = int(outside.nonzero()[0, 0])
            graph = int(owner[first])
            raise ValueError(
                f"edge_index: graph {graph} has {int(counts[graph])} nodes, but an edge names node "
                f"{next(v for v in joined[:, first].tolist() if v < 0 or v >= int(counts[graph]))}"
            )
        ptr = _ptr(counts)
        return cls(joined + ptr[owner], counts, torch.cat(list(x)) if x is not None and len(x) else None)

    def __len__(self) -> int:
        return len(self.num_nodes)

    @property
    def ptr(self) -> Tensor:
        """First node of each graph, and the end.

        Returns
        -------
        Tensor of shape (G + 1,)
            Running sums of `num_nodes`.
        """
        return _ptr(self.num_nodes)

    @property
    def batch(self) -> Tensor:
        """Graph of each node.

        Returns
        -------
        Tensor of shape (N,)
            Graph numbers.
        """
        return torch.repeat_interleave(torch.arange(len(self)), self.num_nodes)

    @property
    def edge_ptr(self) -> Tensor:
        """First edge of each graph, and the end.

        Returns
        -------
        Tensor of shape (G + 1,)
            Running sums of edge counts.
        """
        # Edges lie in the order of graphs, so the first edge of graph g is found by bisection.
        ends = self.ptr
        return torch.searchsorted(self.batch[self.edge_index[0]], torch.arange(len(ends)))

    def select(self, index: Tensor) -> "PackedGraphs":
        """Take some graphs, in the order given; repeats are allowed.

        Parameters
        ----------
        index : Tensor of shape (K,)
            Graph numbers.

        Returns
        -------
        PackedGraphs
            K graphs.
        """
        counts = self.num_nodes[index]
        nodes = ranges(self.ptr[index], counts)
        edge_ptr = self.edge_ptr
        lengths = (edge_ptr[1:] - edge_ptr[:-1])[index]
        edges = ranges(edge_ptr[index], lengths)
        shift = torch.repeat_interleave(_ptr(counts)[:-1] - self.ptr[index], lengths)
        return PackedGraphs(
            self.edge_index[:, edges] + shift, counts, None if self.x is None else self.x[nodes]
        )


def _ptr(counts: Tensor) -> Tensor:
    return torch.cat([counts.new_zeros(1), counts.cumsum(0)])


def ranges(starts: Tensor, lengths: Tensor) -> Tensor:
    """``start, start + 1, ...`` of each length, one after the other.

    Parameters
    ----------
    starts, lengths : Tensor of shape (k,)
        Where each range begins and how long it is.

    Returns
    -------
    Tensor of shape (sum of lengths,)
        Indices.
    """
    ends = lengths.cumsum(0)
    total = int(ends[-1]) if len(ends) else 0
    return torch.arange(total) + torch.repeat_interleave(starts - (ends - lengths), lengths)


def concatenate(parts: Sequence[PackedGraphs]) -> PackedGraphs:
    """Join several collections; features stay only if all have them.

    Parameters
    ----------
    parts : sequence of PackedGraphs
        At least one.

    Returns
    -------
    PackedGraphs
        Their graphs, in order.
    """
    sizes = [int(part.num_nodes.sum()) for part in parts]
    starts = np.cumsum([0, *sizes[:-1]])
    features = [part.x for part in parts if part.x is not None]
    return PackedGraphs(
        torch.cat([part.edge_index + int(s) for part, s in zip(parts, starts, strict=True)], 1),
        torch.cat([part.num_nodes for part in parts]),
        torch.cat(features) if len(features) == len(parts) else None,
    )
