"""Generators of queries: a small transposed network for images, an MLP for vectors.

The image generator is that of the authors' code: a linear map to 128 x (s/4) x (s/4), two times upsampling
by 2 with 3x3 convolutions, batch norm and leaky ReLU, a sigmoid at the end. Outputs lie in [0, 1]. A side
that 4 does not divide is generated larger and cropped at the centre. The MLP is an addition of ours.

Upsampling and the convolution after it are computed in one: of the 9 taps at a pixel several meet the same
pixel of the small image, so a transposed convolution with their sums, 4 taps a pixel, gives the same values.

>>> make_generator((1, 10, 8), latent=4, width=8)(torch.zeros(2, 4)).shape
torch.Size([2, 1, 10, 8])
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import conv_transpose2d, pad

__all__ = ["DoublingConv2d", "ImageGenerator", "VectorGenerator", "make_generator", "reinitialise"]


class DoublingConv2d(nn.Conv2d):
    """Nearest-neighbour upsampling by 2 and a 3x3 convolution with zero padding, in one pass.

    Parameters
    ----------
    channels : int
        In.
    out : int
        Out.
    """

    def __init__(self, channels: int, out: int) -> None:
        super().__init__(channels, out, 3, padding=1)

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002  (torch's name)
        """The convolution of the upsampled input.

        Parameters
        ----------
        input : Tensor of shape (B, channels, h, w)
            Small images.

        Returns
        -------
        Tensor of shape (B, out, 2h, 2w)
            Large ones.
        """
        # Along each axis the 4 taps of the transposed kernel are w2, w1 + w2, w0 + w1, w0.
        taps = pad(self.weight.flip(2, 3).transpose(0, 1), (1, 1, 1, 1))
        taps = taps[..., :-1, :] + taps[..., 1:, :]
        taps = taps[..., :-1] + taps[..., 1:]
        return conv_transpose2d(input, taps, self.bias, stride=2, padding=1)


class ImageGenerator(nn.Module):
    """Latent vectors to images.

    Parameters
    ----------
    input_shape : tuple of int
        ``(c, H, W)``.
    latent : int
        Width of a latent vector.
    width : int
        Channels after the linear map; the published 128, halved by the last hidden convolution.
    """

    def __init__(self, input_shape: tuple[int, ...], latent: int, width: int) -> None:
        super().__init__()
        channels, self.height, self.breadth = input_shape
        self.start = (width, -(-self.height // 4), -(-self.breadth // 4))
        last = max(1, width // 2)
        self.linear = nn.Linear(latent, width * self.start[1] * self.start[2])
        self.layers = nn.Sequential(
            nn.BatchNorm2d(width),
            DoublingConv2d(width, width),
            nn.BatchNorm2d(width),
            nn.LeakyReLU(0.2, inplace=True),
            DoublingConv2d(width, last),
            nn.BatchNorm2d(last),
            nn.LeakyReLU(0.2, inplace=True),
            nn.Conv2d(last, channels, 3, padding=1),
            nn.Sigmoid(),
        )
        # Not trained: the batch norm takes out what this bias adds, so its gradient is zero.
        for layer in self.layers:
            if isinstance(layer, DoublingConv2d) and layer.bias is not None:
                layer.bias.requires_grad_(False)
        self.to(memory_format=torch.channels_last)  # faster on a CPU

    def forward(self, z: Tensor) -> Tensor:
        """Images of latent vectors.

        Parameters
        ----------
        z : Tensor of shape (B, latent)
            Latent vectors.

        Returns
        -------
        Tensor of shape (B, c, H, W)
            Values in [0, 1].
        """
        # Channels last in memory from the first layer on, as the weights are; the values are the same.
        start = self.linear(z).reshape(-1, *self.start).contiguous(memory_format=torch.channels_last)
        images: Tensor = self.layers(start)
        top, left = (images.shape[2] - self.height) // 2, (images.shape[3] - self.breadth) // 2
        images = images[:, :, top : top + self.height, left : left + self.breadth]
        # As a loader gives them: a substitute may take a view of its rows.
        return images.contiguous()


class VectorGenerator(nn.Module):
    """Latent vectors to vectors.

    Parameters
    ----------
    input_shape : tuple of int
        ``(d,)``.
    latent : int
        Width of a latent vector.
    width : int
        Hidden width.
    """

    def __init__(self, input_shape: tuple[int, ...], latent: int, width: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(latent, width),
            nn.BatchNorm1d(width),
            nn.LeakyReLU(0.2),
            nn.Linear(width, width),
            nn.BatchNorm1d(width),
            nn.LeakyReLU(0.2),
            nn.Linear(width, input_shape[0]),
            nn.Sigmoid(),
        )

    def forward(self, z: Tensor) -> Tensor:
        """Vectors of latent vectors.

        Parameters
        ----------
        z : Tensor of shape (B, latent)
            Latent vectors.

        Returns
        -------
        Tensor of shape (B, d)
            Values in [0, 1].
        """
        vectors: Tensor = self.layers(z)
        return vectors


def make_generator(input_shape: tuple[int, ...], latent: int, width: int) -> nn.Module:
    """The generator that fits a shape.

    Parameters
    ----------
    input_shape : tuple of int
        ``(c, H, W)`` or ``(d,)``.
    latent : int
        Width of a latent vector.
    width : int
        Channels or hidden units.

    Returns
    -------
    torch.nn.Module
        With torch's own initial weights; :func:`reinitialise` gives it the published ones.
    """
    kind = ImageGenerator if len(input_shape) == 3 else VectorGenerator
    return kind(input_shape, latent, width)


@torch.no_grad()
def reinitialise(generator: nn.Module, random: torch.Generator) -> None:
    """Draw every weight anew, as each round begins: N(0, 0.02) and zeros; batch norms N(1, 0.02) and zeros.

    Parameters
    ----------
    generator : torch.nn.Module
        Changed in place, batch norm's running statistics included.
    random : torch.Generator
        On the CPU.
    """
    for module in generator.modules():
        if isinstance(module, nn.Linear | nn.Conv2d):
            weight, centre = module.weight, 0.0
        elif isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            weight, centre = module.weight, 1.0
            module.reset_running_stats()
        else:
            continue
        weight.copy_(torch.randn(weight.shape, generator=random, dtype=torch.float32) * 0.02 + centre)
        if module.bias is not None:
            module.bias.zero_()
