r"""How far apart two classes of one level are in the tree, and sums over a tree without its matrix.

.. math::
    D^h_{ij} = h - \mathrm{depth}(\mathrm{LCA}(i, j)) = \#\{l \le h : a_l(i) \ne a_l(j)\}, \qquad
    \sum_j D^h_{kj} p_j = \sum_{l \le h} \big(1 - P_l(a_l(k))\big)

with :math:`a_l(i)` the ancestor at level l and :math:`P_l` the probability mass below a node. Source: Lu et
al., BiLT, AAAI 2025, through its public code (specification section 1.2); the second identity is our own
derivation (specification section 1.7, point 7).

>>> ancestors = torch.tensor([[0, 0, 1], [0, 1, 2]])
>>> lca_distance(ancestors).tolist()
[[0.0, 1.0, 2.0], [1.0, 0.0, 2.0], [2.0, 2.0, 0.0]]
"""

import torch
from torch import Tensor

__all__ = ["distance_rows", "expected_distance", "lca_distance", "node_mass", "sibling_depths"]


def lca_distance(ancestors: Tensor) -> Tensor:
    """LCA distances of all pairs of the last level.

    Parameters
    ----------
    ancestors : Tensor of shape (h, C)
        Each class's ancestor at levels 1 to h; the last row numbers the classes.

    Returns
    -------
    Tensor of shape (C, C)
        Whole numbers 0 to h, float32.
    """
    # One byte an entry while counting, one pass a level: the float matrix is the only large one.
    counts = torch.uint8 if len(ancestors) < 256 else torch.int32
    total = torch.zeros(2 * ancestors.shape[1:], dtype=counts, device=ancestors.device)
    for row in ancestors:
        total += row[:, None] != row[None, :]
    return total.float()


def distance_rows(ancestors: Tensor, classes: Tensor) -> Tensor:
    """Rows of `lca_distance` without the matrix.

    Parameters
    ----------
    ancestors : Tensor of shape (h, C)
        As in `lca_distance`.
    classes : Tensor of shape (N,)
        The rows wanted.

    Returns
    -------
    Tensor of shape (N, C)
        float32.
    """
    total = torch.zeros(len(classes), ancestors.shape[1], dtype=torch.float32, device=ancestors.device)
    for row in ancestors:
        total += row.index_select(0, classes)[:, None] != row[None, :]
    return total


def node_mass(probabilities: Tensor, index: Tensor, size: int) -> Tensor:
    """Probability mass below each node of a coarser level.

    Parameters
    ----------
    probabilities : Tensor of shape (N, C)
        A probability a class.
    index : Tensor of shape (C,)
        Each class's node.
    size : int
        Number of nodes.

    Returns
    -------
    Tensor of shape (N, size)
        Sums.
    """
    mass = probabilities.new_zeros(len(probabilities), size)
    return mass.index_add(1, index, probabilities)


def expected_distance(probabilities: Tensor, ancestors: Tensor, sizes: tuple[int, ...]) -> Tensor:
    """The expected distance of each class to the true one, through node masses.

    Time is O(N C h), and no C x C matrix exists. With C up to some thousands the dense product is faster.

    Parameters
    ----------
    probabilities : Tensor of shape (N, C)
        Rows that sum to 1.
    ancestors : Tensor of shape (h, C)
        As in `lca_distance`.
    sizes : tuple of int
        Nodes at each of the h levels.

    Returns
    -------
    Tensor of shape (N, C)
        ``probabilities @ D.T``.
    """
    total = torch.zeros_like(probabilities)
    whole = probabilities.sum(1, keepdim=True)
    for row, size in zip(ancestors, sizes, strict=True):
        total = total + whole - node_mass(probabilities, row, size)[:, row]
    return total


def sibling_depths(ancestors: Tensor, own: Tensor, kind: str) -> Tensor:
    """Distances that do not count the padding of short branches.

    Parameters
    ----------
    ancestors : Tensor of shape (h, C)
        As in `lca_distance`.
    own : Tensor of shape (C,)
        The level at which each class's branch really ends.
    kind : {"height", "path"}
        "height": levels from the common ancestor down to the deepest class below it. "path": edges between
        the two classes.

    Returns
    -------
    Tensor of shape (C, C)
        float32, diagonal 0.
    """
    depth = len(ancestors) - lca_distance(ancestors)
    if kind == "path":
        result = own[:, None] + own[None, :] - 2 * depth
    else:
        deepest = own.new_empty(len(ancestors) + 1, ancestors.shape[1])
        deepest[0] = own.max()
        for level, row in enumerate(ancestors, start=1):
            best = own.new_zeros(int(row.max()) + 1).scatter_reduce(0, row, own, "amax")
            deepest[level] = best[row]
        result = deepest.gather(0, depth.long().T).T - depth
    return result.float().fill_diagonal_(0)
