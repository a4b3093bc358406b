"""The outliers of an ID data set as a PyG data set.

>>> from torch_geometric.datasets.graph_generator import BAGraph, ERGraph
>>> from torch_geometric import seed_everything
>>> seed_everything(0)  # PyG's generators draw from the global state
>>> graphs = [BAGraph(10 + k % 5, 2)() for k in range(12)]
>>> outliers = OutlierExposureDataset(graphs, external={"random": [ERGraph(9, 0.3)()] * 9})
>>> len(outliers), outliers[0].y.item(), outliers.sources.bincount().tolist()
(12, -1, [0, 6, 6])
"""

import copy
import os
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch_geometric.data import Data, InMemoryDataset

from graftkit.core.validation import check_integer, check_iterable, raise_invalid
from graftkit.methods.hgoe import cache
from graftkit.methods.hgoe.drawing import draw_one, realise
from graftkit.methods.hgoe.edges import borrowed_attributes
from graftkit.methods.hgoe.exposure import ExposurePlan, plan_exposure
from graftkit.methods.hgoe.graphs import PackedGraphs
from graftkit.methods.hgoe.settings import HGOEConfig
from graftkit.methods.hgoe.streams import stream
from graftkit.pyg.hgoe_graphs import edge_attributes, read_graphs
from graftkit.pyg.hgoe_storage import collated, outlier_label, refuse_strange_keys, to_tensors

__all__ = ["OutlierExposureDataset"]


class OutlierExposureDataset(InMemoryDataset):
    """External, internal and cross outliers for outlier exposure.

    Graphs have ``edge_index``, ``x`` where the ID graphs have it, ``y`` = -1 and ``source`` (1 external,
    2 internal, 3 cross). They are stored collated; with ``config.lazy`` synthetic ones are drawn when asked
    for, each from a stream keyed by seed, source, epoch and index, so workers do not matter.

    Parameters
    ----------
    graphs : Dataset or sequence of Data
        ID training graphs; nothing else is used to make outliers.
    external : mapping of str to (Dataset or sequence of Data), default=None
        Other data sets by name; the test set must not be among them.
    config : HGOEConfig or None, default=None
        How outliers are gathered and made.
    seed : int, default=0
        All randomness follows from it.
    forbid : collection of str, default=()
        Names refused in `external`.
    cache_dir : str, pathlib.Path or None, default=None
        A folder for finished outliers, keyed by the content of everything that went in.
    transform : callable or None, default=None
        Applied on access, as in every PyG data set.
    ignore : sequence of str, default=()
        Node or edge attributes of the ID graphs that the model does not use; any other attribute that
        outliers cannot have is refused.

    Raises
    ------
    TypeError
        If an argument has the wrong type.
    ValueError
        If graphs do not fit together, a set is empty or forbidden, or an ID graph is among the outliers.
    """

    def __init__(
        self,
        graphs: Any,
        external: Mapping[str, Any] | None = None,
        config: HGOEConfig | None = None,
        seed: int = 0,
        forbid: Collection[str] = (),
        cache_dir: str | Path | None = None,
        transform: Any = None,
        ignore: Sequence[str] = (),
    ) -> None:
        super().__init__(None, transform)
        if external is not None and not isinstance(external, Mapping):
            raise_invalid("external", external, "a mapping of names to data sets", error=TypeError)
        if config is not None and not isinstance(config, HGOEConfig):
            raise_invalid("config", config, "an HGOEConfig or None", error=TypeError)
        for name, value in (("forbid", forbid), ("ignore", ignore)):
            check_iterable(name, value, "a sequence of names")
            if (
                not isinstance(value, Collection)
                or isinstance(value, Tensor)
                or not all(isinstance(entry, str) for entry in value)
            ):
                raise_invalid(name, value, "a sequence of names", error=TypeError)
        if cache_dir is not None:
            if not isinstance(cache_dir, str | os.PathLike):
                raise_invalid("cache_dir", cache_dir, "the path of a folder, or None", error=TypeError)
            if Path(cache_dir).exists() and not Path(cache_dir).is_dir():
                raise_invalid("cache_dir", cache_dir, "a folder, or a path where one can be made")
        self.config = config or HGOEConfig()
        self.seed = check_integer("seed", seed, low=0)
        self.ignore = tuple(ignore)
        if cache_dir is not None and self.config.lazy:
            raise_invalid("cache_dir", cache_dir, "None where config.lazy is set, nothing is stored then")
        packed = read_graphs(graphs)
        sets = {name: read_graphs(part, f"external[{name!r}]") for name, part in (external or {}).items()}
        refuse_strange_keys(graphs, self.ignore)
        self._label = outlier_label(graphs[0].get("y")) if len(packed) else torch.tensor([-1])
        self._edge_pool = self._read_edge_pool(graphs) if len(packed) else None
        self._plan: ExposurePlan | None = None
        self._epoch = 0
        stored = None
        path = None if cache_dir is None else self._cache_path(Path(cache_dir), packed, sets, forbid)
        if path is not None:
            stored = cache.read(path)
        if stored is None:
            plan = plan_exposure(packed, sets, self.config, seed=self.seed, forbid=forbid)
            if self.config.lazy:
                self._plan = plan
                outliers, source = plan.external, torch.ones(len(plan.external), dtype=torch.int64)
            else:
                outliers, source = realise(plan)
            stored = to_tensors(outliers, source, self._attributes(outliers, 0)), plan.summary
            if path is not None:
                cache.write(path, *stored)
        self._summary = stored[1]
        self._store(stored[0])

    # -- the PyG side --------------------------------------------------------------------------------------

    def len(self) -> int:
        """Number of outliers.

        Returns
        -------
        int
            Stored and lazy ones.
        """
        return self._num_stored + (0 if self._plan is None else sum(map(len, self._plan.mixtures.values())))

    def get(self, idx: int) -> Data:
        """One outlier, without `transform`.

        Parameters
        ----------
        idx : int
            Its number.

        Returns
        -------
        Data
            A graph; changing it does not change the data set.
        """
        return super().get(idx) if idx < self._num_stored else self._draw(idx, self._epoch)

    def at(self, position: int, epoch: int) -> Data:
        """One outlier of an epoch, with `transform`; lazy ones differ by epoch.

        Parameters
        ----------
        position : int
            Its place in this data set or subset.
        epoch : int
            The epoch.

        Returns
        -------
        Data
            A graph.
        """
        idx = int(self.indices()[position])
        data = self.get(idx) if idx < self._num_stored else self._draw(idx, epoch)
        return data if self.transform is None else self.transform(data)

    def set_epoch(self, epoch: int) -> None:
        """Which lazy graphs plain indexing gives; `OutlierExposureLoader` does this by itself.

        Parameters
        ----------
        epoch : int
            The epoch.

        Raises
        ------
        TypeError
            If it is no integer.
        ValueError
            If it is negative.
        """
        self._epoch = check_integer("epoch", epoch, low=0)

    @property
    def is_lazy(self) -> bool:
        """Whether synthetic outliers are drawn when they are asked for.

        Returns
        -------
        bool
            As `config` says.
        """
        return self._plan is not None

    @property
    def sources(self) -> Tensor:
        """Where each outlier comes from.

        Returns
        -------
        Tensor of shape (n,)
            1 external, 2 internal, 3 cross.
        """
        lazy = {} if self._plan is None else self._plan.mixtures
        parts = [self._stored_sources, *(torch.full((len(m),), code) for code, m in lazy.items())]
        everything = torch.cat(parts)
        return everything if self._indices is None else everything[torch.tensor(list(self._indices))]

    def summary(self) -> dict[str, Any]:
        """What the outliers were made from.

        Returns
        -------
        dict
            Counts by source and set, subgroup sizes, graphon resolutions and densities, mixing weights.
        """
        return copy.deepcopy(self._summary)

    def __repr__(self) -> str:
        return f"OutlierExposureDataset({len(self)})"

    # -- storage -------------------------------------------------------------------------------------------

    def _draw(self, idx: int, epoch: int) -> Data:
        if self._plan is None:
            raise IndexError(f"outlier {idx} of {self.len()}")
        rest = idx - self._num_stored
        for code, mixtures in self._plan.mixtures.items():
            if rest < len(mixtures):
                graph = draw_one(self._plan, code, rest, epoch)
                data = Data(edge_index=graph.edge_index, y=self._own_label(), source=torch.tensor([code]))
                if graph.x is None:
                    data.num_nodes = int(graph.num_nodes[0])
                else:
                    data.x = graph.x
                attributes = self._attributes(graph, epoch, idx)
                if attributes is not None:
                    data.edge_attr = attributes
                return data
            rest -= len(mixtures)
        raise IndexError(f"outlier {idx} of {self.len()}")

    def _own_label(self) -> Tensor:
        return self._label.clone().reshape(1) if self._label.dim() == 0 else self._label.clone()

    def _store(self, tensors: dict[str, Tensor]) -> None:
        self._num_stored, self._stored_sources = len(tensors["num_nodes"]), tensors["source"]
        self._data, self.slices = collated(tensors, self._label)
        self._data_list = None

    def _read_edge_pool(self, graphs: Any) -> Tensor | None:
        if self.config.edge_attr == "drop":
            return None
        pool = edge_attributes(graphs)
        if pool is None:
            raise_invalid("edge_attr", self.config.edge_attr, "ID graphs with edge_attr on every edge")
        return pool

    def _attributes(self, graphs: PackedGraphs, epoch: int, *names: int) -> Tensor | None:
        if self._edge_pool is None:
            return None
        generator = stream(self.seed, "edge attributes", epoch, *names)
        return borrowed_attributes(graphs, self._edge_pool, self.config.edge_attr, generator)

    def _cache_path(
        self, folder: Path, graphs: PackedGraphs, sets: Mapping[str, PackedGraphs], forbid: Collection[str]
    ) -> Path:
        if set(forbid) & set(sets):  # the error belongs to planning; a cached file must not hide it
            plan_exposure(graphs, sets, self.config, seed=self.seed, forbid=forbid)
        settings = {
            "config": self.config.as_dict(),
            "seed": self.seed,
            "edge_pool": None if self._edge_pool is None else self._edge_pool.tolist(),
        }
        return folder / f"hgoe-{cache.content_key(settings, {'id': graphs, **sets})[:32]}.pt"
