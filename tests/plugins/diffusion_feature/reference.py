"""Plain loops in float64, written from the descriptions; no code is shared with the plugin."""

import math

import numpy as np


def attention_map(q, k, bias=None):
    """Per head softmax(q k^T / sqrt(d) + b), of shape (B, heads, Q, K)."""
    batch, heads, queries, depth = q.shape
    keys = k.shape[2]
    out = np.zeros((batch, heads, queries, keys))
    for b in range(batch):
        for h in range(heads):
            for i in range(queries):
                scores = []
                for j in range(keys):
                    score = sum(q[b, h, i, c] * k[b, h, j, c] for c in range(depth)) / math.sqrt(depth)
                    scores.append(score + (0.0 if bias is None else bias[b, 0, 0, j]))
                top = max(scores)
                weights = [math.exp(s - top) for s in scores]
                out[b, h, i] = [w / sum(weights) for w in weights]
    return out


def resize_bilinear(feature_map, height, width):
    """(C, h, w) to (C, height, width): pixel centres, no aligned corners."""
    channels, h, w = feature_map.shape
    out = np.zeros((channels, height, width))
    for i in range(height):
        y = min(max((i + 0.5) * h / height - 0.5, 0.0), h - 1.0)
        y0 = math.floor(y)
        y1 = min(y0 + 1, h - 1)
        for j in range(width):
            x = min(max((j + 0.5) * w / width - 0.5, 0.0), w - 1.0)
            x0 = math.floor(x)
            x1 = min(x0 + 1, w - 1)
            for c in range(channels):
                upper = feature_map[c, y0, x0] * (1 - (x - x0)) + feature_map[c, y0, x1] * (x - x0)
                lower = feature_map[c, y1, x0] * (1 - (x - x0)) + feature_map[c, y1, x1] * (x - x0)
                out[c, i, j] = upper * (1 - (y - y0)) + lower * (y - y0)
    return out


def alphas():
    """Stable Diffusion's cumulative products."""
    low, high = math.sqrt(0.00085), math.sqrt(0.012)
    product, out = 1.0, []
    for i in range(1000):
        product *= 1 - (low + (high - low) * i / 999) ** 2
        out.append(product)
    return out


def mean_iou(target, predicted, n_classes, ignore, zero_absent=False):
    """Per class intersection over union, pixel by pixel."""
    shares = []
    for c in range(n_classes):
        both = either = 0
        for t, p in zip(target, predicted, strict=True):
            if t == ignore:
                continue
            both += t == c and p == c
            either += t == c or p == c
        if either:
            shares.append(both / either)
        elif zero_absent:
            shares.append(0.0)
    return sum(shares) / len(shares)


def nearest_point(source, target, point, size):
    """Both maps resized first, then the best cosine over every position."""
    big_source = resize_bilinear(source, *size)
    big_target = resize_bilinear(target, *size)
    query = big_source[:, point[0], point[1]]
    best, where = -2.0, (0, 0)
    for i in range(size[0]):
        for j in range(size[1]):
            other = big_target[:, i, j]
            cosine = float(query @ other) / (np.linalg.norm(query) * np.linalg.norm(other))
            if cosine > best:
                best, where = cosine, (i, j)
    return where


def ridge(X, y, penalty):
    """Class-weighted ridge on standardised columns by normal equations, sample by sample."""
    classes = sorted(set(y.tolist()))
    n, d = X.shape
    counts = {c: int((y == c).sum()) for c in classes}
    weights = np.array([1 / math.sqrt(counts[c]) for c in y.tolist()])
    weights = weights * n / weights.sum()
    mean = X.mean(0)
    deviation = np.sqrt(((X - mean) ** 2).mean(0))
    deviation[deviation == 0] = 1
    Z = np.hstack([(X - mean) / deviation, np.ones((n, 1))])
    A = np.zeros((d + 1, d + 1))
    B = np.zeros((d + 1, len(classes)))
    for i in range(n):
        A += weights[i] * np.outer(Z[i], Z[i])
        for j, c in enumerate(classes):
            B[:, j] += weights[i] * Z[i] * (y[i] == c)
    for i in range(d):
        A[i, i] += penalty * n
    return Z @ np.linalg.inv(A) @ B
