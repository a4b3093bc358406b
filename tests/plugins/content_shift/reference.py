"""Content shift by plain loops in float64, from the description alone."""

import math

import numpy as np


def contour(feature: np.ndarray, i: int, j: int) -> float:
    """Norm over channels of the 5-point Laplacian at one position, the border replicated."""
    c, h, w = feature.shape
    total = 0.0
    for k in range(c):
        around = 0.0
        for di, dj in ((-1, 0), (1, 0), (0, -1), (0, 1)):
            around += feature[k, min(max(i + di, 0), h - 1), min(max(j + dj, 0), w - 1)]
        total += (around - 4 * feature[k, i, j]) ** 2
    return math.sqrt(total)


def difference(reference: np.ndarray, feature: np.ndarray) -> float:
    _, h, w = reference.shape
    return sum(abs(contour(reference, i, j) - contour(feature, i, j)) for i in range(h) for j in range(w))


def penalty(w: np.ndarray, g1: float, g2: float) -> float:
    """w has one row an assigner."""
    n, b = w.shape
    value = 0.0
    for j in range(n):
        value -= g1 * math.sqrt(sum(w[j, i] ** 2 for i in range(b)))
        for k in range(n):
            if k != j:
                value -= g2 / 2 * math.sqrt(sum((w[j, i] - w[k, i]) ** 2 for i in range(b)))
    return value


def blend(maps: np.ndarray, w: np.ndarray) -> np.ndarray:
    """Maps (b, C, H, W), weights (n, b, C) -> (n * C, H, W)."""
    b, c, h, wd = maps.shape
    out = np.zeros((len(w) * c, h, wd))
    for j in range(len(w)):
        for k in range(c):
            for i in range(b):
                out[j * c + k] += w[j, i, k] * maps[i, k]
    return out
