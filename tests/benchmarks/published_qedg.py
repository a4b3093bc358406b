"""The published round, image by image, written from its description: what the benchmark measures against.

No code of the authors is used. Batch-1 forwards of substitute and target, an image encoded and decoded for
each candidate, a transform for each image alone, and the diversity loss as a loop over classes with a B x B
matrix of cosines.
"""

import io
from collections.abc import Callable

import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn.functional import cosine_similarity, cross_entropy

from graftkit.methods.qedg.generators import reinitialise
from graftkit.methods.qedg.settings import QEDGConfig
from graftkit.methods.qedg.transforms import transform_batch


def diversity(images: Tensor, intended: Tensor, classes: int) -> Tensor:
    """Pairs of each class by the upper triangle of their matrix of cosines."""
    total = images.new_zeros(())
    flat = images.flatten(1)
    for c in range(classes):
        members = flat[intended == c]
        matrix = cosine_similarity(members[:, None], members[None], dim=2)
        total = total + torch.triu(matrix, 1).sum()
    return total / len(images)


def pair_loop(images: Tensor, intended: Tensor) -> float:
    """Every pair by itself, in float64."""
    flat, total = images.flatten(1).double(), 0.0
    for i in range(len(flat)):
        for j in range(i + 1, len(flat)):
            if intended[i] == intended[j]:
                total += float(cosine_similarity(flat[i], flat[j], dim=0))
    return total / len(flat)


class Generator(nn.Module):
    """The published layers as they are described, for sides that 4 divides."""

    def __init__(self, shape: tuple[int, ...], latent: int, width: int) -> None:
        super().__init__()
        self.start = (width, shape[1] // 4, shape[2] // 4)
        self.linear = nn.Linear(latent, width * self.start[1] * self.start[2])
        self.layers = nn.Sequential(
            nn.BatchNorm2d(width),
            nn.Upsample(scale_factor=2), nn.Conv2d(width, width, 3, padding=1),
            nn.BatchNorm2d(width), nn.LeakyReLU(0.2),
            nn.Upsample(scale_factor=2), nn.Conv2d(width, width // 2, 3, padding=1),
            nn.BatchNorm2d(width // 2), nn.LeakyReLU(0.2),
            nn.Conv2d(width // 2, shape[0], 3, padding=1), nn.Sigmoid(),
        )  # fmt: skip

    def forward(self, z: Tensor) -> Tensor:
        images: Tensor = self.layers(self.linear(z).reshape(-1, *self.start))
        return images


def generate(substitute: nn.Module, shape: tuple[int, ...], classes: int, config: QEDGConfig) -> Tensor:
    """A fresh generator, optimised; the images of its best step."""
    random = torch.Generator().manual_seed(0)
    generator = Generator(shape, config.latent, config.width)
    reinitialise(generator, random)
    # The published code asks for the latent vectors' gradient, too, and does not use it.
    latent = torch.randn(config.batch_size, config.latent, generator=random).requires_grad_(True)
    intended = torch.randint(classes, (config.batch_size,), generator=random)
    adam = torch.optim.Adam(generator.parameters(), config.lr_g)
    best, kept = float("inf"), latent
    for _ in range(config.g_steps):
        images = transform_batch(config.loop_transform, generator(latent), random, each=False)
        scores = substitute(images)
        loss = cross_entropy(scores, intended)
        loss = loss + config.boundary_weight * scores.softmax(1).std(1).mean()
        loss = loss + config.diversity_weight * diversity(images, intended, classes)
        if loss.item() < best:
            best, kept = loss.item(), images.detach()
        adam.zero_grad()
        loss.backward()
        adam.step()
    return kept


def filter_and_query(
    images: Tensor, substitute: nn.Module, target: Callable[[Tensor], Tensor], config: QEDGConfig
) -> tuple[Tensor, list[int]]:
    """Each image transformed, written as PNG, read back, filtered and asked about, alone."""
    random, kept, labels = torch.Generator().manual_seed(1), [], []
    for image in images:
        moved = transform_batch(config.query_transform, image[None], random, each=True)[0].clamp(0, 1)
        pixels = (moved * 255).to(torch.uint8)
        array = pixels[0].numpy() if len(pixels) == 1 else pixels.permute(1, 2, 0).numpy()
        buffer = io.BytesIO()
        Image.fromarray(array).save(buffer, format="PNG")
        buffer.seek(0)
        read = torch.frombuffer(bytearray(Image.open(buffer).tobytes()), dtype=torch.uint8)
        read = read.reshape(array.shape).float() / 255
        stored = read[None] if len(pixels) == 1 else read.permute(2, 0, 1)
        with torch.no_grad():
            if float(substitute(stored[None]).softmax(1).max()) > config.tau:
                continue
            labels.append(int(target(stored[None]).argmax(1)))
        kept.append(stored)
    return torch.stack(kept) if kept else images[:0], labels
