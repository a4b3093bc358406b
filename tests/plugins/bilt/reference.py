"""BiLT + AIGDL from its description: plain float64 loops, sharing nothing with the package."""

import math
from collections import deque

import torch


def parents_to_paths(parents, leaves):
    """Nodes from below the root to each leaf."""
    paths = []
    for leaf in leaves:
        path = [leaf]
        while parents.get(path[0]) is not None:
            path.insert(0, parents[path[0]])
        paths.append(path)
    return paths


def padded(paths):
    depth = max(len(path) for path in paths)
    return [path + [path[-1]] * (depth - len(path)) for path in paths]


def lca_distance(paths):
    """Levels to climb until two leaves meet, on padded paths."""
    n, depth = len(paths), len(paths[0])
    table = [[0] * n for _ in range(n)]
    for i in range(n):
        for j in range(n):
            common = 0
            for level in range(depth):
                if paths[i][: level + 1] != paths[j][: level + 1]:
                    break
                common = level + 1
            table[i][j] = depth - common if i != j else 0
    return table


def bfs_length(edges, start, goal):
    """Edges between two nodes of an undirected graph."""
    near = {}
    for a, b in edges:
        near.setdefault(a, []).append(b)
        near.setdefault(b, []).append(a)
    seen, queue = {start: 0}, deque([start])
    while queue:
        node = queue.popleft()
        for other in near.get(node, []):
            if other not in seen:
                seen[other] = seen[node] + 1
                queue.append(other)
    return seen[goal]


def delta(weight):
    n = weight.shape[0]
    result = torch.zeros(n, n, dtype=torch.float64)
    rows = []
    for i in range(n):
        norm = torch.zeros((), dtype=torch.float64)
        for j in range(n):
            if i != j:
                norm = norm + weight[i, j] ** 2
        norm = torch.sqrt(norm) if float(norm.detach()) > 0 else torch.ones((), dtype=torch.float64)
        rows.append(torch.stack([
            weight[i, j] / norm if i != j else torch.zeros((), dtype=torch.float64) for j in range(n)
        ]))  # fmt: skip
    return torch.stack(rows) if rows else result


def softmax(row):
    e = [torch.exp(v - max(float(w.detach()) for w in row)) for v in row]
    total = sum(e)
    return [v / total for v in e]


def scores(probabilities, weight, distance, beta):
    """s[b, k] = sum_j (beta Delta[k, j] - D[k, j]) p[b, j], three loops."""
    d = delta(weight)
    b, c = probabilities.shape
    out = []
    for i in range(b):
        row = []
        for k in range(c):
            total = torch.zeros((), dtype=torch.float64)
            for j in range(c):
                total = total + (beta * d[k, j] - distance[k][j]) * probabilities[i, j]
            row.append(total)
        out.append(torch.stack(row))
    return torch.stack(out)


def soft_label(weight, distance, beta, gamma, y):
    d = delta(weight.detach())
    return softmax([gamma * (beta * d[y, j] - distance[y][j]) for j in range(len(distance))])


def loss(logits, weights, distances, targets, *, alpha, beta, epsilon, gamma, aigdl=True):
    """Total over levels, coarse to fine; targets[h][b] is a label."""
    levels = len(logits)
    total = torch.zeros((), dtype=torch.float64)
    for h in range(levels):
        z = logits[h]
        n = z.shape[0]
        p = torch.stack([torch.stack(softmax(list(z[i]))) for i in range(n)])
        level = torch.zeros((), dtype=torch.float64)
        s = scores(p, weights[h], distances[h], beta) if aigdl else None
        for i in range(n):
            y = targets[h][i]
            level = level - torch.log(p[i, y])
            if not aigdl:
                continue
            q = softmax(list(s[i]))
            soft = soft_label(weights[h], distances[h], beta, gamma, y)
            for j in range(len(q)):
                goal = (1 - epsilon) * (1.0 if j == y else 0.0) + epsilon * soft[j]
                level = level - goal * torch.log(q[j])
        total = total + math.exp(alpha * (h + 1 - levels)) * level / n
    return total


def hxe(logits, paths, targets, alpha):
    """Bertinetto et al.: conditional losses on the way down, weighted by exp(-alpha * height)."""
    depth = len(paths[0])
    total = torch.zeros((), dtype=torch.float64)
    for z, y in zip(logits, targets, strict=True):
        p = softmax(list(z))
        for height in range(depth):
            level = depth - height
            low = sum(p[j] for j in range(len(p)) if paths[j][:level] == paths[y][:level])
            high = sum(p[j] for j in range(len(p)) if paths[j][: level - 1] == paths[y][: level - 1])
            total = total - math.exp(-alpha * height) * torch.log(low / high)
    return total / len(logits)


def crm(probabilities, distance):
    """argmin_k sum_j D[k, j] p[j] by loops."""
    best = []
    for row in probabilities:
        risk = [sum(distance[k][j] * float(row[j]) for j in range(len(row))) for k in range(len(row))]
        best.append(min(range(len(risk)), key=lambda k: (round(risk[k], 12), k)))
    return best


def metrics(ranking, levels, distance, targets, paths, ks):
    """ranking[i]: finest classes, best first; levels[i]: predicted node at each level, by name."""
    n, depth = len(ranking), len(paths[0])
    out = {}
    wrong = [distance[y][order[0]] for order, y in zip(ranking, targets, strict=True) if order[0] != y]
    out["mistakes"] = len(wrong)
    out["mistake_severity"] = sum(wrong) / len(wrong) if wrong else float("nan")
    for k in ks:
        out[f"top{k}"] = sum(y in order[:k] for order, y in zip(ranking, targets, strict=True)) / n
        out[f"hd@{k}"] = (
            sum(sum(distance[y][c] for c in order[:k]) / k for order, y in zip(ranking, targets, strict=True))
            / n
        )
        bound = [sum(sorted(distance[y])[:k]) / k for y in targets]
        out[f"hd@{k}_bound"] = sum(bound) / n
        dmax = max(max(row) for row in distance)
        precision = 0.0
        for order, y in zip(ranking, targets, strict=True):
            got = sum(1 - distance[y][c] / dmax for c in order[:k])
            ideal = sum(1 - d / dmax for d in sorted(distance[y])[:k])
            precision += got / ideal
        out[f"hp@{k}"] = precision / n
    for h in range(depth):
        out[f"level{h + 1}"] = sum(row[h] == paths[y][h] for row, y in zip(levels, targets, strict=True)) / n
        out[f"level{h + 1}_rollup"] = sum(
            paths[order[0]][h] == paths[y][h] for order, y in zip(ranking, targets, strict=True)
        ) / n  # fmt: skip
    known = {tuple(path) for path in paths}
    out["fpa"] = (
        sum(
            all(a == b for a, b in zip(row, paths[y], strict=True))
            for row, y in zip(levels, targets, strict=True)
        )
        / n
    )
    out["tice"] = sum(tuple(row) not in known for row in levels) / n
    sizes = [len({path[h] for path in paths}) for h in range(depth)]
    out["wap"] = sum(sizes[h] * out[f"level{h + 1}"] for h in range(depth)) / sum(sizes)
    return out
