"""The table that :func:`class_curvature` returns: a dict with a plot and an HTML view.

>>> table = CurvatureTable(tail={"n": 3, "lambda_max": 2.0, "lambda_min": -1.0})
>>> print(table)
group  n  lambda_max  lambda_min
tail   3           2          -1
"""

import html
from typing import TYPE_CHECKING, Any

from graftkit.core.extras import require

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["CurvatureTable"]


class CurvatureTable(dict[str, dict[str, Any]]):
    """Rows of curvature by group.

    Each value is a dict of figures; see :func:`graftkit.torch.class_curvature`.
    """

    def _columns(self) -> list[str]:
        return [name for name in next(iter(self.values()), {}) if name != "density"]

    def _cells(self) -> list[list[str]]:
        columns = self._columns()
        return [
            ["group", *columns],
            *([name, *(f"{row[c]:.4g}" for c in columns)] for name, row in self.items()),
        ]

    def __str__(self) -> str:
        cells = self._cells()
        widths = [max(len(row[i]) for row in cells) for i in range(len(cells[0]))]
        return "\n".join(
            "  ".join(
                [row[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(row[1:], widths[1:], strict=True))]
            )
            for row in cells
        )

    def _repr_html_(self) -> str:
        head, *rows = self._cells()
        top = "".join(f"<th>{html.escape(c)}</th>" for c in head)
        body = "".join("<tr>" + "".join(f"<td>{html.escape(c)}</td>" for c in row) + "</tr>" for row in rows)
        return f"<table><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table>"

    def plot(self, ax: "Axes | None" = None) -> "Axes":
        """Draw largest and smallest curvature of every group, and the density where it was measured.

        Parameters
        ----------
        ax : matplotlib.axes.Axes or None, default=None
            Where to draw; ``None`` makes a figure.

        Returns
        -------
        matplotlib.axes.Axes
            One place a group along x: bars from 0 to lambda_max and to lambda_min, and beside them the
            density of the spectrum, each scaled to its own maximum (on a root scale, the bulk is near 0).
        """
        if ax is None:
            pyplot = require("matplotlib.pyplot", extra="examples", distribution="matplotlib")
            ax = pyplot.subplots(figsize=(max(4.0, 0.8 * len(self) + 2), 4.0))[1]
        places = range(len(self))
        rows = list(self.values())
        ax.bar(
            places, [r["lambda_max"] for r in rows], width=0.35, color="tab:blue", label=r"$\lambda_{\max}$"
        )
        ax.bar(
            places, [r["lambda_min"] for r in rows], width=0.35, color="tab:red", label=r"$\lambda_{\min}$"
        )
        labelled = False
        for place, row in zip(places, rows, strict=True):
            if "density" not in row:
                continue
            values, grid = row["density"]["values"], row["density"]["grid"]
            peak = max(values) or 1.0
            right = [place + 0.2 + 0.3 * (max(v, 0.0) / peak) ** 0.5 for v in values]
            ax.fill_betweenx(
                grid, place + 0.2, right, color="tab:gray", alpha=0.6, label=None if labelled else "density"
            )
            labelled = True
        ax.axhline(0, color="black", linewidth=0.8)
        ax.set_xticks(list(places), list(self), rotation=30 if len(self) > 5 else 0)
        ax.set_ylabel("curvature of the group's mean loss")
        ax.legend()
        return ax
