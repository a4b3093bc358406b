r"""The tail-classes memory bank: a few recent examples of each rare class, pasted where it is missing.

For each picture: its tail classes are stored (at most `memory_size` patches a class); of the tail classes
that it lacks, :math:`\lceil \rho\,|missing| \rceil` are drawn and a random patch of each is written into it.

Source: Han et al., "AUCSeg", NeurIPS 2024 (arXiv 2409.20398), through its public code, which runs inside
every data-loading worker (specification sections 1.5 and 1.8). Differs from the public code: one bank a
process, stored before anything is pasted (there a stored object may show what was pasted over it later),
saved and restored with its generator, bounded in bytes, cropped patches of the picture's own type, no
per-pixel loops. Unverified: whether the paper calls a class missing from the picture (as the code does,
``scope="image"``) or from the mini-batch.

>>> import torch
>>> bank = TailMemoryBank([2], sample_ratio=1, resize_ratio=1, seed=0)
>>> bank.store(torch.full((3, 4, 4), 7).byte(), torch.tensor([[2, 0, 0, 0]] * 4))
>>> image, label, pasted = bank.paste(torch.zeros(3, 4, 4).byte(), torch.zeros(4, 4).long())
>>> label[0].tolist(), image[0, 0].tolist(), pasted
([2, 0, 0, 0], [7, 0, 0, 0], [2])
"""

import math
import warnings
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from graftkit.core.validation import (
    check_bool,
    check_choice,
    check_integer,
    check_number,
    raise_invalid,
)
from graftkit.methods.aucseg.bank_state import read_state, write_state
from graftkit.methods.aucseg.pasting import draw_missing, paste_patches
from graftkit.methods.aucseg.patches import cut_patch, nearest_index
from graftkit.methods.aucseg.pictures import (
    check_alike,
    check_picture,
    check_tail_classes,
    present_classes,
)
from graftkit.methods.aucseg.store import UPDATES, PatchStore, random_below

__all__ = ["TailMemoryBank"]

# More classes than this in one picture would plaster it.
MANY_PASTES = 20


class TailMemoryBank:
    """Examples of tail classes, stored from pictures and pasted into pictures without them.

    Parameters
    ----------
    tail_classes : iterable of int
        The rare classes; see `split_classes`.
    memory_size : int, default=5
        Patches kept a class.
    sample_ratio : float in (0, 1], default=0.05
        Share of the missing tail classes that is pasted, rounded up. For at most 20 classes take 1.
    resize_ratio : float in (0, 4], default=0.4
        Scale of what is pasted. At 1 an object lands where it stood, which suits scenes with a fixed layout;
        smaller copies land anywhere.
    update : {"random", "fifo", "reservoir"}, default="random"
        Which patch of a full class a new one replaces: any, the oldest, or (with the probability that keeps
        a uniform sample of all seen) any or none.
    scope : {"image", "batch"}, default="image"
        A class is missing from the picture, or from the whole batch; then it goes into one picture of it.
    protect_tail : bool, default=False
        Leave pixels of tail classes uncovered.
    ignore_index : int, default=255
        The label of pixels that say nothing.
    min_pixels : int, default=1
        Smaller masks (after scaling) are not stored.
    max_bytes : int, default=268435456
        Hard bound on what is stored; beyond it the oldest patch of the largest class goes.
    seed : int, default=0
        Of the bank's own generator.

    Raises
    ------
    TypeError
        If an argument has the wrong type.
    ValueError
        If it has an impossible value.

    Examples
    --------
    >>> import torch
    >>> bank = TailMemoryBank([1], sample_ratio=1)
    >>> images, labels = torch.rand(2, 3, 8, 8), torch.tensor([0, 1]).reshape(2, 1, 1).expand(2, 8, 8)
    >>> images, labels = bank(images, labels)
    >>> labels.flatten(1).amax(1).tolist()  # the first picture had no class 1
    [1, 1]
    """

    def __init__(
        self,
        tail_classes: Iterable[int],
        *,
        memory_size: int = 5,
        sample_ratio: float = 0.05,
        resize_ratio: float = 0.4,
        update: str = "random",
        scope: str = "image",
        protect_tail: bool = False,
        ignore_index: int = 255,
        min_pixels: int = 1,
        max_bytes: int = 256 * 2**20,
        seed: int = 0,
    ) -> None:
        self.ignore_index = check_integer("ignore_index", ignore_index)
        self.tail_classes = check_tail_classes(tail_classes, self.ignore_index)
        self.memory_size = check_integer("memory_size", memory_size, low=1)
        self.sample_ratio = check_number("sample_ratio", sample_ratio, low=0, high=1, closed="(]")
        self.resize_ratio = check_number("resize_ratio", resize_ratio, low=0, high=4, closed="(]")
        self.update: str = check_choice("update", update, UPDATES)
        self.scope: str = check_choice("scope", scope, ("image", "batch"))
        self.protect_tail = check_bool("protect_tail", protect_tail)
        self.min_pixels = check_integer("min_pixels", min_pixels, low=1)
        self.max_bytes = check_integer("max_bytes", max_bytes, low=1)
        self.seed = check_integer("seed", seed, low=0, high=2**64 - 1)
        most = math.ceil(self.sample_ratio * len(self.tail_classes))
        if most > MANY_PASTES:
            warnings.warn(
                f"sample_ratio={self.sample_ratio:g} of {len(self.tail_classes)} tail classes may paste "
                f"{most} objects into one picture; the published setting for so many classes is 0.05",
                stacklevel=2,
            )
        self.clear()

    def clear(self) -> None:
        """Forget every patch and start the generator anew."""
        self._store = PatchStore(
            self.tail_classes,
            memory_size=self.memory_size,
            update=self.update,
            max_bytes=self.max_bytes,
        )
        self._generator = torch.Generator().manual_seed(self.seed)

    def __len__(self) -> int:
        return len(self._store)

    def __repr__(self) -> str:
        return (
            f"TailMemoryBank({list(self.tail_classes)}, memory_size={self.memory_size}, "
            f"sample_ratio={self.sample_ratio:g}, resize_ratio={self.resize_ratio:g}, "
            f"update={self.update!r}, scope={self.scope!r}, protect_tail={self.protect_tail}, "
            f"patches={len(self)}, nbytes={self.nbytes})"
        )

    @property
    def counts(self) -> dict[int, int]:
        """Patches stored of each tail class."""
        return {c: len(patches) for c, patches in self._store.patches.items()}

    @property
    def nbytes(self) -> int:
        """Bytes of all stored patches, at most `max_bytes`."""
        return self._store.nbytes

    @property
    def generator(self) -> torch.Generator:
        """The bank's own generator."""
        return self._generator

    def store(self, image: Tensor, label: Tensor) -> None:
        """Keep a copy of every tail class in a picture.

        Parameters
        ----------
        image : Tensor of shape (c, H, W)
            The picture, of any type; pictures of one bank share type and number of channels.
        label : Tensor of shape (H, W)
            Integer labels.

        Raises
        ------
        TypeError
            If an argument is no tensor, or `label` not integer.
        ValueError
            If shapes do not fit, or the picture differs in type or channels from those stored.
        """
        self._check(image, label)
        self._keep(image, label, present_classes(label, self.ignore_index))

    def paste(
        self, image: Tensor, label: Tensor, present: Iterable[int] | None = None
    ) -> tuple[Tensor, Tensor, list[int]]:
        """Write missing tail classes into copies of a picture and its labels.

        Parameters
        ----------
        image : Tensor of shape (c, H, W)
            The picture; it stays as it is.
        label : Tensor of shape (H, W)
            Integer labels; they stay as they are.
        present : iterable of int or None, default=None
            The classes that are not missing; None reads them off `label`.

        Returns
        -------
        (Tensor, Tensor, list of int)
            Picture and labels (the given ones where nothing was pasted), of the inputs' shapes, and the
            pasted classes in order: later ones cover earlier ones.

        Raises
        ------
        TypeError
            If an argument is no tensor, `label` not integer, or `present` not class numbers.
        ValueError
            If shapes do not fit, or the picture differs in type or channels from those stored.
        """
        self._check(image, label)
        if present is None:
            here = present_classes(label, self.ignore_index)
        elif isinstance(present, Iterable):
            here = {check_integer("present", c) for c in present}
        else:
            raise_invalid("present", present, "class numbers or None", error=TypeError)
        return self._paste(image, label, self._draw(here))

    def __call__(
        self, images: Tensor | Sequence[Tensor], labels: Tensor | Sequence[Tensor]
    ) -> tuple[Any, Any]:
        """Store every picture of a batch, then paste into every one."""
        new_images, new_labels, _ = self.process(images, labels)
        return new_images, new_labels

    def process(
        self, images: Tensor | Sequence[Tensor], labels: Tensor | Sequence[Tensor]
    ) -> tuple[Any, Any, list[list[int]]]:
        """Store every picture of a batch, then paste into every one, and say what was pasted.

        Parameters
        ----------
        images : Tensor of shape (B, c, H, W) or sequence of Tensor
            Pictures, in a sequence of any sizes; they stay as they are.
        labels : Tensor of shape (B, H, W) or sequence of Tensor
            Their labels; they stay as they are.

        Returns
        -------
        (Tensor or list, Tensor or list, list of list of int)
            New pictures and labels in the form that came, of the same shapes, and the classes pasted into
            each picture.

        Raises
        ------
        TypeError
            If an argument is no tensor or sequence, or one of its elements no tensor.
        ValueError
            If there are not as many labels as pictures, or one of them does not fit.
        """
        for name, value in (("images", images), ("labels", labels)):
            if not isinstance(value, Tensor | Sequence) or isinstance(value, str | bytes):
                raise_invalid(name, value, "a tensor or a sequence of tensors", error=TypeError)
        if len(images) != len(labels):
            raise_invalid("labels", len(labels), f"as many as images, {len(images)}")
        for image, label in zip(images, labels, strict=True):
            self._check(image, label)
        check_alike(images)
        present = [present_classes(label, self.ignore_index) for label in labels]
        for image, label, here in zip(images, labels, present, strict=True):
            self._keep(image, label, here)
        chosen: list[list[int]] = [[] for _ in images]
        if self.scope == "image":
            chosen = [self._draw(here) for here in present]
        elif len(images):
            for cls in self._draw(set().union(*present)):
                chosen[random_below(len(images), self._generator)].append(cls)
        done = [self._paste(*args) for args in zip(images, labels, chosen, strict=True)]
        new_images, new_labels = [d[0] for d in done], [d[1] for d in done]
        return _like(images, new_images), _like(labels, new_labels), [d[2] for d in done]

    def state_dict(self) -> dict[str, Any]:
        """Everything that decides what is pasted next, as plain containers and tensors.

        Returns
        -------
        dict
            Settings, patches, generator; loads with ``torch.load(..., weights_only=True)``.
        """
        return write_state(self)

    def load_state_dict(self, state: dict[str, Any], strict: bool = True) -> None:
        """Continue where another bank was saved; a failed call changes nothing.

        Parameters
        ----------
        state : dict
            What `state_dict` returned.
        strict : bool, default=True
            Demand the same tail classes and scale. Otherwise patches of the classes that this bank keeps too
            are taken, as they are.

        Raises
        ------
        TypeError
            If `state` is no dict.
        ValueError
            If something is missing or malformed, or (strict) settings differ.
        """
        patches, seen, serial, generator = read_state(self, state, check_bool("strict", strict))
        self._store.fill(patches, seen, serial)
        self._generator = generator

    def reseed(self, *keys: int) -> None:
        """Seed the generator from the bank's seed and further numbers, such as rank and iteration.

        Parameters
        ----------
        *keys : int
            Numbers that tell processes apart.

        Raises
        ------
        TypeError
            If a key is no integer.
        ValueError
            If it is negative.
        """
        mixed = self.seed
        for key in keys:  # spread like hash combining; torch scrambles the seed itself
            mixed = (mixed * 1_000_003 + check_integer("keys", key, low=0) + 1) % (2**63)
        self._generator.manual_seed(mixed)

    def _keep(self, image: Tensor, label: Tensor, present: set[int]) -> None:
        here = [c for c in self.tail_classes if c in present]
        if not here:
            return
        canvas = label.detach().cpu().numpy()
        if self.resize_ratio != 1:
            rows, columns = (nearest_index(n, self.resize_ratio).numpy() for n in label.shape)
            canvas = canvas[rows][:, columns]
        # Compared once a class: small integers, and NumPy, take less time.
        canvas = canvas.astype(np.int32, copy=False)
        for cls in here:
            patch = cut_patch(image.detach(), torch.from_numpy(canvas == cls), self._store.serial)
            if patch is not None and int(patch.mask.count_nonzero()) >= self.min_pixels:
                self._store.add(cls, patch, self._generator)

    def _draw(self, present: set[int]) -> list[int]:
        return draw_missing(self.tail_classes, present, self.sample_ratio, self._generator)

    def _paste(self, image: Tensor, label: Tensor, chosen: list[int]) -> tuple[Tensor, Tensor, list[int]]:
        protected = self.tail_classes if self.protect_tail else ()
        return paste_patches(image, label, chosen, self._store, protected, self._generator)

    def _check(self, image: Any, label: Any) -> None:
        check_picture(image, label)
        stored = self._store.first()
        if stored is not None:
            check_alike([stored.image, image])


def _like(given: Tensor | Sequence[Tensor], new: list[Tensor]) -> Tensor | list[Tensor]:
    """Stacked where a tensor came."""
    if not isinstance(given, Tensor):
        return new
    return torch.stack(new) if new else given.clone()
