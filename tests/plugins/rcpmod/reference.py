"""RCPMOD in naive loops, written from the specification alone; nothing here calls the plugin.

Losses take float64 torch tensors and combine scalars one by one, so that autograd differentiates the
loops as well; selections, tables and scores are NumPy and Python numbers. Section numbers are those of
the method's specification.
"""

import math

import numpy as np
import torch


def dot(x, y):
    return sum(x[j] * y[j] for j in range(len(x)))


def norm(x):
    return torch.sqrt(sum(x[j] * x[j] for j in range(len(x))))


def unit(z):
    """Section 1.4: h = z / max(|z|, 1e-12), row by row."""
    return [row / max(norm(row), torch.tensor(1e-12, dtype=torch.float64)) for row in z]


def nce(u, w, bank=(), tau=0.5):
    """Section 1.6, contrastive core: the mean of l(s; Q) over the 2N anchors."""
    n = len(u)
    h = [*u, *w]
    total = 0.0
    for s in range(2 * n):
        partner = s + n if s < n else s - n
        positive = torch.exp(dot(h[s], h[partner]) / tau)
        denominator = positive
        for t in range(2 * n):
            if t not in (s, partner):
                denominator = denominator + torch.exp(dot(h[s], h[t]) / tau)
        for q in bank:
            denominator = denominator + torch.exp(dot(h[s], q) / tau)
        total = total - torch.log(positive / denominator)
    return total / (2 * n)


def neighbor_alignment(z_a, z_b, table_a, table_b, rows, tau):
    """Section 1.6 (c): the mean over ranks r of NCE between the r-th neighbours in either view."""
    k = len(table_a[0])
    total = 0.0
    for r in range(k):
        u = unit([z_a[table_a[i][r]] for i in rows])
        w = unit([z_b[table_b[i][r]] for i in rows])
        total = total + nce(u, w, (), tau)
    return total / k


def reconstruction(outputs, x, rows):
    """Section 1.6 (a), one view: squared error summed over features, averaged over the rows that have it."""
    total = 0.0
    for i in rows:
        for j in range(x.shape[1]):
            total = total + (outputs[i][j] - x[i][j]) ** 2
    return total / len(rows)


def distance(x, y):
    """Section 1.6 (d): |x - y + 1e-6|."""
    return torch.sqrt(sum((x[j] - y[j] + 1e-6) ** 2 for j in range(len(x))))


def rank(z, positive, negative):
    """Section 1.6 (d): R_v for aligned rows."""
    total = 0.0
    for i in range(len(z)):
        gap = distance(z[i], positive[i]) - distance(z[i], negative[i])
        if gap > 0:
            total = total + gap
    return total / len(z)


def nearest_distance(z):
    """Section 1.6 (d): K_v; the nearest row is the one of largest inner product, never the row itself."""
    n = len(z)
    total = 0.0
    for i in range(n):
        best, choice = -math.inf, None
        for j in range(n):
            if j != i and dot(z[i], z[j]).item() > best:
                best, choice = dot(z[i], z[j]).item(), j
        total = total - torch.log(n * distance(z[i], z[choice]))
    return total / n


def spread_weight(t, warm, end, length):
    """Section 1.6 (e)."""
    if t <= 99:
        return warm * t / 99
    return warm + (end - warm) * (t - 100) / (length - 101)


def least_similar(similarity, fraction):
    """Section 1.6 (b): positions of the max(1, floor(rho |A|)) smallest, ties to the lowest position."""
    wanted = max(1, math.floor(fraction * len(similarity)))
    left = list(range(len(similarity)))
    chosen = []
    for _ in range(wanted):
        best = left[0]
        for position in left[1:]:
            if similarity[position] < similarity[best]:
                best = position
        chosen.append(best)
        left.remove(best)
    return chosen


def sorted_by_distance(x, i, candidates):
    """Candidates by Euclidean distance to row i, nearest first, i itself left out."""
    far = [
        (math.sqrt(sum((float(p) - float(q)) ** 2 for p, q in zip(x[i], x[j], strict=True))), j)
        for j in candidates
    ]
    return [j for _, j in sorted(far) if j != i]


def neighbor_lists(a, b, observed_a, observed_b, k):
    """Section 1.5, view `a`: own lists, or the other view's unlimited list filtered to rows that have `a`."""
    n = len(observed_a)
    lists = []
    for i in range(n):
        if observed_a[i]:
            lists.append(sorted_by_distance(a, i, [j for j in range(n) if observed_a[j]])[:k])
        else:
            everyone = sorted_by_distance(b, i, [j for j in range(n) if observed_b[j]])
            lists.append([j for j in everyone if observed_a[j]][:k])
    return lists


def forward(layers, x, *, sigmoid=False):
    """Section 1.4: Linear, ReLU, ..., Linear (and a sigmoid), for one row, entry by entry."""
    out = [float(value) for value in x]
    for depth, (weight, bias) in enumerate(layers):
        out = [
            sum(float(weight[o][i]) * out[i] for i in range(len(out))) + float(bias[o])
            for o in range(len(bias))
        ]
        if depth < len(layers) - 1:
            out = [max(0.0, value) for value in out]
    return [1 / (1 + math.exp(-value)) for value in out] if sigmoid else out


def min_max(values):
    low, high = min(values), max(values)
    return [0.0 if high == low else (value - low) / (high - low) for value in values]


def normalise(z):
    length = max(math.sqrt(sum(value * value for value in z)), 1e-12)
    return [value / length for value in z]


def inner(x, y):
    return sum(p * q for p, q in zip(x, y, strict=True))


def mean_rows(rows):
    return [sum(column) / len(rows) for column in zip(*rows, strict=True)]


def pair_latents(networks, xs, observed, k):
    """Latents of a training set's two views, missing ones by relation transfer, and the observed errors."""
    n = len(observed)
    latents = [
        [forward(networks[v].encoder, xs[v][i]) if observed[i][v] else None for i in range(n)] for v in (0, 1)
    ]
    errors = [[math.nan] * n, [math.nan] * n]
    for v in (0, 1):
        for i in range(n):
            if observed[i][v]:
                out = forward(networks[v].decoder, latents[v][i], sigmoid=True)
                errors[v][i] = sum((p - float(q)) ** 2 for p, q in zip(out, xs[v][i], strict=True))
    both = [j for j in range(n) if observed[j][0] and observed[j][1]]
    filled = [list(latents[0]), list(latents[1])]
    for v in (0, 1):
        for i in range(n):
            if not observed[i][v]:
                near = sorted_by_distance({**dict(enumerate(latents[1 - v]))}, i, both)[:k]
                filled[v][i] = mean_rows([latents[v][j] for j in near])
    return latents, filled, errors, both


def scaled_error_sums(errors, observed, low, high):
    """r_i of sections 1.8 and 1.9: a missing view's scaled error repeats the observed one's."""
    sums = []
    for i in range(len(observed)):
        e = [
            (errors[v][i] - low[v]) / (high[v] - low[v]) if observed[i][v] and high[v] > low[v] else 0.0
            for v in (0, 1)
        ]
        if observed[i][0] and observed[i][1]:
            sums.append(e[0] + e[1])
        else:
            sums.append(2 * (e[0] if observed[i][0] else e[1]))
    return sums


def error_bounds(errors):
    seen = [[value for value in column if not math.isnan(value)] for column in errors]
    return [min(column) for column in seen], [max(column) for column in seen]


def transductive_scores(networks, xs, observed, k, tau, recon_weight):
    """Section 1.8, every row against all 2n vectors of the pair."""
    n = len(observed)
    _, filled, errors, _ = pair_latents(networks, xs, observed, k)
    h = [normalise(z) for z in filled[0]] + [normalise(z) for z in filled[1]]
    consistency = []
    for i in range(n):
        total = 0.0
        for s, partner in ((i, i + n), (i + n, i)):
            denominator = sum(math.exp(inner(h[s], h[t]) / tau) for t in range(2 * n) if t != s)
            total -= math.log(math.exp(inner(h[s], h[partner]) / tau) / denominator)
        consistency.append(total / 2)
    r = scaled_error_sums(errors, observed, *error_bounds(errors))
    return np.array(
        [recon_weight * p + q for p, q in zip(min_max(r), min_max(consistency), strict=True)]
    ), np.array(consistency)


def inductive_scores(networks, xs, observed, new_xs, new_observed, k, tau, recon_weight, references=None):
    """Section 1.9: new rows against a frozen training set; `references` are the rows kept, all by default."""
    n = len(observed)
    latents, filled, errors, both = pair_latents(networks, xs, observed, k)
    low, high = error_bounds(errors)
    kept = list(range(n)) if references is None else [int(j) for j in references]
    bank = [normalise(filled[v][j]) for v in (0, 1) for j in kept]

    def components(row_xs, row_observed):
        z, e = [None, None], [[math.nan], [math.nan]]
        for v in (0, 1):
            if row_observed[v]:
                z[v] = forward(networks[v].encoder, row_xs[v])
                out = forward(networks[v].decoder, z[v], sigmoid=True)
                e[v] = [sum((p - float(q)) ** 2 for p, q in zip(out, row_xs[v], strict=True))]
        for v in (0, 1):
            if z[v] is None:
                table = {j: latents[1 - v][j] for j in both} | {-1: z[1 - v]}
                z[v] = mean_rows([latents[v][j] for j in sorted_by_distance(table, -1, both)[:k]])
        h = [normalise(z[0]), normalise(z[1])]
        agreement = inner(h[0], h[1]) / tau
        c = -agreement
        for v in (0, 1):
            crowd = sum(math.exp(inner(h[v], g) / tau) for g in bank)
            c += 0.5 * math.log(math.exp(agreement) + n / len(kept) * crowd)
        return scaled_error_sums(e, [row_observed], low, high)[0], c

    train = [components((xs[0][i], xs[1][i]), observed[i]) for i in range(n)]
    fresh = [components((new_xs[0][i], new_xs[1][i]), new_observed[i]) for i in range(len(new_observed))]
    r_low, r_high = min(r for r, _ in train), max(r for r, _ in train)
    c_low, c_high = min(c for _, c in train), max(c for _, c in train)
    return np.array(
        [recon_weight * (r - r_low) / (r_high - r_low) + (c - c_low) / (c_high - c_low) for r, c in fresh]
    )
