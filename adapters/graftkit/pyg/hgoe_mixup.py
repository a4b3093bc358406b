"""A generator of graphs between subgroups: G-Mixup, and HGOE's internal outliers.

>>> path = Data(edge_index=torch.tensor([[0, 1, 1, 2], [1, 0, 2, 1]]), num_nodes=3)
>>> config = HGOEConfig(num_subgroups=1, pairing="with_replacement", threshold=0.0)
>>> GraphonMixup(config).fit([path, path])().y
tensor([-1])
"""

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch_geometric.data import Data
from torch_geometric.datasets.graph_generator import GraphGenerator

from graftkit.core.random import torch_generator
from graftkit.core.validation import check_choice, check_integer, raise_invalid
from graftkit.methods.hgoe.drawing import draw
from graftkit.methods.hgoe.exposure import ExposurePlan, plan_exposure
from graftkit.methods.hgoe.mixup import plan_internal
from graftkit.methods.hgoe.settings import HGOEConfig
from graftkit.methods.hgoe.streams import stream
from graftkit.pyg.hgoe_graphons import Graphon
from graftkit.pyg.hgoe_graphs import read_graphs, to_data_list

__all__ = ["GraphonMixup"]


class GraphonMixup(GraphGenerator):
    """Generates graphs between subgroups of a data set.

    Parameters
    ----------
    config : HGOEConfig or None, default=None
        Subgroups, graphons and mixing; the rates do not matter here.
    seed : int, default=0
        All randomness follows from it; each call moves on.
    label : {"outlier", "soft", "none"}, default="outlier"
        ``y`` of the graphs: -1; the mixed one-hot vector of the two subgroups (G-Mixup, with `labels`); or
        none.

    Attributes
    ----------
    graphons_ : list of Graphon
        One a subgroup.
    labels_ : Tensor of shape (G,)
        Subgroup of each graph.

    Raises
    ------
    TypeError
        If `config` is no HGOEConfig.
    ValueError
        If `label` is unknown.

    Examples
    --------
    >>> from torch_geometric.datasets.graph_generator import BAGraph, ERGraph
    >>> graphs = [BAGraph(12, 2)() for _ in range(6)] + [ERGraph(12, 0.6)() for _ in range(6)]
    >>> mixup = GraphonMixup(label="soft").fit(graphs, labels=torch.tensor([0] * 6 + [1] * 6))
    >>> mixup().y.shape
    torch.Size([1, 2])
    """

    def __init__(self, config: HGOEConfig | None = None, seed: int = 0, label: str = "outlier") -> None:
        super().__init__()
        if config is not None and not isinstance(config, HGOEConfig):
            raise_invalid("config", config, "an HGOEConfig or None", error=TypeError)
        self.config = config or HGOEConfig()
        self.seed = check_integer("seed", seed, low=0)
        self.label = check_choice("label", label, ("outlier", "soft", "none"))
        self._plan: ExposurePlan | None = None
        self._calls = 0

    def fit(self, graphs: Any, labels: Tensor | None = None) -> "GraphonMixup":
        """Estimate a graphon for each subgroup.

        Parameters
        ----------
        graphs : Dataset or sequence of Data
            The graphs.
        labels : Tensor of shape (G,) or None, default=None
            Subgroups, such as classes; None divides as `config` says.

        Returns
        -------
        GraphonMixup
            This object.

        Raises
        ------
        TypeError
            If `labels` are no integers in a tensor.
        """
        config = replace(self.config, rate_external=0.0, rate_internal=1.0, rate_cross=0.0, budget="exact")
        if labels is not None:
            if not isinstance(labels, Tensor) or labels.is_floating_point() or labels.dtype == torch.bool:
                raise_invalid("labels", labels, "integers in a tensor, one a graph", error=TypeError)
            config = replace(config, subgroups=labels)
        plan = plan_exposure(read_graphs(graphs), {}, config, seed=self.seed)
        counts = torch.bincount(plan.labels).tolist()
        self._plan, self._calls = plan, 0
        self.labels_ = plan.labels
        self.graphons_ = [Graphon(m, c) for m, c in zip(plan.matrices, counts, strict=True)]
        return self

    def generate(self, num: int, generator: Any = None) -> list[Data]:
        """Draw graphs.

        Parameters
        ----------
        num : int
            How many.
        generator : torch.Generator, int or None, default=None
            Draws sizes and edges; None uses the seed and the number of calls so far.

        Returns
        -------
        list of Data
            With ``x`` where the fitted graphs had features.

        Raises
        ------
        TypeError
            If `num` is no integer.
        ValueError
            If it is negative.
        RuntimeError
            If `fit` was not called.
        """
        count = check_integer("num", num, low=0)
        if self._plan is None:
            raise RuntimeError("GraphonMixup: call fit(graphs) before generating")
        plan = self._plan
        chosen = stream(self.seed, "mixup", self._calls)
        sizes = [len(matrix) for matrix in plan.matrices]
        lam = torch.tensor(plan.summary["lambdas"], dtype=torch.float64)
        lam = lam[torch.randint(len(lam), (max(count, 1),), generator=chosen)]
        mixtures = plan_internal(sizes, count, lam, pairing=self.config.pairing, seed=chosen.initial_seed())
        if generator is None:
            edges = stream(self.seed, "mixup edges", self._calls)
        else:
            edges = torch_generator(generator)
        drawn = draw(plan, mixtures, edges)
        self._calls += 1
        result = to_data_list(drawn)
        for k, data in enumerate(result):
            if self.label == "outlier":
                data.y = torch.tensor([-1])
            elif self.label == "soft":
                data.y = torch.zeros(1, len(sizes))
                data.y[0, mixtures.first[k]] += float(mixtures.lam[k])
                data.y[0, mixtures.second[k]] += 1 - float(mixtures.lam[k])
        return result

    def __call__(self) -> Data:
        """Draw one graph.

        Returns
        -------
        Data
            The graph.
        """
        return self.generate(1)[0]

    def __repr__(self) -> str:
        return f"GraphonMixup(config={self.config}, seed={self.seed}, label={self.label!r})"
