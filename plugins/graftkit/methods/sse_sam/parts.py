r"""Per-sample losses, split in two: how a batch's losses become the head's and the tail's.

.. math:: L_H = \tfrac1B \sum_i (1 - m_i)\, l_i, \qquad L_T = \tfrac1B \sum_i m_i\, l_i

Both are divided by the whole batch, so that their sum is the ordinary mean loss (the released ImbSAM branch
divides each by its own count, which also re-weights the tail: specification section 1.6, item 2).

Source: SSE-SAM (AAAI 2025, arXiv 2412.13715); specification sections 1.1, 3.3.

>>> import torch
>>> losses = torch.tensor([1.0, 2.0, 3.0], requires_grad=True)
>>> batch = split(losses, torch.tensor([0, 1, 1]), Membership([1]))
>>> batch.sum("tail").item(), batch.seed("tail", 1.0, batch.count).tolist()
(5.0, [0.0, 0.3333333432674408, 0.3333333432674408])
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import torch
from torch import Tensor

from graftkit.core.validation import describe, raise_invalid
from graftkit.methods.sse_sam.classes import Membership

__all__ = ["OnePart", "SplitLosses", "part_weight", "split", "tail_share"]


def part_weight(part: str, membership: Tensor, tail_weight: float) -> Tensor:
    """Weight of every entry in one part of the loss.

    Parameters
    ----------
    part : {"head", "tail", "all"}
        The part.
    membership : Tensor, floating in [0, 1]
        How much of each entry is of the tail.
    tail_weight : float
        Weight of the tail's loss.

    Returns
    -------
    Tensor
        Of the membership's shape.
    """
    if part == "head":
        return 1 - membership
    if part == "tail":
        return membership if tail_weight == 1 else membership * tail_weight
    return 1 - membership + tail_weight * membership


def tail_share(
    targets: Tensor, shape: torch.Size, membership: Membership | None
) -> tuple[Tensor, Tensor | None]:
    """Read the second item that a closure returns: labels, a mask, or a share in [0, 1].

    Parameters
    ----------
    targets : Tensor
        Integer labels, a bool mask, or floating membership.
    shape : torch.Size
        The shape of the losses, which `targets` must have.
    membership : Membership or None
        The tail's classes; needed for labels only.

    Returns
    -------
    (Tensor, Tensor or None)
        Membership, and which entries count at all (``None`` for all).

    Raises
    ------
    TypeError
        If `targets` is no tensor.
    ValueError
        If its shape or values do not fit.
    """
    if not isinstance(targets, Tensor):
        raise_invalid("targets", targets, "a tensor of labels or of tail membership", error=TypeError)
    if targets.shape != shape:
        raise ValueError(
            f"targets: expected one for each loss, got targets of shape {tuple(targets.shape)} and losses "
            f"of shape {tuple(shape)}"
        )
    if targets.dtype == torch.bool:
        return targets, None
    if targets.is_floating_point():
        if targets.numel() and not bool(((targets >= 0) & (targets <= 1)).all()):
            raise_invalid("targets", targets, "floating tail membership in [0, 1], or integer labels")
        return targets, None
    if membership is None:
        return torch.zeros_like(targets, dtype=torch.bool), None
    index = membership.ignore_index
    return membership.of_labels(targets), None if index is None else targets != index


class OnePart(NamedTuple):
    """Targets of some samples that are known to be of one part.

    Attributes
    ----------
    targets : Tensor of shape (n,)
        As the closure should return them.
    share : Tensor of shape (n,), bool
        The tail's share of each.
    part : {"head", "tail"}
        The part.
    """

    targets: Tensor
    share: Tensor
    part: str

    def are(self, targets: Any) -> bool:
        """Whether a closure returned these.

        Parameters
        ----------
        targets : object
            The second item that it returned.

        Returns
        -------
        bool
            ``True`` where type, place and every value agree.
        """
        return (
            isinstance(targets, Tensor)
            and targets.dtype == self.targets.dtype
            and targets.device == self.targets.device
            and torch.equal(targets, self.targets)
        )


@dataclass(frozen=True)
class SplitLosses:
    """Losses of a batch with what of each belongs to the tail.

    Attributes
    ----------
    losses : Tensor of any shape
        One an entry.
    membership : Tensor of the same shape, bool or floating
        The tail's share.
    counted : Tensor of the same shape, bool, or None
        Entries that count; ``None`` for all.
    count : int
        How many those are.
    only : {"head", "tail"} or None
        The part that every entry belongs to, where that is known.
    """

    losses: Tensor
    membership: Tensor
    counted: Tensor | None
    count: int
    only: str | None = None

    @cached_property
    def presence(self) -> tuple[bool, bool]:
        """Whether the head, and whether the tail, has any entry; read in one synchronisation."""
        share = self.membership if self.counted is None else self.membership[self.counted]
        if share.numel() == 0:
            return False, False
        low, high = torch.stack(torch.aminmax(share)).tolist()
        return low < 1, high > 0

    @property
    def has_head(self) -> bool:
        """Whether any entry is of the head."""
        return self.presence[0]

    @property
    def has_tail(self) -> bool:
        """Whether any entry is of the tail."""
        return self.presence[1]

    def seed(self, part: str, tail_weight: float, count: int) -> Tensor:
        """Derivative of one part's loss by the losses: what a backward from them starts with.

        Parameters
        ----------
        part : {"head", "tail", "all"}
            The part.
        tail_weight : float
            Weight of the tail's loss.
        count : int
            Entries of the whole batch, by which every part is divided.

        Returns
        -------
        Tensor of the losses' shape
            0 where an entry does not count.
        """
        if part == "all" and tail_weight == 1:
            weight = torch.full_like(self.losses, 1 / count, requires_grad=False)
        elif part == self.only:
            value = (tail_weight if part == "tail" else 1) / count
            return torch.full_like(self.losses, value, requires_grad=False)
        elif part == "head" and self.membership.dtype == torch.bool:
            weight = (~self.membership).to(self.losses.dtype).div_(count)
        else:
            weight = part_weight(part, self.membership.to(self.losses.dtype), tail_weight) / count
        return weight if self.counted is None else weight.masked_fill(~self.counted, 0)

    def sum(self, part: str = "all") -> Tensor:
        """Sum of the losses of one part, not yet divided by the batch.

        Parameters
        ----------
        part : {"head", "tail", "all"}, default="all"
            The part.

        Returns
        -------
        Tensor
            A detached scalar.
        """
        losses = self.losses.detach()
        losses = losses.float() if losses.dtype.itemsize < 4 else losses  # half precision overflows soon
        if part not in ("all", self.only):
            losses = losses * part_weight(part, self.membership.to(losses.dtype), 1.0)
        # Selected, not multiplied: an ignored entry may be infinite.
        return (losses if self.counted is None else losses[self.counted]).sum()


def split(
    losses: Any, targets: Any, membership: Membership | None, expected: "OnePart | None" = None
) -> SplitLosses:
    """Check what a closure returned and split it.

    Parameters
    ----------
    losses : Tensor
        Per-sample losses on the graph.
    targets : Tensor
        See :func:`tail_share`.
    membership : Membership or None
        The tail's classes.
    expected : OnePart or None, default=None
        Where `targets` are these, they are not looked up again.

    Returns
    -------
    SplitLosses
        The batch, split.

    Raises
    ------
    TypeError
        If the losses are a scalar or no floating tensor.
    RuntimeError
        If they carry no graph.
    ValueError
        If the batch is empty or the targets do not fit.
    """
    if not isinstance(losses, Tensor) or not losses.is_floating_point() or losses.ndim == 0:
        raise TypeError(
            "losses: expected per-sample losses, a floating tensor with one entry for each sample "
            f"(reduction='none'), got {describe(losses)}. Head and tail cannot be told apart in one "
            "number."
        )
    only = None
    if expected is not None and losses.shape == expected.targets.shape and expected.are(targets):
        share, counted, only = expected.share, None, expected.part
    else:
        share, counted = tail_share(targets, losses.shape, membership)
    if losses.numel() == 0:
        raise_invalid("losses", losses, "at least one sample: this is an empty batch")
    if not losses.requires_grad:
        raise RuntimeError(
            "losses: expected a tensor with a graph, got one that does not require grad. The closure "
            "must not call backward(), detach, or run under no_grad: the optimizer differentiates the "
            "losses itself."
        )
    count = losses.numel() if counted is None else int(counted.sum())
    return SplitLosses(losses, share, counted, count, only)
