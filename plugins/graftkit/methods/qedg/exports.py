"""The figures of an audit as plain values, comma-separated values and a picture.

>>> csv_text([{"queries": 5, "kappa": 0.5}, {"queries": 9, "kappa": None}]).splitlines()
['queries,kappa', '5,0.5', '9,']
"""

from __future__ import annotations

import csv
import io
import math
import os
from typing import TYPE_CHECKING, Any

from graftkit.core.extras import require
from graftkit.core.files import whole_file
from graftkit.methods.qedg.metrics import THRESHOLDS

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["csv_text", "draw_curves", "plain", "png", "written"]


def plain(value: Any) -> Any:
    """What JSON can hold; NaN and infinity become None.

    Parameters
    ----------
    value : object
        Dictionaries, lists, tuples and plain values.

    Returns
    -------
    object
        The same, without tuples and without what is no number.
    """
    if isinstance(value, dict):
        return {str(key): plain(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [plain(entry) for entry in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def csv_text(rows: list[dict[str, Any]]) -> str:
    """Rows as comma-separated values, a column for each name that occurs.

    Parameters
    ----------
    rows : list of dict
        Plain values.

    Returns
    -------
    str
        The text, a header first.
    """
    names = list(dict.fromkeys(name for row in rows for name in row))
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, names, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return buffer.getvalue()


def draw_curves(figures: dict[str, Any], ax: Axes | None = None) -> Axes:
    """Kappa against queries, with intervals, a line an arm.

    Parameters
    ----------
    figures : dict
        Of ``AuditResult.as_dict``.
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
    for arm in figures["queries_to_kappa"]:
        rows = [row for row in figures["curve"] if row["arm"] == arm and row["kappa"] is not None]
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
    )
    # The owner's words, in which a dollar sign begins no formula.
    ax.set_title(f"Copying {figures['settings']['target_id']}", parse_math=False)
    if ax.get_legend_handles_labels()[0]:
        ax.legend(loc="best")
    return ax


def png(figures: dict[str, Any]) -> bytes:
    """The picture of :func:`draw_curves`.

    Parameters
    ----------
    figures : dict
        Of ``AuditResult.as_dict``.

    Returns
    -------
    bytes
        A PNG file's.
    """
    figure: Any = draw_curves(figures).figure
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    return buffer.getvalue()


def written(text: str, path: str | os.PathLike[str] | None) -> str:
    """Text, on disk too where there is a path.

    Parameters
    ----------
    text : str
        The text.
    path : path-like or None
        Where to.

    Returns
    -------
    str
        The text.
    """
    if path is not None:
        with whole_file(path) as file:
            file.write(text.encode())
    return text
