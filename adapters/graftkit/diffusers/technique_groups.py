"""Techniques that ask the same of the network share its forwards: rows of several in one batch.

Prompts, control images and noise are rows of a batch; adapters, scales and callables change the network for
all rows. So techniques are grouped by what they do to the network, and a group's rows fill batches together.

>>> [(which.tolist(), rest.tolist()) for which, rest in chunks(2, 3, size=4)]
[([0, 0, 0, 1], [0, 1, 2, 0]), ([1, 1], [1, 2])]
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from graftkit.diffusers.conditioning import Text
from graftkit.diffusers.conditions import some_rows
from graftkit.diffusers.reconstruction import Conditions
from graftkit.methods.content_shift import Technique

__all__ = ["chunks", "grouped", "joined_rows"]


def grouped(techniques: Sequence[Technique], conditions: Sequence[Conditions]) -> list[list[int]]:
    """Positions of techniques, those together whose rows can be in one forward."""
    groups: dict[Any, list[int]] = {}
    for position, (technique, given) in enumerate(zip(techniques, conditions, strict=True)):
        groups.setdefault(_network(position, technique, given), []).append(position)
    return list(groups.values())


def chunks(members: int, each: int, size: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Batches of at most `size` rows: which member of a group, and which of its `each` rows."""
    for start in range(0, members * each, size):
        index = torch.arange(start, min(start + size, members * each))
        yield index // each, index % each


def joined_rows(conditions: Sequence[Conditions], which: Tensor, images: Tensor) -> Conditions:
    """The conditions of one batch: of member ``which[i]`` the row ``images[i]``."""
    parts = [
        some_rows(conditions[member], images[which == member])
        for member in which.unique_consecutive().tolist()
    ]
    first = parts[0]
    if len(parts) == 1:
        return first
    negatives = [part.negative for part in parts if part.negative is not None]
    controls = [part.control for part in parts if part.control is not None]
    labels = [part.labels for part in parts if part.labels is not None]
    return replace(
        first,
        text=_joined([part.text for part in parts]),
        negative=_joined(negatives) if negatives else None,
        control=[torch.cat(several) for several in zip(*controls, strict=True)] if controls else None,
        labels=torch.cat(labels) if labels else None,
    )


def _joined(texts: list[Text]) -> Text:
    columns = {key: [vars(text)[key] for text in texts] for key in vars(texts[0])}
    return Text(**{key: None if rows[0] is None else torch.cat(rows) for key, rows in columns.items()})


def _network(position: int, technique: Technique, given: Conditions) -> Any:
    """Equal for techniques that leave the network alike and hand it rows of one shape."""
    if technique.apply is not None or technique.ip_adapter_image_embeds is not None:
        return position
    return (
        technique.adapters, technique.adapter_weights, technique.fuse, technique.guidance_scale,
        technique.denoise_from, _shapes(given.text), given.negative and _shapes(given.negative),
        None if given.control is None else (len(given.control), given.control_scale),
    )  # fmt: skip


def _shapes(text: Text) -> tuple[Any, ...]:
    return tuple(None if tensor is None else tuple(tensor.shape[1:]) for tensor in vars(text).values())
