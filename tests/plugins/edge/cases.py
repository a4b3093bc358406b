"""The worked batch of the specification, and random ones."""

import torch
from torch import Tensor

Z = [[2.0, -1.0], [0.5, 0.5], [-1.0, -2.0]]
Y = [[1.0, 0.0], [1.0, 1.0], [0.0, 1.0]]
U = [[-1.0, -1.0], [1.0, -3.0]]


def tensor(values) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def worked(grad: bool = False) -> tuple[Tensor, Tensor, Tensor]:
    return tensor(Z).requires_grad_(grad), tensor(Y), tensor(U).requires_grad_(grad)


def draw(seed: int, n: int, n_o: int, C: int, dtype=torch.float64) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    Z = torch.randn(n, C, generator=generator, dtype=torch.float64) * 2
    U = torch.randn(n_o, C, generator=generator, dtype=torch.float64) * 2 - 1
    Y = (torch.rand(n, C, generator=generator) < 0.4).to(dtype)
    return Z.to(dtype), Y, U.to(dtype)


def joined(Z: Tensor, Y: Tensor, U: Tensor) -> tuple[Tensor, Tensor]:
    return torch.cat([Z, U]), torch.cat([Y, -torch.ones_like(U)])
