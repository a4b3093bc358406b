"""The update from its equations alone: plain loops in float64, nothing shared with the plugin."""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

X = torch.tensor([[1, 2], [-1, 0.5], [0.5, -1.5], [2, 1], [-0.5, -0.5], [1.5, -1]], dtype=torch.float64)
Y = torch.tensor([0, 0, 0, 1, 1, 2])
TAIL = [2]


def golden_net() -> nn.Sequential:
    """The network of specification section 5.1."""
    net = nn.Sequential(nn.Linear(2, 3), nn.Tanh(), nn.Linear(3, 3)).double()
    values = [
        [[0.1, -0.2], [0.3, 0.4], [-0.5, 0.2]],
        [0.05, -0.05, 0.1],
        [[0.2, -0.1, 0.3], [-0.3, 0.25, 0.1], [0.05, 0.15, -0.2]],
        [0, 0.1, -0.1],
    ]
    with torch.no_grad():
        for p, v in zip(net.parameters(), values, strict=True):
            p.copy_(torch.tensor(v, dtype=torch.float64))
    return net


def per_sample(net: nn.Module, x: Tensor = X, y: Tensor = Y) -> Tensor:
    return F.cross_entropy(net(x), y, reduction="none")


def part_losses(
    net: nn.Module, x: Tensor = X, y: Tensor = Y, tail: list[int] = TAIL
) -> tuple[Tensor, Tensor]:
    losses = per_sample(net, x, y)
    in_tail = torch.tensor([int(label) in tail for label in y])
    return losses[~in_tail].sum() / len(y), losses[in_tail].sum() / len(y)


def gradient(loss: Tensor, params: list[Tensor]) -> list[Tensor]:
    if not loss.requires_grad:
        return [torch.zeros_like(p) for p in params]
    grads = torch.autograd.grad(loss, params, allow_unused=True)
    return [torch.zeros_like(p) if g is None else g for g, p in zip(grads, params, strict=True)]


def norm(vectors: list[Tensor]) -> float:
    total = 0.0
    for v in vectors:
        for entry in v.flatten().tolist():
            total += entry * entry
    return total**0.5


def sharpened(
    params: list[Tensor],
    head: Callable[[], Tensor],
    tail: Callable[[], Tensor],
    *,
    rho_head: float,
    rho_tail: float,
    adaptive: bool = False,
    tail_weight: float = 1.0,
) -> list[Tensor]:
    """grad L_H(w + eps_H) + tail_weight * grad L_T(w + eps_T); stage 2 is rho_head = 0."""
    total = [torch.zeros_like(p) for p in params]
    for loss, rho, weight in ((head, rho_head, 1.0), (tail, rho_tail, tail_weight)):
        home = [p.detach().clone() for p in params]
        grads = gradient(loss(), params)
        scale = norm(
            [p.detach().abs() * g for p, g in zip(params, grads, strict=True)] if adaptive else grads
        )
        with torch.no_grad():
            for p, g in zip(params, grads, strict=True):
                p += rho * (p * p * g if adaptive else g) / (scale + 1e-16)
        away = gradient(loss(), params)
        with torch.no_grad():
            for p, w, t, g in zip(params, home, total, away, strict=True):
                p.copy_(w)
                t += weight * g
    return total


def sam(params: list[Tensor], loss: Callable[[], Tensor], rho: float) -> list[Tensor]:
    return sharpened(params, loss, lambda: torch.zeros(()), rho_head=rho, rho_tail=0.0)
