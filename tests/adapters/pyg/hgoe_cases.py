"""PyG graphs for the adapter's tests: rings as ID classes, cliques and stars as outliers."""

import torch
from torch_geometric.data import Data, InMemoryDataset

from graftkit.pyg.hgoe_graphs import to_data_list
from tests.plugins.hgoe.families import generate_family


def family(name, count, seed=0, sizes=(8, 14), label=None, x=True):
    graphs = to_data_list(generate_family(name, count, seed=seed, sizes=sizes))
    for data in graphs:
        if x:
            data.x = torch.ones(data.num_nodes, 1)
            del data.num_nodes
        if label is not None:
            data.y = torch.tensor([label])
    return graphs


def id_graphs(count=10, x=True):
    """Two classes, in turn."""
    first, second = family("small world", count, label=0, x=x), family("core", count, label=1, x=x)
    return [graph for pair in zip(first, second, strict=True) for graph in pair]


class Listed(InMemoryDataset):
    """An in-memory data set of the graphs that it is given."""

    def __init__(self, graphs, transform=None, pre_transform=None):
        super().__init__(None, transform)
        if pre_transform is not None:
            graphs = [pre_transform(graph) for graph in graphs]
        self.data, self.slices = self.collate(graphs)


def same(first, second):
    """Two graphs with equal keys and values."""
    a, b = first.to_dict(), second.to_dict()
    return a.keys() == b.keys() and all(
        torch.equal(a[k], b[k]) if isinstance(a[k], torch.Tensor) else a[k] == b[k] for k in a
    )


def edge_pair(**attributes):
    return Data(edge_index=torch.tensor([[0, 1], [1, 0]]), **attributes)
