"""Node features for synthetic graphs: those of the structurally nearest nodes of real graphs.

Each synthetic node takes the mean feature of its `close_k` nearest pool nodes, Euclidean on structural
encodings. Source: `jweihe/HGOE@2cf8c82`, prepare_dataset_x_xs_mean (close_k = 1, pool of ID nodes; the
paper's figure caption says external nodes). Among nodes with
equal encodings the first one lends, as in the public code.

>>> nearest_features(torch.eye(2), torch.eye(2), torch.tensor([[7.0], [8.0]])).tolist()
[[7.0], [8.0]]
"""

import torch
from torch import Tensor

from graftkit.core.validation import check_integer, raise_invalid

__all__ = ["cap_pool", "nearest_features"]

CELLS = 16_000_000  # distances held at a time


def cap_pool(size: int, limit: int, generator: torch.Generator) -> Tensor:
    """Which nodes of the pool to search.

    Parameters
    ----------
    size : int
        Nodes in the pool.
    limit : int
        The most to keep.
    generator : torch.Generator
        Chooses them.

    Returns
    -------
    Tensor of shape (min(size, limit),)
        Indices, ascending.
    """
    if size <= limit:
        return torch.arange(size)
    return torch.randperm(size, generator=generator)[:limit].sort().values


def nearest_features(queries: Tensor, pool: Tensor, features: Tensor, close_k: int = 1) -> Tensor:
    """Mean feature of the nearest pool nodes.

    Parameters
    ----------
    queries : Tensor of shape (q, s)
        Encodings of the nodes to fill.
    pool : Tensor of shape (p, s)
        Encodings of the pool, p >= 1.
    features : Tensor of shape (p, d)
        Features of the pool.
    close_k : int, default=1
        Neighbours; above 1 only for floating-point features, an average of categories means nothing.

    Returns
    -------
    Tensor of shape (q, d)
        Of the features' dtype.

    Raises
    ------
    ValueError
        If the pool is smaller than `close_k`, widths differ, or integer features would be averaged.
    """
    k = check_integer("close_k", close_k, low=1)
    if k > 1 and not features.is_floating_point():
        raise_invalid(
            "close_k", close_k, "1 for integer features", fix="An average of categories is no category"
        )
    if len(pool) < k:
        raise_invalid("pool", len(pool), f"at least close_k={k} nodes")
    if queries.shape[1] != pool.shape[1]:
        raise_invalid("queries", queries, f"encodings of width {pool.shape[1]}, as the pool's")
    if bool((features == features[0]).all()):
        return features[:1].expand(len(queries), -1).clone()
    if k > 1:
        near = _search(queries.double(), pool.double(), k)
        return features[near].mean(1)
    # Molecules have few distinct surroundings: search among those, then take each one's first node.
    surroundings, group = torch.unique(pool, dim=0, return_inverse=True)
    first = torch.full((len(surroundings),), len(pool))
    first.scatter_reduce_(0, group, torch.arange(len(pool)), "amin")
    asked, back = torch.unique(queries, dim=0, return_inverse=True)
    near = _search(asked.double(), surroundings.double(), 1)[:, 0]
    return features[first[near]][back]


def _search(queries: Tensor, pool: Tensor, k: int) -> Tensor:
    """Indices of the k nearest, in chunks; encodings lie on a grid of 1e-6, far above the rounding error."""
    norms = pool.square().sum(1)
    found = []
    for part in queries.split(max(1, CELLS // len(pool))):
        distance = norms - 2 * part @ pool.T
        if k == 1:
            found.append(distance.argmin(1, keepdim=True))
        else:
            found.append(distance.topk(k, dim=1, largest=False).indices)
    return torch.cat(found) if found else torch.empty(0, k, dtype=torch.int64)
