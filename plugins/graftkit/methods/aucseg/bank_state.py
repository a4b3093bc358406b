"""The saved form of a memory bank: settings, patches, generator, in plain containers and tensors.

Whatever is read is checked before anything is changed: a state may come from an old or foreign file.
Specification sections 3.3 and 3.4.

>>> from graftkit.methods.aucseg.bank import TailMemoryBank
>>> sorted(write_state(TailMemoryBank([3])))
['format', 'generator', 'patches', 'seen', 'serial', 'settings', 'version']
"""

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from graftkit.core.validation import check_integer, check_number, raise_invalid
from graftkit.methods.aucseg.patches import Patch

if TYPE_CHECKING:
    from graftkit.methods.aucseg.bank import TailMemoryBank

__all__ = ["read_state", "write_state"]

FORMAT, VERSION = "graftkit.TailMemoryBank", 1
SETTINGS = ("tail_classes", "memory_size", "sample_ratio", "resize_ratio", "update", "scope")

Contents = tuple[dict[int, list[Patch]], dict[int, int], int, torch.Generator]


def write_state(bank: "TailMemoryBank") -> dict[str, Any]:
    """Take a bank's state; later stores do not change it, since patches are replaced, never written.

    Parameters
    ----------
    bank : TailMemoryBank
        The bank.

    Returns
    -------
    dict
        str, int, float, list, dict and tensors only.
    """
    settings = {name: getattr(bank, name) for name in SETTINGS}
    return {
        "format": FORMAT,
        "version": VERSION,
        "settings": {**settings, "tail_classes": list(bank.tail_classes)},
        "patches": [[_written(p) for p in bank._store.patches[c]] for c in bank.tail_classes],
        "seen": [bank._store.seen[c] for c in bank.tail_classes],
        "serial": bank._store.serial,
        "generator": bank._generator.get_state(),
    }


def read_state(bank: "TailMemoryBank", state: Any, strict: bool) -> Contents:
    """Check a state against a bank and rebuild what it holds.

    Parameters
    ----------
    bank : TailMemoryBank
        The bank that is to continue; it is not changed.
    state : dict
        What `write_state` gave.
    strict : bool
        Demand the same tail classes and scale.

    Returns
    -------
    (dict, dict, int, torch.Generator)
        Patches and number seen by class, the next serial number, and the generator.

    Raises
    ------
    TypeError
        If `state` is no dict.
    ValueError
        If it is malformed or does not fit.
    """
    if not isinstance(state, dict):
        raise_invalid("state", state, "what state_dict() returned", error=TypeError)
    if state.get("format") != FORMAT or state.get("version") != VERSION:
        found = f"{state.get('format')!r} version {state.get('version')!r}"
        raise ValueError(f"state: expected {FORMAT!r} version {VERSION}, got {found}")
    try:
        saved = [check_integer("tail_classes", c) for c in state["settings"]["tail_classes"]]
        ratio = check_number("resize_ratio", state["settings"]["resize_ratio"])
        patches = [[_read(p) for p in kept] for kept in state["patches"]]
        seen = [check_integer("seen", n, low=0) for n in state["seen"]]
        serial, saved_generator = check_integer("serial", state["serial"], low=0), state["generator"]
    except (KeyError, TypeError, IndexError, AttributeError) as error:
        raise ValueError(f"state: not what state_dict() returned ({error!r})") from error
    generator = _generator(saved_generator)
    if not len(saved) == len(patches) == len(seen):
        raise ValueError("state: as many lists of patches as tail_classes were expected")
    if strict and set(saved) != set(bank.tail_classes):
        raise_invalid(
            "tail_classes",
            f"a state of {sorted(saved)}",
            f"one of {sorted(bank.tail_classes)}",
            fix="strict=False takes the classes that both have.",
        )
    if strict and ratio != bank.resize_ratio:
        raise_invalid("resize_ratio", f"a state of {ratio:g}", f"one of {bank.resize_ratio:g}")
    kinds = {(p.image.shape[0], p.image.dtype) for kept in patches for p in kept}
    if len(kinds) > 1:
        raise ValueError("state: patches differ in channels or dtype")
    by_class, seen_by_class = dict(zip(saved, patches, strict=True)), dict(zip(saved, seen, strict=True))
    kept = {c: _newest(by_class.get(c, []), bank.memory_size) for c in bank.tail_classes}
    return kept, {c: seen_by_class.get(c, 0) for c in bank.tail_classes}, serial, generator


def _generator(state: Any) -> torch.Generator:
    if not isinstance(state, Tensor) or state.dtype != torch.uint8:
        raise ValueError("state: expected a generator state, a tensor of bytes")
    generator = torch.Generator()
    try:
        generator.set_state(state.cpu())
    except RuntimeError as error:  # of another length, or inconsistent
        raise ValueError(
            f"state: a generator state of {state.numel()} bytes does not fit this torch ({error})"
        ) from error
    return generator


def _newest(patches: list[Patch], size: int) -> list[Patch]:
    """At most `size`, in the order that they have."""
    kept = sorted(range(len(patches)), key=lambda k: patches[k].serial)[-size:]
    return [patches[k] for k in sorted(kept)]


def _written(patch: Patch) -> dict[str, Any]:
    return {
        "image": patch.image,
        "mask": patch.mask,
        "place": [patch.top, patch.left, *patch.canvas],
        "serial": patch.serial,
    }


def _read(entry: dict[str, Any]) -> Patch:
    image, mask = entry["image"], entry["mask"]
    top, left, height, width = (check_integer("place", n, low=0) for n in entry["place"])
    fits = (
        isinstance(image, Tensor)
        and isinstance(mask, Tensor)
        and image.ndim == 3
        and mask.dtype == torch.bool
        and image.shape[1:] == mask.shape
        and top + mask.shape[0] <= height
        and left + mask.shape[1] <= width
        and bool(mask.any())
    )
    if not fits:
        raise ValueError("state: a patch whose image, mask and place do not fit together")
    serial = check_integer("serial", entry["serial"], low=0)
    return Patch(image.cpu().clone(), mask.cpu().clone(), top, left, (height, width), serial)
