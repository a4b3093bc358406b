"""Settings of QEDG, their checks and the presets.

>>> QEDGConfig.preset("mnist", g_steps=10).boundary_weight
10.0
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any

from graftkit.core.validation import check_bool, check_choice, check_integer, check_number, raise_invalid
from graftkit.methods.qedg.transforms import LOOP_TRANSFORMS, QUERY_TRANSFORMS, Transform

__all__ = ["PRESETS", "QEDGConfig"]

FreeAugmentation = tuple[str | Transform, ...]


@dataclass(frozen=True, kw_only=True)
class QEDGConfig:
    r"""How queries are made and how the copy is trained.

    Parameters
    ----------
    batch_size : int, default=256
        B, images that the generator makes a round.
    fit_batch_size : int or None, default=None
        Rows a step of the substitute; ``None`` takes `batch_size`, as published.
    batch_size_query : int, default=256
        The most rows given to the target in one call.
    latent : int, default=512
        Width of the generator's input.
    width : int, default=128
        Channels of the generator.
    g_steps : int, default=100
        Steps of the generator a round.
    lr_g : float, default=1e-3
        Its step size (Adam).
    boundary_weight : float, default=1.0
        :math:`w_{oc}` of boundary closeness.
    target_confidence : float or None, default=None
        Sets that weight by the confidence that the generator aims at,
        :math:`w_{oc} = (C-1)/(q \sqrt C)`; our portable form of it.
    diversity_weight : float, default=0.01
        :math:`w_{div}` of inter-class diversity.
    diversity_space : {"input", "prob"}, default="input"
        What is compared: images, as in the authors' code, or the substitute's probabilities, as in their
        figure. Which of them the paper means is unverified.
    diversity_normalised : bool, default=False
        Mean cosine over the pairs instead of the sum over B; an addition of ours.
    tau : float, default=0.7
        Images of which the substitute is surer than this are not queried.
    error_weight : float, default=2.0
        :math:`w_{bal}` of rows that the substitute gets wrong.
    inner_epochs : int, default=20
        Epochs over all answers after each round.
    final_rounds : int, default=50
        Times `inner_epochs` once the budget is spent; 0 for none.
    lr : float, default=0.01
        Step size of the substitute (SGD, momentum 0.9).
    loop_transform, query_transform : str or callable, default="auto"
        Inside the generator's loop, and an image at query time; see ``graftkit.methods.qedg.transforms``.
        "auto" is "turns" for images and "none" for vectors. Choose "digits" or "photo" where they fit.
    free_aug : tuple, default=()
        Label-preserving transforms of training images: "hflip", "vflip" or ``f(images, generator)``. Which
        ones preserve labels depends on the domain. That the paper's augmentation is this one is unverified.
    free_aug_rate : float, default=0.05
        Share of the steps that it touches.
    free_aug_confidence : float, default=0.95
        Only images of which the substitute is surer than this are replaced.
    quantise : bool, default=True
        Round queries down to 8 bits, as image files hold them.
    deduplicate : bool, default=True
        Leave out an image that has been queried before.
    stall_policy : {"relax_tau", "stop", "error"}, default="relax_tau"
        What to do when rounds bring hardly any query: raise `tau` by 0.05 (and stop at 1), stop, raise.
    max_stall_rounds : int, default=3
        Such rounds in a row.
    stall_rate : float, default=0.05
        A round stalls when less than this share of B is queried.
    on_error : {"count", "retry"}, default="count"
        A failing call of the target counts as spent and stops the run, or is tried again within the budget,
        at most three times in a row.
    transfer_eps : float, default=32/255
        Step of the transfer attack (FGSM), as a share of the value range.
    transfer_rows : int, default=256
        The most evaluation rows that it uses; 0 turns it off.

    Raises
    ------
    TypeError
        If an argument has the wrong type.
    ValueError
        If it is out of range; the message names it.
    """

    batch_size: int = 256
    fit_batch_size: int | None = None
    batch_size_query: int = 256
    latent: int = 512
    width: int = 128
    g_steps: int = 100
    lr_g: float = 1e-3
    boundary_weight: float = 1.0
    target_confidence: float | None = None
    diversity_weight: float = 0.01
    diversity_space: str = "input"
    diversity_normalised: bool = False
    tau: float = 0.7
    error_weight: float = 2.0
    inner_epochs: int = 20
    final_rounds: int = 50
    lr: float = 0.01
    loop_transform: str | Transform = "auto"
    query_transform: str | Transform = "auto"
    free_aug: FreeAugmentation = ()
    free_aug_rate: float = 0.05
    free_aug_confidence: float = 0.95
    quantise: bool = True
    deduplicate: bool = True
    stall_policy: str = "relax_tau"
    max_stall_rounds: int = 3
    stall_rate: float = 0.05
    on_error: str = "count"
    transfer_eps: float = 32 / 255
    transfer_rows: int = 256

    def __post_init__(self) -> None:
        """Check every field before any work starts."""
        # Kept as the checks return them, plain numbers: JSON takes none of NumPy's.
        checked: dict[str, Any] = {}
        for name in ("batch_size", "latent", "batch_size_query", "width", "g_steps", "inner_epochs"):
            # Two at least: batch norm in the generator has no variance of one image.
            checked[name] = check_integer(name, getattr(self, name), low=2 if name == "batch_size" else 1)
        if self.fit_batch_size is not None:
            checked["fit_batch_size"] = check_integer("fit_batch_size", self.fit_batch_size, low=2)
        checked["max_stall_rounds"] = check_integer("max_stall_rounds", self.max_stall_rounds, low=1)
        for name in ("final_rounds", "transfer_rows"):
            checked[name] = check_integer(name, getattr(self, name), low=0)
        for name in ("lr_g", "lr"):
            checked[name] = check_number(name, getattr(self, name), low=0, closed="()")
        for name in ("boundary_weight", "diversity_weight", "error_weight"):
            checked[name] = check_number(name, getattr(self, name), low=0)
        for name in ("tau", "free_aug_rate", "free_aug_confidence", "stall_rate", "transfer_eps"):
            checked[name] = check_number(name, getattr(self, name), low=0, high=1)
        if self.target_confidence is not None:
            checked["target_confidence"] = check_number(
                "target_confidence", self.target_confidence, low=0, high=1, closed="(]"
            )
        for name in ("diversity_normalised", "quantise", "deduplicate"):
            checked[name] = check_bool(name, getattr(self, name))
        check_choice("diversity_space", self.diversity_space, ("input", "prob"))
        check_choice("stall_policy", self.stall_policy, ("relax_tau", "stop", "error"))
        check_choice("on_error", self.on_error, ("count", "retry"))
        for name, known in (("loop_transform", LOOP_TRANSFORMS), ("query_transform", QUERY_TRANSFORMS)):
            if not callable(getattr(self, name)):
                check_choice(name, getattr(self, name), ("auto", *known))
        if not isinstance(self.free_aug, tuple | list):
            raise_invalid("free_aug", self.free_aug, "a tuple of names or callables", error=TypeError)
        for entry in self.free_aug:
            if not callable(entry):
                check_choice("free_aug", entry, ("hflip", "vflip"))
        checked["free_aug"] = tuple(self.free_aug)
        for name, value in checked.items():
            object.__setattr__(self, name, value)

    @classmethod
    def preset(cls, name: str, **changes: Any) -> QEDGConfig:
        """The settings of the authors' scripts for a data set, or ours for tiny images.

        Parameters
        ----------
        name : {"mnist", "fmnist", "svhn", "cifar10", "digits"}
            "digits" is ours, for images of about 8x8 pixels (specification, section 6).
        **changes : object
            Fields to set differently.

        Returns
        -------
        QEDGConfig
            The settings. Published budgets are 5,000 (MNIST, FMNIST) and 30,000 (SVHN, CIFAR-10).

        Raises
        ------
        ValueError
            If the name is unknown.
        """
        return cls(**{**PRESETS[check_choice("name", name, PRESETS)], **changes})

    def as_dict(self) -> dict[str, Any]:
        """The fields as JSON can hold them; a callable becomes its qualified name.

        Returns
        -------
        dict
            Field to value.
        """
        # Not dataclasses.asdict: it copies, and takes apart, a callable that is a dataclass.
        plain = {field.name: _plain(getattr(self, field.name)) for field in fields(self)}
        return {**plain, "free_aug": [_plain(entry) for entry in self.free_aug]}

    def fingerprint(self) -> str:
        """A hash of the fields, by which a checkpoint knows its settings.

        Returns
        -------
        str
            Hexadecimal.
        """
        return hashlib.sha256(json.dumps(self.as_dict(), sort_keys=True).encode()).hexdigest()


def _plain(value: Any) -> Any:
    if not isinstance(value, Callable):  # type: ignore[arg-type]
        return value
    return f"{getattr(value, '__module__', '')}.{getattr(value, '__qualname__', type(value).__qualname__)}"


_GREY = {
    "boundary_weight": 10.0,
    "diversity_weight": 0.1,
    "loop_transform": "digits",
    "query_transform": "digits",
}
# Flips on 5 % of the batches, each by a coin of the whole batch: 2.5 %.
_COLOUR = {
    "batch_size": 512,
    "latent": 1024,
    "loop_transform": "photo_loop",
    "query_transform": "photo",
    "free_aug": ("hflip", "vflip"),
    "free_aug_rate": 0.025,
}
PRESETS: dict[str, dict[str, Any]] = {
    "mnist": {**_GREY, "error_weight": 1.5},
    "fmnist": {**_GREY, "error_weight": 3.0},
    "svhn": _COLOUR,
    "cifar10": _COLOUR,
    "digits": {
        "batch_size": 128,
        "latent": 64,
        "width": 16,
        "g_steps": 50,
        "lr_g": 3e-3,
        "error_weight": 1.5,
        "inner_epochs": 10,
        "loop_transform": "none",
        "query_transform": "turns",
    },
}
