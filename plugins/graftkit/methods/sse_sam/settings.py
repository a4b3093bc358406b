"""What the constructor was told, checked once: radii, the stage switch, how the tail's passes run.

The stage counter and the radii live in the parameter groups, the only place that survives torch's
``state_dict`` and every host's checkpoint alike; everything else is here.

Source: specification sections 1.2, 3.3, 5.4.

>>> switch_step(gamma=0.7, total_steps=200, explicit=None)
140
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from graftkit.core.validation import check_bool, check_choice, check_integer, check_number, raise_invalid
from graftkit.methods.sse_sam.classes import Membership, tail_classes_from_counts

__all__ = ["PART_RADIUS", "Settings", "check_rho", "resolve_tail", "switch_step"]

PART_RADIUS = {"head": "rho_head", "tail": "rho_tail", "all": "rho_head"}
"""The group key that holds a part's radius; plain SAM's one part uses the head's."""

TAIL_PASSES = ("auto", "subset", "full", "frozen_stats")


@dataclass(frozen=True)
class Settings:
    """Everything that is the same for all groups and never changes.

    Attributes
    ----------
    stage1 : {"split", "sam"}
        Two perturbations in stage 1, as the released code has it, or one of the whole loss.
    tail_weight : float
        Weight of the tail's loss in the descent.
    eps : float
        Added to the gradient's norm.
    tail_pass : {"auto", "subset", "full", "frozen_stats"}
        Which samples the repeated passes run on.
    update_running_stats : {"once", "all"}
        Whether perturbed passes update running statistics.
    preserve_rng : bool
        Whether a closure's later passes draw the first one's random numbers.
    sync_perturbation : bool
        Whether processes perturb along the averaged gradient or each along its own.
    foreach : bool or None
        Multi-tensor arithmetic, plain, or decided by the tensors.
    membership : Membership or None
        The tail; ``None`` for plain SAM without one.
    """

    stage1: str
    tail_weight: float
    eps: float
    tail_pass: str
    update_running_stats: str
    preserve_rng: bool
    sync_perturbation: bool
    foreach: bool | None
    membership: Membership | None

    def __post_init__(self) -> None:
        check_choice("stage1", self.stage1, ("split", "sam"))
        check_number("tail_weight", self.tail_weight, low=0)
        check_number("perturb_eps", self.eps, low=0)
        check_choice("tail_pass", self.tail_pass, TAIL_PASSES)
        check_choice("update_running_stats", self.update_running_stats, ("once", "all"))
        check_bool("preserve_rng", self.preserve_rng)
        check_bool("sync_perturbation", self.sync_perturbation)
        if self.foreach is not None:
            check_bool("foreach", self.foreach)


def check_rho(rho: Any) -> tuple[float, float]:
    """Turn ``rho`` into the radii of head and tail.

    Parameters
    ----------
    rho : float or (float, float)
        One radius for both, or the head's and the tail's.

    Returns
    -------
    (float, float)
        Both radii.

    Raises
    ------
    ValueError
        If a radius is negative, NaN or infinite, or there are not one or two.
    """
    pair = tuple(rho) if isinstance(rho, Sequence) and not isinstance(rho, str) else (rho, rho)
    if len(pair) != 2:
        raise_invalid("rho", rho, "one radius or a pair (rho_head, rho_tail)")
    head, tail = (check_number("rho", radius, low=0) for radius in pair)
    return head, tail


def switch_step(gamma: Any, total_steps: Any, explicit: Any) -> int | None:
    """The number of completed steps at which stage 2 begins.

    Parameters
    ----------
    gamma : float in [0, 1] or None
        Share of training in stage 1; ``None`` and 1 never switch, 0 starts in stage 2.
    total_steps : int or None
        Length of the training in optimizer steps.
    explicit : int or None
        The step itself, instead.

    Returns
    -------
    int or None
        ``None`` for never.

    Raises
    ------
    ValueError
        If `gamma` needs a length that is not given, or a value is out of range.
    """
    if explicit is not None:
        return check_integer("switch_step", explicit, low=0)
    if gamma is None:
        return None
    share = check_number("gamma", gamma, low=0, high=1)
    if share in (0.0, 1.0):
        return 0 if share == 0.0 else None
    if total_steps is None:
        raise_invalid(
            "total_steps",
            None,
            f"the number of optimizer steps of the whole training, of which gamma={share} is stage 1",
            fix="Or pass switch_step=, or gamma=None to stay in stage 1 for ever.",
        )
    return math.ceil(share * check_integer("total_steps", total_steps, low=1) - 1e-9)


def resolve_tail(
    tail_classes: Any, class_counts: Any, tail_threshold: Any, *, ignore_index: int | None, needed: bool
) -> Membership | None:
    """Read the tail from either of its two spellings.

    Parameters
    ----------
    tail_classes : iterable of int or None
        The classes; or
    class_counts : sequence of int or None
        Samples a class, with
    tail_threshold : float or None
        the number below which a class is of the tail.
    ignore_index : int or None
        A label that is no class.
    needed : bool
        Whether there has to be a tail.

    Returns
    -------
    Membership or None
        ``None`` where none was given and none is needed.

    Raises
    ------
    TypeError
        If `class_counts` is no sequence.
    ValueError
        If neither or both spellings are given, or half of the second.
    """
    given, counted = tail_classes is not None, class_counts is not None or tail_threshold is not None
    if given and tail_threshold is None and class_counts is not None:
        counted = False  # counts beside the classes only say how many there are
    if not given and not counted and not needed:
        return None
    if given == counted or (counted and (class_counts is None or tail_threshold is None)):
        raise ValueError(
            "tail: expected either tail_classes, or class_counts together with tail_threshold, got "
            + ("both" if given and counted else "only one of the two" if counted else "neither")
            + ". Plain SAM, stage1='sam' with gamma=None, needs none of the three."
        )
    if class_counts is not None and not (
        hasattr(class_counts, "__len__") and hasattr(class_counts, "__iter__")
    ):
        raise_invalid("class_counts", class_counts, "one count for each class", error=TypeError)
    if getattr(class_counts, "shape", None) == ():
        raise_invalid("class_counts", class_counts, "one count for each class", error=TypeError)
    n_classes = len(class_counts) if class_counts is not None else None
    if counted:
        tail = tail_classes_from_counts(class_counts, tail_threshold)
        return Membership(tail, n_classes=n_classes, ignore_index=ignore_index)
    membership = Membership(tail_classes, n_classes=n_classes, ignore_index=ignore_index)
    membership.warn_if_degenerate()
    return membership
