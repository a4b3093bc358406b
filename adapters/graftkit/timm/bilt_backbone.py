"""A timm model as a source of pooled features: its classifier taken off, its width measured.

Width is what a dry pass gives: ``num_features`` is not it for mobilenetv3, mambaout or doubled pooling.
"""

import re
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from graftkit.core.random import torch_generator
from graftkit.core.validation import raise_invalid

__all__ = ["dry_input", "feature_width", "pool_name", "prefixed_matcher", "strip_classifier"]


def dry_input(backbone: nn.Module) -> Tensor:
    """A picture of noise, always the same, of the size that the model was made for.

    Parameters
    ----------
    backbone : torch.nn.Module
        A timm model.

    Returns
    -------
    Tensor of shape (1, channels, height, width)
        Not constant, so that maximum and mean pooling differ on it.
    """
    cfg = getattr(backbone, "pretrained_cfg", None) or {}
    _, height, width = cfg.get("input_size") or (3, 224, 224)
    fixed = getattr(getattr(backbone, "patch_embed", None), "img_size", None)
    if fixed is not None:
        height, width = fixed if isinstance(fixed, tuple | list) else (fixed, fixed)
    convolution = next((m for m in backbone.modules() if isinstance(m, nn.Conv2d)), None)
    channels = convolution.in_channels if convolution is not None else 3
    weight = next(backbone.parameters())
    noise = torch.randn(1, channels, height, width, generator=torch_generator(0), device="cpu")
    return noise.to(weight)


def _pooled(backbone: nn.Module) -> Tensor:
    """Pooled features of the dry input; a ValueError where they are not pooled."""
    was = [(module, module.training) for module in backbone.modules()]
    backbone.eval()
    try:
        with torch.no_grad():
            model: Any = backbone
            features: Tensor = model.forward_head(
                model.forward_features(dry_input(backbone)), pre_logits=True
            )
    finally:
        for module, training in was:
            module.training = training
    if features.ndim != 2:
        raise_invalid("model", features, "pooled features of shape (B, width)",
                      fix="Choose a global_pool, such as 'avg'")  # fmt: skip
    return features


def feature_width(backbone: nn.Module) -> int:
    """Width of the pooled features, by a dry pass.

    Parameters
    ----------
    backbone : torch.nn.Module
        A timm model; its modes and statistics stay.

    Returns
    -------
    int
        The width.

    """
    return _pooled(backbone).shape[1]


def strip_classifier(backbone: nn.Module) -> nn.Module:
    """Take the classifier off, and keep pooling and whatever stands before the classifier.

    Parameters
    ----------
    backbone : torch.nn.Module
        A timm model; it is changed.

    Returns
    -------
    torch.nn.Module
        The same object.

    Raises
    ------
    TypeError
        If this is no timm classification model.
    ValueError
        If its features are not pooled, or its ``reset_classifier`` changes them.
    """
    parts = ("forward_features", "forward_head", "reset_classifier")
    if not isinstance(backbone, nn.Module) or not all(hasattr(backbone, part) for part in parts):
        raise_invalid("model", backbone, "a timm model, or the name of one", error=TypeError)
    model: Any = backbone
    if hasattr(backbone, "head_dist"):
        warnings.warn(
            "a distilled model: its two tokens are averaged, distilled training is lost", stacklevel=3
        )
    if getattr(model, "num_classes", 0) == 0:
        return backbone
    before, pool = _pooled(backbone), pool_name(backbone)
    # Several families take 'avg' for a missing pool, whatever they were built with.
    model.reset_classifier(0, pool) if pool else model.reset_classifier(0)
    after = _pooled(backbone)
    if before.shape != after.shape or not torch.allclose(before, after, rtol=1e-4, atol=1e-5, equal_nan=True):
        raise_invalid("model", type(model).__name__, "a model whose features stay when its classifier goes",
                      fix="Build it with num_classes=0")  # fmt: skip
    return backbone


def pool_name(backbone: nn.Module) -> str | None:
    """The pooling that a model has now.

    Parameters
    ----------
    backbone : torch.nn.Module
        A timm model.

    Returns
    -------
    str or None
        As ``reset_classifier`` takes it; None where the model does not say.
    """
    for owner in (backbone, getattr(backbone, "head", None)):
        pool = getattr(owner, "global_pool", None)
        name = pool if isinstance(pool, str) else getattr(pool, "pool_type", None)
        if isinstance(name, str) and name:
            return name
    return None


def prefixed_matcher(matcher: Any) -> dict[str, Any] | Callable[[str], Any]:
    """A timm group matcher for the same model one level down, as ``backbone``.

    Parameters
    ----------
    matcher : dict or callable
        What the model's ``group_matcher`` returned.

    Returns
    -------
    dict or callable
        The same, for names that begin with "backbone."; other names go into the last group.
    """
    if callable(matcher):
        return lambda name: matcher(name[9:]) if name.startswith("backbone.") else (float("inf"),)

    def moved(pattern: str) -> str:
        # timm matches from the start of a name; an inner ^ (after |) would never match behind a prefix.
        bare = re.sub(r"(?<!\[)\^", "", pattern)
        return rf"backbone\.(?:{bare})"

    return {
        group: None if spec is None else moved(spec) if isinstance(spec, str) else
        [(moved(part[0]), *part[1:]) for part in spec]
        for group, spec in matcher.items()
    }  # fmt: skip
