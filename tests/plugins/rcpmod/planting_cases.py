"""The kinds of planted outliers, and views whose rows can be traced."""

import numpy as np

INLIER, ATTRIBUTE, CLASS, MIXED = range(4)


def tagged_views(n: int, widths: tuple[int, ...], n_classes: int = 4) -> tuple[list[np.ndarray], np.ndarray]:
    """Views whose values name their row, so that swaps can be traced; beside them a column of 0 and one of 1.

    Every row that is not noise holds both ends of [0, 1], so scaling changes nothing.
    """
    tags = np.repeat(np.arange(n)[:, None] / (n - 1), max(widths), axis=1)
    ends = np.column_stack((np.zeros(n), np.ones(n)))
    return [np.hstack((ends, tags[:, :width])) for width in widths], np.arange(n) % n_classes


def rows_found(view: np.ndarray) -> np.ndarray:
    """The original row of each row of a tagged view; -1 where it is noise or missing."""
    n = len(view)
    tags = np.nan_to_num(view[:, 2], nan=0.5)
    row = np.rint(tags * (n - 1)).astype(int)
    intact = (view[:, 0] == 0) & (view[:, 1] == 1) & (view[:, 2:] == row[:, None] / (n - 1)).all(axis=1)
    return np.where(intact, row, -1)
