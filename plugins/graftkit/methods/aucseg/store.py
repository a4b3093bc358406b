"""The patches a bank holds: a few of each class, a rule for which of them a new one replaces, and a cap.

At most `memory_size` patches a class; a full class loses a random one, its oldest, or (reservoir sampling)
any or none, so that what is kept is a uniform sample of all seen. All together take at most `max_bytes`:
beyond it the oldest patch of the class with most bytes goes, again and again. Patches are replaced, never
written. Specification sections 1.5 and 3.4.

>>> import torch
>>> from graftkit.methods.aucseg.patches import Patch
>>> store = PatchStore([7], memory_size=2, update="fifo", max_bytes=100)
>>> for value in range(3):
...     picture = torch.full((1, 1, 1), value)
...     patch = Patch(picture, torch.ones(1, 1).bool(), top=0, left=0, canvas=(1, 1), serial=store.serial)
...     store.add(7, patch, torch.Generator())
>>> [int(patch.image) for patch in store.patches[7]], store.nbytes
([1, 2], 18)
"""

import warnings
from collections.abc import Iterable

import torch

from graftkit.methods.aucseg.patches import Patch

__all__ = ["UPDATES", "PatchStore", "random_below"]

UPDATES = ("random", "fifo", "reservoir")


class PatchStore:
    """Patches by class, bounded in number and bytes.

    Parameters
    ----------
    classes : iterable of int
        The classes.
    memory_size : int
        Patches kept a class.
    update : {"random", "fifo", "reservoir"}
        Which patch of a full class a new one replaces.
    max_bytes : int
        Hard bound on all patches together.

    Attributes
    ----------
    patches : dict
        From each class to its list of `Patch`.
    seen : dict
        From each class to how many patches came.
    serial : int
        The next patch's serial number.
    nbytes : int
        Bytes of all patches.
    """

    def __init__(self, classes: Iterable[int], *, memory_size: int, update: str, max_bytes: int) -> None:
        self.memory_size, self.update, self.max_bytes = memory_size, update, max_bytes
        self.patches: dict[int, list[Patch]] = {c: [] for c in classes}
        self.seen = dict.fromkeys(self.patches, 0)
        self.serial = self.nbytes = 0
        self._told_too_large = False

    def __len__(self) -> int:
        return sum(map(len, self.patches.values()))

    def first(self) -> Patch | None:
        """Return any patch, to compare others with.

        Returns
        -------
        Patch or None
            None where there is none.
        """
        return next((p for kept in self.patches.values() for p in kept), None)

    def add(self, cls: int, patch: Patch, generator: torch.Generator) -> None:
        """Take a patch, or drop it where the update rule or the cap says so.

        Parameters
        ----------
        cls : int
            Its class.
        patch : Patch
            The patch, with the serial number `serial`.
        generator : torch.Generator
            Decides what is replaced.
        """
        self.seen[cls] += 1
        if patch.nbytes > self.max_bytes:
            self._tell_too_large(patch)
            return
        kept = self.patches[cls]
        if len(kept) < self.memory_size:
            kept.append(patch)
        elif self.update == "fifo":
            self.nbytes -= kept.pop(0).nbytes
            kept.append(patch)
        else:
            slots = self.seen[cls] if self.update == "reservoir" else self.memory_size
            slot = random_below(slots, generator)
            if slot >= self.memory_size:
                return
            self.nbytes -= kept[slot].nbytes
            kept[slot] = patch
        self.serial += 1
        self.nbytes += patch.nbytes
        self._bound()

    def fill(self, patches: dict[int, list[Patch]], seen: dict[int, int], serial: int) -> None:
        """Replace everything, as far as the bounds allow.

        Parameters
        ----------
        patches : dict
            From each class to its patches, at most `memory_size`.
        seen : dict
            From each class to how many came.
        serial : int
            The next serial number.
        """
        self.patches, self.seen, self.serial = patches, seen, serial
        self.nbytes = sum(p.nbytes for kept in patches.values() for p in kept)
        self._bound()

    def _bound(self) -> None:
        while self.nbytes > self.max_bytes:
            largest = max(self.patches.values(), key=lambda kept: sum(p.nbytes for p in kept))
            oldest = min(range(len(largest)), key=lambda k: largest[k].serial)
            self.nbytes -= largest.pop(oldest).nbytes

    def _tell_too_large(self, patch: Patch) -> None:
        if not self._told_too_large:
            self._told_too_large = True
            warnings.warn(
                f"a patch of {patch.nbytes} bytes is larger than max_bytes={self.max_bytes} and is not "
                "stored; said once",
                stacklevel=5,
            )


def random_below(high: int, generator: torch.Generator) -> int:
    """Draw an integer.

    Parameters
    ----------
    high : int
        Above it, at least 1.
    generator : torch.Generator
        The generator.

    Returns
    -------
    int
        In ``[0, high)``.
    """
    return int(torch.randint(high, (), generator=generator))
