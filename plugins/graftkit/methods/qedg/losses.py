r"""The losses of QEDG: where queries should lie, and how the copy learns from their answers.

.. math::

    L_{cls} = CE(S(x), t), \quad L_{oc} = \frac1B \sum_i std_c(p_i), \quad
    L_{div} = \frac1B \sum_c \sum_{i<j,\, t_i=t_j=c} \cos(x_i, x_j), \quad
    L_G = L_{cls} + w_{oc} L_{oc} + w_{div} L_{div}

``L_div`` needs no B x B matrix: over unit vectors u of one class,
:math:`\sum_{i<j} u_i \cdot u_j = (\|\sum_i u_i\|^2 - \sum_i \|u_i\|^2) / 2`.

Source: the authors' code (the paper's full text could not be read, so that its equations agree is
unverified). The released code compares flattened inputs, the method's figure shows probabilities; which of
them the paper means is unverified, both are offered. An all-zero image has similarity 0 here (NaN there).

>>> labels = torch.tensor([0, 0, 1])
>>> round(3 * float(pairwise_similarity(torch.tensor([[1.0, 0.0], [2.0, 0.0], [0.0, 1.0]]), labels, 2)), 4)
1.0
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from graftkit.core.validation import check_bool, check_integer, check_number, raise_invalid

__all__ = [
    "boundary_confidence",
    "boundary_weight",
    "class_deviation",
    "pairwise_similarity",
    "substitute_loss",
]


def class_deviation(logits: Tensor) -> Tensor:
    r"""The loss of boundary closeness, :math:`L_{oc}`: standard deviation of the class probabilities.

    0 where all classes meet, :math:`1/\sqrt C` at full confidence. At exactly equal probabilities its
    gradient is 0, as torch defines it.

    Parameters
    ----------
    logits : Tensor of shape (B, C)
        Scores of the substitute, C >= 2.

    Returns
    -------
    Tensor of 0-d
        The mean over the batch of the unbiased deviation.

    Raises
    ------
    ValueError
        If `logits` is no matrix with two columns or more.
    """
    if logits.ndim != 2 or logits.shape[1] < 2:
        raise_invalid("logits", logits, "shape (B, C) with C >= 2")
    return logits.softmax(1).std(1).mean()


def pairwise_similarity(
    vectors: Tensor, labels: Tensor, num_classes: int, *, normalised: bool = False
) -> Tensor:
    r"""The loss of inter-class diversity, :math:`L_{div}`, in closed form.

    Parameters
    ----------
    vectors : Tensor of shape (B, ...)
        Images, or probabilities; flattened.
    labels : Tensor of shape (B,)
        Intended classes, int64.
    num_classes : int
        C.
    normalised : bool, default=False
        Mean cosine over the pairs instead of the sum over the pairs divided by B, whose size grows with B/C.
        An addition of ours.

    Returns
    -------
    Tensor of 0-d
        The loss; classes with fewer than two members add nothing.

    Raises
    ------
    TypeError
        If `num_classes` is no integer or `normalised` no boolean.
    ValueError
        If the shapes do not fit, or `num_classes` is below 1.
    """
    classes = check_integer("num_classes", num_classes, low=1)
    check_bool("normalised", normalised)
    if labels.ndim != 1 or len(labels) != len(vectors) or not len(vectors):
        raise_invalid("labels", labels, f"shape ({len(vectors)},), one label a vector, at least one")
    flat = vectors.reshape(len(vectors), -1)
    norms = flat.norm(dim=1, keepdim=True)
    inverse = norms.clamp(min=1e-8).reciprocal()  # to multiply by: a quotient's gradient costs twice as much
    sums = flat.new_zeros(classes, flat.shape[1]).index_add(0, labels, flat * inverse)
    # The squared norms rather than the counts: a zero vector has no direction and is similar to nothing.
    total: Tensor = (sums.square().sum() - (norms * inverse).square().sum()) / 2
    if not normalised:
        return total / len(vectors)
    counts = torch.bincount(labels, minlength=classes)
    pairs = int((counts * (counts - 1) // 2).sum())
    return total / max(pairs, 1)


def substitute_loss(logits: Tensor, targets: Tensor, weight: float = 1.0) -> Tensor:
    r"""Cross-entropy in which rows that the substitute gets wrong now count `weight` times.

    :math:`L_S = \frac1b [\sum_{pred=y} CE + w_{bal} \sum_{pred \ne y} CE]`.

    Parameters
    ----------
    logits : Tensor of shape (b, C)
        Scores of the substitute in this step.
    targets : Tensor of shape (b,) or (b, C)
        Labels, or probabilities (soft mode, an addition of ours; the label then is their argmax).
    weight : float, default=1.0
        :math:`w_{bal}`; 1 is plain cross-entropy.

    Returns
    -------
    Tensor of 0-d
        The loss.

    Raises
    ------
    TypeError
        If `weight` is no number.
    ValueError
        If `weight` is negative or the shapes do not fit.
    """
    factor = check_number("weight", weight, low=0)
    if logits.ndim != 2 or targets.shape not in (logits.shape[:1], logits.shape):
        raise_invalid("targets", targets, f"shape ({logits.shape[0]},) or {tuple(logits.shape)}")
    each = cross_entropy(logits, targets, reduction="none")
    labels = targets if targets.ndim == 1 else targets.argmax(1)
    wrong = logits.detach().argmax(1) != labels
    return (each * torch.where(wrong, factor, 1.0).to(each.dtype)).mean()


def boundary_weight(confidence: float, num_classes: int) -> float:
    r"""The weight of :math:`L_{oc}` at which the generator aims at a given confidence.

    On the ray with equal mass on all other classes, :math:`L_{cls} + w L_{oc}` is smallest at
    :math:`q^* = \min(1, (C-1) / (w \sqrt C))` (our derivation); this is its inverse.

    Parameters
    ----------
    confidence : float in (1/C, 1]
        q*, the probability of the intended class.
    num_classes : int
        C >= 2.

    Returns
    -------
    float
        ``(C - 1) / (confidence * sqrt(C))``.

    Raises
    ------
    TypeError
        If an argument has the wrong type.
    ValueError
        If it is out of range.

    Examples
    --------
    >>> round(boundary_weight(0.2846, 10), 2)
    10.0
    """
    classes = check_integer("num_classes", num_classes, low=2)
    q = check_number("confidence", confidence, low=1 / classes, high=1, closed="(]")
    return (classes - 1) / (q * math.sqrt(classes))


def boundary_confidence(weight: float, num_classes: int) -> float:
    r"""The confidence that a weight of :math:`L_{oc}` aims at, the inverse of :func:`boundary_weight`.

    Parameters
    ----------
    weight : float
        w_oc >= 0.
    num_classes : int
        C >= 2.

    Returns
    -------
    float
        ``min(1, (C - 1) / (weight * sqrt(C)))``; never below the uniform 1/C.

    Raises
    ------
    TypeError
        If an argument has the wrong type.
    ValueError
        If it is out of range.

    Examples
    --------
    >>> [round(boundary_confidence(w, 10), 4) for w in (10, 3, 1)]
    [0.2846, 0.9487, 1.0]
    """
    classes = check_integer("num_classes", num_classes, low=2)
    w = check_number("weight", weight, low=0)
    return 1.0 if w == 0 else max(1 / classes, min(1.0, (classes - 1) / (w * math.sqrt(classes))))
