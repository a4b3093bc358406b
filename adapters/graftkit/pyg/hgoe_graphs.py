"""PyG's graphs in and out of the plugin's packed tensors.

>>> data = Data(x=torch.ones(3, 1), edge_index=torch.tensor([[0, 1], [1, 0]]))
>>> to_data_list(read_graphs([data, data]))[1]
Data(x=[3, 1], edge_index=[2, 2])
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch_geometric.data import Data, InMemoryDataset, TemporalData

from graftkit.core.validation import raise_invalid
from graftkit.methods.hgoe.graphs import PackedGraphs

__all__ = [
    "check_collection",
    "check_type",
    "device_of",
    "edge_attributes",
    "per_node_keys",
    "read_graph",
    "read_graphs",
    "to_data_list",
]

PROBES = 8  # graphs looked at to tell node attributes from graph attributes


def read_graphs(graphs: Any, name: str = "graphs") -> PackedGraphs:
    """Read a data set or a list of graphs.

    Parameters
    ----------
    graphs : Dataset or sequence of Data
        Homogeneous graphs; a data set's transform is applied.
    name : str, default="graphs"
        How errors call it.

    Returns
    -------
    PackedGraphs
        Node counts, edges and features.

    Raises
    ------
    TypeError
        If it is no collection of `Data`, or a graph is heterogeneous, temporal or has no edge_index but
        a sparse adjacency.
    ValueError
        If an edge, a feature or a width is wrong; the message names the graph's index.
    """
    check_collection(name, graphs)
    try:
        packed = _read_stored(graphs)
        return _with_width(name, _read_each(graphs, name) if packed is None else packed)
    except ValueError as error:
        # The plugin numbers graphs within one collection; which one, only we know.
        if name == "graphs" or name in str(error):
            raise
        raise ValueError(f"{name}: {error}") from error


def check_collection(name: str, graphs: Any) -> None:
    """Refuse what is no data set and no list, such as a single graph, a dictionary or an iterator.

    Parameters
    ----------
    name : str
        How the error calls it.
    graphs : object
        What came.

    Raises
    ------
    TypeError
        If it has no length, cannot be indexed by position, or what is no graph is among the first.
    """
    if (
        isinstance(graphs, Data | Mapping | str)
        or not all(hasattr(graphs, member) for member in ("__len__", "__getitem__"))
        or getattr(graphs, "shape", None) == ()
    ):
        raise_invalid(name, graphs, "a data set or a list of Data", error=TypeError)
    for index in range(min(PROBES, len(graphs))):
        check_type(f"{name}[{index}]", graphs[index])


def _read_each(graphs: Any, name: str) -> PackedGraphs:
    edges, counts, features = [], [], []
    for index in range(len(graphs)):
        data = graphs[index]
        check_type(f"{name}[{index}]", data)
        edge_index = data.edge_index
        if edge_index is None:
            edge_index = torch.empty(2, 0, dtype=torch.int64)
        if edge_index.dtype != torch.int64 or edge_index.dim() != 2 or edge_index.shape[0] != 2:
            raise_invalid(f"{name}[{index}].edge_index", edge_index, "an int64 tensor of shape (2, E)")
        edges.append(edge_index.cpu())
        counts.append(int(data.num_nodes or 0))
        features.append(_read_features(f"{name}[{index}]", data, counts[-1]))
    return PackedGraphs.from_lists(edges, counts, _same_features(name, features))


def read_graph(name: str, data: Any) -> PackedGraphs:
    """One graph, structure only.

    Parameters
    ----------
    name : str
        How errors call it.
    data : Data
        A homogeneous graph, or a batch taken as one.

    Returns
    -------
    PackedGraphs
        A single graph without features.
    """
    check_type(name, data)
    edge_index = data.edge_index
    edge_index = torch.empty(2, 0, dtype=torch.int64) if edge_index is None else edge_index.cpu()
    if edge_index.is_floating_point() or edge_index.dim() != 2 or edge_index.shape[0] != 2:
        raise_invalid(f"{name}.edge_index", edge_index, "an int64 tensor of shape (2, E)")
    count = int(data.num_nodes or 0) if data.keys() else 0  # PyG warns when asked about an empty graph
    return PackedGraphs.from_lists([edge_index], [count])


def device_of(data: Data) -> torch.device:
    """Where a graph's tensors are.

    Parameters
    ----------
    data : Data
        A graph.

    Returns
    -------
    torch.device
        That of its edges or features; the CPU if it has neither.
    """
    for key in ("edge_index", "x"):
        if isinstance(data.get(key), Tensor):
            device: torch.device = data[key].device
            return device
    return torch.device("cpu")


def to_data_list(graphs: PackedGraphs, **attributes: Any) -> list[Data]:
    """One `Data` a graph.

    Parameters
    ----------
    graphs : PackedGraphs
        The graphs.
    **attributes : object
        The same for every graph.

    Returns
    -------
    list of Data
        Views of the packed tensors where possible.
    """
    ptr, cuts = graphs.ptr.tolist(), graphs.edge_ptr.tolist()
    result = []
    for g in range(len(graphs)):
        x = None if graphs.x is None else graphs.x[ptr[g] : ptr[g + 1]]
        data = Data(x=x, edge_index=graphs.edge_index[:, cuts[g] : cuts[g + 1]] - ptr[g])
        if x is None:
            data.num_nodes = ptr[g + 1] - ptr[g]
        for key, value in attributes.items():
            data[key] = value.clone() if isinstance(value, Tensor) else value
        result.append(data)
    return result


def edge_attributes(graphs: Any) -> Tensor | None:
    """Edge attributes of all graphs, one row an edge.

    Parameters
    ----------
    graphs : Dataset or sequence of Data
        The graphs.

    Returns
    -------
    Tensor of shape (E, d) or None
        None where a graph with edges has none.
    """
    rows = [graphs[index].edge_attr for index in range(len(graphs)) if graphs[index].num_edges]
    if not rows or any(row is None for row in rows):
        return None
    return torch.cat([row.reshape(len(row), -1) for row in rows])


def per_node_keys(graphs: Any) -> dict[str, Tensor]:
    """Node and edge attributes beyond features and edges, as the first graph has them.

    Parameters
    ----------
    graphs : Dataset or sequence of Data
        At least one graph.

    Returns
    -------
    dict of str to Tensor of any shape
        Keys whose first axis is as long as the graph has nodes, or edges, in each of the first graphs.
    """
    probes = [graphs[index] for index in range(min(PROBES, len(graphs)))]
    found = {}
    for key, value in probes[0].to_dict().items():
        if key in ("y", "edge_index") or not isinstance(value, Tensor) or value.dim() == 0:
            continue
        lengths = [(len(p[key]), p.num_nodes, p.num_edges) for p in probes if key in p and p[key].dim()]
        if all(n == nodes for n, nodes, _ in lengths) or all(n == edges for n, _, edges in lengths):
            found[key] = value
    return found


def check_type(name: str, data: Any) -> None:
    """Refuse what is no homogeneous graph with an edge list.

    Parameters
    ----------
    name : str
        How the error calls it.
    data : object
        What came; it is left as it is, where reading an attribute would give a HeteroData a new node type.

    Raises
    ------
    TypeError
        If it is no `Data`, or holds its edges in a sparse adjacency alone.
    """
    if isinstance(data, TemporalData) or not isinstance(data, Data):
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


def _read_features(name: str, data: Data, count: int) -> Tensor | None:
    x = data.x
    if x is None:
        return None
    if not isinstance(x, Tensor) or x.layout != torch.strided:
        raise_invalid(f"{name}.x", x, "a dense tensor", error=TypeError)
    if x.dim() != 2 or len(x) != count:
        raise_invalid(f"{name}.x", x, f"shape ({count}, d)")
    return x.cpu()


def _same_features(name: str, features: Sequence[Tensor | None]) -> list[Tensor] | None:
    first = next((k for k, x in enumerate(features) if x is not None), None)
    if first is None:
        return None
    kept: list[Tensor] = []
    for k, x in enumerate(features):
        like = features[first]
        if x is None or like is None:
            raise ValueError(f"x: {name}[{first}] has node features, {name}[{k}] has none")
        if x.shape[1] != like.shape[1] or x.dtype != like.dtype:
            raise ValueError(
                f"x: {name}[{k}] has width {x.shape[1]} and {x.dtype}, {name}[{first}] has width "
                f"{like.shape[1]} and {like.dtype}"
            )
        kept.append(x)
    return kept


def _with_width(name: str, graphs: PackedGraphs) -> PackedGraphs:
    if graphs.x is not None and graphs.x.shape[1] == 0:
        raise ValueError(
            f"x: {name} have features of width 0. TUDataset cuts its node attributes off after "
            "pre_transform: pass use_node_attr=True, or use transform instead"
        )
    return graphs


def _read_stored(graphs: Any) -> PackedGraphs | None:
    """An in-memory data set is packed already; reading its graphs one by one would take seconds."""
    if not isinstance(graphs, InMemoryDataset) or graphs.transform is not None or graphs.slices is None:
        return None
    data, slices = graphs._data, graphs.slices
    if type(data) is not Data or data.edge_index is None or "edge_index" not in slices:
        return None
    if type(graphs).get is not InMemoryDataset.get:
        return None  # a data set that makes its graphs in its own way
    if data.x is not None:
        if "x" not in slices or data.x.dim() != 2 or data.x.layout != torch.strided:
            return None
        counts = torch.as_tensor(slices["x"]).diff()
    elif getattr(data, "_num_nodes", None) is not None:
        counts = torch.tensor(data._num_nodes)
    else:
        return None
    lengths = torch.as_tensor(slices["edge_index"]).diff().tolist()
    edges = data.edge_index.cpu().split(lengths, 1)
    packed = PackedGraphs.from_lists(edges, counts.tolist(), None if data.x is None else [data.x.cpu()])
    if graphs._indices is None:
        return packed
    return packed.select(torch.tensor(list(graphs._indices), dtype=torch.int64))
