"""How an outlier data set keeps its graphs: packed tensors, collated as PyG's in-memory data sets are.

>>> pair = PackedGraphs(torch.tensor([[0, 1], [1, 0]]), torch.tensor([2]))
>>> collated(to_tensors(pair, torch.tensor([2]), None), torch.tensor([-1]))[0]
Data(edge_index=[2, 2], source=[1], y=[1], num_nodes=2)
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch_geometric.data import Data

from graftkit.methods.hgoe.graphs import PackedGraphs
from graftkit.pyg.hgoe_graphs import per_node_keys

__all__ = ["collated", "outlier_label", "refuse_strange_keys", "to_tensors"]

KNOWN = ("x", "x_s", "edge_attr", "edge_weight", "source")


def collated(tensors: dict[str, Tensor], label: Tensor) -> tuple[Data, dict[str, Tensor]]:
    """Tensors as an ``InMemoryDataset`` holds them.

    Parameters
    ----------
    tensors : dict of str to Tensor of any shape
        From `to_tensors`.
    label : Tensor of any shape
        ``y`` of every outlier.

    Returns
    -------
    data : Data
        All graphs.
    slices : dict of str to Tensor of shape (G + 1,)
        Where each begins.
    """
    counts, source, lengths = tensors["num_nodes"], tensors["source"], tensors["num_edges"]
    data = Data(edge_index=tensors["edge_index"], source=source)
    slices = {"edge_index": _ptr(lengths), "source": torch.arange(len(counts) + 1)}
    rows = max(1, len(label)) if label.dim() else 1
    data.y = label.reshape(rows, *label.shape[1:]).repeat(len(counts), *[1] * (max(label.dim(), 1) - 1))
    slices["y"] = torch.arange(len(counts) + 1) * rows
    if "x" in tensors:
        data.x = tensors["x"]
        slices["x"] = _ptr(counts)
    else:
        data.num_nodes = int(counts.sum())
        data._num_nodes = counts.tolist()
    if "edge_attr" in tensors:
        data.edge_attr = tensors["edge_attr"]
        slices["edge_attr"] = slices["edge_index"]
    return data, slices


def _ptr(counts: Tensor) -> Tensor:
    return torch.cat([counts.new_zeros(1), counts.cumsum(0)])


def to_tensors(graphs: PackedGraphs, source: Tensor, edge_attr: Tensor | None) -> dict[str, Tensor]:
    """Graphs as the tensors that a cache file holds, node numbers from 0 in each graph.

    Parameters
    ----------
    graphs : PackedGraphs
        The outliers.
    source : Tensor of shape (G,)
        1 external, 2 internal, 3 cross.
    edge_attr : Tensor of shape (E, d) or None
        Edge attributes.

    Returns
    -------
    dict of str to Tensor of any shape
        By name.
    """
    lengths = graphs.edge_ptr.diff()
    shift = torch.repeat_interleave(graphs.ptr[:-1], lengths)
    tensors = {
        "edge_index": graphs.edge_index - shift,
        "num_nodes": graphs.num_nodes,
        "num_edges": lengths,
        "source": source,
    }
    if graphs.x is not None:
        tensors["x"] = graphs.x
    if edge_attr is not None:
        tensors["edge_attr"] = edge_attr
    return tensors


def refuse_strange_keys(graphs: Any, ignore: Sequence[str]) -> None:
    """Refuse node and edge attributes of the ID graphs that outliers cannot have.

    Parameters
    ----------
    graphs : Dataset or sequence of Data
        ID graphs.
    ignore : sequence of str
        Attributes that the model does not use.

    Raises
    ------
    ValueError
        If there is one; the message names it.
    """
    if not len(graphs):
        return
    strange = [key for key in per_node_keys(graphs) if key not in KNOWN and key not in ignore]
    if strange:
        raise ValueError(
            f"{strange[0]}: the ID graphs have this node or edge attribute, outliers cannot. Fold it into x, "
            f"remove it from the graphs, or pass ignore=({strange[0]!r},) if the model does not use it"
        )


def outlier_label(y: Any) -> Tensor:
    """The label -1 in the form that the ID graphs' labels have.

    Parameters
    ----------
    y : Tensor of any shape or None
        An ID graph's label.

    Returns
    -------
    Tensor of the shape of `y`
        Filled with -1; shape (1,) without a label or where its dtype has no -1.
    """
    if not isinstance(y, Tensor) or y.dtype in (torch.bool, torch.uint8):
        return torch.tensor([-1])
    return torch.full_like(y, -1)
