"""A graph isomorphism network over plain tensors, for GraphCL and the reference detectors.

``h_v <- relu(MLP(h_v + sum of neighbours h_u))``, layers concatenated, then pooled. Batch normalisation
stands inside the MLP before its ReLU, or after the layer as in HGOE's GraphCL; after a ReLU a unit that is
nearly always zero has hardly any variance, and evaluation then blows it up. Any other encoder will do: a
module called with ``(x, edge_index, batch, num_graphs)`` that returns graph and node embeddings.

>>> encoder = GINEncoder(2, hidden=4, layers=3)
>>> graph, node = encoder(torch.ones(3, 2), torch.tensor([[0, 1], [1, 0]]), torch.tensor([0, 0, 1]), 2)
>>> graph.shape, node.shape
(torch.Size([2, 12]), torch.Size([3, 12]))
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from graftkit.core.validation import check_bool, check_choice, check_integer, raise_invalid

__all__ = ["GINEncoder", "build"]


class GINEncoder(nn.Module):
    """GIN with concatenated layers.

    Parameters
    ----------
    in_channels : int
        Width of node features.
    hidden : int, default=32
        Width of each layer.
    layers : int, default=3
        Message passing steps.
    pooling : {"mean", "sum"}, default="mean"
        Over the nodes of a graph.
    norm : {"inner", "outer"} or None, default="inner"
        Batch normalisation inside each layer's MLP, or after the layer.
    bias : bool, default=True
        Biases; a one-class detector has none, else it could map everything to its centre.

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
        hidden: int = 32,
        layers: int = 3,
        pooling: str = "mean",
        norm: str | None = "inner",
        bias: bool = True,
    ) -> None:
        super().__init__()
        self.in_channels = width = check_integer("in_channels", in_channels, low=1)
        self.hidden = check_integer("hidden", hidden, low=1)
        self.layers = check_integer("layers", layers, low=1)
        self.pooling = check_choice("pooling", pooling, ("mean", "sum"))
        check_choice("norm", norm, ("inner", "outer", None))
        check_bool("bias", bias)
        self.steps = nn.ModuleList()
        self.norms = nn.ModuleList()
        for _ in range(layers):
            inner = [nn.BatchNorm1d(hidden, affine=bias)] if norm == "inner" else []
            first, second = nn.Linear(width, hidden, bias=bias), nn.Linear(hidden, hidden, bias=bias)
            self.steps.append(nn.Sequential(first, *inner, nn.ReLU(), second))
            self.norms.append(nn.BatchNorm1d(hidden, affine=bias) if norm == "outer" else nn.Identity())
            width = hidden

    @property
    def out_channels(self) -> int:
        """Width of the embeddings.

        Returns
        -------
        int
            ``layers * hidden``.
        """
        return self.layers * self.hidden

    def forward(self, x: Tensor, edge_index: Tensor, batch: Tensor, num_graphs: int) -> tuple[Tensor, Tensor]:
        """Embed graphs and nodes.

        Parameters
        ----------
        x : Tensor of shape (N, in_channels)
            Node features.
        edge_index : Tensor of shape (2, E)
            Messages go from row 0 to row 1.
        batch : Tensor of shape (N,)
            Graph of each node.
        num_graphs : int
            B.

        Returns
        -------
        graph : Tensor of shape (B, out_channels)
            Pooled embeddings; zeros for a graph without nodes.
        node : Tensor of shape (N, out_channels)
            Node embeddings.

        Raises
        ------
        ValueError
            If `x` has another width.
        """
        if x.dim() != 2 or x.shape[1] != self.in_channels:
            raise_invalid("x", x, f"shape (N, {self.in_channels}), as in_channels says")
        source, target = edge_index
        outputs = []
        for step, norm in zip(self.steps, self.norms, strict=True):
            x = norm(torch.relu(step(x.index_add(0, target, x[source]))))
            outputs.append(x)
        node = torch.cat(outputs, 1)
        graph = node.new_zeros(num_graphs, node.shape[1]).index_add(0, batch, node)
        if self.pooling == "mean":
            counts = torch.bincount(batch, minlength=num_graphs).clamp(min=1)
            graph = graph / counts[:, None]
        return graph, node


def build(factory: Callable[[], nn.Module], seed: int) -> nn.Module:
    """Make a module whose initial weights depend on the seed, not on the global generator.

    Parameters
    ----------
    factory : callable
        Makes the module.
    seed : int
        The seed.

    Returns
    -------
    torch.nn.Module
        The module; torch's global generator is as before.

    Raises
    ------
    TypeError
        If `seed` is no integer.
    ValueError
        If it is negative.
    """
    check_integer("seed", seed, low=0)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return factory()
