"""Edge attributes for outliers, where the model needs them (ours; the public code drops them).

>>> pair = PackedGraphs(torch.tensor([[0, 1], [1, 0]]), torch.tensor([2]))
>>> borrowed_attributes(pair, torch.tensor([[5.0]]), "resample", torch.Generator()).tolist()
[[5.0], [5.0]]
"""

import torch
from torch import Tensor

from graftkit.core.validation import check_choice
from graftkit.methods.hgoe.graphs import PackedGraphs

__all__ = ["borrowed_attributes"]


def borrowed_attributes(graphs: PackedGraphs, pool: Tensor, how: str, generator: torch.Generator) -> Tensor:
    """One attribute an edge, the same in both directions.

    Parameters
    ----------
    graphs : PackedGraphs
        The outliers.
    pool : Tensor of shape (p, d)
        Attributes of the ID graphs' edges, p >= 1.
    how : {"zeros", "resample"}
        Zeros, or a random row of the pool.
    generator : torch.Generator
        Private randomness.

    Returns
    -------
    Tensor of shape (E, d)
        Attributes of the pool's dtype.
    """
    check_choice("edge_attr", how, ("zeros", "resample"))
    count = graphs.edge_index.shape[1]
    if how == "zeros":
        return pool.new_zeros(count, pool.shape[1])
    low, high = graphs.edge_index.min(0).values, graphs.edge_index.max(0).values
    key = low * max(int(graphs.num_nodes.sum()), 1) + high
    distinct, pair = key.unique(return_inverse=True)
    return pool[torch.randint(len(pool), (len(distinct),), generator=generator)][pair]
