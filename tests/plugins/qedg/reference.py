"""QEDG's formulas as plain loops in float64, from the description; no code of the plugin."""

import math


def softmax(row):
    top = max(row)
    powers = [math.exp(value - top) for value in row]
    return [power / sum(powers) for power in powers]


def cross_entropy(row, label):
    return -math.log(softmax(row)[label])


def class_loss(logits, intended):
    return sum(cross_entropy(row, t) for row, t in zip(logits, intended, strict=True)) / len(logits)


def deviation(logits):
    """Mean over rows of the unbiased standard deviation of the class probabilities."""
    total = 0.0
    for row in logits:
        shares = softmax(row)
        mean = sum(shares) / len(shares)
        total += math.sqrt(sum((p - mean) ** 2 for p in shares) / (len(shares) - 1))
    return total / len(logits)


def cosine(a, b):
    length = math.sqrt(sum(v * v for v in a)) * math.sqrt(sum(v * v for v in b))
    return 0.0 if length == 0 else sum(u * v for u, v in zip(a, b, strict=True)) / length


def similarity(vectors, labels):
    """Sum over pairs of one class, over B; and the number of pairs."""
    total, pairs = 0.0, 0
    for i in range(len(vectors)):
        for j in range(i + 1, len(vectors)):
            if labels[i] == labels[j]:
                total += cosine(vectors[i], vectors[j])
                pairs += 1
    return total / len(vectors), pairs


def weighted_loss(logits, labels, weight):
    total = 0.0
    for row, label in zip(logits, labels, strict=True):
        right = row.index(max(row)) == label
        total += cross_entropy(row, label) * (1.0 if right else weight)
    return total / len(logits)


def weighted_soft_loss(logits, targets, weight):
    total = 0.0
    for row, target in zip(logits, targets, strict=True):
        loss = -sum(t * math.log(p) for t, p in zip(target, softmax(row), strict=True))
        right = row.index(max(row)) == target.index(max(target))
        total += loss * (1.0 if right else weight)
    return total / len(logits)


def kappa(first, second, classes):
    n = len(first)
    observed = sum(a == b for a, b in zip(first, second, strict=True)) / n
    chance = sum((first.count(c) / n) * (second.count(c) / n) for c in range(classes))
    return (observed - chance) / (1 - chance)


def kappa_error(first, second, classes):
    """Standard error of kappa: Fleiss, Cohen and Everitt (1969), their formula term by term."""
    n = len(first)
    share = [[0.0] * classes for _ in range(classes)]
    for a, b in zip(first, second, strict=True):
        share[a][b] += 1 / n
    rows = [sum(share[i]) for i in range(classes)]
    columns = [sum(share[i][j] for i in range(classes)) for j in range(classes)]
    observed = sum(share[i][i] for i in range(classes))
    chance = sum(rows[i] * columns[i] for i in range(classes))
    total = 0.0
    for i in range(classes):
        total += share[i][i] * ((1 - chance) - (columns[i] + rows[i]) * (1 - observed)) ** 2
        for j in range(classes):
            if i != j:
                total += (1 - observed) ** 2 * share[i][j] * (columns[i] + rows[j]) ** 2
    total -= (observed * chance - 2 * chance + observed) ** 2
    return math.sqrt(total / n) / (1 - chance) ** 2


def entropy(counts):
    total = sum(counts)
    return -sum(c / total * math.log(c / total) for c in counts if c)
