"""The loop: propose, ask, train, measure, save; until the budget is spent.

A round whose candidates were all asked for is saved. A round that the budget cut short is not: its answers
are in the ledger, and a run that goes on with a larger budget makes the same candidates again, takes the
answers it has and asks for the rest. So a run to Q/2, continued to Q, is the run to Q bit for bit, if the
target answers a row the same way each time.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from graftkit.core.validation import raise_invalid
from graftkit.methods.qedg.checkpoint import fingerprint
from graftkit.methods.qedg.evaluation import Evaluation
from graftkit.methods.qedg.generation import Candidates
from graftkit.methods.qedg.ledger import QueryLedger
from graftkit.methods.qedg.metrics import entropy
from graftkit.methods.qedg.pool import Pool, unit
from graftkit.methods.qedg.progress import Progress
from graftkit.methods.qedg.settings import QEDGConfig
from graftkit.methods.qedg.stalls import StallGuard
from graftkit.methods.qedg.target import Target
from graftkit.methods.qedg.training import fit_substitute

__all__ = ["Campaign", "Schedule", "Source"]

Schedule = str | int | Sequence[int]


class Source(Protocol):
    """Where a round's candidates come from."""

    def propose(self, index: int, substitute: nn.Module, tau: float, pool: Pool) -> Candidates | None:
        """Candidates of one round, or ``None`` when there are no more."""


@dataclass
class Campaign:
    """One attack on one target, by one source of queries.

    Parameters
    ----------
    arm : str
        Its name.
    source : Source
        Of candidates.
    target : Target
        Who answers.
    substitute : torch.nn.Module
        Who learns; trained in place.
    config : QEDGConfig
        Settings.
    seed : int
        Of the run.
    ledger : QueryLedger
        Of its attack queries.
    evaluation : Evaluation
        What it is measured on.
    limit : int or None, default=None
        The most answers, where that is less than the budget: a baseline gets no more than the attack got.
    """

    arm: str
    source: Source
    target: Target
    substitute: nn.Module
    config: QEDGConfig
    seed: int
    ledger: QueryLedger
    evaluation: Evaluation
    limit: int | None = None
    round: int = 0
    steps: int = 0
    stopped: str = ""
    curve: list[dict[str, Any]] = field(default_factory=list)
    events: list[dict[str, Any]] = field(default_factory=list)
    plan: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        """Set up what the settings decide."""
        soft = self.target.label_mode == "soft"
        self.pool = Pool(
            self.ledger.budget,
            self.target.input_shape,
            quantised=self.config.quantise,
            classes=self.target.num_classes if soft else None,
        )
        self.guard = StallGuard(self.config)
        self.optimizer = self._optimizer_of(self.substitute)

    def run(
        self,
        schedule: Schedule,
        *,
        finish_each: bool = False,
        callback: Callable[[Progress], Any] | None = None,
        save: Callable[[dict[str, Any]], None] | None = None,
    ) -> None:
        """Spend the budget, then train on without queries, then measure.

        Parameters
        ----------
        schedule : {"round"}, int or sequence of int
            After which numbers of queries to measure.
        finish_each : bool, default=False
            Measure a copy that has been trained to the end, as if the budget ended there.
        callback : callable or None, default=None
            ``f(progress)``; a true answer stops.
        save : callable or None, default=None
            Takes the state after each complete round.

        Raises
        ------
        StallError
            If rounds stall and the policy says so.
        """
        started, first = time.perf_counter(), len(self.pool)
        while not self.stopped:
            known = self.ledger.answers("attack", self.round)
            if not self.ledger.remaining and not known:
                break
            candidates = self.source.propose(self.round, self.substitute, self.guard.tau, self.pool)
            if candidates is None:
                break
            before, offered = len(self.pool), len(candidates.images)
            self._ask(candidates, known)
            asked = len(self.pool) - before
            self.plan.append(offered)
            self.steps += self._fit("round", self.round)
            self.round += 1
            tau = self.guard.tau
            event = self.guard.watch(offered, candidates.made, self.round, len(self.pool))
            if event is not None:
                self.events.append(event)
                self.stopped = "stalled" if event["action"] == "stopped" else ""
            accepted = offered / max(candidates.made, 1)
            if self._due(schedule, before, len(self.pool)):
                self._record("finished" if finish_each else "loop", tau, accepted, candidates.info)
            if asked == offered and save is not None:
                save(self.state())
            if callback is not None:
                seconds = time.perf_counter() - started
                eta = seconds * self.ledger.remaining / max(len(self.pool) - first, 1)
                told = Progress(
                    self.arm, self.round, self.ledger.used, self.ledger.budget, accepted, tau,
                    candidates.info, seconds, eta,
                )  # fmt: skip
                if callback(told):
                    self.stopped = "callback"
            if asked < offered:
                break
        if self.stopped != "callback":
            self.steps += self._finish()
        self._record("final", self.guard.tau, None, {})

    def state(self) -> dict[str, Any]:
        """What the next process needs to go on.

        Returns
        -------
        dict
            Tensors and plain values.
        """
        return {
            "round": self.round,
            "tau": self.guard.tau,
            "stalls": self.guard.stalls,
            "steps": self.steps,
            "stopped": self.stopped,
            "curve": deepcopy(self.curve),
            "events": deepcopy(self.events),
            "plan": list(self.plan),
            "substitute": self.substitute.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "images": self.pool.images.clone(),
            "labels": self.pool.labels.clone(),
        }

    def load(self, state: dict[str, Any]) -> None:
        """Go on from a saved state.

        Parameters
        ----------
        state : dict
            From :meth:`state`.
        """
        for name in ("round", "steps", "stopped", "curve", "events", "plan"):
            setattr(self, name, state[name])
        self.guard.tau, self.guard.stalls = state["tau"], state["stalls"]
        self.substitute.load_state_dict(state["substitute"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.pool.add(state["images"], state["labels"])

    def _optimizer_of(self, substitute: nn.Module) -> torch.optim.Optimizer:
        wanted = [p for p in substitute.parameters() if p.requires_grad]
        return torch.optim.SGD(wanted, lr=self.config.lr, momentum=0.9)

    def _ask(self, candidates: Candidates, known: list[Any]) -> None:
        images, values = candidates.images, unit(candidates.images)
        self._recognise(values)
        labels = self.target.tensor(known)
        limit = len(images) if self.limit is None else self.limit - len(self.pool)
        rest = values[len(known) : limit]
        if len(rest):
            labels = torch.cat([labels, self.target.ask(rest, self.ledger, "attack", self.round)])
        self.pool.add(images[: len(labels)], labels)

    def _recognise(self, values: Tensor) -> None:
        """The ledger's answers are to these rows: another number of threads makes others."""
        start = 0
        for rows, digest in self.ledger.digests("attack", self.round):
            if digest and fingerprint(values[start : start + rows]) != digest:
                raise_invalid(
                    "checkpoint",
                    f"others in round {self.round} of {self.arm}",
                    "the images that were asked for",
                    fix="Go on where the run began, with as many threads (torch.set_num_threads)",
                )
            start += rows

    def _fit(self, *names: str | int) -> int:
        return fit_substitute(self.substitute, self.optimizer, self.pool, self.config, self.seed, *names)

    def _finish(self) -> int:
        return sum(self._fit("final", index) for index in range(self.config.final_rounds))

    @staticmethod
    def _due(schedule: Schedule, before: int, after: int) -> bool:
        if isinstance(schedule, str):
            return after > before
        if isinstance(schedule, int):
            return after // schedule > before // schedule
        return any(before < point <= after for point in schedule)

    def _record(self, phase: str, tau: float, accepted: float | None, info: dict[str, float]) -> None:
        measured = self
        if phase == "finished":
            measured = self._finished_copy()
        labels = self.pool.labels if self.pool.labels.ndim == 1 else self.pool.labels.argmax(1)
        self.curve.append(
            {
                "arm": self.arm,
                "round": self.round,
                "queries": len(self.pool),
                "phase": phase,
                **self.evaluation.measure(measured.substitute),
                "accept_rate": accepted,
                "tau": tau,
                "label_entropy": entropy(torch.bincount(labels, minlength=1)),
                "train_steps": measured.steps,
                **info,
            }
        )

    def _finished_copy(self) -> Campaign:
        other = Campaign(
            self.arm, self.source, self.target, deepcopy(self.substitute), self.config, self.seed,
            self.ledger, self.evaluation, steps=self.steps,
        )  # fmt: skip
        other.optimizer.load_state_dict(deepcopy(self.optimizer.state_dict()))
        other.pool = self.pool
        other.steps += other._finish()
        return other
