"""DPCML in plain float64 loops, written from the description; shares no code with the plugin."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

# The state of the specification's golden values: P[user][vector], Q[item].
P = [[(0.6, 0.0), (0.0, 0.8)], [(-0.5, 0.5), (0.3, -0.9)]]
Q = [(0.6, 0.1), (0.0, 1.0), (-0.4, 0.4), (0.8, -0.6), (0.1, -0.7)]


def squared_distance(a: Any, b: Any) -> float:
    return sum((float(x) - float(y)) ** 2 for x, y in zip(a, b, strict=True))


def score(vectors: Any, item: Any) -> tuple[float, int]:
    """Smallest squared distance over a user's vectors, and which vector it was (first on ties)."""
    best, winner = math.inf, -1
    for c, vector in enumerate(vectors):
        distance = squared_distance(vector, item)
        if distance < best:
            best, winner = distance, c
    return best, winner


def ranking(vectors: Any, items: Any, banned: Any = ()) -> list[int]:
    """Item ids by ascending score, smaller id first on ties."""
    found = [(score(vectors, item)[0], i) for i, item in enumerate(items) if i not in set(banned)]
    return [i for _, i in sorted(found)]


def hinges(vectors: Any, items: Any, positive: int, negatives: Any, margin: float) -> list[float]:
    near = score(vectors, items[positive])[0]
    return [max(0.0, margin + near - score(vectors, items[j])[0]) for j in negatives]


def positive_loss(losses: Any, sampling: str, *, beta: float = 0.3) -> float:
    """Loss of one positive from the hinges of its candidates."""
    if sampling in ("uniform", "popular"):
        return sum(losses)
    if sampling == "hard":
        return max(losses)
    k = math.ceil(beta * len(losses))
    return sum(sorted(losses, reverse=True)[:k]) / k


def threshold_loss(losses: Any, g: float, k: int, tau: float = 0.1) -> float:
    return g + sum(tau * math.log(1.0 + math.exp((x - g) / tau)) for x in losses) / k


def diversity(vectors: Any) -> float:
    """Half the mean squared distance over ordered pairs (P1's delta)."""
    c = len(vectors)
    if c < 2:
        return 0.0
    total = sum(squared_distance(a, b) for a in vectors for b in vectors)
    return total / (2.0 * c * (c - 1))


def dcrs(vectors: Any, form: str, low: float, high: float) -> float:
    """Diversity penalty of one user."""
    c = len(vectors)
    if c < 2:
        return 0.0
    if form == "mean":
        delta = diversity(vectors)
        return max(0.0, low - delta) + max(0.0, delta - high)
    total = 0.0
    for a in range(c):
        for b in range(c):
            if a != b:
                distance = squared_distance(vectors[a], vectors[b])
                total += max(0.0, low - distance) + max(0.0, distance - high)
    return total / c**2


def apa(count: int, largest: int) -> int:
    return min(max(math.floor(math.log2(count)) if count else 1, 1), largest)


def project(vector: Any, rule: str | None, radius: float) -> list[float]:
    norm = math.sqrt(sum(x * x for x in vector))
    if rule is None or norm == 0.0 or (rule == "ball" and norm <= radius):
        return [float(x) for x in vector]
    return [radius * float(x) / norm for x in vector]


class Adam:
    """Row-wise Adam of one row with the global step count."""

    def __init__(self, row: Any, lr: float) -> None:
        self.row, self.lr = [float(x) for x in row], lr
        self.m, self.v = [0.0] * len(self.row), [0.0] * len(self.row)

    def touch(self, gradient: Any, step: int) -> list[float]:
        for i, g in enumerate(gradient):
            self.m[i] = 0.9 * self.m[i] + 0.1 * g
            self.v[i] = 0.999 * self.v[i] + 0.001 * g * g
            rise = self.m[i] / (1 - 0.9**step)
            fall = math.sqrt(self.v[i] / (1 - 0.999**step)) + 1e-8
            self.row[i] -= self.lr * rise / fall
        return self.row


def batch_loss(
    P_rows: Any,
    ptr: Any,
    Q_rows: Any,
    users: Any,
    items: Any,
    negatives: Any,
    *,
    margin: float,
    sampling: str,
    beta: float = 0.3,
) -> float:
    """Mean over the batch of each positive's loss."""
    total = 0.0
    for u, i, candidates in zip(users, items, negatives, strict=True):
        vectors = P_rows[ptr[u] : ptr[u + 1]]
        losses = hinges(vectors, Q_rows, i, candidates, margin)
        total += positive_loss(losses, sampling, beta=beta)
    return total / len(users)


def libcml_metrics(score_rows: Any, train: Any, test: Any, ks: Any) -> dict[str, float]:
    """Means over users of the specification's section 2.4; `train` and `test` are lists of sets."""
    found: dict[str, list[float]] = {}
    for scores, seen, held in zip(score_rows, train, test, strict=True):
        ranked = sorted((s, i) for i, s in enumerate(scores) if i not in seen)
        held = set(held) - set(seen)
        positions = [p for p, (_, i) in enumerate(ranked) if i in held]
        n, size = len(positions), len(ranked)
        for k in ks:
            if n >= k:
                hits = sum(p < k for p in positions)
                found.setdefault(f"precision@{k}", []).append(hits / k)
                found.setdefault(f"recall@{k}", []).append(hits / n)
                gain = sum(1 / math.log2(p + 2) for p in positions if p < k)
                found.setdefault(f"ndcg@{k}", []).append(gain / sum(1 / math.log2(r + 2) for r in range(k)))
        if n >= 3:
            found.setdefault("map", []).append(sum((m + 1) / (p + 1) for m, p in enumerate(positions)) / n)
            found.setdefault("mrr", []).append(1 / (positions[0] + 1))
            gain = sum(1 / math.log2(p + 2) for p in positions)
            found.setdefault("ndcg", []).append(gain / sum(1 / math.log2(r + 2) for r in range(n)))
            found.setdefault("auc", []).append(pairwise_auc(positions, size))
    return {name: float(np.mean(values)) for name, values in found.items()}


def pairwise_auc(positions: Any, size: int, beta: float = 1.0) -> float:
    """Share of (positive, negative) pairs in the right order, over the hardest `beta` of the negatives."""
    negatives = [p for p in range(size) if p not in set(positions)]
    if not negatives:
        return 1.0
    hardest = negatives[: max(1, math.ceil(beta * len(negatives)))]
    right = sum(p < q for p in positions for q in hardest)
    return right / (len(positions) * len(hardest))
