"""A picture of pictures: an input, its reconstructions, and where each is still away from the input.

>>> import torch
>>> figure = draw_sheet(torch.zeros(3, 8, 8), {"basic": torch.ones(3, 8, 8)})
>>> [ax.get_title() for ax in figure.axes][:2]
['input', 'basic']
>>> close_sheet(figure)
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

from graftkit.core.extras import require

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["close_sheet", "draw_sheet"]


def draw_sheet(source: Tensor, pictures: Mapping[str, Tensor]) -> "Figure":
    """Draw one column for the input and one a reconstruction; the shift below, all on one scale.

    Parameters
    ----------
    source : Tensor of shape (c, H, W)
        The input, in [0, 1]; one channel or three.
    pictures : mapping of str to Tensor of shape (c, H, W)
        Reconstructions by title.

    Returns
    -------
    matplotlib.figure.Figure
        The sheet.

    Raises
    ------
    ImportError
        Without matplotlib.
    """
    pyplot = _pyplot()
    columns = len(pictures) + 1
    figure, axes = pyplot.subplots(2, columns, figsize=(2.2 * columns, 5), squeeze=False)
    shown = _picture(source)
    axes[0, 0].imshow(shown)
    axes[0, 0].set_title("input")
    found = {title: _picture(one) for title, one in pictures.items()}
    shifts = [np.abs(one - shown).mean(2) for one in found.values()]
    top = max((float(shift.max()) for shift in shifts), default=1.0) or 1.0
    for ax, (title, one) in zip(axes[0, 1:], found.items(), strict=True):
        ax.imshow(one)
        ax.set_title(title, fontsize=9)
    for ax, shift in zip(axes[1, 1:], shifts, strict=True):
        ax.imshow(shift, cmap="magma", vmin=0, vmax=top)
    if found:
        axes[1, 1].set_ylabel("shift")
    for ax in axes.flat:
        ax.set(xticks=[], yticks=[])
    axes[1, 0].axis("off")
    figure.tight_layout()
    return figure  # type: ignore[no-any-return]


def close_sheet(figure: "Figure") -> None:
    """Let go of a sheet: matplotlib keeps every figure until it is closed.

    Parameters
    ----------
    figure : matplotlib.figure.Figure
        The sheet.
    """
    _pyplot().close(figure)


def _pyplot() -> Any:
    return require("matplotlib.pyplot", extra="examples", distribution="matplotlib")


def _picture(image: Tensor) -> Any:
    shown = image.detach().float().clamp(0, 1).permute(1, 2, 0).cpu().numpy()
    return shown.repeat(3, axis=2) if shown.shape[2] == 1 else shown
