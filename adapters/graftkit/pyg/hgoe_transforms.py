"""HGOE's transforms: structural encoding, feature alignment, marking the source; HGOEHarmonize is beside.

They work alone, in ``Compose``, as ``transform=`` and as ``pre_transform=``; inputs are not changed.

>>> data = Data(edge_index=torch.tensor([[0, 1], [1, 0]]), num_nodes=3)
>>> HGOEStructuralEncoding(rw_dim=2, degree_dim=2)(data).x_s.tolist()
[[0.0, 1.0, 0.0, 1.0], [0.0, 1.0, 0.0, 1.0], [0.0, 0.0, 1.0, 0.0]]
"""

from typing import Any

import torch
from torch import Tensor
from torch_geometric.data import Data
from torch_geometric.data.datapipes import functional_transform
from torch_geometric.transforms import BaseTransform

from graftkit.core.validation import check_choice, check_integer, raise_invalid
from graftkit.methods.hgoe.alignment import cap_pool, nearest_features
from graftkit.methods.hgoe.encodings import structural_encoding
from graftkit.methods.hgoe.streams import stream
from graftkit.pyg.hgoe_graphs import device_of, read_graph, read_graphs

__all__ = ["HGOEAlignFeatures", "HGOEMarkSource", "HGOEStructuralEncoding"]

SOURCES = ("id", "external", "internal", "cross")


@functional_transform("hgoe_structural_encoding")
class HGOEStructuralEncoding(BaseTransform):
    """Adds random-walk return probabilities and a clipped one-hot degree.

    Parameters
    ----------
    rw_dim, degree_dim : int, default=16
        Widths; degrees from ``degree_dim - 1`` on share the last bin, nodes without edges get zeros and
        degree 0.
    attr : str, default="x_s"
        Where to.

    Raises
    ------
    TypeError
        If an argument has the wrong type.
    ValueError
        If a width is below 1.
    """

    def __init__(self, rw_dim: int = 16, degree_dim: int = 16, attr: str = "x_s") -> None:
        self.rw_dim = check_integer("rw_dim", rw_dim, low=1)
        self.degree_dim = check_integer("degree_dim", degree_dim, low=1)
        if not isinstance(attr, str) or not attr.isidentifier():
            raise_invalid("attr", attr, "an attribute's name", error=TypeError)
        self.attr = attr

    def forward(self, data: Data) -> Data:
        """Add the encoding to one graph.

        Parameters
        ----------
        data : Data
            A homogeneous graph, or a batch of them.

        Returns
        -------
        Data
            The same, with `attr`.
        """
        encoding = structural_encoding(read_graph("data", data), self.rw_dim, self.degree_dim)
        data[self.attr] = encoding.to(device_of(data))
        return data

    def __repr__(self) -> str:
        return (
            f"HGOEStructuralEncoding(rw_dim={self.rw_dim}, degree_dim={self.degree_dim}, attr={self.attr!r})"
        )


@functional_transform("hgoe_align_features")
class HGOEAlignFeatures(BaseTransform):
    """Gives each node the feature of the structurally nearest nodes of a pool.

    Parameters
    ----------
    close_k : int, default=1
        Neighbours whose features are averaged; 1 for integer features.
    rw_dim, degree_dim : int, default=16
        Widths of the encoding.
    pool_size : int, default=50000
        The most nodes searched, a seeded subset.
    seed : int, default=0
        Chooses that subset.

    Raises
    ------
    TypeError
        If an argument has the wrong type.
    ValueError
        If it is out of range.
    """

    def __init__(
        self, close_k: int = 1, rw_dim: int = 16, degree_dim: int = 16, pool_size: int = 50_000, seed: int = 0
    ) -> None:
        self.close_k = check_integer("close_k", close_k, low=1)
        self.rw_dim = check_integer("rw_dim", rw_dim, low=1)
        self.degree_dim = check_integer("degree_dim", degree_dim, low=1)
        self.pool_size = check_integer("pool_size", pool_size, low=1)
        self.seed = check_integer("seed", seed, low=0)
        self._pool: tuple[Tensor, Tensor] | None = None

    def fit(self, graphs: Any) -> "HGOEAlignFeatures":
        """Take the nodes of these graphs as the pool.

        Parameters
        ----------
        graphs : Dataset or sequence of Data
            With node features.

        Returns
        -------
        HGOEAlignFeatures
            This object.

        Raises
        ------
        ValueError
            If they have no node features.
        """
        packed = read_graphs(graphs)
        if packed.x is None or not len(packed.x):
            raise_invalid("graphs", graphs, "graphs with node features x")
        rows = cap_pool(len(packed.x), self.pool_size, stream(self.seed, "pool"))
        self._pool = structural_encoding(packed, self.rw_dim, self.degree_dim)[rows], packed.x[rows]
        return self

    def forward(self, data: Data) -> Data:
        """Fill ``x`` of one graph.

        Parameters
        ----------
        data : Data
            A homogeneous graph; an ``x`` that it has is replaced.

        Returns
        -------
        Data
            The same, with ``x``.

        Raises
        ------
        RuntimeError
            If `fit` was not called.
        """
        if self._pool is None:
            raise RuntimeError("HGOEAlignFeatures: call fit(graphs) first")
        asked = structural_encoding(read_graph("data", data), self.rw_dim, self.degree_dim)
        data.x = nearest_features(asked, *self._pool, self.close_k).to(device_of(data))
        return data

    def __repr__(self) -> str:
        return (
            f"HGOEAlignFeatures(close_k={self.close_k}, rw_dim={self.rw_dim}, degree_dim={self.degree_dim}, "
            f"pool_size={self.pool_size}, seed={self.seed})"
        )


@functional_transform("hgoe_mark_source")
class HGOEMarkSource(BaseTransform):
    """Says where a graph comes from: ``source`` 0 ID, 1 external, 2 internal, 3 cross.

    Parameters
    ----------
    source : {"id", "external", "internal", "cross"}, default="external"
        The source.
    y : {"keep", "outlier", "drop"}, default="outlier"
        What becomes of the label: -1 for an outlier, so that a cross-entropy on it fails loudly. ID graphs
        keep theirs.

    Raises
    ------
    ValueError
        If an argument is unknown.
    """

    def __init__(self, source: str = "external", y: str = "outlier") -> None:
        self.source = check_choice("source", source, SOURCES)
        self.y = check_choice("y", y, ("keep", "outlier", "drop"))

    def forward(self, data: Data) -> Data:
        """Mark one graph.

        Parameters
        ----------
        data : Data
            Any graph.

        Returns
        -------
        Data
            The same, with ``source``.
        """
        data.source = torch.tensor([SOURCES.index(self.source)])
        if self.source != "id" and self.y == "outlier":
            y = data.get("y")
            data.y = torch.full_like(y, -1) if _can_be_negative(y) else torch.tensor([-1])
        elif self.source != "id" and self.y == "drop" and "y" in data:
            del data.y
        return data

    def __repr__(self) -> str:
        return f"HGOEMarkSource(source={self.source!r}, y={self.y!r})"


def _can_be_negative(y: Any) -> bool:
    return isinstance(y, Tensor) and y.dtype not in (torch.bool, torch.uint8)
