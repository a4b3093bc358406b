"""The answered queries: a preallocated store of 8-bit images and their answers.

>>> pool = Pool(4, (1, 2, 2), quantised=True)
>>> pool.add(quantise(torch.full((1, 1, 2, 2), 0.5)), torch.tensor([3]))
>>> len(pool), pool.images.dtype, float(pool.images[0, 0, 0, 0])
(1, torch.uint8, 127.0)
"""

from __future__ import annotations

import hashlib

import torch
from torch import Tensor

__all__ = ["Pool", "quantise", "unit"]


def quantise(x: Tensor) -> Tensor:
    """Round values down to 8 bits, as saving to an image file does.

    Parameters
    ----------
    x : Tensor of shape (n, ...)
        Values; clipped to [0, 1].

    Returns
    -------
    Tensor of shape (n, ...)
        uint8.
    """
    return (x.clamp(0, 1) * 255).floor().to(torch.uint8)


def unit(stored: Tensor) -> Tensor:
    """Stored images as values in [0, 1].

    Parameters
    ----------
    stored : Tensor of shape (n, ...)
        uint8, or floats that were never rounded.

    Returns
    -------
    Tensor of shape (n, ...)
        float32.
    """
    return stored.float() / 255 if stored.dtype == torch.uint8 else stored


class Pool:
    """Images and answers, at most as many as the budget.

    Parameters
    ----------
    capacity : int
        The budget.
    input_shape : tuple of int
        Of one row.
    quantised : bool
        Whether images are 8-bit.
    classes : int or None, default=None
        C in soft mode, whose answers are rows of probabilities.
    """

    def __init__(
        self, capacity: int, input_shape: tuple[int, ...], *, quantised: bool, classes: int | None = None
    ) -> None:
        dtype = torch.uint8 if quantised else torch.float32
        self._images = torch.empty((capacity, *input_shape), dtype=dtype)
        self._labels = (
            torch.empty(capacity, dtype=torch.int64)
            if classes is None
            else torch.empty(capacity, classes, dtype=torch.float32)
        )
        self._seen: set[bytes] = set()
        self._size = 0

    def __len__(self) -> int:
        return self._size

    @property
    def images(self) -> Tensor:
        """What was queried.

        Returns
        -------
        Tensor of shape (n, ...)
            A view.
        """
        return self._images[: self._size]

    @property
    def labels(self) -> Tensor:
        """What was answered.

        Returns
        -------
        Tensor of shape (n,) or (n, C)
            A view.
        """
        return self._labels[: self._size]

    def add(self, images: Tensor, labels: Tensor) -> None:
        """Append rows.

        Parameters
        ----------
        images : Tensor of shape (m, ...)
            As stored.
        labels : Tensor of shape (m,) or (m, C)
            Their answers.
        """
        end = self._size + len(images)
        self._images[self._size : end] = images
        self._labels[self._size : end] = labels
        self._size = end
        self._seen.update(_digests(images))

    def new_rows(self, images: Tensor) -> Tensor:
        """Which rows are neither in the pool nor earlier among these.

        Parameters
        ----------
        images : Tensor of shape (m, ...)
            Candidates, as stored.

        Returns
        -------
        Tensor of shape (m,)
            Booleans.
        """
        seen, fresh = set(self._seen), []
        for digest in _digests(images):
            fresh.append(digest not in seen)
            seen.add(digest)
        return torch.tensor(fresh, dtype=torch.bool)


def _digests(images: Tensor) -> list[bytes]:
    rows = images.cpu().contiguous().numpy()
    return [hashlib.blake2b(row.tobytes(), digest_size=16).digest() for row in rows]
