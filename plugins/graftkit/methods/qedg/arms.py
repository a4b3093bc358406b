"""The attack and its baselines, one after the other, each with a ledger and a substitute of its own.

A baseline follows the attack's plan and gets as many answers as the attack got, so that an attack whose
queries failed is not compared with a luckier one. Which of an arm's rows are spent is written in its ledger;
ledgers and states are looked at before the target is asked anything.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import ExitStack
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from graftkit.core.progress import progress_bar
from graftkit.methods.qedg.baselines import NoiseQueries, PublicQueries
from graftkit.methods.qedg.campaign import Campaign, Schedule, Source
from graftkit.methods.qedg.checkpoint import RunFolder
from graftkit.methods.qedg.evaluation import Evaluation, Scaled
from graftkit.methods.qedg.generation import GeneratedQueries
from graftkit.methods.qedg.ledger import QueryLedger
from graftkit.methods.qedg.pool import unit
from graftkit.methods.qedg.progress import Progress
from graftkit.methods.qedg.result import AuditResult
from graftkit.methods.qedg.settings import QEDGConfig
from graftkit.methods.qedg.target import Target

__all__ = ["Arms", "collected"]


@dataclass(frozen=True)
class Arms:
    """One run of attack and baselines.

    Parameters
    ----------
    target : Target
        Who answers.
    substitute : torch.nn.Module
        Who learns, on the target's value range; copied for each arm.
    config : QEDGConfig
        Settings, resolved.
    seed : int
        Of everything drawn.
    device : torch.device
        Of generator and substitutes.
    budget : int
        Of each arm.
    baselines : tuple of str
        Their names.
    public : Tensor of shape (m, ...) or None
        Values in [0, 1].
    """

    target: Target
    substitute: nn.Module
    config: QEDGConfig
    seed: int
    device: torch.device
    budget: int
    baselines: tuple[str, ...]
    public: Tensor | None

    def run(
        self,
        x: Tensor,
        y: Tensor | None,
        schedule: Schedule,
        *,
        finish_each: bool,
        eval_budget: int | None,
        callback: Callable[[Progress], Any] | None,
        checkpoint: str | os.PathLike[str] | None,
        description: dict[str, Any],
        resume: bool,
        verbose: int,
    ) -> tuple[dict[str, Campaign], Evaluation]:
        """Spend every arm's budget.

        Parameters
        ----------
        x : Tensor of shape (n, ...)
            Evaluation rows in the target's range.
        y : Tensor of shape (n,) or None
            Their true labels.
        schedule : str, int or tuple of int
            When to measure.
        finish_each : bool
            Measure finished copies.
        eval_budget : int or None
            The most evaluation queries of the attack.
        callback : callable or None
            Told after each round.
        checkpoint : path-like or None
            The run's folder.
        description : dict
            By which the folder knows the run.
        resume : bool
            Go on with what is there.
        verbose : int
            Progress bars.

        Returns
        -------
        (dict of str to Campaign, Evaluation)
            The arms that ran, the attack first, and what they were measured on.
        """
        folder = None if checkpoint is None else RunFolder(checkpoint, description, resume=resume)
        names = ("qedg", *(name for name in self.baselines if name != "majority"))
        finished: dict[str, Campaign] = {}
        with ExitStack() as stack:
            ledgers, states = {}, {}
            for name in names:
                path = None if folder is None else folder.ledger(name)
                limit = eval_budget if name == "qedg" else None
                ledgers[name] = ledger = QueryLedger(self.budget, path, eval_budget=limit)
                stack.callback(ledger.close)
                states[name] = None if folder is None else folder.load(name, ledger.used)
            evaluation = Evaluation(x, y, self.target, ledgers["qedg"], self.config)
            for name in names:
                attack = finished.get("qedg")
                campaign = Campaign(
                    name, self._source(name, attack.plan if attack else []), self.target,
                    Scaled(deepcopy(self.substitute), self.target.low, self.target.high), self.config,
                    self.seed, ledgers[name], evaluation, limit=len(attack.pool) if attack else None,
                )  # fmt: skip
                if (state := states[name]) is not None:
                    campaign.load(state)
                save = None
                if folder is not None:
                    save = lambda state, name=name, folder=folder: folder.save(name, state)  # noqa: E731
                with progress_bar(verbose=verbose, desc=name, total=self.budget) as bar:
                    bar.update(len(campaign.pool))
                    campaign.run(schedule, finish_each=finish_each, callback=_shown(bar, callback), save=save)
                finished[name] = campaign
                if campaign.stopped == "callback":
                    break
        return finished, evaluation

    def _source(self, name: str, plan: list[int]) -> Source:
        shape, quantised = self.target.input_shape, self.config.quantise
        if name == "qedg":
            return GeneratedQueries(shape, self.target.num_classes, self.config, self.seed, self.device)
        if name == "noise" or self.public is None:
            return NoiseQueries(shape, plan, quantised=quantised, seed=self.seed)
        return PublicQueries(self.public, plan, quantised=quantised, seed=self.seed)


def _shown(bar: Any, callback: Callable[[Progress], Any] | None) -> Callable[[Progress], Any]:
    def told(progress: Progress) -> Any:
        bar.update(progress.used - bar.n)
        bar.set_postfix(accepted=f"{progress.accept_rate:.0%}", tau=progress.tau)
        return callback(progress) if callback is not None else False

    return told


def collected(
    campaigns: dict[str, Campaign], majority: dict[str, Any] | None, settings: dict[str, Any], seconds: float
) -> AuditResult:
    """The outcome of finished campaigns.

    Parameters
    ----------
    campaigns : dict of str to Campaign
        The attack, then the baselines.
    majority : dict or None
        Measures of the majority label.
    settings : dict
        What was audited, and how.
    seconds : float
        Wall time.

    Returns
    -------
    AuditResult
        The outcome.
    """
    attack = campaigns["qedg"]
    curve = [row for campaign in campaigns.values() for row in campaign.curve]
    if majority is not None:
        last = {"round": attack.round, "queries": len(attack.pool), "phase": "final", "train_steps": 0}
        curve.append({"arm": "majority", **last, **majority})
    attack.substitute.eval()
    return AuditResult(
        substitute=attack.substitute.net,  # type: ignore[arg-type]  # Scaled's, a module
        curve=curve,
        ledger=attack.ledger.as_dict(),
        baseline_ledgers={a: c.ledger.as_dict() for a, c in campaigns.items() if a != "qedg"},
        settings=settings,
        events=[{"arm": arm, **event} for arm, c in campaigns.items() for event in c.events],
        stopped=attack.stopped,
        queries=attack.target.native(unit(attack.pool.images)),
        answers=attack.pool.labels.clone(),
        seconds=seconds,
    )
