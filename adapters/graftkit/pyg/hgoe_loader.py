"""A loader that gives an ID batch and an outlier batch at each step.

Every ID graph comes once an epoch, however many outliers there are; outliers go round. What is drawn depends
on the seed and the epoch, not on workers or global generators.

>>> from torch_geometric.data import Data
>>> graphs = [Data(x=torch.ones(2, 1), edge_index=torch.tensor([[0, 1], [1, 0]])) for _ in range(5)]
>>> loader = OutlierExposureLoader(graphs, graphs[:1], batch_size=2)
>>> len(loader), [(a.num_graphs, b.num_graphs) for a, b in loader]
(3, [(2, 1), (2, 1), (1, 1)])
"""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset, Sampler
from torch_geometric.data import Batch
from torch_geometric.loader import DataLoader as GraphLoader

from graftkit.core.validation import check_bool, check_integer, check_iterable, raise_invalid
from graftkit.methods.hgoe.streams import stream
from graftkit.pyg.hgoe_batches import check_alike, stored_batch
from graftkit.pyg.hgoe_graphs import check_collection, per_node_keys

__all__ = ["OutlierExposureLoader"]

Entry = tuple[bool, int, int]  # outlier?, position, epoch


class OutlierExposureLoader(DataLoader[Any]):
    """Yields ``(id_batch, outlier_batch)``.

    Parameters
    ----------
    graphs : Dataset or sequence of Data
        ID graphs.
    outliers : Dataset or sequence of Data
        Outliers, such as an `OutlierExposureDataset`.
    batch_size : int, default=1
        ID graphs a batch; the last batch may be smaller, none is dropped.
    oe_batch_size : int or None, default=None
        Outliers a batch, `batch_size` by default; never more than there are.
    seed : int, default=0
        Order of both sides.
    shuffle : bool, default=True
        Draw a new order each epoch.
    exclude_keys : sequence of str, default=()
        Attributes left out of both batches.
    **kwargs
        Arguments of ``torch.utils.data.DataLoader`` such as ``num_workers`` and ``pin_memory``.

    Raises
    ------
    TypeError
        If an argument has the wrong type or the loader decides it itself.
    ValueError
        If a side is empty, or node or edge attributes differ between the two; the message names the key.
    """

    def __init__(
        self,
        graphs: Any,
        outliers: Any,
        batch_size: int = 1,
        oe_batch_size: int | None = None,
        seed: int = 0,
        shuffle: bool = True,
        exclude_keys: Sequence[str] = (),
        **kwargs: Any,
    ) -> None:
        taken = {"batch_sampler", "sampler", "collate_fn", "drop_last", "generator"} & set(kwargs)
        if taken:
            raise TypeError(f"OutlierExposureLoader decides {sorted(taken)} itself")
        size = check_integer("batch_size", batch_size, low=1)
        oe_size = size if oe_batch_size is None else check_integer("oe_batch_size", oe_batch_size, low=1)
        for key in check_iterable("exclude_keys", exclude_keys, "a sequence of names"):
            if not isinstance(key, str):
                raise_invalid("exclude_keys", key, "a sequence of names", error=TypeError)
        for name, side in (("graphs", graphs), ("outliers", outliers)):
            check_collection(name, side)
            if not len(side):
                raise_invalid(name, 0, "at least one graph")
        excluded = [*exclude_keys, *getattr(outliers, "ignore", ())]
        excluded += _one_sided(graphs, outliers, excluded)
        sampler = _PairedSampler(
            len(graphs), len(outliers), size, oe_size, check_integer("seed", seed, low=0),
            check_bool("shuffle", shuffle),
        )  # fmt: skip
        super().__init__(
            _Pairs(graphs, outliers, tuple(excluded)),
            batch_sampler=sampler,
            collate_fn=_as_it_is,  # type: ignore[arg-type]  # __getitems__ gives the batch itself
            generator=stream(seed, "workers"),  # the host draws its workers' seeds from it, not globally
            **kwargs,
        )

    def set_epoch(self, epoch: int) -> None:
        """Choose the next epoch's order; it moves on by one each time the loader is iterated.

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
        self._paired.epoch = check_integer("epoch", epoch, low=0)

    @property
    def _paired(self) -> "_PairedSampler":
        sampler: Any = self.batch_sampler
        return sampler  # type: ignore[no-any-return]

    def id_loader(self) -> Any:
        """The ID side alone, in order; what a detector is prepared with.

        Returns
        -------
        torch_geometric.loader.DataLoader
            A new loader.
        """
        pairs: Any = self.dataset
        return GraphLoader(
            pairs.graphs, self._paired.batch_size, exclude_keys=list(pairs.excluded),
            generator=stream(self._paired.seed, "workers"),
        )  # fmt: skip


class _Pairs(Dataset[Any]):
    """Both sides; a batch of entries at a time, so that packed data sets are gathered, not taken apart."""

    def __init__(self, graphs: Any, outliers: Any, excluded: tuple[str, ...]) -> None:
        self.graphs, self.outliers, self.excluded = graphs, outliers, excluded

    def __getitems__(self, entries: list[Entry]) -> tuple[Batch, Batch]:
        epoch = entries[0][2]
        first = [position for outlier, position, _ in entries if not outlier]
        second = [position for outlier, position, _ in entries if outlier]
        return (
            self._batch("graphs", self.graphs, first, epoch),
            self._batch("outliers", self.outliers, second, epoch),
        )

    def _batch(self, name: str, graphs: Any, positions: list[int], epoch: int) -> Batch:
        if not getattr(graphs, "is_lazy", False):
            batch = stored_batch(graphs, positions, self.excluded)
            if batch is not None:
                return batch
        take = graphs.at if hasattr(graphs, "at") else lambda position, _: graphs[position]
        items = [take(position, epoch) for position in positions]
        check_alike(name, items, positions, self.excluded)
        return Batch.from_data_list(items, exclude_keys=list(self.excluded))


def _as_it_is(batches: tuple[Batch, Batch]) -> tuple[Batch, Batch]:
    return batches


class _PairedSampler(Sampler[list[Entry]]):
    def __init__(self, n: int, m: int, batch_size: int, oe_batch_size: int, seed: int, shuffle: bool) -> None:
        self.n, self.m, self.batch_size, self.seed, self.shuffle = n, m, batch_size, seed, shuffle
        self.oe_batch_size = min(oe_batch_size, m)
        self.epoch = 0

    def __len__(self) -> int:
        return -(-self.n // self.batch_size)

    def __iter__(self) -> Iterator[list[Entry]]:
        epoch, self.epoch = self.epoch, self.epoch + 1
        order = self._order(self.n, epoch, "id", 0)
        going_round: list[int] = []
        turn = 0
        for start in range(0, self.n, self.batch_size):
            while len(going_round) < self.oe_batch_size:
                # Graphs left over from one round must not meet themselves in the same batch.
                fresh = self._order(self.m, epoch, "outliers", turn)
                left = set(going_round)
                going_round += [k for k in fresh if k not in left] + [k for k in fresh if k in left]
                turn += 1
            batch, going_round = going_round[: self.oe_batch_size], going_round[self.oe_batch_size :]
            yield [(False, k, epoch) for k in order[start : start + self.batch_size]] + [
                (True, k, epoch) for k in batch
            ]

    def _order(self, count: int, epoch: int, side: str, turn: int) -> list[int]:
        if not self.shuffle:
            return list(range(count))
        generator = stream(self.seed, "loader", side, epoch, turn)
        order: list[int] = torch.randperm(count, generator=generator).tolist()
        return order


def _one_sided(graphs: Any, outliers: Any, excluded: Sequence[str]) -> list[str]:
    """Edge attributes that one side lacks; anything else that differs is refused."""
    first = {k: v for k, v in per_node_keys(graphs).items() if k not in excluded}
    second = {k: v for k, v in per_node_keys(outliers).items() if k not in excluded}
    dropped = []
    for key in sorted(first.keys() | second.keys()):
        if key in first and key in second:
            a, b = first[key], second[key]
            if a.shape[1:] != b.shape[1:] or a.dtype != b.dtype:
                raise ValueError(
                    f"{key}: ID graphs have (n, {', '.join(map(str, a.shape[1:]))}) of {a.dtype}, outliers "
                    f"(n, {', '.join(map(str, b.shape[1:]))}) of {b.dtype}. HGOEHarmonize makes them alike"
                )
        elif key in ("edge_attr", "edge_weight"):
            dropped.append(key)
        else:
            having, lacking = ("ID graphs", "outliers") if key in first else ("outliers", "ID graphs")
            raise ValueError(
                f"{key}: {having} have it, {lacking} do not. Apply the transform that makes it to both, or "
                f"pass exclude_keys=[{key!r}]"
            )
    return dropped
