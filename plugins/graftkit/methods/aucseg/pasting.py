r"""Which missing classes a picture gets, and which patches of them, where.

Of the tail classes that it lacks, :math:`\lceil \rho\,|missing| \rceil` are drawn without replacement. A
random patch of each is placed: its scaled canvas uniformly where it fits, in the corner where it does not.
Specification section 1.5.

>>> import torch
>>> draw_missing([4, 7, 9], present={7}, ratio=0.1, generator=torch.Generator().manual_seed(0))
[4]
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from graftkit.methods.aucseg.patches import write_patch
from graftkit.methods.aucseg.store import PatchStore, random_below

__all__ = ["draw_missing", "paste_patches"]


def draw_missing(
    tail_classes: Sequence[int], present: set[int], ratio: float, generator: torch.Generator
) -> list[int]:
    """Draw some of the classes that are not there.

    Parameters
    ----------
    tail_classes : sequence of int
        The classes to draw from.
    present : set of int
        What is there.
    ratio : float in (0, 1]
        Share of what is missing, rounded up.
    generator : torch.Generator
        Draws.

    Returns
    -------
    list of int
        Classes, in random order; none where none is missing.
    """
    missing = [c for c in tail_classes if c not in present]
    if not missing:
        return []
    order = torch.randperm(len(missing), generator=generator).tolist()
    return [missing[k] for k in order[: math.ceil(ratio * len(missing))]]


def paste_patches(
    image: Tensor,
    label: Tensor,
    chosen: Sequence[int],
    store: PatchStore,
    protected_classes: Sequence[int],
    generator: torch.Generator,
) -> tuple[Tensor, Tensor, list[int]]:
    """Write a random patch of each class into copies of a picture and its labels.

    Parameters
    ----------
    image : Tensor of shape (c, H, W)
        The picture; it stays as it is.
    label : Tensor of shape (H, W)
        Its labels; they stay as they are.
    chosen : sequence of int
        Classes, later ones cover earlier ones; those without a patch are left out.
    store : PatchStore
        The patches.
    protected_classes : sequence of int
        Pixels of these classes stay uncovered.
    generator : torch.Generator
        Draws patch and place.

    Returns
    -------
    (Tensor, Tensor, list of int)
        Picture and labels (the given ones where there is nothing to paste), and the classes pasted.
    """
    chosen = [c for c in chosen if store.patches[c]]
    if not chosen:
        return image, label, []
    # The inputs may belong to a caching data set, or be expanded views.
    image, label = image.clone(), label.clone()
    protected = None
    if protected_classes:
        protected = torch.isin(label, torch.tensor(protected_classes, device=label.device))
    pasted = []
    for cls in chosen:
        kept = store.patches[cls]
        patch = kept[random_below(len(kept), generator)]
        top, left = (
            random_below(room + 1, generator) if room > 0 else 0
            for room in (label.shape[k] - patch.canvas[k] for k in (0, 1))
        )
        if write_patch(image, label, patch, cls, (top, left), protected):
            pasted.append(cls)
    return image, label, pasted
