"""What a callback is told.

>>> Progress("qedg", 1, 10, 40, 1.0, 0.7, {}, 2.0, 6.0).used
10
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Progress"]


@dataclass(frozen=True)
class Progress:
    """What a callback is told after each round.

    Parameters
    ----------
    arm : str
        "qedg", or the baseline's name.
    round : int
        Rounds done.
    used : int
        Attack queries answered.
    budget : int
        The most there may be.
    accept_rate : float
        Share of this round's images that passed the filter.
    tau : float
        The filter in force.
    losses : dict
        The generator's terms in this round.
    seconds : float
        Since the run (or its resumption) began.
    eta : float
        Seconds to the end of the budget at this pace; training after it not counted.
    """

    arm: str
    round: int
    used: int
    budget: int
    accept_rate: float
    tau: float
    losses: dict[str, float]
    seconds: float
    eta: float
