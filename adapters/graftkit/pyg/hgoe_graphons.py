"""Graphons of PyG graphs.

>>> ring = Data(edge_index=torch.tensor([[0, 1, 2, 3], [1, 2, 3, 0]]), num_nodes=4)
>>> graphon = estimate_graphon([ring, ring], threshold=0.0)
>>> graphon
Graphon(resolution=4, num_graphs=2, density=0.667)
>>> graphon.sample(2, generator=torch.Generator().manual_seed(0))[0].num_nodes
4
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch_geometric.data import Data

from graftkit.core.files import readable_file
from graftkit.core.random import torch_generator
from graftkit.core.validation import check_integer, check_number, raise_invalid
from graftkit.methods.hgoe import adjacency, cache, graphons
from graftkit.methods.hgoe.mixup import Mixtures
from graftkit.methods.hgoe.sampling import sample_mixtures
from graftkit.pyg.hgoe_graphs import read_graphs, to_data_list

__all__ = ["Graphon", "estimate_graphon"]


class Graphon:
    """A step-function graphon.

    Parameters
    ----------
    matrix : Tensor of shape (N, N)
        Edge probabilities: symmetric, in [0, 1], zero diagonal.
    num_graphs : int, default=0
        Graphs that it was estimated from.
    meta : dict or None, default=None
        JSON values kept beside it.

    Attributes
    ----------
    matrix : Tensor of shape (N, N)
        float64.
    num_graphs : int
        As given.
    meta : dict
        As given.

    Raises
    ------
    TypeError
        If `matrix` is no floating-point tensor, or `meta` no dictionary.
    ValueError
        If it is not square, symmetric, in [0, 1], or its diagonal is not zero.
    """

    def __init__(self, matrix: Tensor, num_graphs: int = 0, meta: dict[str, Any] | None = None) -> None:
        if not isinstance(matrix, Tensor) or not matrix.is_floating_point():
            raise_invalid("matrix", matrix, "a floating-point tensor", error=TypeError)
        if matrix.dim() != 2 or matrix.shape[0] != matrix.shape[1] or not len(matrix):
            raise_invalid("matrix", matrix, "shape (N, N)")
        inside = bool(((matrix >= 0) & (matrix <= 1)).all())
        if not inside or not torch.equal(matrix, matrix.T) or bool(matrix.diagonal().any()):
            raise_invalid("matrix", matrix, "a symmetric matrix in [0, 1] with a zero diagonal")
        self.matrix = matrix.detach().to("cpu", torch.float64)
        self.num_graphs = check_integer("num_graphs", num_graphs, low=0)
        if meta is not None and not isinstance(meta, dict):
            raise_invalid("meta", meta, "a dictionary or None", error=TypeError)
        self.meta = dict(meta or {})

    @property
    def resolution(self) -> int:
        """Rows of the matrix.

        Returns
        -------
        int
            N.
        """
        return len(self.matrix)

    def resize(self, n: int, mode: str = "crop_pad") -> "Graphon":
        """The graphon at another number of nodes.

        Parameters
        ----------
        n : int
            Rows of the result.
        mode : {"crop_pad", "interpolate"}, default="crop_pad"
            Keep the top left block or pad with zeros; or read the step function.

        Returns
        -------
        Graphon
            A new one.
        """
        return Graphon(graphons.resize(self.matrix, n, mode), self.num_graphs, self.meta)

    def mix(self, other: "Graphon", lam: float, n: int | None = None, mode: str = "crop_pad") -> "Graphon":
        """``lam * self + (1 - lam) * other`` at n nodes.

        Parameters
        ----------
        other : Graphon
            The other one.
        lam : float
            Weight of this one, in [0, 1].
        n : int or None, default=None
            Rows of the result; the larger resolution by default.
        mode : {"crop_pad", "interpolate"}, default="crop_pad"
            How both are resized.

        Returns
        -------
        Graphon
            The mixture.

        Raises
        ------
        TypeError
            If `other` is no Graphon.
        """
        if not isinstance(other, Graphon):
            raise_invalid("other", other, "a Graphon", error=TypeError)
        size = max(self.resolution, other.resolution) if n is None else n
        return Graphon(
            graphons.mix(self.matrix, other.matrix, lam, size, mode), self.num_graphs + other.num_graphs
        )

    def sample(
        self, num: int, generator: Any = None, *, size: int | None = None, max_tries: int = 100
    ) -> list[Data]:
        """Draw graphs; nodes without an edge are dropped.

        Parameters
        ----------
        num : int
            How many.
        generator : torch.Generator, int or None, default=None
            Private randomness; None draws fresh entropy.
        size : int or None, default=None
            Nodes before isolated ones are dropped; the resolution by default.
        max_tries : int, default=100
            Draws of a graph that has no edge before giving up.

        Returns
        -------
        list of Data
            With ``edge_index`` and ``num_nodes``.

        Raises
        ------
        TypeError
            If `num` or `size` is no integer.
        ValueError
            If `num` is negative, `size` below 2 or above 20 000, or no edge can be drawn.
        """
        count = check_integer("num", num, low=0)
        n = self.resolution if size is None else graphons.check_size(size, low=2)
        drawn = sample_mixtures(
            [graphons.resize(self.matrix, n)], Mixtures.of_one(count, n), torch_generator(generator),
            max_tries=max_tries,
        )  # fmt: skip
        return to_data_list(drawn)

    def save(self, path: str | Path) -> None:
        """Write the graphon in one step.

        Parameters
        ----------
        path : str or pathlib.Path
            Where to.
        """
        cache.write(Path(path), {"matrix": self.matrix}, {"num_graphs": self.num_graphs, "meta": self.meta})

    @classmethod
    def load(cls, path: str | Path) -> "Graphon":
        """Read what `save` wrote.

        Parameters
        ----------
        path : str or pathlib.Path
            Where from.

        Returns
        -------
        Graphon
            The graphon.

        Raises
        ------
        FileNotFoundError
            If there is no file.
        ValueError
            If the file is damaged or holds something else.
        """
        tensors, summary = cache.load(Path(path))
        with readable_file(path, "a graphon"):
            return cls(tensors["matrix"], summary["num_graphs"], summary["meta"])

    def __repr__(self) -> str:
        n = self.resolution
        density = float(self.matrix.sum()) / max(n * (n - 1), 1)
        return f"Graphon(resolution={n}, num_graphs={self.num_graphs}, density={density:.3f})"


def estimate_graphon(
    graphs: Any,
    resolution: int | str = "median",
    threshold: float = 0.2,
    normalize: str = "all",
    estimator: str | Callable[[Tensor, float], Tensor] = "usvt",
) -> Graphon:
    """Estimate the graphon of a set of unaligned graphs.

    Parameters
    ----------
    graphs : Dataset or sequence of Data
        At least one graph; edges are taken as undirected.
    resolution : int or "median", default="median"
        Rows of the graphon.
    threshold : float, default=0.2
        tau of USVT; sparse graphs need a smaller one.
    normalize : {"all", "present"}, default="all"
        Divide by all graphs, as published, or by those that are large enough for each entry.
    estimator : {"usvt", "mean", "sort_smooth"} or callable, default="usvt"
        How the mean adjacency becomes a graphon.

    Returns
    -------
    Graphon
        The estimate.

    Raises
    ------
    TypeError
        If `threshold` is no number.
    ValueError
        If there is no graph, or `threshold` is negative.
    """
    packed = read_graphs(graphs)
    if not len(packed):
        raise_invalid("graphs", 0, "at least one graph")
    size = adjacency.resolution_of(packed.num_nodes, resolution)
    mean = adjacency.aligned_mean(packed, size, normalize=normalize)
    tau = check_number("threshold", threshold, low=0)
    meta = {"threshold": tau, "normalize": normalize, "estimator": str(estimator)}
    return Graphon(graphons.estimate(mean, threshold, estimator), len(packed), meta)
