"""Progress, in one place: tqdm on standard error, silent unless it is asked for."""

from collections.abc import Iterable
from typing import Any

from tqdm.auto import tqdm

__all__ = ["progress_bar"]


def progress_bar(
    iterable: Iterable[Any] | None = None, *, verbose: int = 0, desc: str = "", total: int | None = None
) -> Any:
    """Wrap an iterable in a progress bar that stays silent at ``verbose=0``.

    Parameters
    ----------
    iterable : iterable or None, default=None
        What to run over; ``None`` gives a bar to be advanced by hand.
    verbose : int, default=0
        0 prints nothing at all; 1 or more shows the bar on standard error.
    desc : str, default=""
        What is being done.
    total : int or None, default=None
        The number of steps where `iterable` has no length.

    Returns
    -------
    tqdm.tqdm
        The bar; iterate over it, or call ``update`` and ``close``.
    """
    return tqdm(iterable, desc=desc, total=total, disable=not verbose, leave=True, dynamic_ncols=True)
