"""Features for `OEDatasetSelector` from any timm backbone.

Eval mode, no gradients, one pass a data set: the released selector leaves the backbone in train mode and
sends both sets through it together, so that batch normalisation mixes them (EDGE's specification 1.8, no. 3).

>>> import timm, torch
>>> model = timm.create_model("test_resnet", num_classes=3)
>>> pooled_features(model, [torch.zeros(2, 3, 32, 32)]).shape == (2, model.num_features)
True
"""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from graftkit.core.devices import check_device
from graftkit.core.progress import progress_bar
from graftkit.core.validation import check_integer, check_iterable, raise_invalid
from graftkit.methods.edge.detectors import evaluating

__all__ = ["pooled_features"]


@torch.no_grad()
def pooled_features(
    model: Any,
    loader: Iterable[Any],
    *,
    device: str | torch.device | None = None,
    verbose: int = 0,
) -> Tensor:
    """Backbone features after global pooling, before the classifier.

    Parameters
    ----------
    model : timm model
        Any with ``forward_features`` and ``forward_head``.
    loader : iterable of Tensor or of (Tensor, ...)
        Inputs of shape (B, channels, h, w); what follows them is ignored.
    device : str, torch.device or None, default=None
        Where inputs are moved before the model sees them.
    verbose : int, default=0
        1 shows a progress bar on standard error.

    Returns
    -------
    Tensor of shape (n, D)
        On the CPU.

    Raises
    ------
    TypeError
        If `model` is no timm model, `loader` gives no tensors, or `verbose` is no integer.
    ValueError
        If the loader gives no batch, `device` is not there, or `verbose` is negative.
    """
    if not all(callable(getattr(model, name, None)) for name in ("forward_features", "forward_head")):
        raise_invalid(
            "model",
            type(model).__name__,
            "a timm model, with forward_features and forward_head",
            error=TypeError,
        )
    check_integer("verbose", verbose, low=0)
    check_iterable("loader", loader, "batches of inputs")
    if device is not None:
        check_device(device)
    parts = []
    with evaluating(model):
        for batch in progress_bar(loader, verbose=verbose, desc="features"):
            inputs = batch[0] if isinstance(batch, tuple | list) else batch
            if not isinstance(inputs, Tensor):
                raise_invalid("loader", inputs, "batches whose inputs are tensors", error=TypeError)
            inputs = inputs if device is None else inputs.to(device)
            parts.append(model.forward_head(model.forward_features(inputs), pre_logits=True).flatten(1).cpu())
    if not parts:
        raise_invalid("loader", loader, "at least one batch")
    return torch.cat(parts)
