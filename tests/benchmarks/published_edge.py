"""The published loss as a plain transcription of its formulas (not of the code), and a rival adapted.

What a reader of the specification writes first: naive logarithms, a Python loop over outliers, autograd
through everything. Used for time and memory, and to show where the naive forms overflow.
"""

import torch
from torch import Tensor
from torch.nn import functional


def naive_energy(logits: Tensor) -> Tensor:
    """log(1 + exp z), summed; infinite in float32 from 89 on."""
    return torch.log(1 + torch.exp(logits)).sum(1)


def naive_loss(
    logits: Tensor, targets: Tensor, k: int, margin: float, alpha: float = 1.0, beta: float = 0.1
) -> Tensor:
    """Rows of -1 are outliers, as in ours, so that both get the same tensors."""
    outlier = (targets < 0).all(1)
    known, labels, outliers = logits[~outlier], targets[~outlier], logits[outlier]
    id_term = functional.binary_cross_entropy_with_logits(known, labels)
    conf = -torch.log(1 - torch.sigmoid(outliers)).mean()
    tail = torch.sort(naive_energy(known)).values[:k]
    gap = logits.new_zeros(())
    for energy in naive_energy(outliers):
        gap = gap + torch.relu(energy - tail + margin).sum()
    return id_term + alpha * conf + beta * gap / (len(outliers) * len(tail))


def bounded_regulariser(logits: Tensor, targets: Tensor, criterion: torch.nn.Module) -> Tensor:
    """Cross-entropy over labels and pytorch-ood's energy regulariser, which is single-label.

    Its energy is minus logsumexp over the logits; the closest form of JointEnergy it can be given is logits
    with a zero column, whose logsumexp is log(1 + sum exp z). Its own cross-entropy is switched off by making
    all its labels unknown for one half of the regulariser and known class 0 for the other.
    """
    outlier = (targets < 0).all(1)
    known = logits[~outlier]
    loss = functional.binary_cross_entropy_with_logits(known, targets[~outlier])
    wide = torch.cat([logits.new_zeros(len(logits), 1), logits], 1)
    labels = torch.where(outlier, -1, 0)
    whole: Tensor = criterion(wide, labels)
    nll = functional.cross_entropy(wide[~outlier], labels[~outlier])
    return loss + whole - nll
