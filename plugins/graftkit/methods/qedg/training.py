"""Training of the substitute on all answers so far, without a query.

Step 4 of the specification's section 1.2: SGD with momentum over the whole pool, rows that are wrong now
weighted. The authors' loader never shuffles and drops the last batch, so a pool smaller than a batch is
never trained on; here rows are shuffled and all are used.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from graftkit.methods.qedg.losses import substitute_loss
from graftkit.methods.qedg.pool import Pool, unit
from graftkit.methods.qedg.settings import QEDGConfig
from graftkit.methods.qedg.streams import private_torch, stream
from graftkit.methods.qedg.transforms import flip, transform_batch

__all__ = ["fit_substitute", "free_augmentation"]


def fit_substitute(
    substitute: nn.Module,
    optimizer: torch.optim.Optimizer,
    pool: Pool,
    config: QEDGConfig,
    seed: int,
    *names: str | int,
) -> int:
    """Train for `inner_epochs` over the pool.

    Parameters
    ----------
    substitute : torch.nn.Module
        On values in [0, 1]; trained in place.
    optimizer : torch.optim.Optimizer
        Of its parameters; its state goes on.
    pool : Pool
        Images and answers.
    config : QEDGConfig
        Settings.
    seed : int
        Of the run.
    *names : str or int
        Which training this is.

    Returns
    -------
    int
        Steps taken.
    """
    if not len(pool):
        return 0
    device = next(substitute.parameters()).device
    order, free = stream(seed, "order", *names), stream(seed, "free", *names)
    steps = 0
    substitute.train()
    with private_torch(seed, "layers", *names, device=device):
        for _ in range(config.inner_epochs):
            for rows in _batches(len(pool), config.fit_batch_size or config.batch_size, order):
                images = unit(pool.images[rows]).to(device)
                targets = pool.labels[rows].to(device)
                logits = substitute(images)
                if (
                    config.free_aug
                    and float(torch.rand((), generator=free, dtype=torch.float32)) < config.free_aug_rate
                ):
                    changed = free_augmentation(images, logits, config, free)
                    # Unchanged images need no second pass (and no second update of batch norm).
                    logits = logits if changed is None else substitute(changed)
                loss = substitute_loss(logits, targets, config.error_weight)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                steps += 1
    return steps


def free_augmentation(
    images: Tensor, logits: Tensor, config: QEDGConfig, random: torch.Generator
) -> Tensor | None:
    """Query-free augmentation: images of which the substitute is sure, transformed; the answer is kept.

    Parameters
    ----------
    images : Tensor of shape (b, ...)
        Values in [0, 1].
    logits : Tensor of shape (b, C)
        The substitute's scores of them.
    config : QEDGConfig
        Transforms and confidence.
    random : torch.Generator
        Chooses the transform.

    Returns
    -------
    Tensor of shape (b, ...) or None
        The images; ``None`` if nothing changed.
    """
    chosen = config.free_aug[int(torch.randint(len(config.free_aug), (), generator=random))]
    moved = (
        flip(images, chosen)
        if isinstance(chosen, str)
        else transform_batch(chosen, images, random, each=True)
    )
    sure = logits.detach().softmax(1).amax(1) > config.free_aug_confidence
    changed = torch.where(sure.reshape(-1, *[1] * (images.ndim - 1)), moved, images)
    return None if torch.equal(changed, images) else changed


def _batches(rows: int, size: int, random: torch.Generator) -> Iterator[Tensor]:
    """Shuffled batches; a last one of a single row joins the one before it, for batch norm's sake."""
    order = torch.randperm(rows, generator=random)
    if rows == 1:
        order = order.repeat(2)
    parts = list(order.split(size))
    if len(parts) > 1 and len(parts[-1]) == 1:
        parts[-2:] = [torch.cat(parts[-2:])]
    yield from parts
