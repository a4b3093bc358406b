"""SSE-SAM in timm's optimizer registry, under the name ``ssesam`` (timm cuts names at underscores).

The base optimizer may be named as timm names it; its registry entry decides which of ``momentum``, ``eps``
and ``betas`` it takes. timm's ``train.py`` loop stays as it is after
``optimizer.watch(model, train_loss_fn)``.

>>> import torch
>>> from timm.optim import create_optimizer_v2
>>> model = torch.nn.Linear(2, 3)
>>> options = {"tail_classes": [2], "switch_step": 9}
>>> optimizer = create_optimizer_v2(model, opt="ssesam", lr=0.1, weight_decay=0.05, **options)
>>> type(optimizer.base_optimizer).__name__, len(optimizer.param_groups)
('SGD', 2)
"""

import warnings
from typing import Any

import torch
from torch.optim import Optimizer

from graftkit.core.validation import raise_invalid
from graftkit.methods import sse_sam

try:  # the writable registry lives in a private module
    from timm.optim._optim_factory import OptimInfo, default_registry
except ImportError:  # pragma: no cover - depends on timm's future
    default_registry = None  # type: ignore[assignment]

__all__ = ["SSESAM"]

NAME = "ssesam"


class SSESAM(sse_sam.SSESAM):
    """SSE-SAM whose base optimizer may be named as timm names it.

    Parameters
    ----------
    params : iterable
        Parameters or groups, such as timm's weight-decay and layer-decay groups.
    base_optimizer : str or type, default="sgd"
        A name of timm's registry ("sgd" has Nesterov momentum there, "adamw", "lamb", ...), or a class.
    **kwargs
        Arguments of :class:`graftkit.torch.SSESAM` and of the base. ``momentum``, ``eps`` and ``betas`` are
        left out where the named base does not take them, as timm does.

    Raises
    ------
    ValueError
        If timm knows no optimizer of that name.

    Examples
    --------
    >>> w = torch.nn.Parameter(torch.ones(2))
    >>> SSESAM([w], "adamw", lr=0.1, stage1="sam", gamma=None).base_optimizer.__class__.__name__
    'AdamW'
    """

    def __init__(self, params: Any, base_optimizer: str | type[Optimizer] = "sgd", **kwargs: Any) -> None:
        if not isinstance(base_optimizer, str):
            if (
                isinstance(base_optimizer, type)
                and "momentum" in kwargs
                and base_optimizer is not torch.optim.SGD
            ):
                kwargs = _accepted(base_optimizer, kwargs)
            super().__init__(params, base_optimizer, **kwargs)
            return
        name = base_optimizer.lower()
        if name == NAME or default_registry is None or name not in default_registry.list_optimizers():
            raise_invalid("base_optimizer", base_optimizer, "a name that timm.optim.list_optimizers() lists")
        info = default_registry.get_optimizer_info(name)
        for key, taken in (("momentum", info.has_momentum), ("eps", info.has_eps), ("betas", info.has_betas)):
            if not taken:
                kwargs.pop(key, None)
        for key, value in (info.defaults or {}).items():
            kwargs.setdefault(key, value)
        cls: Any = default_registry.get_optimizer_class(name, bind_defaults=False)
        super().__init__(params, cls, **kwargs)


def _accepted(base: type[Optimizer], kwargs: dict[str, Any]) -> dict[str, Any]:
    """Without the momentum that timm adds for every optimizer, where a class does not take it."""
    import inspect

    if "momentum" in inspect.signature(base).parameters:
        return kwargs
    return {key: value for key, value in kwargs.items() if key != "momentum"}


def _register() -> None:
    if default_registry is None:  # pragma: no cover - depends on timm's future
        warnings.warn(
            "this timm has moved its optimizer registry: create_optimizer_v2 will not know 'ssesam', "
            "graftkit.timm.SSESAM works on its own",
            stacklevel=2,
        )
        return
    if NAME in default_registry.list_optimizers():
        known = default_registry.get_optimizer_info(NAME).opt_class
        if getattr(known, "__qualname__", None) != SSESAM.__qualname__ or known.__module__ != __name__:
            raise RuntimeError(
                f"timm already has an optimizer named {NAME!r} ({known!r}); it is not replaced"
            )
        return
    default_registry.register(
        OptimInfo(
            name=NAME,
            opt_class=SSESAM,
            description="Stage-wise saddle-escaping SAM for long-tailed data (graftkit)",
            has_momentum=True,
            has_eps=True,
            has_betas=True,
        )
    )


_register()
