"""A technique's arguments, checked and brought into one form each.

>>> read_texts("prompt", ["a horse", "a street"])
('a horse', 'a street')
"""

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from graftkit.core.validation import check_choice, check_number, raise_invalid

__all__ = ["read_adapters", "read_controls", "read_embeds", "read_scale", "read_texts", "read_weights"]

INPUT_EDGES = ("input-canny", "input-sobel")


def read_texts(label: str, prompt: Any) -> Any:
    """One text, a tuple of texts, or None.

    Parameters
    ----------
    label : str
        How messages call the argument.
    prompt : object
        What came.

    Returns
    -------
    str, tuple of str or None
        The texts.

    Raises
    ------
    TypeError
        If it is something else.
    ValueError
        If there is no text.
    """
    if prompt is None or isinstance(prompt, str):
        return prompt
    if not isinstance(prompt, Sequence) or not all(isinstance(text, str) for text in prompt):
        raise_invalid(label, prompt, "a string, a sequence of strings or None", error=TypeError)
    if not len(prompt):
        raise_invalid(label, prompt, "at least one text")
    return tuple(prompt)


def read_controls(label: str, image: Any) -> Any:
    """A control, a tuple with one for each ControlNet, or None.

    Parameters
    ----------
    label : str
        How messages call the argument.
    image : object
        What came.

    Returns
    -------
    str, Tensor, callable, tuple of these or None
        The controls.

    Raises
    ------
    TypeError
        If one is no name, tensor or callable.
    ValueError
        If there is none, or a name is unknown.
    """
    if image is None:
        return None
    controls = tuple(image) if isinstance(image, list | tuple) else (image,)
    if not controls:
        raise_invalid(label, image, "one control a ControlNet")
    for one in controls:
        if isinstance(one, str):
            check_choice(label, one, INPUT_EDGES)
        elif not isinstance(one, Tensor) and not callable(one):
            raise_invalid(label, one, "a tensor, a callable or a name", error=TypeError)
    return controls if isinstance(image, list | tuple) else image


def read_scale(label: str, scale: Any, controls: int) -> Any:
    """One factor for all ControlNets, or a tuple with one for each.

    Parameters
    ----------
    label : str
        How messages call the argument.
    scale : object
        What came.
    controls : int
        Number of controls.

    Returns
    -------
    float or tuple of float
        The factors.

    Raises
    ------
    ValueError
        If numbers differ.
    """
    if not isinstance(scale, list | tuple):
        return check_number(label, scale, low=0)
    scales = _numbers(label, scale, low=0)
    if len(scales) != controls:
        raise_invalid(label, scales, f"{controls} numbers, one a control image")
    return scales


def read_adapters(label: str, adapters: Any) -> tuple[str, ...]:
    """Names of adapters, each once.

    Parameters
    ----------
    label : str
        How messages call the argument.
    adapters : object
        What came.

    Returns
    -------
    tuple of str
        The names.

    Raises
    ------
    TypeError
        If they are no names.
    ValueError
        If one occurs twice.
    """
    if adapters is None:
        return ()
    names = (adapters,) if isinstance(adapters, str) else adapters
    if not isinstance(names, list | tuple) or not all(isinstance(one, str) for one in names):
        raise_invalid(label, adapters, "names of adapters", error=TypeError)
    if len(set(names)) != len(names):
        raise_invalid(label, adapters, "each name once")
    return tuple(names)


def read_weights(label: str, weights: Any, adapters: int) -> tuple[float, ...] | None:
    """A weight for each adapter, or None.

    Parameters
    ----------
    label : str
        How messages call the argument.
    weights : object
        What came.
    adapters : int
        Number of adapters.

    Returns
    -------
    tuple of float or None
        The weights.

    Raises
    ------
    ValueError
        If numbers differ.
    """
    if weights is None:
        return None
    found = _numbers(label, weights, low=None)
    if len(found) != adapters:
        raise_invalid(label, found, f"{adapters} weights, one an adapter")
    return found


def read_embeds(label: str, given: Any) -> tuple[Tensor, ...] | None:
    """Image embeddings, one tensor an IP-Adapter, or None.

    Parameters
    ----------
    label : str
        How messages call the argument.
    given : object
        What came.

    Returns
    -------
    tuple of Tensor or None
        The embeddings.

    Raises
    ------
    TypeError
        If they are no tensors of three or four dimensions.
    """
    if given is None:
        return None
    embeds = tuple(given) if isinstance(given, list | tuple) else (given,)
    if not embeds or not all(isinstance(one, Tensor) and one.ndim in (3, 4) for one in embeds):
        raise_invalid(
            label, given, "a tensor of shape (1 or N, k, d) or (1 or N, k, T, d), or several", error=TypeError
        )
    return embeds


def _numbers(label: str, values: Any, *, low: float | None) -> tuple[float, ...]:
    if not isinstance(values, list | tuple):
        values = (values,)
    return tuple(check_number(label, value, low=low) for value in values)
