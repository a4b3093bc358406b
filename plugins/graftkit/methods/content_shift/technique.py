"""A generation technique as data: what is changed while a feature is taken.

Source: Meng et al., NeurIPS 2024 (arXiv 2410.06719), sections 5.2 and A.1 to A.3; specification section 1.4.

>>> Technique("edges", prompt="a photo", controlnet_image="input-canny").to_dict()
{'name': 'edges', 'prompt': 'a photo', 'controlnet_image': 'input-canny'}
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

from torch import Tensor

from graftkit.core.validation import check_bool, check_integer, check_number, raise_invalid
from graftkit.methods.content_shift.technique_fields import (
    read_adapters,
    read_controls,
    read_embeds,
    read_scale,
    read_texts,
    read_weights,
)

__all__ = ["Technique", "check_techniques"]


@dataclass(frozen=True)
class Technique:
    """One way to steer the reconstruction towards the input.

    Parameters
    ----------
    name : str
        How tables call it.
    prompt : str, sequence of str or None, default=None
        One text for all images or one an image; None is the pipeline's basic prompt.
    negative_prompt : str or None, default=None
        With `guidance_scale` above 1.
    guidance_scale : float, default=1.0
        Above 1, classifier-free guidance at twice the cost. The paper found no effect on the shift.
    controlnet_image : str, Tensor, callable, sequence of these or None, default=None
        The control: "input-canny" or "input-sobel", edges of the input itself; a tensor of shape
        (1 or N, 3, H, W); or a function of the inputs of shape (N, 3, H, W) in [0, 1]. A
        sequence has one for each of several ControlNets.
    controlnet_conditioning_scale : float or sequence of float, default=1.0
        Factor of the residuals, one for each ControlNet; 0 is no ControlNet.
    adapters : str, sequence of str or None, default=None
        Names of loaded LoRA adapters to activate.
    adapter_weights : float, sequence of float or None, default=None
        Their weights; None is 1 each.
    fuse : bool, default=False
        Add the adapters to the model's weights while the technique is applied: forwards then cost what plain
        ones do, and the old weights come back afterwards, bit by bit. Needs memory for a second copy of the
        adapted layers.
    ip_adapter_image_embeds : Tensor of shape (1 or N, k, d), sequence of these or None, default=None
        What loaded IP-Adapters see, one tensor an adapter, as the source pipeline's
        ``prepare_ip_adapter_image_embeds`` gives it without guidance; of shape (1 or N, k, T, d) for
        adapters that read tokens. None switches them off.
    ip_adapter_scale : float, default=1.0
        Its weight.
    denoise_from : int or None, default=None
        Enter at this later timestep and denoise step by step down to the feature's.
    apply : callable or None, default=None
        ``apply(pipe)`` gives a context manager under which features are taken; it must undo what it does.

    Raises
    ------
    TypeError
        If an argument has the wrong type.
    ValueError
        If it has an impossible value; the message names the technique.
    """

    name: str
    prompt: str | tuple[str, ...] | None = None
    negative_prompt: str | None = None
    guidance_scale: float = 1.0
    controlnet_image: Any = None
    controlnet_conditioning_scale: float | tuple[float, ...] = 1.0
    adapters: tuple[str, ...] = ()
    adapter_weights: tuple[float, ...] | None = None
    fuse: bool = False
    ip_adapter_image_embeds: Any = None
    ip_adapter_scale: float = 1.0
    denoise_from: int | None = None
    apply: Callable[[Any], Any] | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not self.name:
            raise_invalid("name", self.name, "a non-empty string", error=TypeError)
        self._set("prompt", read_texts(self._label("prompt"), self.prompt))
        if self.negative_prompt is not None and not isinstance(self.negative_prompt, str):
            raise_invalid(
                self._label("negative_prompt"), self.negative_prompt, "a string or None", error=TypeError
            )
        check_number(self._label("guidance_scale"), self.guidance_scale, low=0)
        self._set("controlnet_image", read_controls(self._label("controlnet_image"), self.controlnet_image))
        scale, label = self.controlnet_conditioning_scale, self._label("controlnet_conditioning_scale")
        self._set("controlnet_conditioning_scale", read_scale(label, scale, len(self.controls)))
        self._set("adapters", read_adapters(self._label("adapters"), self.adapters))
        weights, label = self.adapter_weights, self._label("adapter_weights")
        self._set("adapter_weights", read_weights(label, weights, len(self.adapters)))
        check_bool(self._label("fuse"), self.fuse)
        if self.fuse and not self.adapters:
            raise_invalid(self._label("fuse"), self.fuse, "False without adapters")
        embeds = read_embeds(self._label("ip_adapter_image_embeds"), self.ip_adapter_image_embeds)
        self._set("ip_adapter_image_embeds", embeds)
        check_number(self._label("ip_adapter_scale"), self.ip_adapter_scale, low=0)
        if self.denoise_from is not None:
            check_integer(self._label("denoise_from"), self.denoise_from, low=1)
        if self.apply is not None and not callable(self.apply):
            raise_invalid(self._label("apply"), self.apply, "a callable or None", error=TypeError)

    @property
    def controls(self) -> tuple[Any, ...]:
        """The control images as a tuple, one for each ControlNet."""
        if self.controlnet_image is None:
            return ()
        return self.controlnet_image if isinstance(self.controlnet_image, tuple) else (self.controlnet_image,)

    def to_dict(self) -> dict[str, Any]:
        """Everything that is not a default, ready for JSON.

        Returns
        -------
        dict
            For `from_dict`.

        Raises
        ------
        ValueError
            If a tensor or a callable is part of the technique.
        """
        for name, value in self._changed().items():
            if not all(isinstance(part, str | int | float) for part in _parts(value)):
                raise_invalid(self._label(name), value, "text and numbers, which JSON can hold")
        return self.describe()

    def describe(self) -> dict[str, Any]:
        """Everything that is not a default, in words where JSON cannot hold it.

        Returns
        -------
        dict
            Text, numbers and lists of these: a record, which `from_dict` does not read where a tensor or a
            callable was part of the technique.
        """
        return {
            name: list(map(_word, value)) if isinstance(value, tuple) else _word(value)
            for name, value in self._changed().items()
        }

    @classmethod
    def from_dict(cls, stored: Mapping[str, Any]) -> "Technique":
        """Build a technique from what `to_dict` gave.

        Parameters
        ----------
        stored : mapping
            Argument names and values.

        Returns
        -------
        Technique
            Equal to the one stored.

        Raises
        ------
        TypeError
            If `stored` is no mapping.
        ValueError
            If it has no name, or unknown entries.
        """
        if not isinstance(stored, Mapping):
            raise_invalid("stored", stored, "a mapping of argument names to values", error=TypeError)
        known = {field.name for field in fields(cls)} - {"apply"}
        if unknown := sorted(map(str, set(stored) - known)):
            raise ValueError(f"stored: unknown entries {unknown}, expected some of {sorted(known)}")
        if "name" not in stored:
            raise_invalid("stored", dict(stored), "an entry 'name'")
        values: dict[str, Any] = {key: tuple(v) if isinstance(v, list) else v for key, v in stored.items()}
        return cls(**values)

    def _changed(self) -> dict[str, Any]:
        """The name, and what is not a default."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        defaults = {field.name: field.default for field in fields(self)}
        return {
            name: value
            for name, value in values.items()
            if name == "name" or isinstance(value, Tensor) or value != defaults[name]
        }

    def _label(self, argument: str) -> str:
        return f"technique {self.name!r}: {argument}"

    def _set(self, field: str, value: Any) -> None:
        object.__setattr__(self, field, value)


def check_techniques(techniques: Any) -> tuple[Technique, ...]:
    """Return techniques as a tuple, at least one, no name twice.

    Parameters
    ----------
    techniques : Technique or sequence of Technique
        What came.

    Returns
    -------
    tuple of Technique
        In the given order.

    Raises
    ------
    TypeError
        If something is no technique.
    ValueError
        If there is none, or a name occurs twice.
    """
    found = (techniques,) if isinstance(techniques, Technique) else techniques
    if not isinstance(found, Sequence) or isinstance(found, str):
        raise_invalid("techniques", techniques, "a sequence of Technique", error=TypeError)
    if not found:
        raise_invalid("techniques", found, "at least one technique")
    for one in found:
        if not isinstance(one, Technique):
            raise_invalid("techniques", one, "objects of class Technique", error=TypeError)
    names = [one.name for one in found]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ValueError(f"techniques: duplicate name(s) {twice}, expected each once")
    return tuple(found)


def _parts(value: Any) -> tuple[Any, ...]:
    return value if isinstance(value, tuple) else (value,)


def _word(value: Any) -> Any:
    if isinstance(value, str | int | float):
        return value
    if isinstance(value, Tensor):
        return f"tensor of shape {tuple(value.shape)}"
    return f"callable {getattr(value, '__name__', type(value).__name__)}"
