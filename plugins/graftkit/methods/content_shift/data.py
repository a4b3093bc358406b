"""Generated scenes of two objects, each with a prompt that says what there is: no two need the same words.

Prompts that describe all images alike cannot bring any of them back to its content (specification section
6.3). Here colour, shape and place are drawn apart, so that a prompt and an edge image each know something.

>>> images, labels, prompts = object_scenes(2, random_state=0)
>>> images.shape, labels.shape, prompts[0]
((2, 3, 48, 64), (2, 48, 64), 'red disc yellow stripes')
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from graftkit.core.random import numpy_generator
from graftkit.core.validation import check_integer, raise_invalid

__all__ = ["COLOURS", "OBJECT_CLASSES", "label_prompts", "object_scenes", "scene_words"]

OBJECT_CLASSES = ("ground", "disc", "square", "stripes")
COLOURS = {
    "red": (0.9, 0.2, 0.2), "green": (0.2, 0.8, 0.3), "blue": (0.2, 0.3, 0.9), "yellow": (0.9, 0.8, 0.2),
}  # fmt: skip


def scene_words() -> tuple[str, ...]:
    """Every word that prompts of generated scenes use.

    Returns
    -------
    tuple of str
        Colours, then shapes.
    """
    return (*COLOURS, *OBJECT_CLASSES[1:])


def object_scenes(
    n_images: int, size: tuple[int, int] = (48, 64), random_state: Any = None
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64], list[str]]:
    """Draw scenes of two different shapes, each of its own colour, side by side on a textured ground.

    Parameters
    ----------
    n_images : int
        How many.
    size : (int, int), default=(48, 64)
        Height and width, 24 or more.
    random_state : int, Generator or None, default=None
        Seeds the draw.

    Returns
    -------
    images : ndarray of shape (n_images, 3, H, W)
        In [0, 1], float32.
    labels : ndarray of shape (n_images, H, W)
        Positions in `OBJECT_CLASSES`.
    prompts : list of str
        Colour and shape of the left object, then of the right one.

    Raises
    ------
    TypeError
        If `n_images` or a side is no integer.
    ValueError
        If one is too small.
    """
    count = check_integer("n_images", n_images, low=1)
    height, width = (check_integer("size", side, low=24) for side in size)
    rng = numpy_generator(random_state)
    rows, columns = np.mgrid[:height, :width]
    images = np.empty((count, 3, height, width), np.float32)
    labels = np.zeros((count, height, width), np.int64)
    prompts = []
    names = list(COLOURS)
    for i in range(count):
        picture = rng.uniform(0.25, 0.5, 3)[:, None, None] + 0.04 * rng.normal(size=(3, height, width))
        kinds, colours = rng.permutation([1, 2, 3])[:2], rng.integers(0, len(names), 2)
        words = []
        for side, (kind, colour) in enumerate(zip(kinds, colours, strict=True)):
            radius = rng.integers(height // 6, height // 4 + 1)
            y = rng.uniform(radius, height - radius)
            x = rng.uniform(radius, width // 2 - radius // 2) + side * width // 2
            inside = np.maximum(abs(rows - y), abs(columns - x)) < radius
            if kind == 1:
                inside = np.hypot(rows - y, columns - x) < radius
            paint = np.array(COLOURS[names[colour]])[:, None] * rng.uniform(0.8, 1.0)
            picture[:, inside] = paint
            if kind == 3:  # the whole square is labelled, its bars alternate
                picture[:, inside & ((columns - int(x)) // 2 % 2 == 0)] = 0.25 * paint
            labels[i][inside] = kind
            words += [names[colour], OBJECT_CLASSES[kind]]
        images[i] = picture.clip(0, 1)
        prompts.append(" ".join(words))
    return images, labels, prompts


def label_prompts(labels: Any, classes: Sequence[str], ignore_index: int = 255) -> list[str]:
    """A prompt for each label map: the names of the classes that are there.

    Parameters
    ----------
    labels : array-like of int, of shape (N, H, W)
        Label maps.
    classes : sequence of str
        Names by label.
    ignore_index : int, default=255
        Pixels without a label.

    Returns
    -------
    list of str
        Names in the order of `classes`; empty where nothing is labelled.

    Raises
    ------
    ValueError
        If `labels` is not 3-D, or has a label without a name.
    """
    maps = np.asarray(labels)
    if maps.ndim != 3:
        raise_invalid("labels", labels, "shape (N, H, W)")
    found = []
    for one in maps:
        there = [int(label) for label in np.unique(one) if label != ignore_index]
        if there and not (there[0] >= 0 and there[-1] < len(classes)):
            raise_invalid("labels", there, f"labels 0 to {len(classes) - 1}")
        found.append(" ".join(classes[label] for label in there))
    return found
