"""Measuring a substitute on rows that serve nothing else: agreement, kappa, accuracy, transfer attacks.

The target's labels of the evaluation rows are asked for once a run. The transfer attack is one step of
FGSM on the substitute, untargeted, on rows that the target gets right; success is the share of which the
target then says something else (the authors' measure; where no true labels are given, the target's own
stand for them).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from graftkit.methods.qedg.generation import DivergenceError
from graftkit.methods.qedg.ledger import BudgetError, QueryLedger
from graftkit.methods.qedg.metrics import (
    agreement,
    agreement_interval,
    cohen_kappa,
    kappa_interval,
)
from graftkit.methods.qedg.modes import frozen
from graftkit.methods.qedg.settings import QEDGConfig
from graftkit.methods.qedg.target import Target

__all__ = ["Evaluation", "Scaled", "predict", "transfer_examples"]


class Scaled(nn.Module):
    """A network that takes the target's value range, as one that takes [0, 1].

    Parameters
    ----------
    net : torch.nn.Module
        The substitute.
    low, high : float
        The value range.
    """

    def __init__(self, net: nn.Module, low: float, high: float) -> None:
        super().__init__()
        self.net, self.low, self.high = net, low, high

    def forward(self, x: Tensor) -> Tensor:
        """Scores.

        Parameters
        ----------
        x : Tensor of shape (n, ...)
            Values in [0, 1].

        Returns
        -------
        Tensor of shape (n, C)
            Logits.
        """
        scores: Tensor = self.net(self.low + x * (self.high - self.low))
        return scores


def predict(substitute: nn.Module, x: Tensor, batch_size: int = 512) -> Tensor:
    """Labels that a substitute gives.

    Parameters
    ----------
    substitute : torch.nn.Module
        On values in [0, 1].
    x : Tensor of shape (n, ...)
        Rows.
    batch_size : int, default=512
        Rows a pass.

    Returns
    -------
    Tensor of shape (n,)
        int64, on the CPU.

    Raises
    ------
    DivergenceError
        If a score is not finite: its label would say that nothing was copied.
    """
    device = next(substitute.parameters()).device
    with frozen(substitute), torch.no_grad():
        scores = torch.cat([substitute(part.to(device)).cpu() for part in x.split(batch_size)])
    if not bool(torch.isfinite(scores).all()):
        raise DivergenceError("measurement: the substitute's scores are not finite; lower lr")
    return scores.argmax(1)


def transfer_examples(
    substitute: nn.Module, x: Tensor, y: Tensor, eps: float, batch_size: int = 512
) -> Tensor:
    """One step of FGSM on the substitute, untargeted.

    Parameters
    ----------
    substitute : torch.nn.Module
        On values in [0, 1].
    x : Tensor of shape (n, ...)
        Rows.
    y : Tensor of shape (n,)
        Their labels, from which the step leads away.
    eps : float
        Its length, in every coordinate.
    batch_size : int, default=512
        Rows a pass.

    Returns
    -------
    Tensor of shape (n, ...)
        Values in [0, 1].
    """
    device = next(substitute.parameters()).device
    moved = []
    with frozen(substitute):
        for part, labels in zip(x.split(batch_size), y.split(batch_size), strict=True):
            leaf = part.to(device).clone().requires_grad_(True)
            loss = cross_entropy(substitute(leaf), labels.to(device), reduction="sum")
            (gradient,) = torch.autograd.grad(loss, leaf)
            moved.append((leaf + eps * gradient.sign()).clamp(0, 1).detach().cpu())
    return torch.cat(moved) if moved else x


class Evaluation:
    """Rows to measure on, and the target's labels of them.

    Parameters
    ----------
    x : Tensor of shape (n, ...)
        Values in the target's range: the target gets them as they are, not through [0, 1] and back.
    y : Tensor of shape (n,) or None
        True labels.
    target : Target
        The audited model.
    ledger : QueryLedger
        Where evaluation and transfer queries are booked.
    config : QEDGConfig
        The transfer attack's settings.
    """

    def __init__(
        self, x: Tensor, y: Tensor | None, target: Target, ledger: QueryLedger, config: QEDGConfig
    ) -> None:
        self.x, self.y, self.target, self.ledger, self.config = target.unit(x), y, target, ledger, config
        known = target.tensor(ledger.answers("evaluation"))[: len(x)]
        if len(known) < len(x):
            left = ledger.eval_remaining
            if left is not None and left < len(x) - len(known):
                raise BudgetError(
                    f"evaluation: {len(x) - len(known)} queries needed, {left} left in eval_budget"
                )
            known = torch.cat([known, target.ask(x[len(known) :], ledger, "evaluation", mapped=True)])
            if len(known) < len(x):  # retries have spent what was left
                raise BudgetError(f"evaluation: {len(x) - len(known)} rows unanswered, eval_budget is spent")
        self.labels = known if known.ndim == 1 else known.argmax(1)
        truth = self.labels if y is None else y
        self.attacked = torch.nonzero(self.labels == truth).flatten()[: config.transfer_rows]
        self.truth = truth

    def majority(self, answers: Tensor) -> dict[str, Any]:
        """What a substitute would reach that always says the commonest answer.

        Parameters
        ----------
        answers : Tensor of shape (m,) or (m, C)
            Answers to queries.

        Returns
        -------
        dict
            As :meth:`measure`, without a transfer attack.
        """
        labels = answers if answers.ndim == 1 else answers.argmax(1)
        label = torch.bincount(labels, minlength=1).argmax()
        return self._compare(label.expand(len(self.x)))

    def measure(self, substitute: nn.Module) -> dict[str, Any]:
        """All measures of one substitute.

        Parameters
        ----------
        substitute : torch.nn.Module
            On values in [0, 1]; it comes back as it was.

        Returns
        -------
        dict
            ``agreement, kappa`` with bounds, ``accuracy`` and ``transfer_success`` (None where not known).
        """
        return {
            **self._compare(predict(substitute, self.x)),
            "transfer_success": self._transfer(substitute),
        }

    def _compare(self, predicted: Tensor) -> dict[str, Any]:
        classes = self.target.num_classes
        share = agreement(predicted, self.labels)
        low, high = agreement_interval(share, len(predicted))
        kappa_low, kappa_high = kappa_interval(predicted, self.labels, classes)
        return {
            "agreement": share,
            "agreement_low": low,
            "agreement_high": high,
            "kappa": cohen_kappa(predicted, self.labels, classes),
            "kappa_low": kappa_low,
            "kappa_high": kappa_high,
            "accuracy": None if self.y is None else agreement(predicted, self.y),
            "transfer_success": None,
        }

    def _transfer(self, substitute: nn.Module) -> float | None:
        rows = self.attacked
        left = self.ledger.eval_remaining
        if not len(rows) or (left is not None and left < len(rows)):
            return None
        moved = transfer_examples(substitute, self.x[rows], self.truth[rows], self.config.transfer_eps)
        answers = self.target.ask(moved, self.ledger, "transfer")
        if len(answers) < len(rows):  # retries have spent what was left
            return None
        labels = answers if answers.ndim == 1 else answers.argmax(1)
        return 1 - agreement(labels, self.truth[rows])
