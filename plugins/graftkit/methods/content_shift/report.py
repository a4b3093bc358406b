"""What the guideline found: a table, a verdict in words, pictures to look at, JSON.

>>> gains = {"edges": {"mse": [[0.2, 0.3, 0.1, 0.2, 0.3, 0.1]]}}
>>> report = GateReport.from_gains(gains, metrics=("mse",))
>>> report.verdict
{'edges': 'helps'}
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from graftkit.core.files import whole_file
from graftkit.core.validation import check_integer, raise_invalid
from graftkit.methods.content_shift.gains import summarise, verdict
from graftkit.methods.content_shift.sheet import close_sheet, draw_sheet

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["GateReport"]

GAINS = ("gain_mean", "control_gain")
STORED = {"table": list, "verdict": dict, "ranking": list, "settings": dict}
COLUMNS = ("technique", "metric", "gain_mean", "gain_sd", "improved_share", "p_value", "n", "control_gain")


@dataclass(frozen=True)
class GateReport:
    """The guideline's outcome for several techniques.

    Parameters
    ----------
    table : list of dict
        One row for each technique and metric: ``technique``, ``metric``, ``gain_mean``, ``gain_sd``,
        ``improved_share``, ``p_value``, ``n`` (images times seeds) and ``control_gain``, the mean gain of
        the technique's negative control, None where there is none.
    verdict : dict of str
        In words for each technique, by the first metric.
    ranking : list of str
        Techniques by mean gain in the first metric, best first.
    settings : dict
        How it was measured.
    images : dict of Tensor, each of shape (seeds, N, 3, H, W), or None
        Reconstructions by technique, ``"basic"`` among them.
    inputs : Tensor of shape (N, 3, H, W) or None
        What was reconstructed.
    """

    table: list[dict[str, Any]]
    verdict: dict[str, str]
    ranking: list[str]
    settings: dict[str, Any] = field(default_factory=dict)
    images: dict[str, Tensor] | None = field(default=None, repr=False, compare=False)
    inputs: Tensor | None = field(default=None, repr=False, compare=False)

    @classmethod
    def from_gains(
        cls,
        gains: Mapping[str, Mapping[str, Any]],
        metrics: Sequence[str],
        controls: Mapping[str, Mapping[str, Any]] | None = None,
        *,
        settings: Mapping[str, Any] | None = None,
        images: dict[str, Tensor] | None = None,
        inputs: Tensor | None = None,
    ) -> "GateReport":
        """Summarise gains.

        Parameters
        ----------
        gains : mapping of str to mapping of str to array-like of shape (seeds, N)
            By technique and metric.
        metrics : sequence of str
            The order of columns; the first decides ranking and verdict.
        controls : mapping or None, default=None
            Gains of the negative controls, of the same form, for some of the techniques.
        settings : mapping or None, default=None
            Kept beside the figures.
        images : dict of Tensor, each of shape (seeds, N, 3, H, W), or None, default=None
            Reconstructions.
        inputs : Tensor of shape (N, 3, H, W) or None, default=None
            Inputs.

        Returns
        -------
        GateReport
            The summary.
        """
        table, words, means = [], {}, {}
        for name, by_metric in gains.items():
            for metric in metrics:
                own = summarise(by_metric[metric])
                against = [summarise(controls[name][metric])] if controls and name in controls else []
                table.append(
                    {
                        "technique": name,
                        "metric": metric,
                        "gain_mean": own.mean,
                        "gain_sd": None if math.isnan(own.sd) else own.sd,
                        "improved_share": own.improved_share,
                        "p_value": own.p_value,
                        "n": own.n,
                        "control_gain": against[0].mean if against else None,
                    }
                )
                if metric == metrics[0]:
                    words[name], means[name] = verdict(own, against), own.mean
        # Stable where two are equal: by name, so that the order of techniques does not matter.
        ranking = sorted(means, key=lambda name: (-means[name], name))
        return cls(table, words, ranking, dict(settings or {}), images, inputs)

    def __str__(self) -> str:
        rows = [[*COLUMNS, "verdict"]]
        for row in self.table:
            cells = [row[c] if isinstance(row[c], str | int) else _figure(row[c]) for c in COLUMNS]
            rows.append([*map(str, cells), self.verdict[row["technique"]]])
        widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
        return "\n".join(
            "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
            for row in rows
        )

    def to_json(self, path: str | Path) -> None:
        """Write everything but the pictures; a failed write leaves nothing behind.

        Parameters
        ----------
        path : str or Path
            The file.
        """
        stored = {name: getattr(self, name) for name in STORED} | {"table": list(map(_plain, self.table))}
        with whole_file(path) as part:
            part.write(json.dumps(stored, indent=1, allow_nan=False).encode())

    @classmethod
    def from_json(cls, path: str | Path) -> "GateReport":
        """Read what `to_json` wrote.

        Parameters
        ----------
        path : str or Path
            The file.

        Returns
        -------
        GateReport
            Without pictures.

        Raises
        ------
        ValueError
            If the file is no such report.
        """
        try:
            stored = json.loads(Path(path).read_text(encoding="utf-8"))
            for row in stored["table"]:
                row.update({key: float(row[key]) for key in GAINS if isinstance(row[key], str)})
            wrong = [name for name, kind in STORED.items() if not isinstance(stored[name], kind)]
            if wrong:
                raise ValueError(f"{wrong[0]} is no {STORED[wrong[0]].__name__}")
            return cls(**{name: stored[name] for name in STORED})
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise ValueError(f"path: expected a report written by to_json, got {path} ({error})") from error

    def plot(self, image: int = 0, seed: int = 0) -> "Figure":
        """Draw a sheet for one image: input, reconstructions, and where each is still away from the input.

        Parameters
        ----------
        image : int, default=0
            Which input.
        seed : int, default=0
            Which of the seeds, by position.

        Returns
        -------
        matplotlib.figure.Figure
            The sheet.

        Raises
        ------
        TypeError
            If `image` or `seed` is no integer.
        ValueError
            If the report holds no pictures, or not that many.
        ImportError
            Without matplotlib.
        """
        if self.images is None or self.inputs is None:
            raise_invalid("images", None, "pictures in the report", fix="Call gate with keep_images=True.")
        seeds, count = next(iter(self.images.values())).shape[:2]
        check_integer("image", image, low=0, high=count - 1)
        check_integer("seed", seed, low=0, high=seeds - 1)
        first = self.table[0]["metric"] if self.table else ""
        means = {row["technique"]: row["gain_mean"] for row in self.table if row["metric"] == first}
        titles = {
            name: f"{name}\ngain in {first} {means[name]:+.1%}" if name in means else name
            for name in self.images
        }
        pictures = {titles[name]: shown[seed, image] for name, shown in self.images.items()}
        return draw_sheet(self.inputs[image], pictures)

    def save(self, folder: str | Path, seed: int = 0) -> list[Path]:
        """Write what people look at: the table, a sheet for each image, and JSON beside them.

        Parameters
        ----------
        folder : str or Path
            Made where there is none.
        seed : int, default=0
            Which of the seeds the sheets show, by position.

        Returns
        -------
        list of Path
            ``gate.json``, ``gate.txt``, and ``sheet_000.png`` and so on where the report holds pictures.

        Raises
        ------
        TypeError
            If `seed` is no integer.
        ValueError
            If the report's pictures are of fewer seeds.
        ImportError
            Without matplotlib, where there are pictures.
        """
        if self.images is not None:  # before anything is written
            check_integer("seed", seed, low=0, high=len(next(iter(self.images.values()))) - 1)
        target = Path(folder)
        target.mkdir(parents=True, exist_ok=True)
        written = [target / "gate.json", target / "gate.txt"]
        self.to_json(written[0])
        with whole_file(written[1]) as part:
            part.write(f"{self}\n".encode())
        for image in range(0 if self.images is None or self.inputs is None else len(self.inputs)):
            figure = self.plot(image, seed)
            written.append(target / f"sheet_{image:03d}.png")
            with whole_file(written[-1]) as part:
                figure.savefig(part, format="png", dpi=120)
            close_sheet(figure)
        return written


def _figure(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}"


def _plain(row: dict[str, Any]) -> dict[str, Any]:
    """A row that JSON can hold: an infinite gain as a string."""
    return {key: str(v) if isinstance(v, float) and math.isinf(v) else v for key, v in row.items()}
