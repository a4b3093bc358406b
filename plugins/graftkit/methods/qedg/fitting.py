"""Settings and substitute that fit the target's inputs and classes, tried before the first query.

>>> resolved(QEDGConfig(), (1, 8, 8), 10).query_transform
'turns'
"""

from __future__ import annotations

from copy import deepcopy
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from graftkit.core.validation import raise_invalid
from graftkit.methods.qedg.evaluation import Scaled
from graftkit.methods.qedg.modes import frozen
from graftkit.methods.qedg.settings import QEDGConfig

__all__ = ["fitting_substitute", "resolved"]


def resolved(config: QEDGConfig, shape: tuple[int, ...], num_classes: int) -> QEDGConfig:
    """Settings with "auto" replaced by what the shape asks for.

    Parameters
    ----------
    config : QEDGConfig
        Settings.
    shape : tuple of int
        Of one row.
    num_classes : int
        C.

    Returns
    -------
    QEDGConfig
        Settings without "auto".

    Raises
    ------
    ValueError
        If a transform of images is asked for vectors, or the target confidence is not above 1/C.
    """
    image = len(shape) == 3
    chosen: dict[str, Any] = {}
    for name in ("loop_transform", "query_transform"):
        value = getattr(config, name)
        if value == "auto":
            chosen[name] = "turns" if image else "none"
        elif not image and not callable(value) and value != "none":
            raise_invalid(name, value, f'"none" or a callable for inputs of shape {shape}')
    if not image and any(isinstance(entry, str) for entry in config.free_aug):
        raise_invalid("free_aug", config.free_aug, f"callables for inputs of shape {shape}")
    if config.target_confidence is not None and config.target_confidence <= 1 / num_classes:
        raise_invalid("target_confidence", config.target_confidence, f"more than 1/C = {1 / num_classes:g}")
    return replace(config, **chosen)


def fitting_substitute(
    substitute: Any,
    shape: tuple[int, ...],
    num_classes: int,
    value_range: tuple[float, float],
    device: torch.device,
) -> nn.Module:
    """A copy of a substitute, which was seen to give logits of the right shape.

    Parameters
    ----------
    substitute : object
        What was passed.
    shape : tuple of int
        Of one row.
    num_classes : int
        C.
    value_range : (float, float)
        What its inputs span.
    device : torch.device
        Where the copy goes.

    Returns
    -------
    torch.nn.Module
        The copy.

    Raises
    ------
    TypeError
        If it is no module.
    ValueError
        If it has nothing to train, or does not fit.
    """
    if not isinstance(substitute, nn.Module):
        raise_invalid("substitute", substitute, "a torch.nn.Module", error=TypeError)
    copy = deepcopy(substitute).to(device)
    if not any(p.requires_grad for p in copy.parameters()):
        raise_invalid("substitute", type(substitute).__name__, "a module with trainable parameters")
    rows = torch.zeros(2, *shape, device=device, dtype=torch.float32)
    try:
        with frozen(copy), torch.no_grad():
            scores = Scaled(copy, *value_range)(rows)
    except (RuntimeError, ValueError, TypeError) as error:
        raise ValueError(
            f"substitute: expected a module for float32 inputs of shape {(2, *shape)}, got {error}"
        ) from error
    if not isinstance(scores, Tensor) or scores.shape != (2, num_classes):
        raise_invalid("substitute", scores, f"logits of shape (n, {num_classes})")
    return copy
