"""Batches of known rows followed by outliers, for one forward pass.

An ID loader sets the length of an epoch, an OE loader is begun again as often as it takes, each batch is
``(cat(x, u), cat(y, -1))``. One pass matters: two would show batch normalisation two distributions in turn.
The released code ends an epoch with the *shorter* loader (specification 1.8, no. 6); this does not.

Workers, pinning, samplers and ``drop_last`` are the two loaders' own. For constant batch sizes (compiled
models, `k` near the batch size) set ``drop_last=True`` on both. Under DistributedDataParallel give each
loader a DistributedSampler, each with a seed of its own (of equal sets with one seed the same rows always
meet), and call `set_epoch`, which tells both of them, and the criterion.

>>> import torch
>>> from torch.utils.data import DataLoader, TensorDataset
>>> known = DataLoader(TensorDataset(torch.zeros(4, 3), torch.ones(4, 2)), batch_size=2)
>>> outliers = DataLoader(TensorDataset(torch.ones(2, 3)), batch_size=1, shuffle=True)
>>> [targets.tolist() for _, targets in OutlierExposureBatcher(known, outliers)][1]
[[1.0, 1.0], [1.0, 1.0], [-1.0, -1.0]]
"""

import warnings
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import SequentialSampler

from graftkit.core.validation import check_integer, check_iterable, raise_invalid

__all__ = ["OutlierExposureBatcher"]


class OutlierExposureBatcher:
    """Joins a loader of known rows with a loader of outliers.

    Parameters
    ----------
    id_loader : iterable of (Tensor, Tensor)
        Inputs and multi-hot targets of shape (n, C), such as a DataLoader or timm's loaders.
    oe_loader : iterable of Tensor or of (Tensor, ...)
        Inputs of outliers, of shape (n_o, ...); whatever comes after the inputs is ignored. Must be
        iterable again and again.
    criterion : object or None, default=None
        Whose ``set_epoch`` is called too, such as an `EDGELoss` with warm-up.

    Raises
    ------
    TypeError
        If a loader is not iterable, or is an iterator, which could not be begun again.
    ValueError
        If a loader is known to be empty.

    Warns
    -----
    UserWarning
        If the OE loader does not shuffle and is longer than the ID loader: its end would never be seen.
    """

    def __init__(self, id_loader: Iterable[Any], oe_loader: Iterable[Any], *, criterion: Any = None) -> None:
        for name, loader in (("id_loader", id_loader), ("oe_loader", oe_loader)):
            check_iterable(name, loader, "a loader that can be iterated every epoch")
            if isinstance(loader, Iterator | Tensor):
                raise_invalid(name, loader, "a loader that can be iterated every epoch", error=TypeError)
            if _length(loader) == 0:
                raise_invalid(name, loader, "at least one batch", fix=_empty_advice(loader))
        if criterion is not None and not callable(getattr(criterion, "set_epoch", None)):
            raise_invalid("criterion", criterion, "an object with set_epoch, or None", error=TypeError)
        self.id_loader, self.oe_loader, self.criterion = id_loader, oe_loader, criterion
        lengths = _length(id_loader), _length(oe_loader)
        sampler = getattr(oe_loader, "sampler", None)
        # A DistributedSampler says by `shuffle` whether it does.
        fixed = isinstance(sampler, SequentialSampler) or getattr(sampler, "shuffle", None) is False
        if fixed and None not in lengths and lengths[1] > lengths[0]:  # type: ignore[operator]
            warnings.warn(
                f"oe_loader does not shuffle: of its {lengths[1]} batches only the first {lengths[0]} would "
                "ever be seen. Set shuffle=True.",
                stacklevel=2,
            )

    def __len__(self) -> int:
        """Batches an epoch: those of the ID loader."""
        return len(self.id_loader)  # type: ignore[arg-type]

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        """One epoch; the OE loader begins anew, so that a resumed run sees what an unbroken one does."""
        outliers = self._outliers()
        for batch in self.id_loader:
            if not isinstance(batch, tuple | list) or len(batch) < 2:
                raise_invalid("id_loader", batch, "batches (inputs, targets)", error=TypeError)
            yield _joined(batch[0], batch[1], next(outliers))

    def set_epoch(self, epoch: int) -> None:
        """Tell both loaders' samplers, and the criterion, which epoch begins.

        Parameters
        ----------
        epoch : int
            From 0.

        Raises
        ------
        TypeError
            If it is no integer.
        ValueError
            If it is negative.
        """
        check_integer("epoch", epoch, low=0)
        for loader in (self.id_loader, self.oe_loader):
            batches = getattr(loader, "batch_sampler", None)
            parts = loader, getattr(loader, "sampler", None), batches, getattr(batches, "sampler", None)
            for part in parts:
                if callable(getattr(part, "set_epoch", None)):
                    part.set_epoch(epoch)  # type: ignore[union-attr]
        if self.criterion is not None:
            self.criterion.set_epoch(epoch)

    def _outliers(self) -> Iterator[Tensor]:
        while True:
            empty = True
            for batch in self.oe_loader:
                empty = False
                yield batch[0] if isinstance(batch, tuple | list) else batch
            if empty:
                raise_invalid("oe_loader", self.oe_loader, "at least one batch", fix="The OE set is empty.")


def _joined(inputs: Any, targets: Any, outliers: Any) -> tuple[Tensor, Tensor]:
    for name, value in (("ID inputs", inputs), ("ID targets", targets), ("OE inputs", outliers)):
        if not isinstance(value, Tensor):
            raise_invalid(name, value, "a tensor", error=TypeError)
    if targets.ndim != 2:
        raise_invalid("ID targets", targets, "multi-hot targets of shape (n, C)", fix="See one_hot.")
    if inputs.shape[1:] != outliers.shape[1:] or inputs.dtype != outliers.dtype:
        raise_invalid(
            "OE inputs",
            outliers,
            f"rows like the known ones, {tuple(inputs.shape[1:])} of {inputs.dtype}",
            fix="Give both sides the same transform.",
        )
    targets = targets if targets.is_floating_point() else targets.float()
    marks = targets.new_full((len(outliers), targets.shape[1]), -1)
    moved = outliers.to(inputs.device, non_blocking=True)
    return torch.cat([inputs, moved]), torch.cat([targets, marks])


def _length(loader: Any) -> int | None:
    try:
        return len(loader)
    except TypeError:  # an iterable data set knows no length
        return None


def _empty_advice(loader: Any) -> str:
    if getattr(loader, "drop_last", False):
        return "drop_last=True leaves nothing of a set smaller than a batch."
    return "The set is empty."
