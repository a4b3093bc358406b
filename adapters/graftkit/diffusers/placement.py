"""Where a pipeline runs and in which type, read in one walk over its modules.

diffusers' own properties ask every module by name and several times over, which takes long beside the forward
of a small U-Net. They are asked only where some module has an offloading or casting hook.

>>> execution_device(pipe), compute_dtype(pipe.unet)  # doctest: +SKIP
(device(type='cuda', index=0), torch.float16)
"""

from typing import Any

import torch
from torch import nn

from graftkit.diffusers.taps import every_module

__all__ = ["compute_dtype", "execution_device", "moves_weights"]


def execution_device(pipe: Any) -> torch.device:
    """The device that latents and text belong on, as ``pipe._execution_device`` says it."""
    parts = [part for part in pipe.components.values() if isinstance(part, nn.Module)]
    firsts = [next(part.parameters(), None) for part in parts]
    devices = [None if first is None else first.device for first in firsts]
    if None in devices or any(_hooked(part) for part in parts):
        own: torch.device = pipe._execution_device
        return own
    # A pipeline that is split says where its accelerator is.
    away = (d for d in devices if d is not None and d.type not in ("cpu", "meta"))
    found = next(away, devices[0])
    assert found is not None
    return found


def compute_dtype(model: Any) -> torch.dtype:
    """The type that a model computes in, as ``model.dtype`` says it."""
    first = next(model.parameters(), None)
    kept = getattr(model, "_keep_in_fp32_modules", None)
    if first is None or not first.is_floating_point() or kept or _hooked(model):
        own: torch.dtype = model.dtype
        return own
    dtype: torch.dtype = first.dtype
    return dtype


def moves_weights(model: nn.Module) -> bool:
    """Whether some module's weights come and go with its forward, so that a stop would leave them behind."""
    return any(_moves(module) for module in _hooked(model))


def _hooked(model: nn.Module) -> list[nn.Module]:
    # The dictionary and not getattr(): a module that lacks an attribute looks through all its tables first.
    return [m for m in every_module(model) if "_hf_hook" in m.__dict__ or "_diffusers_hook" in m.__dict__]


def _moves(module: nn.Module) -> bool:
    given = vars(module)
    hook = given.get("_hf_hook")  # accelerate's; the other one is diffusers'
    if hook is not None and type(hook).__name__ in ("AlignDevicesHook", "SequentialHook"):
        return bool(getattr(hook, "offload", True))
    return "_diffusers_hook" in given and bool(getattr(given["_diffusers_hook"], "hooks", None))
