"""Models of the SSE-SAM benchmark: optimizer-bound, and CIFAR shapes without and with batch normalisation."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def mlp(classes: int = 10) -> nn.Module:
    """Small on purpose: the optimizer's arithmetic shows."""
    return nn.Sequential(
        nn.Flatten(), nn.Linear(3072, 32), nn.Tanh(), nn.Linear(32, 32), nn.Tanh(), nn.Linear(32, classes)
    )


def group_norm_cnn(classes: int = 10, width: int = 16) -> nn.Module:
    """Specification section 6.1: three strided blocks, 24 k parameters."""
    layers: list[nn.Module] = []
    for a, b in ((3, width), (width, 2 * width), (2 * width, 4 * width)):
        layers += [nn.Conv2d(a, b, 3, 2, 1), nn.GroupNorm(8, b), nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4 * width, classes))


class _Block(nn.Module):
    def __init__(self, a: int, b: int, stride: int) -> None:
        super().__init__()
        self.first, self.second = (
            nn.Conv2d(a, b, 3, stride, 1, bias=False),
            nn.Conv2d(b, b, 3, 1, 1, bias=False),
        )
        self.norm1, self.norm2 = nn.BatchNorm2d(b), nn.BatchNorm2d(b)
        same = a == b and stride == 1
        self.skip = (
            nn.Identity()
            if same
            else nn.Sequential(nn.Conv2d(a, b, 1, stride, bias=False), nn.BatchNorm2d(b))
        )

    def forward(self, x: Tensor) -> Tensor:
        out = F.relu(self.norm1(self.first(x)))
        return F.relu(self.norm2(self.second(out)) + self.skip(x))


def resnet18(classes: int = 10) -> nn.Module:
    """ResNet-18 with a 3x3 stem, as for CIFAR."""
    layers: list[nn.Module] = [nn.Conv2d(3, 64, 3, 1, 1, bias=False), nn.BatchNorm2d(64), nn.ReLU()]
    a = 64
    for b, stride in ((64, 1), (128, 2), (256, 2), (512, 2)):
        layers += [_Block(a, b, stride), _Block(b, b, 1)]
        a = b
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(512, classes))


class _ViT(nn.Module):
    def __init__(self, classes: int, dim: int = 96, depth: int = 4) -> None:
        super().__init__()
        self.patch = nn.Conv2d(3, dim, 4, 4)
        self.position = nn.Parameter(torch.zeros(1, 64, dim))
        layer = nn.TransformerEncoderLayer(dim, 3, 2 * dim, 0.0, "gelu", batch_first=True, norm_first=True)
        self.body = nn.TransformerEncoder(layer, depth, enable_nested_tensor=False)
        self.head = nn.Linear(dim, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(self.patch(x).flatten(2).transpose(1, 2) + self.position).mean(1))


def vit(classes: int = 10) -> nn.Module:
    return _ViT(classes)


def many_tensors(n: int) -> nn.Module:
    """`n` parameter tensors of one row each, in one cheap product: the growth with their number."""

    class Many(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.rows = nn.ParameterList([nn.Parameter(torch.full((8,), 0.01)) for _ in range(n)])
            self.head = nn.Linear(8, 10)
            self.register_buffer("scale", torch.linspace(0.5, 1.5, n)[:, None])

        def forward(self, x: Tensor) -> Tensor:
            # Scaled, or all rows would share one gradient tensor.
            return self.head(x.flatten(1)[:, :8] * (torch.stack(list(self.rows)) * self.scale).sum(0))

    return Many()


MODELS = {"mlp": mlp, "group_norm_cnn": group_norm_cnn, "resnet18": resnet18, "vit": vit}
