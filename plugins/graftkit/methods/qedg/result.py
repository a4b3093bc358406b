"""What an audit gives: the substitute, the curve, the ledgers, and the report in every form."""

from __future__ import annotations

import io
import json
import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from graftkit.core.files import whole_file
from graftkit.methods.qedg.exports import csv_text, draw_curves, plain, png, written
from graftkit.methods.qedg.metrics import THRESHOLDS, queries_to_kappa
from graftkit.methods.qedg.report import html_page, text_report

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["AuditResult"]

SCHEMA = "graftkit.qedg.report 1"


@dataclass(repr=False)
class AuditResult:
    """An audit's outcome.

    Parameters
    ----------
    substitute : torch.nn.Module
        The attacker's copy at the end (the last, not the best on the evaluation rows).
    curve : list of dict
        A row for each measurement of each arm.
    ledger : dict
        Counters of the attack's ledger, evaluation queries apart.
    baseline_ledgers : dict
        Counters of each baseline's own ledger.
    settings : dict
        What was audited, and how.
    events : list of dict
        Stalls, and what was done about them.
    stopped : str
        "", "stalled" or "callback".
    queries : Tensor of shape (n, ...)
        What was asked, values in the target's range.
    answers : Tensor of shape (n,) or (n, C)
        What was answered.
    seconds : float
        Wall time of this process.
    """

    substitute: nn.Module
    curve: list[dict[str, Any]]
    ledger: dict[str, Any]
    baseline_ledgers: dict[str, dict[str, Any]]
    settings: dict[str, Any]
    events: list[dict[str, Any]]
    stopped: str
    queries: Tensor
    answers: Tensor
    seconds: float = 0.0

    def __repr__(self) -> str:
        """One line: a notebook's cell shall not print substitute and curve."""
        row = self.final() if self.rows() else {}
        kappa = row.get("kappa")
        found = "no kappa" if kappa is None or math.isnan(kappa) else f"kappa {kappa:.3f}"
        return (
            f"AuditResult({self.settings.get('target_id')!r}: {self.ledger.get('attack_queries')} queries, "
            f"{found}; arms {', '.join(self.arms) or 'none'}; see report())"
        )

    @property
    def arms(self) -> list[str]:
        """The attack and its baselines.

        Returns
        -------
        list of str
            In the order in which they ran.
        """
        return list(dict.fromkeys(row["arm"] for row in self.curve))

    def rows(self, arm: str = "qedg") -> list[dict[str, Any]]:
        """The curve of one arm.

        Parameters
        ----------
        arm : str, default="qedg"
            "qedg", or a baseline's name.

        Returns
        -------
        list of dict
            By number of queries.
        """
        return [row for row in self.curve if row["arm"] == arm]

    def final(self, arm: str = "qedg") -> dict[str, Any]:
        """The last measurement of one arm.

        Parameters
        ----------
        arm : str, default="qedg"
            "qedg", or a baseline's name.

        Returns
        -------
        dict
            A row of the curve.

        Raises
        ------
        KeyError
            If the arm was not run.
        """
        rows = self.rows(arm)
        if not rows:
            raise KeyError(f"arm: expected one of {self.arms}, got {arm!r}")
        return rows[-1]

    def queries_to_kappa(self, arm: str = "qedg") -> dict[str, int | None]:
        """The fewest queries at which kappa reached 0.5, 0.7 and 0.9.

        Parameters
        ----------
        arm : str, default="qedg"
            "qedg", or a baseline's name.

        Returns
        -------
        dict of str to (int or None)
            ``None`` where it was not reached within the budget.
        """
        return queries_to_kappa(self.rows(arm), THRESHOLDS)

    def as_dict(self) -> dict[str, Any]:
        """Everything but tensors, as JSON can hold it (NaN is None).

        Returns
        -------
        dict
            ``schema, settings, ledger, baseline_ledgers, curve, queries_to_kappa, events, stopped, seconds``.
        """
        figures: dict[str, Any] = plain(
            {
                "schema": SCHEMA,
                "settings": self.settings,
                "ledger": self.ledger,
                "baseline_ledgers": self.baseline_ledgers,
                "curve": self.curve,
                "queries_to_kappa": {arm: self.queries_to_kappa(arm) for arm in self.arms},
                "events": self.events,
                "stopped": self.stopped,
                "seconds": self.seconds,
            }
        )
        return figures

    def report(self) -> str:
        """The report as plain text, caveats included.

        Returns
        -------
        str
            Some sixty lines.
        """
        return text_report(self.as_dict())

    def to_json(self, path: str | os.PathLike[str] | None = None) -> str:
        """The figures as JSON.

        Parameters
        ----------
        path : path-like or None, default=None
            Where to write them, too.

        Returns
        -------
        str
            The text.
        """
        return written(json.dumps(self.as_dict(), indent=1, sort_keys=True) + "\n", path)

    def to_csv(self, path: str | os.PathLike[str] | None = None) -> str:
        """The curves as comma-separated values.

        Parameters
        ----------
        path : path-like or None, default=None
            Where to write them, too.

        Returns
        -------
        str
            The text.
        """
        return written(csv_text(self.as_dict()["curve"]), path)

    def to_html(self, path: str | os.PathLike[str] | None = None, *, figure: bool = True) -> str:
        """The report as one page that needs nothing else, the curve in it.

        Parameters
        ----------
        path : path-like or None, default=None
            Where to write it, too.
        figure : bool, default=True
            With the curve, which needs matplotlib.

        Returns
        -------
        str
            The page.
        """
        figures = self.as_dict()
        return written(html_page(figures, png(figures) if figure else None), path)

    def plot(self, ax: Axes | None = None) -> Axes:
        """Draw kappa against queries, with intervals, a line an arm.

        Parameters
        ----------
        ax : matplotlib.axes.Axes or None, default=None
            Where; ``None`` makes a figure that no window shows.

        Returns
        -------
        matplotlib.axes.Axes
            With title, labels and legend.

        Raises
        ------
        ImportError
            If matplotlib is missing.
        """
        return draw_curves(self.as_dict(), ax)

    def export_queries(self, path: str | os.PathLike[str]) -> None:
        """Write the attack's queries and answers, for tests of an anomaly detector of your own.

        Parameters
        ----------
        path : path-like
            An npz file with ``images`` (in the target's range) and ``labels``.
        """
        with whole_file(path) as file:
            np.savez_compressed(file, images=self.queries.numpy(), labels=self.answers.numpy())

    def save(self, folder: str | os.PathLike[str]) -> Path:
        """Write every form of the report, and the substitute's weights.

        Parameters
        ----------
        folder : path-like
            It is made.

        Returns
        -------
        pathlib.Path
            The folder with ``report.{json,csv,html,txt,png}``, ``queries.npz`` and ``substitute.pt`` (a state
            dict; load it with ``weights_only=True``).
        """
        target = Path(folder)
        target.mkdir(parents=True, exist_ok=True)
        self.to_json(target / "report.json")
        self.to_csv(target / "report.csv")
        self.to_html(target / "report.html")
        written(self.report(), target / "report.txt")
        with whole_file(target / "report.png") as file:
            file.write(png(self.as_dict()))
        self.export_queries(target / "queries.npz")
        buffer = io.BytesIO()
        torch.save(
            self.substitute.state_dict(), buffer
        )  # on a full disk torch's writer has an error of its own
        with whole_file(target / "substitute.pt") as file:
            file.write(buffer.getbuffer())
        return target
