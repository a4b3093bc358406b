"""The audit: how many queries until a model of your own is copied.

>>> import torch
>>> net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 3))
>>> auditor = QEDGAuditor(
...     lambda x: x.flatten(1)[:, :3], (1, 8, 8), 3, substitute=net, budget=20, owner_confirmation=True,
...     target_id="toy v1", config=QEDGConfig.preset("digits", g_steps=2, inner_epochs=1, final_rounds=1))
>>> result = auditor.run(torch.rand(30, 1, 8, 8), baselines=())
>>> result.ledger["attack_queries"] <= 20
True
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from graftkit.core.devices import check_device
from graftkit.core.validation import check_bool, check_integer, raise_invalid
from graftkit.methods.qedg.arms import Arms, collected
from graftkit.methods.qedg.baselines import check_baselines
from graftkit.methods.qedg.campaign import Schedule
from graftkit.methods.qedg.checkpoint import fingerprint
from graftkit.methods.qedg.fitting import fitting_substitute, resolved
from graftkit.methods.qedg.inputs import (
    check_confirmation,
    check_range,
    check_rows,
    check_schedule,
    check_shape,
    check_true_labels,
)
from graftkit.methods.qedg.progress import Progress
from graftkit.methods.qedg.result import AuditResult
from graftkit.methods.qedg.settings import QEDGConfig
from graftkit.methods.qedg.target import Target

__all__ = ["QEDGAuditor"]


class QEDGAuditor:
    r"""Measure how fast a data-free attacker with hard labels would copy a classifier that you own.

    The attacker knows the input's shape and range and the number of classes, and sees the label of each
    query. It trains a generator, round by round, whose images lie near the class boundaries of its copy
    so far, asks the target for their labels, and trains the copy on all answers. The audit works on a
    callable of this process; it has no client for remote services.

    Parameters
    ----------
    target : callable
        ``f(batch)`` to labels of shape (n,) or scores of shape (n, C); a module is called in eval mode.
    input_shape : tuple of int
        ``(c, H, W)``, or ``(d,)`` for vectors.
    num_classes : int
        C >= 2.
    substitute : torch.nn.Module
        What the attacker would train, from the target's inputs to logits of shape (n, C). It is copied,
        and stays as it is. Pretrained weights are a strong prior: say so by `substitute_pretrained`.
    budget : int
        The most attack queries, failed ones included.
    owner_confirmation : bool
        Must be True: you own the target, or act for its owner.
    target_id : str
        Name and version of the target, printed in the report.
    value_range : (float, float), default=(0.0, 1.0)
        What the target's inputs span.
    label_mode : {"hard", "soft"}, default="hard"
        "hard" reduces every answer to its label before anything else sees it; "soft" is no part of the
        published method.
    config : QEDGConfig or None, default=None
        Settings; ``None`` works from 8x8 pixels up.
    seed : int, default=0
        Of everything that the audit draws.
    device : str, default="cpu"
        Of generator and substitute.
    target_input : {"torch", "numpy"}, default="torch"
        What the target is given.
    substitute_pretrained : bool, default=False
        Printed in the report.

    Raises
    ------
    TypeError
        If an argument has the wrong type.
    ValueError
        If it has a wrong value, the confirmation is missing, or the substitute does not fit.

    Notes
    -----
    Source: Pei et al., AAAI 2025, arXiv 2412.15276, by its released code; the paper's full text was not
    read, so its tables are not reproduced here. A target that answers the same row differently each time
    gives a run that cannot be repeated bit for bit.
    """

    def __init__(
        self,
        target: Callable[[Any], Any],
        input_shape: Sequence[int],
        num_classes: int,
        *,
        substitute: nn.Module,
        budget: int,
        owner_confirmation: bool,
        target_id: str,
        value_range: tuple[float, float] = (0.0, 1.0),
        label_mode: str = "hard",
        config: QEDGConfig | None = None,
        seed: int = 0,
        device: str = "cpu",
        target_input: str = "torch",
        substitute_pretrained: bool = False,
    ) -> None:
        self.target_id = check_confirmation(owner_confirmation, target_id)
        self.input_shape = check_shape(input_shape)
        self.num_classes = check_integer("num_classes", num_classes, low=2)
        self.budget = check_integer("budget", budget, low=1)
        self.value_range = check_range(value_range)
        self.seed = check_integer("seed", seed, low=0)
        check_device(device)
        self.device = torch.device(device)
        self.substitute_pretrained = check_bool("substitute_pretrained", substitute_pretrained)
        if config is not None and not isinstance(config, QEDGConfig):
            raise_invalid("config", config, "a QEDGConfig or None", error=TypeError)
        self.config = resolved(config or QEDGConfig(), self.input_shape, self.num_classes)
        self.target = Target(
            target,
            self.input_shape,
            self.num_classes,
            self.value_range,
            label_mode=label_mode,
            inputs=target_input,
            batch_size=self.config.batch_size_query,
            on_error=self.config.on_error,
        )
        self._substitute = fitting_substitute(
            substitute, self.input_shape, self.num_classes, self.value_range, self.device
        )

    def run(
        self,
        eval_data: Any,
        *,
        eval_origin: str = "not stated",
        eval_every: Schedule = "round",
        finish_each: bool = False,
        eval_budget: int | None = None,
        baselines: Sequence[str] = ("noise", "majority"),
        public_data: Any = None,
        callback: Callable[[Progress], Any] | None = None,
        checkpoint: str | os.PathLike[str] | None = None,
        resume: bool = False,
        verbose: int = 0,
    ) -> AuditResult:
        """Spend the budget and measure.

        Each baseline spends a budget of its own, of the same size. Evaluation queries are counted apart.

        Parameters
        ----------
        eval_data : array-like of shape (n, ...), or a pair with labels of shape (n,)
            Rows in the value range, and the true labels or None. They are used for measuring only.
        eval_origin : str, default="not stated"
            Where they come from; printed in the report.
        eval_every : {"round"}, int or sequence of int, default="round"
            After which numbers of queries to measure; to the next whole round.
        finish_each : bool, default=False
            Measure each point on a copy that is trained to the end without queries, as an attacker who
            stops there would. Otherwise points before the last are of a substitute in mid-training.
        eval_budget : int or None, default=None
            The most evaluation queries, transfer attacks included; ``None`` for no limit.
        baselines : sequence of {"noise", "public", "majority"}, default=("noise", "majority")
            What to run beside the attack at equal queries and equal training. "public" needs
            `public_data`, and is added when that is given.
        public_data : array-like of shape (m, ...) or None, default=None
            Inputs that an attacker might own.
        callback : callable or None, default=None
            ``f(progress)`` after each round; a true answer stops.
        checkpoint : path-like or None, default=None
            A folder for the ledgers and the state after each round.
        resume : bool, default=False
            Go on with the run in that folder; the auditor's budget may be larger than it was.
        verbose : int, default=0
            1 shows a progress bar.

        Returns
        -------
        AuditResult
            Substitute, curve, ledgers, report.

        Raises
        ------
        TypeError
            If an argument has the wrong type.
        ValueError
            If it has a wrong value, or the folder holds another run.
        TargetError
            If the target fails; its rows count as spent, and the run can be resumed.
        DivergenceError
            If the substitute's scores are no longer finite, as after too large a step size.
        StallError
            If the filter lets nothing through and the settings ask for an error.
        """
        x, y = self._evaluation_rows(eval_data)
        schedule = check_schedule(eval_every)
        check_bool("resume", resume)
        check_bool("finish_each", finish_each)
        if not isinstance(eval_origin, str):
            raise_invalid("eval_origin", eval_origin, "a string", error=TypeError)
        if callback is not None and not callable(callback):
            raise_invalid("callback", callback, "a callable or None", error=TypeError)
        if not isinstance(verbose, bool):
            check_integer("verbose", verbose, low=0)
        if resume and checkpoint is None:
            raise_invalid("resume", resume, "False without a checkpoint folder")
        if eval_budget is not None:
            check_integer("eval_budget", eval_budget, low=1)
            if eval_budget < len(x):
                raise_invalid("eval_budget", eval_budget, f"at least the {len(x)} evaluation rows")
        public = None if public_data is None else self.target.unit(self._rows("public_data", public_data))
        names = check_baselines(baselines, public=public is not None)
        started = time.perf_counter()
        description = self._description(x, y, public, schedule, finish_each)
        arms = Arms(
            self.target, self._substitute, self.config, self.seed, self.device, self.budget, names, public
        )
        finished, evaluation = arms.run(
            x, y, schedule, finish_each=finish_each, eval_budget=eval_budget, callback=callback,
            checkpoint=checkpoint, description=description, resume=resume, verbose=verbose,
        )  # fmt: skip
        pool = finished["qedg"].pool
        majority = evaluation.majority(pool.labels) if "majority" in names and len(pool) else None
        return collected(
            finished,
            majority,
            {
                "target_id": self.target_id,
                "owner_confirmation": True,
                "eval_rows": len(x),
                "eval_origin": eval_origin,
                "true_labels": y is not None,
                "transfer_eps": self.config.transfer_eps,
                "transfer_rows": len(evaluation.attacked),
                "threads": torch.get_num_threads(),
                "torch": torch.__version__,
                **{k: v for k, v in description.items() if not k.endswith("hash")},
                "config": self.config.as_dict(),
                "substitute_pretrained": self.substitute_pretrained,
            },
            time.perf_counter() - started,
        )

    def _evaluation_rows(self, eval_data: Any) -> tuple[Tensor, Tensor | None]:
        x, y = eval_data if isinstance(eval_data, tuple) and len(eval_data) == 2 else (eval_data, None)
        rows = self._rows("eval_data", x)
        return rows, None if y is None else check_true_labels(y, len(rows), self.num_classes)

    def _rows(self, name: str, x: Any) -> Tensor:
        return check_rows(name, x, self.input_shape, self.value_range)

    def _description(
        self, x: Tensor, y: Tensor | None, public: Tensor | None, schedule: Schedule, finish_each: bool
    ) -> dict[str, Any]:
        return {
            "target_id": self.target_id,
            "input_shape": list(self.input_shape),
            "num_classes": self.num_classes,
            "value_range": list(self.value_range),
            "label_mode": self.target.label_mode,
            "seed": self.seed,
            "config_hash": self.config.fingerprint(),
            "substitute": type(self._substitute).__name__,
            "substitute_hash": fingerprint(self._substitute),
            "eval_hash": fingerprint(x, y),
            "public_hash": fingerprint(public),
            "eval_every": schedule if isinstance(schedule, str | int) else list(schedule),
            "finish_each": finish_each,
        }
