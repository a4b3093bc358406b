"""Inputs that several test files share: the golden case of the specification, random cases."""

import torch
from torch import Tensor


def golden() -> tuple[Tensor, Tensor]:
    """Section 5.1: logits (2, 4, 3, 4) in float64 and labels with classes 0, 1, 2 and two ignored pixels."""
    b, c, h, w = torch.meshgrid(*map(torch.arange, (2, 4, 3, 4)), indexing="ij")
    x = ((((7 * b + 3 * c + 5 * h + 2 * w) % 11) - 5) / 4).double()
    b, h, w = torch.meshgrid(*map(torch.arange, (2, 3, 4)), indexing="ij")
    y = (b + 2 * h + 3 * w) % 3
    y[0, 0, 0] = y[1, 2, 3] = 255
    return x.requires_grad_(), y


def random_case(seed: int) -> tuple[Tensor, Tensor, dict]:
    """Logits, labels and arguments: any rank, absent classes, ignored pixels, weights, every option."""
    rng = torch.Generator().manual_seed(seed)

    def draw(low: int, high: int) -> int:
        return int(torch.randint(low, high + 1, (), generator=rng))

    channels = draw(1, 8) if seed % 5 else draw(1, 2)
    spatial = [(), (draw(1, 9),), (draw(1, 5), draw(1, 5)), (draw(1, 3), draw(1, 3), draw(1, 4))][seed % 4]
    batch = draw(1, 3) if spatial else draw(2, 20)
    x = torch.randn(batch, channels, *spatial, generator=rng, dtype=torch.float64) * 2
    classes = max(channels, 2)
    allowed = torch.randperm(classes, generator=rng)[: draw(1, classes)]  # the others are absent
    y = allowed[torch.randint(len(allowed), (batch, *spatial), generator=rng)]
    y[torch.rand(y.shape, generator=rng) < 0.15] = 255
    options: dict = {
        "surrogate": ("square", "hinge", "exp")[draw(0, 2)],
        "scheme": ("ovo", "ova")[draw(0, 1)],
        "activation": "sigmoid" if channels == 1 else ("sigmoid", "softmax")[draw(0, 1)],
        "margin": (1.0, 1.5, 2.0)[draw(0, 2)],
        "min_pixels": (1, 1, 2)[draw(0, 2)],
    }
    if draw(0, 1):
        weight = torch.rand(y.shape, generator=rng, dtype=torch.float64) * 3
        weight[torch.rand(y.shape, generator=rng) < 0.2] = 0
        options["weight"] = weight
    return x.requires_grad_(), y, options


def gradient(loss: Tensor, x: Tensor) -> Tensor:
    return torch.autograd.grad(loss, x)[0]
