"""What an audit gives: the substitute, the curve, the ledgers, and the report in every form."""

from __future__ import annotations

import csv
import io
import json
import math
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from graftkit.core.extras import require
from graftkit.core.files import whole_file
from graftkit.methods.qedg.campaign import Campaign
from graftkit.methods.qedg.metrics import queries_to_kappa
from graftkit.methods.qedg.pool import unit
from graftkit.methods.qedg.report import html_page, text_report

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["AuditResult"]

SCHEMA = "graftkit.qedg.report 1"
THRESHOLDS = (0.5, 0.7, 0.9)


@dataclass
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
    queries: Tensor = field(repr=False)
    answers: Tensor = field(repr=False)
    seconds: float = 0.0

    @classmethod
    def collect(
        cls,
        campaigns: dict[str, Campaign],
        majority: dict[str, Any] | None,
        settings: dict[str, Any],
        seconds: float,
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
        low, high = settings["value_range"]
        attack.substitute.eval()
        return cls(
            substitute=attack.substitute.net,  # type: ignore[arg-type]  # Scaled's, a module
            curve=curve,
            ledger=attack.ledger.as_dict(),
            baseline_ledgers={a: c.ledger.as_dict() for a, c in campaigns.items() if a != "qedg"},
            settings=settings,
            events=[{"arm": arm, **event} for arm, c in campaigns.items() for event in c.events],
            stopped=attack.stopped,
            queries=low + unit(attack.pool.images) * (high - low),
            answers=attack.pool.labels.clone(),
            seconds=seconds,
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
        plain: dict[str, Any] = _plain(
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
        return plain

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
        return _written(json.dumps(self.as_dict(), indent=1, sort_keys=True) + "\n", path)

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
        rows = self.as_dict()["curve"]
        names = list(dict.fromkeys(name for row in rows for name in row))
        buffer = io.StringIO()
        writer = csv.DictWriter(buffer, names, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        return _written(buffer.getvalue(), path)

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
        image = None
        if figure:
            image = self._png()
        return _written(html_page(self.as_dict(), image), path)

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
        if ax is None:
            figure = require("matplotlib.figure", extra="examples", distribution="matplotlib")
            ax = figure.Figure(figsize=(6.4, 4.2), layout="constrained").subplots()
        for arm in self.arms:
            rows = [row for row in self.rows(arm) if not math.isnan(row["kappa"])]
            if not rows:
                continue
            x = [row["queries"] for row in rows]
            (line,) = ax.plot(x, [row["kappa"] for row in rows], marker=".", label=arm)
            bounds = [[row[f"kappa_{side}"] for row in rows] for side in ("low", "high")]
            ax.fill_between(x, bounds[0], bounds[1], alpha=0.15, color=line.get_color())
        for threshold in THRESHOLDS:
            ax.axhline(threshold, color="0.8", linewidth=0.8, zorder=0)
        ax.set(
            xlabel="queries to the target",
            ylabel="Cohen's kappa with the target (95 %)",
            title=f"Copying {self.settings['target_id']}",
        )
        if ax.get_legend_handles_labels()[0]:
            ax.legend(loc="best")
        return ax

    def _png(self) -> bytes:
        figure: Any = self.plot().figure
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", dpi=110)
        return buffer.getvalue()

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
        _written(self.report(), target / "report.txt")
        with whole_file(target / "report.png") as file:
            file.write(self._png())
        self.export_queries(target / "queries.npz")
        with whole_file(target / "substitute.pt") as file:
            torch.save(self.substitute.state_dict(), file)
        return target


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _plain(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(entry) for entry in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def _written(text: str, path: str | os.PathLike[str] | None) -> str:
    if path is not None:
        with whole_file(path) as file:
            file.write(text.encode())
    return text
