"""Subgroups of the ID graphs, between which internal outliers are mixed.

"structural" (ours): k-means on standardised ``[mean, std of the structural encoding, log n]``. "graphcl":
k-means on embeddings of a GraphCL encoder (`jweihe/HGOE@2cf8c82`, graph_ssl). "node_count": graphs sorted by
size, cut into k parts. A subgroup with fewer than two graphs joins its nearest neighbour, with a warning.

>>> node_count_labels(torch.tensor([9, 3, 5, 4]), 2).tolist()
[1, 0, 1, 0]
"""

import random
import warnings
from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import Tensor

from graftkit.core.validation import check_integer, raise_invalid
from graftkit.methods.hgoe.encodings import structural_encoding
from graftkit.methods.hgoe.graphcl import embed
from graftkit.methods.hgoe.graphs import PackedGraphs
from graftkit.methods.hgoe.settings import HGOEConfig
from graftkit.methods.hgoe.streams import stream

__all__ = ["divide", "kmeans_labels", "node_count_labels", "structural_features"]

MINIBATCH_FROM = 20_000


def divide(graphs: PackedGraphs, config: HGOEConfig, seed: int) -> Tensor:
    """Labels of the subgroups, 0..k'-1, each with two graphs or more where possible.

    Parameters
    ----------
    graphs : PackedGraphs
        ID training graphs.
    config : HGOEConfig
        `subgroups`, `num_subgroups` and the encodings' widths.
    seed : int
        The user's seed.

    Returns
    -------
    Tensor of shape (G,)
        Labels.

    Raises
    ------
    TypeError
        If given labels are no integers.
    ValueError
        If there are more subgroups than graphs, or given labels do not fit.
    """
    k = check_integer("num_subgroups", config.num_subgroups, low=1)
    if k > len(graphs) and not isinstance(config.subgroups, Tensor):
        raise_invalid("num_subgroups", k, f"at most {len(graphs)}, the number of ID graphs")
    given = config.subgroups

    @cache  # where labels need none, only the rare merging asks for them
    def features() -> Tensor:
        if isinstance(given, str) and given == "graphcl":
            return embed(graphs, seed=seed, epochs=config.ssl_epochs, learning_rate=config.ssl_learning_rate)
        return structural_features(graphs, config.rw_dim, config.degree_dim)

    if isinstance(given, str):
        if given == "node_count":
            labels = node_count_labels(graphs.num_nodes, k)
        else:
            labels = kmeans_labels(features(), k, seed)
    else:
        labels = given if isinstance(given, Tensor) else given(graphs)
        if not isinstance(labels, Tensor) or labels.is_floating_point() or labels.dtype == torch.bool:
            raise_invalid("subgroups", labels, "integer labels in a tensor", error=TypeError)
        if labels.shape != (len(graphs),):
            raise_invalid("subgroups", labels, f"shape ({len(graphs)},), one label a graph")
        labels = labels.unique(return_inverse=True)[1]
    return _merge_small(labels, features)


def structural_features(graphs: PackedGraphs, rw_dim: int = 16, degree_dim: int = 16) -> Tensor:
    """Standardised ``[mean, std of encodings, log n]`` of each graph.

    Parameters
    ----------
    graphs : PackedGraphs
        The graphs.
    rw_dim, degree_dim : int, default=16
        Widths of the encoding.

    Returns
    -------
    Tensor of shape (G, 2 * (rw_dim + degree_dim) + 1)
        float64; a column without spread is 0.
    """
    x = structural_encoding(graphs, rw_dim, degree_dim).double()
    counts = graphs.num_nodes.clamp(min=1).double()[:, None]
    zero = torch.zeros(len(graphs), x.shape[1], dtype=torch.float64)
    mean = zero.index_add(0, graphs.batch, x) / counts
    square = zero.index_add(0, graphs.batch, x.square()) / counts
    spread = (square - mean.square()).clamp(min=0).sqrt()
    table = torch.cat([mean, spread, counts.log()], 1)
    table = table - table.mean(0)
    scale = table.std(0, correction=0)
    return torch.where(scale > 1e-9, table / scale.clamp(min=1e-9), 0.0)


def node_count_labels(num_nodes: Tensor, k: int) -> Tensor:
    """Graphs sorted by size, cut into k parts of equal count.

    Parameters
    ----------
    num_nodes : Tensor of shape (G,)
        Sizes.
    k : int
        Parts.

    Returns
    -------
    Tensor of shape (G,)
        Labels; part 0 holds the smallest graphs.
    """
    order = num_nodes.argsort(stable=True)
    labels = torch.empty(len(num_nodes), dtype=torch.int64)
    labels[order] = torch.arange(len(num_nodes)) * k // max(len(num_nodes), 1)
    return labels


def kmeans_labels(features: Tensor, k: int, seed: int) -> Tensor:
    """k-means with five restarts; mini-batches above 20 000 graphs.

    Parameters
    ----------
    features : Tensor of shape (G, d)
        One row a graph.
    k : int
        Clusters.
    seed : int
        The user's seed.

    Returns
    -------
    Tensor of shape (G,)
        Labels; some of k may be missing if rows coincide.
    """
    cluster = _cluster()
    state = int(torch.randint(2**31 - 1, (1,), generator=stream(seed, "subgroup")))
    rows = features.double().numpy()
    if len(rows) > MINIBATCH_FROM:
        model: Any = cluster.MiniBatchKMeans(k, n_init=5, random_state=state, batch_size=4096)
    else:
        model = cluster.KMeans(k, n_init=5, max_iter=100, random_state=state)
    with warnings.catch_warnings():
        # Fewer distinct rows than clusters: the empty ones are merged below, with our own warning.
        warnings.simplefilter("ignore")
        labels = model.fit(rows).labels_
    return torch.as_tensor(labels, dtype=torch.int64)


def _merge_small(labels: Tensor, features: Callable[[], Tensor]) -> Tensor:
    """Subgroups of one graph join the nearest; labels are numbered anew."""
    merged = 0
    labels = labels.unique(return_inverse=True)[1]
    while True:
        counts = torch.bincount(labels)
        small = (counts < 2).nonzero().flatten()
        if len(counts) < 2 or not len(small):
            break
        rows = features().double()
        centres = torch.zeros(len(counts), rows.shape[1], dtype=torch.float64)
        centres = centres.index_add(0, labels, rows) / counts[:, None]
        distance = (centres - centres[small[0]]).square().sum(1)
        distance[small[0]] = torch.inf
        labels = torch.where(labels == small[0], distance.argmin(), labels)
        labels = labels.unique(return_inverse=True)[1]
        merged += 1
    if merged:
        warnings.warn(
            f"num_subgroups: {merged} subgroup(s) had fewer than two graphs and joined the nearest; "
            f"{int(labels.max()) + 1} remain",
            stacklevel=6,
        )
    return labels


def _cluster() -> Any:
    # Importing scikit-learn's clustering draws from Python's global generator (through rich).
    state = random.getstate()
    from sklearn import cluster

    random.setstate(state)
    return cluster
