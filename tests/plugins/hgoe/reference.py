"""HGOE in plain float64 loops, written from the specification alone; nothing here calls the plugin.

Graphs are ``(edges, n)``: a list of pairs of node numbers and a node count. Section numbers are those of the
method's specification.
"""

import math

import numpy as np

# Section 5.1, T1: loss at gamma = 2.
LOSS_AT_GAMMA_2 = {-3: 11.62288, -1: 3.93527, 0: 1.55958, 1: 0.50442, 3: 0.05331, 5: 0.00681}
LOSS_AT_ZERO = {0: 0.693147, 1: 1.039721}  # by gamma
# Section 1.9: largest gradient magnitude, by gamma.
STEEPEST = {1: 2.0174, 2: 4.1725, 4: 17.96}


def sigmoid(s):
    return 1 / (1 + math.exp(-s)) if s >= 0 else math.exp(s) / (1 + math.exp(s))


def loss(s, gamma):
    """Section 1.9: -(2 - p)^gamma log p."""
    p = sigmoid(s)
    log_p = -math.log1p(math.exp(-s)) if s > -700 else s
    return -((2 - p) ** gamma) * log_p


def loss_gradient(s, gamma):
    """Section 1.9, closed form: -(1 - p)(2 - p)^(gamma - 1) [(2 - p) - gamma p log p]."""
    p = sigmoid(s)
    log_p = -math.log1p(math.exp(-s)) if s > -700 else s
    return -(1 - p) * (2 - p) ** (gamma - 1) * ((2 - p) - gamma * p * log_p)


def adjacency(edges, n):
    """Simple undirected adjacency: no self-loops, no multiplicity, n given."""
    a = np.zeros((n, n))
    for u, v in edges:
        if u != v:
            a[u, v] = a[v, u] = 1.0
    return a


def degree_order(a):
    """Section 1.5: degree descending, ties by the neighbours' degree sum, then by index."""
    degree = [int(row.sum()) for row in a]
    around = [sum(degree[u] for u in range(len(a)) if a[v, u]) for v in range(len(a))]
    return sorted(range(len(a)), key=lambda v: (-degree[v], -around[v], v))


def aligned_mean(graphs, size, normalize="all"):
    """Section 1.5, steps 2 and 3, dense."""
    total = np.zeros((size, size))
    present = np.zeros((size, size))
    for edges, n in graphs:
        a = adjacency(edges, n)
        order = degree_order(a)
        for i in range(min(size, n)):
            for j in range(min(size, n)):
                total[i, j] += a[order[i], order[j]]
                present[i, j] += 1
    if normalize == "all":
        return total / len(graphs)
    return total / np.maximum(present, 1)


def usvt(mean, tau):
    """Section 1.5, step 4, by a singular value decomposition; then symmetric, zero diagonal."""
    u, s, vt = np.linalg.svd(mean)
    s = np.where(s < tau * math.sqrt(len(mean)), 0.0, s)
    w = np.clip(u @ np.diag(s) @ vt, 0, 1)
    w = (w + w.T) / 2
    np.fill_diagonal(w, 0)
    return w


def resize(w, n, mode="crop_pad"):
    """Section 1.6: crop or pad, or read the step function at (u + 1/2) / n."""
    result = np.zeros((n, n))
    for i in range(n):
        for j in range(n):
            if i == j:
                continue
            if mode == "interpolate":
                result[i, j] = w[int((i + 0.5) / n * len(w)), int((j + 0.5) / n * len(w))]
            elif i < len(w) and j < len(w):
                result[i, j] = w[i, j]
    return result


def bernoulli_pairs(chances, count, seed):
    """Section 1.6: every pair of every graph on its own; 0 or 1, a row a graph."""
    rng = np.random.default_rng(seed)
    result = []
    for _ in range(count):
        u = rng.random(len(chances)).tolist()
        result.append([1 if a < b else 0 for a, b in zip(u, chances, strict=True)])
    return result


def random_walk(edges, n, length):
    """Section 1.8: diagonals of the powers of A D^-1, zero columns for nodes without edges."""
    a = adjacency(edges, n)
    degree = a.sum(0)
    walk = np.zeros((n, n))
    for v in range(n):
        if degree[v] > 0:
            walk[:, v] = a[:, v] / degree[v]
    result = np.zeros((n, length))
    power = np.eye(n)
    for k in range(length):
        power = power @ walk
        result[:, k] = np.diag(power)
    return result


def quotas(sizes, budget):
    """Section 1.3, step 4."""
    taken = dict.fromkeys(range(len(sizes)), 0)
    for done, k in enumerate(sorted(range(len(sizes)), key=lambda k: sizes[k])):
        taken[k] = min(sizes[k], budget // (len(sizes) - done))
        budget -= taken[k]
    return [taken[k] for k in range(len(sizes))]


def nearest(query, pool, features, k):
    """Section 1.8, step 2; the earlier node wins a tie."""
    distance = [sum((a - b) ** 2 for a, b in zip(query, row, strict=True)) for row in pool]
    order = sorted(range(len(pool)), key=lambda i: (round(distance[i], 12), i))[:k]
    return [sum(features[i][c] for i in order) / k for c in range(len(features[0]))]


def graph_contrast(first, second, tau):
    """Section 1.10: -1/2 [log(e^sim_ii / sum_{j != i} e^sim_ij) + the same over columns]."""
    n = len(first)

    def cosine(a, b):
        return float(a @ b) / (math.sqrt(float(a @ a)) * math.sqrt(float(b @ b)))

    sim = [[cosine(first[i], second[j]) / tau for j in range(n)] for i in range(n)]
    scores = []
    for i in range(n):
        row = sum(math.exp(sim[i][j]) for j in range(n) if j != i)
        column = sum(math.exp(sim[j][i]) for j in range(n) if j != i)
        scores.append(-0.5 * (math.log(math.exp(sim[i][i]) / row) + math.log(math.exp(sim[i][i]) / column)))
    return scores


def gin_layer(x, edges, w1, b1, w2, b2):
    """One GIN step, eps = 0, without normalisation; edges are directed messages."""
    out = []
    for v in range(len(x)):
        h = x[v].copy()
        for source, target in edges:
            if target == v:
                h = h + x[source]
        h = np.maximum(w1 @ h + b1, 0)
        out.append(np.maximum(w2 @ h + b2, 0))
    return np.array(out)


def auroc(truth, scores):
    """Share of (OOD, ID) pairs ranked right, ties one half."""
    won = 0.0
    pairs = 0
    for t, s in zip(truth, scores, strict=True):
        for u, r in zip(truth, scores, strict=True):
            if t == 1 and u == 0:
                pairs += 1
                won += 1.0 if s > r else 0.5 if s == r else 0.0
    return won / pairs


def average_precision(truth, scores):
    """Sum over thresholds of recall step times precision."""
    result, recall = 0.0, 0.0
    positives = sum(truth)
    for threshold in sorted(set(scores), reverse=True):
        chosen = [t for t, s in zip(truth, scores, strict=True) if s >= threshold]
        now = sum(chosen) / positives
        result += (now - recall) * sum(chosen) / len(chosen)
        recall = now
    return result


def fpr95(truth, scores):
    """False positive rate at the first threshold, falling, with a true positive rate of at least 0.95."""
    positives, negatives = sum(truth), len(truth) - sum(truth)
    for threshold in sorted(set(scores), reverse=True):
        hit = [t for t, s in zip(truth, scores, strict=True) if s >= threshold]
        if sum(hit) / positives >= 0.95:
            return (len(hit) - sum(hit)) / negatives
    return 1.0
