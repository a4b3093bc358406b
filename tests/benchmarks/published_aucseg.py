"""The published procedure of AUCSeg, transcribed from its description for comparison of cost.

Square one-vs-one loss: a loop over all classes on a one-hot matrix and copies of all valid scores; bank:
whole float pictures, a loop over the pixels of a mask (specification sections 1.3, 1.5, 1.8 and 4.1).
"""

import math
import random

import torch
from torch import Tensor
from torch.nn import functional as F


def square_auc_loss(logits: Tensor, target: Tensor, gamma: float = 1.0, ignore_index: int = 255) -> Tensor:
    """Class-loop closed form over the whole batch; logits (B, C, H, W), target (B, H, W)."""
    classes = logits.shape[1]
    scores = logits.sigmoid().permute(0, 2, 3, 1).reshape(-1, classes)
    labels = target.reshape(-1)
    valid = labels != ignore_index
    scores, labels = scores[valid], labels[valid]
    one_hot = F.one_hot(labels, classes).float()
    sizes = one_hot.sum(0)
    present = int((sizes > 0).sum())
    inverse = torch.where(sizes > 0, 1 / sizes.clamp(min=1), torch.zeros_like(sizes))
    total = scores.new_zeros(())
    for i in range(classes):
        if sizes[i] == 0:
            continue
        own = one_hot[:, i]
        rivals = (1 - own) * (one_hot @ inverse)
        column = scores[:, i]
        gap = gamma - column
        first = (own * gap * gap).sum() / sizes[i] * (present - 1)
        cross = 2 * (own * gap).sum() / sizes[i] * (rivals * column).sum()
        last = (rivals * column * column).sum()
        total = total + 0.5 * (first + cross + last)
    return total / (present * (present - 1))


class Bank:
    """Whole normalised pictures and lists of pixels, as in a data-loading worker."""

    def __init__(self, tail: list[int], memory_size: int, sample_ratio: float, resize_ratio: float) -> None:
        self.tail, self.size = tail, memory_size
        self.sample_ratio, self.resize_ratio = sample_ratio, resize_ratio
        self.memory: dict[int, list[tuple[Tensor, Tensor]]] = {c: [] for c in tail}
        self.random = random.Random(0)

    def __call__(self, image: Tensor, label: Tensor) -> tuple[Tensor, Tensor]:
        """Store, then paste in place; image (3, H, W) float, label (H, W)."""
        present = set(label.unique().tolist())
        for c in self.tail:
            if c in present:
                entry = (image, (label == c).nonzero())
                if len(self.memory[c]) < self.size:
                    self.memory[c].append(entry)
                else:
                    self.memory[c][self.random.randrange(self.size)] = entry
        missing = [c for c in self.tail if c not in present]
        for c in self.random.sample(missing, math.ceil(len(missing) * self.sample_ratio)):
            if not self.memory[c]:
                continue
            source, pixels = self.random.choice(self.memory[c])
            mask = torch.zeros(source.shape[1:])
            for y, x in pixels.tolist():
                mask[y, x] = 1
            size = [int(n * self.resize_ratio) for n in source.shape[1:]]
            scaled = F.interpolate(source[None], size, mode="bilinear")[0]
            mask = F.interpolate(mask[None, None], size)[0, 0]
            top, left = (self.random.randint(0, label.shape[k] - size[k]) for k in (0, 1))
            for y, x in mask.nonzero().tolist():
                image[:, top + y, left + x] = scaled[:, y, x]
                label[top + y, left + x] = c
        return image, label
