"""AUCSeg from its description: pairs of pixels in float64, whole canvases, one pixel after another."""

import math

import torch
from torch import Tensor

SURROGATES = {
    "square": lambda t, margin: 0.5 * (margin - t) ** 2,
    "hinge": lambda t, margin: (margin - t).clamp(min=0),
    "exp": lambda t, margin: (-margin * t).exp(),
}


def pixel_auc_loss(
    logits: Tensor,
    target: Tensor,
    surrogate: str = "square",
    scheme: str = "ovo",
    activation: str = "sigmoid",
    margin: float = 1.0,
    ignore_index: int = 255,
    weight: Tensor | None = None,
    min_pixels: int = 1,
) -> Tensor:
    """Every pair of pixels, compared: an outer difference for each pair of classes."""
    channels = logits.shape[1]
    scores = logits.double()
    scores = scores.sigmoid() if activation == "sigmoid" else scores.softmax(1)
    pixels = [scores[b].reshape(channels, -1).T for b in range(len(scores))]
    scores = torch.cat(pixels)  # (N, C)
    labels = target.reshape(-1).long()
    weights = torch.ones(len(labels), dtype=torch.float64) if weight is None else weight.reshape(-1).double()

    members = {}
    for c in range(2 if channels == 1 else channels):
        chosen = [a for a in range(len(labels)) if labels[a] == c and c != ignore_index and weights[a] > 0]
        if len(chosen) >= max(min_pixels, 1):
            members[c] = torch.tensor(chosen)
    if len(members) < 2:
        return logits.double().nan_to_num().sum() * 0

    rankings = [(0, 1)] if channels == 1 else [(c, c) for c in members]  # score map, its class
    total, count = logits.new_zeros((), dtype=torch.float64), 0
    for column, own in rankings:
        others = [c for c in members if c != own]
        rivals = (
            [members[c] for c in others] if scheme == "ovo" else [torch.cat([members[c] for c in others])]
        )
        positive, w_positive = scores[members[own], column], weights[members[own]]
        for rival in rivals:
            gaps = positive[:, None] - scores[rival, column][None, :]
            pair_weights = w_positive[:, None] * weights[rival][None, :]
            losses = SURROGATES[surrogate](gaps, margin)
            total = total + (losses * pair_weights).sum() / pair_weights.sum()
            count += 1
    return total / count


def class_means(scores: Tensor, labels: Tensor, classes: list[int]) -> Tensor:
    """``mu[j, i]``: the mean of score map i over the pixels of class j, summed one by one."""
    table = torch.zeros(len(classes), len(classes), dtype=torch.float64)
    for row, j in enumerate(classes):
        for column, i in enumerate(classes):
            values = [float(scores[b, i, h, w]) for b, h, w in (labels == j).nonzero().tolist()]
            table[row, column] = math.fsum(values) / len(values)
    return table


def scaled_canvas(image: Tensor, mask: Tensor, ratio: float) -> tuple[Tensor, Tensor]:
    """The whole picture scaled: bilinear colours, nearest mask, one output pixel at a time."""
    channels, height, width = image.shape
    new_height, new_width = max(int(height * ratio), 1), max(int(width * ratio), 1)
    colours = torch.zeros(channels, new_height, new_width, dtype=torch.float64)
    scaled = torch.zeros(new_height, new_width, dtype=torch.bool)
    for y in range(new_height):
        source_y = min(max((y + 0.5) * height / new_height - 0.5, 0.0), height - 1.0)
        y0 = math.floor(source_y)
        y1, fy = min(y0 + 1, height - 1), source_y - y0
        for x in range(new_width):
            source_x = min(max((x + 0.5) * width / new_width - 0.5, 0.0), width - 1.0)
            x0 = math.floor(source_x)
            x1, fx = min(x0 + 1, width - 1), source_x - x0
            for c in range(channels):
                top = float(image[c, y0, x0]) * (1 - fx) + float(image[c, y0, x1]) * fx
                bottom = float(image[c, y1, x0]) * (1 - fx) + float(image[c, y1, x1]) * fx
                colours[c, y, x] = top * (1 - fy) + bottom * fy
            scaled[y, x] = bool(mask[y * height // new_height, x * width // new_width])
    return colours, scaled


def paste_canvas(
    image: Tensor, label: Tensor, colours: Tensor, mask: Tensor, cls: int, top: int, left: int
) -> tuple[Tensor, Tensor]:
    """Write the mask's pixels of a scaled canvas, its corner at (top, left); what lies outside is cut."""
    image, label = image.clone(), label.clone()
    for y in range(mask.shape[0]):
        for x in range(mask.shape[1]):
            if mask[y, x] and y + top < label.shape[0] and x + left < label.shape[1]:
                for c in range(image.shape[0]):
                    value = float(colours[c, y, x])
                    image[c, y + top, x + left] = value if image.is_floating_point() else round(value)
                label[y + top, x + left] = cls
    return image, label


def intersection_over_union(
    predictions: list[Tensor], labels: list[Tensor], n_classes: int, ignore_index: int = 255
) -> list[float]:
    """IoU of each class in per cent from counts over all pictures; NaN where a class is nowhere."""
    hits, unions = [0] * n_classes, [0] * n_classes
    for prediction, label in zip(predictions, labels, strict=True):
        for p, t in zip(prediction.flatten().tolist(), label.flatten().tolist(), strict=True):
            if t == ignore_index:
                continue
            for c in {p, t}:
                unions[c] += 1
            if p == t:
                hits[p] += 1
    return [100 * h / u if u else math.nan for h, u in zip(hits, unions, strict=True)]


def pairwise_auc(scores: Tensor, labels: Tensor) -> float:
    """Mean over ordered class pairs (i, j) of P(score i of a class-i pixel > that of a class-j pixel)."""
    present = sorted({int(c) for c in labels})
    values = []
    for i in present:
        for j in present:
            if i != j:
                a, b = scores[labels == i, i], scores[labels == j, i]
                gaps = a[:, None] - b[None, :]
                values.append(float((gaps > 0).double().mean() + 0.5 * (gaps == 0).double().mean()))
    return sum(values) / len(values)
