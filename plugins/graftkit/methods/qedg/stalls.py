"""When the filter lets hardly any image through: raise it, stop, or complain.

The published loop has no such guard, and never ends when every image is rejected.

>>> guard = StallGuard(QEDGConfig(tau=0.5, max_stall_rounds=2))
>>> guard.watch(0, 256, 1, 40), guard.watch(0, 256, 2, 40)["action"], guard.tau
(None, 'tau raised', 0.55)
"""

from __future__ import annotations

from typing import Any

from graftkit.methods.qedg.settings import QEDGConfig

__all__ = ["StallError", "StallGuard"]

TAU_STEP = 0.05


class StallError(RuntimeError):
    """The filter lets hardly any image through (``stall_policy="error"``)."""


class StallGuard:
    """The filter in force, and the rounds in a row that it starved.

    Parameters
    ----------
    config : QEDGConfig
        First tau, policy, patience.
    """

    def __init__(self, config: QEDGConfig) -> None:
        self.config, self.tau, self.stalls = config, config.tau, 0

    def watch(self, offered: int, made: int, index: int, queries: int) -> dict[str, Any] | None:
        """Look at a round.

        Parameters
        ----------
        offered : int
            Images that passed.
        made : int
            Images before the filter.
        index : int
            Rounds done.
        queries : int
            Queries answered so far.

        Returns
        -------
        dict or None
            What was done, if anything: ``event, round, queries, action`` and the new ``tau``.

        Raises
        ------
        StallError
            If the policy says so.
        """
        config = self.config
        # A source that filters nothing (a baseline) cannot stall.
        if offered == made or (offered >= config.stall_rate * made and offered):
            self.stalls = 0
            return None
        self.stalls += 1
        if self.stalls < config.max_stall_rounds:
            return None
        self.stalls = 0
        if config.stall_policy == "error":
            raise StallError(
                f"round {index}: {config.max_stall_rounds} rounds in a row brought fewer than "
                f"{config.stall_rate:.0%} of {made} images past tau={self.tau:g}; "
                'raise tau, or set stall_policy="relax_tau"'
            )
        event: dict[str, Any] = {"event": "stall", "round": index, "queries": queries}
        if config.stall_policy == "stop" or self.tau >= 1:
            return {**event, "action": "stopped"}
        self.tau = min(1.0, round(self.tau + TAU_STEP, 10))
        return {**event, "action": "tau raised", "tau": self.tau}
