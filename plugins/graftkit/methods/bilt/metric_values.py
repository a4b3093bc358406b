"""From counts to measures: the formulas of `HierarchicalMetrics`, apart from how counts are gathered.

>>> tree = LabelTree.from_paths([("animal", "cat"), ("animal", "dog"), ("vehicle", "car")])
>>> bounds(tree, (1, 2)).tolist()  # the nearest two of cat are itself and dog: 0 + 1
[[0.0, 0.0, 0.0], [0.5, 0.5, 1.0]]
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from graftkit.methods.bilt.distances import distance_rows
from graftkit.methods.bilt.tree import LabelTree

__all__ = ["bounds", "values_of"]


def bounds(tree: LabelTree, ks: Sequence[int]) -> Tensor:
    """The least mean distance that k predictions can have, by k and class.

    Parameters
    ----------
    tree : LabelTree
        The tree.
    ks : sequence of int
        Numbers of predictions.

    Returns
    -------
    Tensor of shape (len(ks), C_H)
        float64.
    """
    largest, parts = max(ks), []
    ancestors = tree.ancestors
    for rows in ancestors[-1].split(1024):
        near = distance_rows(ancestors, rows).topk(largest, largest=False).values.sort(1).values
        means = near.cumsum(1).double() / torch.arange(1, largest + 1, device=near.device)
        parts.append(means[:, [k - 1 for k in ks]].T)
    return torch.cat(parts, 1)


def values_of(
    counts: Mapping[str, Tensor], tree: LabelTree, ks: Sequence[int], least: Tensor
) -> dict[str, Tensor]:
    """Turn counts into measures.

    Parameters
    ----------
    counts : mapping of str to Tensor
        What ``HierarchicalMetrics.counts`` returns: 1-D tensors.
    tree : LabelTree
        The tree.
    ks : sequence of int
        Numbers of predictions.
    least : Tensor of shape (len(ks), C_H)
        From `bounds`.

    Returns
    -------
    dict
        As ``HierarchicalMetrics.compute`` describes it.
    """
    histogram = counts["histogram"].double()
    n = histogram.sum()
    wrong = n - histogram[0]
    distance = torch.arange(len(histogram), device=histogram.device, dtype=torch.float64)
    result = {"samples": n, "mistakes": wrong, "mistake_severity": (histogram * distance).sum() / wrong}
    for place, k in enumerate(ks):
        result[f"top{k}"] = counts["hits"][place] / n
        result[f"hd@{k}"] = counts["distances"][place] / (n * k)
        result[f"hd@{k}_bound"] = (least[place] * counts["classes"]).sum() / n
        result[f"hp@{k}"] = counts["precision"][place] / n
    for h in range(tree.num_levels):
        result[f"level{h + 1}"] = counts["level_hits"][h] / n
        result[f"level{h + 1}_rollup"] = counts["rollup_hits"][h] / n
    result["fpa"], result["tice"] = (counts["paths"] / n).unbind(0)
    sizes = torch.tensor(tree.sizes, device=n.device, dtype=torch.float64)
    result["wap"] = (sizes * counts["level_hits"]).sum() / (sizes.sum() * n)
    # All paths have H nodes, so hierarchical precision, recall and F are one number.
    result["hf"] = counts["shared"][0] / (n * tree.num_levels)
    for d in range(1, tree.num_levels + 1):
        result[f"mistakes@{d}"] = histogram[d] / wrong
    return result
