r"""Ranking metrics from the positions of the held-out items.

With the n held-out items of a user at 0-based positions :math:`p_1 < \dots < p_n` among A ranked items:

- precision@K = hits / K, recall@K = hits / n;
- NDCG@K = :math:`\sum_{p_m < K} \log_2^{-1}(p_m + 2)` over its best value with min(K, n) hits; ``ndcg``
  takes K = A;
- AP = :math:`\frac1n \sum_m m / (p_m + 1)`; RR = :math:`1 / (p_1 + 1)` (the first hit only, as the code
  does; P1's text sums over all hits);
- AUC and the one-way partial AUC, ``opauc``: the share of (held-out, other) pairs in the right order, over
  all others or the hardest :math:`\lceil \beta (A - n) \rceil` of them;
- MaxDiv@N: sum over ordered pairs of squared distances within the first N.

Protocols: ``standard`` averages over users with n >= 1. ``libcml`` follows the public code: metrics at K
skip users with n < K (so P@5 is over fewer, heavier users than P@3), the others skip n < 3, and IDCG has K
terms.

>>> scores = np.array([[-0.3, -np.inf, -0.5, -0.2, -0.9, -0.4]])  # larger is better, item 1 was seen
>>> held = sp.csr_matrix(np.array([[1, 0, 0, 0, 1, 1]]))
>>> found = evaluate(lambda users: scores, sp.csr_matrix((1, 6)), held, ["precision@3", "map"])
>>> round(found["precision@3"], 4), round(found["map"], 4)
(0.6667, 0.5889)
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import scipy.sparse as sp

from graftkit.core.validation import check_choice, raise_invalid
from graftkit.methods.dpcml.ranks import ScoreFunction, UserRanks, rank_held_out

__all__ = ["METRICS", "evaluate", "parse_metric", "user_metric"]

IntArray = npt.NDArray[np.int64]

AT_K = ("precision", "recall", "ndcg", "maxdiv")
WHOLE = ("ndcg", "map", "mrr", "auc", "opauc")
METRICS = tuple(sorted({*AT_K, *WHOLE}))


def parse_metric(name: str) -> tuple[str, int | None]:
    """Split a metric's name, such as ``"ndcg@10"``, into metric and K.

    Parameters
    ----------
    name : str
        One of precision@K, recall@K, ndcg@K, maxdiv@K, ndcg, map, mrr, auc, opauc.

    Returns
    -------
    metric : str
        Its first part.
    k : int or None
        The cut, or None.

    Raises
    ------
    ValueError
        If the metric is unknown, or lacks or must not have a K.
    """
    metric, at, cut = str(name).partition("@")
    valid = [f"{m}@K" for m in AT_K] + list(WHOLE)
    if not at:
        if metric not in WHOLE:
            raise_invalid("scoring", name, "one of " + ", ".join(map(repr, valid)))
        return metric, None
    if metric not in AT_K or not cut.isdigit() or int(cut) < 1:
        raise_invalid("scoring", name, "one of " + ", ".join(map(repr, valid)) + " with K >= 1")
    return metric, int(cut)


def user_metric(name: str, positions: IntArray, n_ranked: int, *, protocol: str, beta: float) -> float:
    """One metric of one user, NaN where the protocol skips the user.

    Parameters
    ----------
    name : str
        As in `parse_metric`; not maxdiv.
    positions : ndarray of int, shape (n,)
        0-based positions of the held-out items, ascending, at least one.
    n_ranked : int
        Items in the list.
    protocol : {"standard", "libcml"}
        Who counts.
    beta : float
        Share of ``opauc``.

    Returns
    -------
    float
        The value.
    """
    metric, k = parse_metric(name)
    n = len(positions)
    if protocol == "libcml" and n < (3 if k is None else k):
        return np.nan
    if metric in ("precision", "recall"):
        hits = int((positions < (k or 0)).sum())
        return hits / (k or 1) if metric == "precision" else hits / n
    if metric == "ndcg":
        found = positions if k is None else positions[positions < k]
        ideal = np.arange(n if k is None else min(k, n) if protocol == "standard" else k)
        return float((1 / np.log2(found + 2)).sum() / (1 / np.log2(ideal + 2)).sum())
    if metric == "map":
        return float((np.arange(1, n + 1) / (positions + 1)).mean())
    if metric == "mrr":
        return 1.0 / (int(positions[0]) + 1)
    others = n_ranked - n
    if others <= 0:
        return 1.0
    hardest = others if metric == "auc" else max(1, int(np.ceil(beta * others - 1e-9)))
    before = positions - np.arange(n)  # others ahead of each held-out item
    return float(1.0 - np.minimum(before, hardest).mean() / hardest)


def evaluate(
    score: ScoreFunction,
    seen: sp.csr_matrix,
    held: sp.csr_matrix,
    metrics: Sequence[str],
    *,
    protocol: str = "standard",
    beta: float = 0.1,
    users: IntArray | None = None,
    item_vectors: npt.NDArray[np.floating[Any]] | None = None,
    groups: npt.NDArray[Any] | None = None,
) -> dict[str, Any]:
    """Mean metrics over users, and over item groups where labels are given.

    Parameters
    ----------
    score : callable
        Takes user ids (b,), returns scores of shape (b, n_items); larger is better.
    seen : csr_matrix of shape (n_users, n_items)
        Items that are not ranked.
    held : csr_matrix of shape (n_users, n_items)
        Held-out items.
    metrics : sequence of str
        Names as in `parse_metric`.
    protocol : {"standard", "libcml"}, default="standard"
        Who counts.
    beta : float, default=0.1
        Share of ``opauc``.
    users : ndarray of int, shape (m,), or None, default=None
        Only these users.
    item_vectors : ndarray of shape (n_items, d) or None, default=None
        For maxdiv, which needs them.
    groups : ndarray of shape (n_items,) or None, default=None
        A label an item.

    Returns
    -------
    dict of str to float
        Metric to mean; NaN where no user counts. With `groups` a dict of such dicts: ``"all"``,
        ``"minority"`` (held-out items of the group that is rarest in the user's seen items, users with two
        groups or more), ``"majority"`` and one a label. maxdiv belongs to whole lists and stands under
        ``"all"`` only.

    Raises
    ------
    ValueError
        If a metric or the protocol is unknown, maxdiv lacks vectors, `groups` has the wrong length or a
        reserved label, or scores are NaN or of another shape.
    """
    check_choice("protocol", protocol, ("standard", "libcml"))
    cuts = [k or 0 for metric, k in map(parse_metric, metrics) if metric == "maxdiv"]
    if cuts and item_vectors is None:
        raise_invalid("metrics", list(metrics), "no maxdiv for a model without item vectors")
    ranks = rank_held_out(score, seen, held, n_top=max(cuts, default=0), users=users)

    def means(part: UserRanks) -> dict[str, float]:
        return {name: _mean(name, part, protocol, beta) for name in metrics if not name.startswith("maxdiv")}

    overall = means(ranks)
    if cuts and item_vectors is not None and ranks.tops is not None:
        for name in metrics:
            metric, k = parse_metric(name)
            if metric == "maxdiv":
                overall[name] = _max_div(ranks.tops[:, :k], item_vectors)
    overall = {name: overall.get(name, np.nan) for name in metrics}
    if groups is None:
        return overall
    labels = np.asarray(groups)
    if labels.shape != (held.shape[1],):
        raise_invalid("groups", groups, f"one label for each of the {held.shape[1]} items")
    if labels.dtype.kind == "O":  # labels of several types have no order
        labels = labels.astype(str)
    taken = {"all", "minority", "majority"} & set(map(str, np.unique(labels)))
    if taken:
        raise_invalid("groups", sorted(taken), "labels other than 'all', 'minority' and 'majority'")
    distinct, codes = np.unique(labels, return_inverse=True)
    extremes = {int(user): _extreme_groups(codes[seen[int(user)].indices]) for user in ranks.users}
    found: dict[str, Any] = {"all": overall}
    for place, name in enumerate(("minority", "majority")):
        found[name] = means(
            ranks.restricted(lambda user, items, place=place: codes[items] == extremes[user][place])  # type: ignore[misc]
        )
    for code, label in enumerate(distinct):
        found[str(label)] = means(ranks.restricted(lambda _, items, code=code: codes[items] == code))  # type: ignore[misc]
    return found


def _mean(name: str, ranks: UserRanks, protocol: str, beta: float) -> float:
    values = np.array(
        [
            user_metric(name, positions, int(total), protocol=protocol, beta=beta)
            for positions, total in zip(ranks.positions, ranks.n_ranked, strict=True)
        ]
    )
    known = values[~np.isnan(values)] if len(values) else values
    return float(known.mean()) if len(known) else float("nan")


def _max_div(tops: IntArray, item_vectors: npt.NDArray[np.floating[Any]]) -> float:
    sums = []
    for row in tops:
        vectors = item_vectors[row[row >= 0]].astype(np.float64)
        # Over ordered pairs, sum |a - b|^2 = 2 (N sum |a|^2 - |sum a|^2).
        sums.append(2 * (len(vectors) * (vectors**2).sum() - (vectors.sum(axis=0) ** 2).sum()))
    return float(np.mean(sums)) if sums else float("nan")


def _extreme_groups(codes: IntArray) -> tuple[int, int]:
    """Rarest and commonest group of a user's items; (-1, -1) where there are not two."""
    distinct, counts = np.unique(codes, return_counts=True)
    if len(distinct) < 2:
        return -1, -1
    # The commonest is looked for from the other end, so that the two differ where all counts are equal.
    return int(distinct[counts.argmin()]), int(distinct[::-1][counts[::-1].argmax()])
