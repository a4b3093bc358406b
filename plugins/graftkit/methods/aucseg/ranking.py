r"""The exact one-vs-one AUC of pixels: what the loss stands for, as a measure.

.. math:: \mathrm{AUC} = \frac{1}{K(K-1)} \sum_{i \ne j} P\big(s^i_a > s^i_b \mid y_a = i, y_b = j\big)

ties counting one half, by ranks. The arg-max IoU of a tail class stays at zero for long while its ranking
already improves; this shows it. Specification section 6.

>>> import torch
>>> one_vs_one_auc(torch.tensor([[2.0, 0.0], [1.0, 3.0], [1.5, 0.0]]), torch.tensor([0, 0, 1]))
0.375
"""

import numpy as np
from scipy.stats import rankdata
from torch import Tensor

from graftkit.core.validation import raise_invalid

__all__ = ["one_vs_one_auc"]


def one_vs_one_auc(scores: Tensor, labels: Tensor, classes: list[int] | None = None) -> float:
    """Average the AUC over ordered pairs of present classes.

    Parameters
    ----------
    scores : Tensor of shape (N, C)
        Column i ranks class i; any increasing function of it gives the same.
    labels : Tensor of shape (N,)
        Class numbers; remove ignored pixels before.
    classes : list of int or None, default=None
        Average only over pairs whose ranking class is one of these, such as the tail.

    Returns
    -------
    float
        Between 0 and 1; NaN with fewer than two classes.

    Raises
    ------
    TypeError
        If an argument is no tensor, or `labels` not integer.
    ValueError
        If shapes do not fit, a label is no column, or a score is NaN.
    """
    for name, value in (("scores", scores), ("labels", labels)):
        if not isinstance(value, Tensor):
            raise_invalid(name, value, "a tensor", error=TypeError)
    if labels.is_floating_point() or labels.is_complex():
        raise_invalid("labels", labels, "integer labels", error=TypeError)
    values, names = scores.detach().cpu().double().numpy(), labels.cpu().numpy()
    if values.ndim != 2 or names.shape != values.shape[:1]:
        raise_invalid("scores", scores, f"shape (N, C) for labels of shape {tuple(labels.shape)}")
    if np.isnan(values).any():
        raise_invalid("scores", scores, "no NaN")
    if len(names) and (names.min() < 0 or names.max() >= values.shape[1]):
        raise_invalid("labels", labels, f"class numbers in [0, {values.shape[1]})")
    members = {int(c): np.flatnonzero(names == c) for c in np.unique(names)}
    found = []
    for i in members if classes is None else [c for c in classes if c in members]:
        for j in members:
            if i != j:
                n, m = len(members[i]), len(members[j])
                ranks = rankdata(np.concatenate((values[members[i], i], values[members[j], i])))
                found.append((ranks[:n].sum() - n * (n + 1) / 2) / (n * m))
    return float(np.mean(found)) if found else float("nan")
