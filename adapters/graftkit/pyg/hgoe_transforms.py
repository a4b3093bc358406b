"""HGOE's transforms: structural encoding, feature alignment, harmonising, marking the source.

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
from graftkit.methods.hgoe.graphs import PackedGraphs
from graftkit.methods.hgoe.harmony import project, same_kind
from graftkit.methods.hgoe.streams import stream
from graftkit.pyg.hgoe_graphs import per_node_keys, read_graphs

__all__ = ["HGOEAlignFeatures", "HGOEHarmonize", "HGOEMarkSource", "HGOEStructuralEncoding"]

SOURCES = ("id", "external", "internal", "cross")


def _pack(name: str, data: Any) -> PackedGraphs:
    """One graph, structure only."""
    if not isinstance(data, Data):
        raise_invalid(
            name, data, "a homogeneous Data", fix="HeteroData.to_homogeneous() may help", error=TypeError
        )
    if data.edge_index is None and any(key in data for key in ("adj_t", "adj")):
        raise_invalid(
            name,
            data,
            "edge_index, not only a sparse adjacency",
            fix="Leave ToSparseTensor out",
            error=TypeError,
        )
    edge_index = data.edge_index
    edge_index = torch.empty(2, 0, dtype=torch.int64) if edge_index is None else edge_index.cpu()
    count = int(data.num_nodes or 0) if data.keys() else 0  # PyG warns when asked about an empty graph
    return PackedGraphs.from_lists([edge_index], [count])


def _device(data: Data) -> torch.device:
    for key in ("edge_index", "x"):
        if isinstance(data.get(key), Tensor):
            device: torch.device = data[key].device
            return device
    return torch.device("cpu")


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
        encoding = structural_encoding(_pack("data", data), self.rw_dim, self.degree_dim)
        data[self.attr] = encoding.to(_device(data))
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
        asked = structural_encoding(_pack("data", data), self.rw_dim, self.degree_dim)
        data.x = nearest_features(asked, *self._pool, self.close_k).to(_device(data))
        return data

    def __repr__(self) -> str:
        return (
            f"HGOEAlignFeatures(close_k={self.close_k}, rw_dim={self.rw_dim}, degree_dim={self.degree_dim}, "
            f"pool_size={self.pool_size}, seed={self.seed})"
        )


@functional_transform("hgoe_harmonize")
class HGOEHarmonize(BaseTransform):
    """Gives graphs of several data sets the same keys, width and dtype.

    Without ``fit`` it only sets the features. After ``fit`` on the ID graphs it also drops keys that those
    lack, casts features to their dtype, and refuses what cannot be made alike.

    Parameters
    ----------
    features : {"keep", "constant", "structural", "project"}, default="keep"
        Leave ``x``; set it to 1 (the published choice for TU data sets); set it to the structural encoding;
        or cut or zero-pad it to the width seen in ``fit``. All but "project" must be used on both sides.
    rw_dim, degree_dim : int, default=16
        Widths of the structural encoding.

    Raises
    ------
    TypeError
        If a width has the wrong type.
    ValueError
        If `features` is unknown or a width below 1.

    Notes
    -----
    As ``pre_transform`` of a ``TUDataset``, pass ``use_node_attr=True`` too: otherwise that class cuts as
    many columns off ``x`` as the raw data have node attributes.
    """

    def __init__(self, features: str = "keep", rw_dim: int = 16, degree_dim: int = 16) -> None:
        self.features = check_choice("features", features, ("keep", "constant", "structural", "project"))
        self.rw_dim = check_integer("rw_dim", rw_dim, low=1)
        self.degree_dim = check_integer("degree_dim", degree_dim, low=1)
        self._schema: dict[str, tuple[tuple[int, ...], torch.dtype]] | None = None

    def fit(self, graphs: Any) -> "HGOEHarmonize":
        """Take keys, widths and dtypes from the ID graphs.

        Parameters
        ----------
        graphs : Dataset or sequence of Data
            At least one graph.

        Returns
        -------
        HGOEHarmonize
            This object.

        Raises
        ------
        ValueError
            If there is no graph.
        """
        if not len(graphs):
            raise_invalid("graphs", 0, "at least one graph")
        seen = per_node_keys([self._with_features(graphs[k]) for k in range(min(8, len(graphs)))])
        self._schema = {key: (tuple(value.shape[1:]), value.dtype) for key, value in seen.items()}
        return self

    def forward(self, data: Data) -> Data:
        """Harmonise one graph.

        Parameters
        ----------
        data : Data
            A homogeneous graph.

        Returns
        -------
        Data
            The same with other features; after ``fit`` with the ID graphs' keys alone.

        Raises
        ------
        ValueError
            If a key is missing or has another width; the message names the key.
        """
        data = self._with_features(data)
        if self._schema is None:
            return data
        for key in [key for key in per_node_keys([data]) if key not in self._schema and key != "x_s"]:
            del data[key]
        for key, (shape, dtype) in self._schema.items():
            value = data.get(key)
            if value is None:
                raise ValueError(
                    f"{key}: the ID graphs have it, this graph does not. Drop it from the ID graphs, or for "
                    "x use features='constant' or 'structural' on both"
                )
            if key == "x" and self.features == "project":
                value = project(value, shape[0])
            data[key] = same_kind(key, value, shape, dtype)
        return data

    def _with_features(self, data: Data) -> Data:
        packed = _pack("data", data)
        if self.features == "constant":
            data = data.__copy__()
            data.x = torch.ones(int(packed.num_nodes[0]), 1, device=_device(data))
        elif self.features == "structural":
            data = data.__copy__()
            data.x = structural_encoding(packed, self.rw_dim, self.degree_dim).to(_device(data))
        return data

    def __repr__(self) -> str:
        return (
            f"HGOEHarmonize(features={self.features!r}, rw_dim={self.rw_dim}, degree_dim={self.degree_dim})"
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
