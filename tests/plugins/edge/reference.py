"""EDGE in plain float64 loops over Python numbers, from the specification; shares no code with the plugin."""

import math


def softplus(z: float) -> float:
    return max(z, 0.0) + math.log1p(math.exp(-abs(z)))


def sigmoid(z: float) -> float:
    return 1 / (1 + math.exp(-z)) if z >= 0 else math.exp(z) / (1 + math.exp(z))


def energy(row: list[float]) -> float:
    total = 0.0
    for z in row:
        total += softplus(z)
    return total


def tail_of(energies: list[float], k: int) -> list[int]:
    return sorted(range(len(energies)), key=lambda i: energies[i])[:k]


def terms(Z, Y, U, k, m):
    """The three terms of section 1.2, by loops over rows, labels and pairs."""
    n, n_o, C = len(Z), len(U), len(Z[0])
    l_id = 0.0
    for i in range(n):
        for c in range(C):
            l_id += (softplus(Z[i][c]) - Y[i][c] * Z[i][c]) / (n * C)
    l_conf = 0.0
    for j in range(n_o):
        for c in range(C):
            l_conf += softplus(U[j][c]) / (n_o * C)
    E, O = [energy(row) for row in Z], [energy(row) for row in U]  # noqa: E741
    tail = tail_of(E, k)
    l_gap = 0.0
    for j in range(n_o):
        for t in tail:
            l_gap += max(0.0, O[j] - E[t] + m) / (n_o * len(tail))
    return l_id, l_conf, l_gap


def loss(Z, Y, U, k, m, alpha=1.0, beta=0.1):
    l_id, l_conf, l_gap = terms(Z, Y, U, k, m)
    return l_id + alpha * l_conf + beta * l_gap


def gradients(Z, Y, U, k, m, alpha=1.0, beta=0.1):
    """The analytic gradients of section 1.2."""
    n, n_o, C = len(Z), len(U), len(Z[0])
    E, O = [energy(row) for row in Z], [energy(row) for row in U]  # noqa: E741
    tail = tail_of(E, k)
    dZ = [[(sigmoid(Z[i][c]) - Y[i][c]) / (n * C) for c in range(C)] for i in range(n)]
    dU = [[alpha * sigmoid(U[j][c]) / (n_o * C) for c in range(C)] for j in range(n_o)]
    for j in range(n_o):
        for t in tail:
            if O[j] - E[t] + m > 0:
                for c in range(C):
                    dU[j][c] += beta * sigmoid(U[j][c]) / (n_o * len(tail))
                    dZ[t][c] -= beta * sigmoid(Z[t][c]) / (n_o * len(tail))
    return dZ, dU


def bounded(Z, Y, U, weight, margin_id, margin_oe):
    """Binary cross-entropy and two squared hinges on JointEnergy."""
    total = terms(Z, Y, U, 1, 0.0)[0]
    for row in Z:
        total += weight * max(0.0, margin_id - energy(row)) ** 2 / len(Z)
    for row in U:
        total += weight * max(0.0, energy(row) - margin_oe) ** 2 / len(U)
    return total


def auroc(known, ood):
    """Share of pairs in which the known row scores higher; ties count half."""
    wins = sum((a > b) + 0.5 * (a == b) for a in known for b in ood)
    return wins / (len(known) * len(ood))


def average_precision(positive, negative):
    """Sum of precision times the step in recall, thresholds falling, ties in one step."""
    total, seen = 0.0, 0
    for threshold in sorted({*positive, *negative}, reverse=True):
        hits = sum(s >= threshold for s in positive)
        alarms = sum(s >= threshold for s in negative)
        total += (hits - seen) / len(positive) * hits / (hits + alarms)
        seen = hits
    return total


def false_positive_rate(positive, negative, tpr):
    """Share of negatives at or above the highest threshold that keeps `tpr` of the positives."""
    for threshold in sorted(positive, reverse=True):
        if sum(s >= threshold for s in positive) / len(positive) >= tpr:
            return sum(s >= threshold for s in negative) / len(negative)
    raise AssertionError("some threshold keeps all")


def distance(one, other, k):
    total = 0.0
    for r in range(k):
        total += (one[r] - other[r]) ** 2
    return math.sqrt(total)
