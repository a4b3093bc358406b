"""The published training step, transcribed from the specification's description: the yardstick of cost.

Per level the identity and the mask are made anew, W is masked and normalised by autograd's own operations,
two products (Delta p and D p) are taken, D is a linear layer that gets a gradient, and targets go through a
Python loop over the batch. The published code also reads a pickle from disk and moves D to the device in
every step; both are left out here, in its favour.
"""

import math
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional

from graftkit.methods.bilt import LabelTree


def block(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(
        nn.BatchNorm1d(inputs), nn.Linear(inputs, outputs), nn.BatchNorm1d(outputs), nn.ELU()
    )


class PublishedBiLT(nn.Module):
    """Head and loss in one, as the published script computes them."""

    def __init__(self, features: int, tree: LabelTree, neck: int = 600, beta: float = 0.5) -> None:
        super().__init__()
        sizes = tree.sizes
        self.beta, self.sizes = beta, sizes
        self.neck = block(features, neck)
        self.classifiers = nn.ModuleList([*(nn.Linear(n, n) for n in sizes[:-1]), nn.Linear(neck, sizes[-1])])
        self.links = nn.ModuleList(block(fine, coarse) for coarse, fine in pairwise(sizes))
        self.weights = nn.ParameterList(torch.full((n, n), 1 / n) for n in sizes)
        self.distances = nn.ModuleList(nn.Linear(n, n, bias=False) for n in sizes)
        for h, layer in enumerate(self.distances):
            layer.weight = nn.Parameter(tree.distance(h + 1))
        self.maps = [dict(enumerate(row)) for row in tree.ancestors.tolist()]

    def forward(self, features: Tensor) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
        logits = [self.classifiers[-1](self.neck(features))]
        for h in range(len(self.sizes) - 2, -1, -1):
            logits.insert(0, self.classifiers[h](self.links[h](logits[0])))
        scores, costs = [], []
        for h, z in enumerate(logits):
            mask = 1 - torch.eye(self.sizes[h])
            delta = functional.normalize(self.weights[h] * mask, dim=1)
            p = z.softmax(1)
            scores.append(self.beta * functional.linear(p, delta) - self.distances[h](p))
            costs.append(self.beta * delta - self.distances[h].weight)
        return logits, scores, costs

    def loss(
        self, features: Tensor, y: Tensor, alpha: float = 1.0, epsilon: float = 0.5, gamma: float = 1.0
    ) -> Tensor:
        total = torch.zeros(())
        for h, (z, s, cost) in enumerate(zip(*self(features), strict=True)):
            target = torch.tensor([self.maps[h][int(label)] for label in y])
            soft = (gamma * cost.detach()).softmax(1)[target]
            logs = s.log_softmax(1)
            adaptive = (
                epsilon * -(soft * logs).sum(1) + (1 - epsilon) * -logs.gather(1, target[:, None])[:, 0]
            )
            weight = math.exp(alpha * (h + 1 - len(self.sizes)))
            total = total + weight * (functional.cross_entropy(z, target) + adaptive.mean())
        return total
