"""Batches without a `Data` a graph: gathered from packed data sets, and two joined into one.

>>> data = Data(x=torch.ones(2, 1), edge_index=torch.tensor([[0, 1], [1, 0]]))
>>> join_batches(*(Batch.from_data_list([data] * count) for count in (2, 1))).edge_index.tolist()
[[0, 1, 2, 3, 4, 5], [1, 0, 3, 2, 5, 4]]
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch_geometric.data import Batch, Data, InMemoryDataset

from graftkit.methods.hgoe.graphs import ranges
from graftkit.pyg.hgoe_graphs import check_type

__all__ = ["check_alike", "join_batches", "stored_batch"]


def stored_batch(graphs: Any, positions: Sequence[int], excluded: Sequence[str] = ()) -> Batch | None:
    """A batch of graphs of an in-memory data set, gathered from its packed tensors.

    What ``Batch.from_data_list`` gives, without making a `Data` a graph, which is most of its time.

    Parameters
    ----------
    graphs : Dataset
        The data set.
    positions : sequence of int
        Which graphs, at least one.
    excluded : sequence of str, default=()
        Attributes left out.

    Returns
    -------
    Batch or None
        None where this is no plain in-memory data set without transform.
    """
    if not isinstance(graphs, InMemoryDataset) or graphs.transform is not None or graphs.slices is None:
        return None
    data, slices = graphs._data, graphs.slices
    if type(data) is not Data or not isinstance(data.get("edge_index"), Tensor):
        return None
    index = torch.as_tensor(positions if graphs._indices is None else [graphs._indices[k] for k in positions])
    counts = getattr(data, "_num_nodes", None)
    if isinstance(data.x, Tensor) and "x" in slices:
        nodes = torch.as_tensor(slices["x"]).diff()[index]
    elif counts is not None:
        nodes = torch.tensor([counts[k] for k in index.tolist()])
    else:
        return None
    ptr = torch.cat([nodes.new_zeros(1), nodes.cumsum(0)])
    batch = Batch()
    batch._slice_dict, batch._inc_dict = {}, {}
    for key in data.keys():  # noqa: SIM118  (a Data iterates over its attributes' pairs)
        if key in excluded or key == "num_nodes":
            continue
        value = data[key]
        if (
            not isinstance(value, Tensor)
            or value.layout != torch.strided
            or key not in slices
            or "batch" in key
        ):
            return None
        dim = data.__cat_dim__(key, value)
        if dim is None or value.dim() == 0:
            return None
        cuts = torch.as_tensor(slices[key])
        lengths = cuts.diff()[index]
        shift = ptr[:-1] if "index" in key or key == "face" else torch.zeros_like(nodes)
        chosen = value.index_select(dim, ranges(cuts[index], lengths).to(value.device))
        if bool(shift.any()):
            chosen = chosen + torch.repeat_interleave(shift, lengths).to(value.device)
        batch[key] = chosen
        batch._slice_dict[key] = torch.cat([lengths.new_zeros(1), lengths.cumsum(0)])
        batch._inc_dict[key] = shift
    if "num_nodes" in data and "num_nodes" not in excluded:
        batch.num_nodes = int(ptr[-1])
        batch._num_nodes = nodes.tolist()
    batch._num_graphs = len(index)
    device = data.edge_index.device
    batch.batch = torch.repeat_interleave(torch.arange(len(index)), nodes).to(device)
    batch.ptr = ptr.to(device)
    return batch


def check_alike(name: str, graphs: Sequence[Data], positions: Sequence[int], excluded: Sequence[str]) -> None:
    """Refuse graphs of one batch that differ in keys, widths or dtypes.

    The host takes the first graph's keys, so what happens to others would depend on the order that was drawn:
    a key is lost, or is a KeyError; dtypes are promoted without a word.

    Parameters
    ----------
    name : str
        How errors call the collection.
    graphs : sequence of Data
        Graphs of one batch.
    positions : sequence of int
        Their places in the collection.
    excluded : sequence of str
        Attributes that the batch leaves out.

    Raises
    ------
    TypeError
        If one is no homogeneous graph.
    ValueError
        If two differ; the message names the key and both graphs.
    """
    for position, graph in zip(positions, graphs, strict=True):
        check_type(f"{name}[{position}]", graph)
    first = _kinds(graphs[0], excluded)
    for position, graph in zip(positions, graphs, strict=True):
        kinds = _kinds(graph, excluded)
        if kinds == first:
            continue
        key = min(key for key in first.keys() | kinds.keys() if first.get(key) != kinds.get(key))
        fix = f"HGOEHarmonize makes graphs alike, exclude_keys=[{key!r}] leaves it out"
        if key == "edge_index":
            fix = "Give a graph without edges an edge_index of shape (2, 0)"
        raise ValueError(
            f"{key}: {name}[{position}] has {kinds.get(key, 'none')}, {name}[{positions[0]}] has "
            f"{first.get(key, 'none')}. {fix}"
        )


def _kinds(graph: Data, excluded: Sequence[str]) -> dict[str, str]:
    kinds = {}
    for key, value in graph.to_dict().items():
        if key in excluded or key == "num_nodes":
            continue
        kinds[key] = "an attribute"
        if isinstance(value, Tensor) and value.dim() and graph.__cat_dim__(key, value) == 0:
            kinds[key] = f"({', '.join(['n', *map(str, value.shape[1:])])}) of {value.dtype}"
    return kinds


def join_batches(first: Batch, second: Batch) -> Batch:
    """Two batches as one, the first one's graphs first; attributes that only one has are left out.

    Parameters
    ----------
    first, second : Batch
        Batches of homogeneous graphs.

    Returns
    -------
    Batch
        All graphs.
    """
    joined = Batch()
    for key in first.keys():  # noqa: SIM118  (a Batch iterates over its attributes' pairs)
        if key not in second or key in ("batch", "ptr"):
            continue
        a, b = first[key], second[key]
        if key == "num_nodes":
            joined.num_nodes = a + b
        elif isinstance(a, Tensor) and isinstance(b, Tensor) and a.dim() and a.dim() == b.dim():
            dim = first.__cat_dim__(key, a)
            other = [size for axis, size in enumerate(b.shape) if axis != dim % a.dim()]
            if other != [size for axis, size in enumerate(a.shape) if axis != dim % a.dim()]:
                continue  # labels of other width, say; the model sees only what both have
            shift = first.__inc__(key, a)
            joined[key] = torch.cat([a, b + shift if _moves(shift) else b], dim)
    joined.batch = torch.cat([first.batch, second.batch + first.num_graphs])
    joined.ptr = torch.cat([first.ptr, second.ptr[1:] + first.ptr[-1]])
    joined._num_graphs = first.num_graphs + second.num_graphs
    return joined


def _moves(shift: Any) -> bool:
    return bool(shift.any()) if isinstance(shift, Tensor) else bool(shift)
