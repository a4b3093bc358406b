"""Modules in which samples meet: which they are, and how to keep their statistics still.

A pass on part of a batch is exact only where samples do not interact inside the network. Train-mode batch
normalisation couples them; group, layer and instance normalisation do not. Freezing switches
``track_running_stats`` off for a while: batch statistics are still used, running buffers stay untouched
(``momentum = 0`` would still count batches, ``eval()`` would change the function).

Source: specification sections 1.4 and 3.7.

>>> coupled_modules(torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.BatchNorm1d(2)))
['1']
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm, _NormBase
from torch.nn.modules.instancenorm import _InstanceNorm

from graftkit.core.validation import raise_invalid

__all__ = ["RecordedStatistics", "coupled_modules", "frozen_running_stats", "has_statistics", "modules_of"]


def coupled_modules(model: nn.Module) -> list[str]:
    """Name the modules that mix the samples of a batch, as the model stands now.

    Parameters
    ----------
    model : torch.nn.Module
        Any model. A type of your own that mixes samples is found by its attribute
        ``couples_samples = True``.

    Returns
    -------
    list of str
        Names as in ``model.named_modules()``; empty where every pass may be split by samples.

    Raises
    ------
    TypeError
        If `model` is no module.

    Examples
    --------
    >>> coupled_modules(torch.nn.GroupNorm(1, 4))
    []
    """
    if not isinstance(model, nn.Module):
        raise_invalid("model", model, "a torch module", error=TypeError)
    if not any(_couples(module) for module in modules_of(model)):
        return []  # asked in every step, nearly always with this answer: names are not made for it
    return [name or type(module).__name__ for name, module in model.named_modules() if _couples(module)]


def modules_of(model: nn.Module) -> list[nn.Module]:
    """List a model's modules, each once: ``model.modules()`` at less cost, in another order.

    Parameters
    ----------
    model : torch.nn.Module
        Walked anew at every call, so that layers may be replaced between steps.

    Returns
    -------
    list of torch.nn.Module
        The model itself first.
    """
    found, seen = [model], {model}
    for module in found:
        for child in module._modules.values():
            if child is not None and child not in seen:
                seen.add(child)
                found.append(child)
    return found


def _couples(module: nn.Module) -> bool:
    # A module's own lookup of a missing attribute is slow; it matters only where it was replaced.
    plain = type(module).__getattr__ is nn.Module.__getattr__
    marked = not plain or "couples_samples" in module.__dict__ or hasattr(type(module), "couples_samples")
    if marked and getattr(module, "couples_samples", False) is True:
        return True
    if not isinstance(module, _BatchNorm):
        return False
    return module.training or module.running_mean is None or module.running_var is None


@contextmanager
def frozen_running_stats(model: nn.Module) -> Iterator[None]:
    """Leave running statistics and batch counters alone inside the context.

    Parameters
    ----------
    model : torch.nn.Module
        Its train-mode batch and instance normalisation layers are treated; nothing else changes.

    Yields
    ------
    None
        Batch statistics are used as before; on exit, also by an exception, everything is as it was.

    Raises
    ------
    TypeError
        If `model` is no module.
    """
    if not isinstance(model, nn.Module):
        raise_invalid("model", model, "a torch module", error=TypeError)
    tracked: list[nn.Module] = []
    buffers: list[tuple[nn.Module, Tensor | None, Tensor | None]] = []
    try:
        for module in modules_of(model):
            if not isinstance(module, _NormBase) or not module.training:
                continue
            if isinstance(module, _BatchNorm) and module.track_running_stats:
                tracked.append(module)
                module.track_running_stats = False
            elif isinstance(module, _InstanceNorm) and module.track_running_stats:
                # Instance normalisation hands its buffers over whatever the flag says.
                buffers.append((module, module.running_mean, module.running_var))
                module.running_mean = module.running_var = None
        yield
    finally:
        for module in tracked:
            module.track_running_stats = True  # type: ignore[assignment]
        for module, mean, var in buffers:
            module.running_mean, module.running_var = mean, var  # type: ignore[assignment]


def has_statistics(model: nn.Module) -> bool:
    """Whether :func:`frozen_running_stats` could have anything to do.

    Parameters
    ----------
    model : torch.nn.Module
        Any.

    Returns
    -------
    bool
        ``True`` where a batch or instance normalisation is among its modules, in whatever mode.
    """
    return any(isinstance(module, _NormBase) for module in modules_of(model))


class RecordedStatistics:
    """Batch statistics of one forward pass, to normalise a part of the batch by the whole's.

    An approximation: the statistics are held fixed, so gradients do not flow through them, and they are
    those of the unperturbed weights. The suite measures how far the result is from the exact gradient.

    Examples
    --------
    >>> norm = torch.nn.BatchNorm1d(2)
    >>> statistics, x = RecordedStatistics(norm), torch.randn(8, 2)
    >>> with statistics.recording():
    ...     whole = norm(x)
    >>> with statistics.replayed():
    ...     part = norm(x[:1])
    >>> torch.allclose(part, whole[:1], atol=1e-5)
    True
    """

    def __init__(self, model: nn.Module) -> None:
        self._norms = [m for m in model.modules() if isinstance(m, _BatchNorm) and _couples(m)]
        self._seen: list[list[tuple[Tensor, Tensor]]] = [[] for _ in self._norms]
        self._handles: list[torch.utils.hooks.RemovableHandle] = []

    def start(self) -> None:
        """Record from here on."""
        for norm, seen in zip(self._norms, self._seen, strict=True):
            seen.clear()

            def record(
                module: nn.Module, args: tuple[Tensor, ...], seen: list[tuple[Tensor, Tensor]] = seen
            ) -> None:
                del module
                x = args[0].detach()
                var, mean = torch.var_mean(
                    x.float() if x.dtype.itemsize < 4 else x, [0, *range(2, x.ndim)], correction=0
                )
                seen.append((mean, var))

            self._handles.append(norm.register_forward_pre_hook(record))

    def stop(self) -> None:
        """End the recording."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()

    @contextmanager
    def recording(self) -> Iterator[None]:
        """Record the statistics of the passes inside the context.

        Yields
        ------
        None
        """
        self.start()
        try:
            yield
        finally:
            self.stop()

    @contextmanager
    def replayed(self) -> Iterator[None]:
        """Normalise by the recorded statistics inside the context.

        Yields
        ------
        None
        """
        kept = [(m.training, m.running_mean, m.running_var) for m in self._norms]
        handles = []
        try:
            for norm, seen in zip(self._norms, self._seen, strict=True):
                if not seen:
                    continue  # a branch that the recorded pass did not take
                calls = iter(seen)
                last = [seen[-1]]

                def use(
                    module: nn.Module,
                    args: object,
                    calls: Iterator[tuple[Tensor, Tensor]] = calls,
                    last: list[tuple[Tensor, Tensor]] = last,
                ) -> None:
                    del args
                    last[0] = next(calls, last[0])
                    module.running_mean, module.running_var = last[0]

                norm.training = False
                handles.append(norm.register_forward_pre_hook(use))
            yield
        finally:
            for handle in handles:
                handle.remove()
            for norm, (training, mean, var) in zip(self._norms, kept, strict=True):
                norm.training, norm.running_mean, norm.running_var = training, mean, var
