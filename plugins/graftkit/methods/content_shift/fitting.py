r"""Training assigners on labelled maps, where they are not trained inside a network of your own.

.. math:: \min_{f, h} \; \mathrm{CE}\bigl(h(r), y\bigr) + \text{penalty}

h is one linear layer on the blended map r, thrown away afterwards; the maps stay as they are. The loss is
ours: the paper trains assigners with each task's own head (appendix A.4).

>>> from graftkit.methods.content_shift.amalgamation import FeatureAmalgamation
>>> blend = FeatureAmalgamation(channels=2, num_features=2, kind="pixel")
>>> losses = fit_amalgamation(
...     blend, torch.randn(4, 2, 2, 4, 4), torch.zeros(4, 8, 8, dtype=torch.long), steps=3, random_state=0)
>>> len(losses), blend.training
(3, False)
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from graftkit.core.progress import progress_bar
from graftkit.core.random import torch_generator
from graftkit.core.validation import check_integer, check_number, raise_invalid
from graftkit.methods.content_shift.amalgamation import FeatureAmalgamation

__all__ = ["fit_amalgamation"]


def fit_amalgamation(
    blend: FeatureAmalgamation,
    maps: Tensor,
    labels: Tensor,
    *,
    steps: int = 200,
    batch_size: int = 8,
    lr: float = 3e-3,
    ignore_index: int = 255,
    random_state: Any = None,
    verbose: int = 0,
) -> list[float]:
    """Train the assigners, in place; the module is left in evaluation mode.

    Parameters
    ----------
    blend : FeatureAmalgamation
        With assigners, so not of kind "mean".
    maps : Tensor of shape (N, b, C, h, w)
        Variants of N images.
    labels : Tensor of int, of shape (N, H, W)
        Label maps of any size, classes from 0 on.
    steps : int, default=200
        Updates.
    batch_size : int, default=8
        Images an update, 2 or more: the assigners normalise over the batch.
    lr : float, default=3e-3
        Of AdamW; decays linearly.
    ignore_index : int, default=255
        Pixels without a label.
    random_state : int, torch.Generator or None, default=None
        Seeds batches, dropout and the layer on top.
    verbose : int, default=0
        1 shows progress.

    Returns
    -------
    list of float
        Loss and penalty together, of each update.

    Raises
    ------
    TypeError
        If an argument has the wrong type.
    ValueError
        If shapes do not fit, there are no assigners, fewer than 2 images, or no pixel is labelled.
    """
    if not isinstance(blend, FeatureAmalgamation):
        raise_invalid("blend", blend, "a FeatureAmalgamation", error=TypeError)
    if not len(blend.assigners):
        raise_invalid("blend", blend.kind, "assigners to train: kind 'conv' or 'pixel'")
    check_integer("steps", steps, low=1)
    size = check_integer("batch_size", batch_size, low=2)
    check_number("lr", lr, low=0, closed="()")
    check_integer("ignore_index", ignore_index)
    _check(blend, maps, labels)
    if len(maps) < 2:
        raise_invalid("maps", maps, "at least 2 images")
    known = labels[labels != ignore_index]
    if not len(known) or int(known.min()) < 0:
        raise_invalid("labels", labels, f"classes from 0 on, some of them not {ignore_index}")
    generator = torch_generator(random_state)
    maps = maps.detach()
    width = blend.num_assigners * blend.channels
    on_cuda = maps.device.type == "cuda"
    # Layers start, and dropout draws, from the global generators: theirs are put back. torch.manual_seed
    # would seed those of all devices, also the ones that nobody puts back.
    with torch.random.fork_rng([maps.device] if on_cuda else []):
        start = int(torch.randint(2**62, (1,), generator=generator))
        torch.default_generator.manual_seed(start)
        if on_cuda:
            with torch.cuda.device(maps.device):
                torch.cuda.manual_seed(start)
        head = nn.Sequential(nn.BatchNorm2d(width, affine=False), nn.Conv2d(width, int(known.max()) + 1, 1))
        head.to(maps)
        optimizer = torch.optim.AdamW([*blend.parameters(), *head.parameters()], lr=lr)
        blend.train()
        losses = []
        for step in progress_bar(range(steps), verbose=verbose, desc="assigners"):
            for group in optimizer.param_groups:
                group["lr"] = lr * (1 - step / steps)
            rows = torch.randperm(len(maps), generator=generator)[:size]
            target = labels[rows].long().to(maps.device)
            fused, penalty = blend(maps[rows])
            logits = functional.interpolate(
                head(fused), target.shape[1:], mode="bilinear", align_corners=False
            )
            optimizer.zero_grad()
            each = functional.cross_entropy(logits, target, ignore_index=ignore_index, reduction="sum")
            loss = each / (target != ignore_index).sum().clamp_min(1) + penalty
            loss.backward()
            optimizer.step()
            losses.append(float(loss.detach()))
    blend.eval()
    return losses


def _check(blend: FeatureAmalgamation, maps: Any, labels: Any) -> None:
    shape = (blend.num_features, blend.channels)
    if not isinstance(maps, Tensor) or not maps.is_floating_point():
        raise_invalid("maps", maps, "a floating-point tensor (N, b, C, h, w)", error=TypeError)
    if maps.ndim != 5 or tuple(maps.shape[1:3]) != shape:
        raise_invalid("maps", maps, f"shape (N, num_features={shape[0]}, channels={shape[1]}, h, w)")
    if not bool(torch.isfinite(maps).all()):
        raise_invalid("maps", maps, "finite values")
    if not isinstance(labels, Tensor) or labels.is_floating_point() or labels.dtype == torch.bool:
        raise_invalid("labels", labels, "a tensor of integers (N, H, W)", error=TypeError)
    if labels.ndim != 3 or len(labels) != len(maps):
        raise_invalid("labels", labels, f"shape ({len(maps)}, H, W)")
