"""SSE-SAM under mmengine's Runner: an optimizer and an optimizer wrapper in the root registries.

The Runner stays as it is. ``forward(mode="loss")`` returns losses only, so the wrapper watches the module
that makes the class scores and reads the labels from ``data_samples``::

    custom_imports = dict(imports=["graftkit.mmseg"])
    optim_wrapper = dict(
        type="SSESAMOptimWrapper",
        optimizer=dict(type="SSESAM", lr=0.01, momentum=0.9, tail_classes=[7, 8, 9], switch_step=4000),
        output_module="head.fc",
    )

Other losses of the model, an auxiliary head's for one, go with the head classes.

>>> from mmengine.registry import OPTIM_WRAPPERS
>>> OPTIM_WRAPPERS.get("SSESAMOptimWrapper") is SSESAMOptimWrapper
True
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from mmengine.optim import OptimWrapper
from mmengine.registry import OPTIM_WRAPPERS, OPTIMIZERS
from torch import Tensor, nn
from torch.optim import Optimizer

from graftkit.core.validation import check_bool, check_choice, raise_invalid
from graftkit.methods import sse_sam

__all__ = ["SSESAM", "SSESAMOptimWrapper"]

# Where OpenMMLab's models make their class scores.
KNOWN_OUTPUTS = ("decode_head.conv_seg", "head.fc", "cls_head.fc_cls")


@OPTIMIZERS.register_module(name="SSESAM")
class SSESAM(sse_sam.SSESAM):
    """SSE-SAM whose base optimizer may be named as in a config.

    Parameters
    ----------
    params : iterable
        Parameters or groups.
    base_optimizer : str or type, default="SGD"
        A name of mmengine's ``OPTIMIZERS``, or a class.
    **kwargs
        Arguments of :class:`graftkit.torch.SSESAM` and of the base.

    Raises
    ------
    ValueError
        If the registry knows no optimizer of that name.
    """

    def __init__(self, params: Any, base_optimizer: str | type[Optimizer] = "SGD", **kwargs: Any) -> None:
        base: Any = base_optimizer
        if isinstance(base, str):
            base = OPTIMIZERS.get(base)
            if base is None:
                raise_invalid("base_optimizer", base_optimizer, "a name in mmengine.registry.OPTIMIZERS")
        super().__init__(params, base, **kwargs)


@OPTIM_WRAPPERS.register_module()
class SSESAMOptimWrapper(OptimWrapper):
    """An optimizer wrapper that watches the model, with mixed precision on any device.

    Parameters
    ----------
    optimizer : SSESAM
        The optimizer; in a config ``optimizer=dict(type="SSESAM", ...)``.
    output_module : str or None, default=None
        The submodule whose output holds the class scores; ``None`` tries the usual places.
    targets_from : callable or None, default=None
        A function of ``(args, kwargs)`` of ``model.forward`` that gives the labels; ``None`` reads
        ``data_samples`` (``gt_label``, ``gt_sem_seg``, or a tensor).
    membership : callable, "sample" or None, default=None
        See :meth:`graftkit.torch.SSESAM.watch`.
    dtype : {"float16", "bfloat16"} or None, default=None
        Autocast's type; ``None`` trains in full precision.
    loss_scale : "dynamic", float, dict or None, default=None
        A GradScaler, its constant scale, or its arguments, as mmengine's ``AmpOptimWrapper`` takes them;
        ``None`` is "dynamic" for float16 and no scaling otherwise.
    verify : bool, default=True
        See :meth:`graftkit.torch.SSESAM.watch`.
    **kwargs
        Arguments of ``OptimWrapper``, such as ``accumulative_counts`` and ``clip_grad``.

    Raises
    ------
    TypeError
        If `optimizer` is not SSE-SAM, or an argument has the wrong type.
    ValueError
        At the first iteration, if the model's class scores are in none of the usual places.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        *,
        output_module: str | None = None,
        targets_from: Callable[..., Any] | None = None,
        membership: Any = None,
        dtype: str | None = None,
        loss_scale: Any = None,
        verify: bool = True,
        **kwargs: Any,
    ) -> None:
        if not isinstance(optimizer, sse_sam.SSESAM):
            raise_invalid("optimizer", type(optimizer).__name__, "dict(type='SSESAM', ...)", error=TypeError)
        check_choice("dtype", dtype, (None, "float16", "bfloat16"))
        check_bool("verify", verify)
        if output_module is not None and not isinstance(output_module, str):
            raise_invalid("output_module", output_module, "a module's name or None", error=TypeError)
        if targets_from is not None and not callable(targets_from):
            raise_invalid("targets_from", targets_from, "a callable or None", error=TypeError)
        super().__init__(optimizer=optimizer, **kwargs)
        self.output_module, self.targets_from = output_module, targets_from
        self.membership, self.verify = membership, verify
        self.dtype: torch.dtype | None = getattr(torch, dtype) if dtype is not None else None
        self._constant_scale: float | None = None
        self.loss_scaler = self._scaler(
            "dynamic" if loss_scale is None and dtype == "float16" else loss_scale
        )
        self._watching = False

    def _scaler(self, loss_scale: Any) -> torch.amp.GradScaler | None:
        device = self.optimizer.param_groups[0]["params"][0].device.type
        if loss_scale is None:
            return None
        if loss_scale == "dynamic":
            return torch.amp.GradScaler(device)
        if isinstance(loss_scale, dict):
            return torch.amp.GradScaler(device, **loss_scale)
        if isinstance(loss_scale, int | float) and not isinstance(loss_scale, bool):
            self._constant_scale = float(loss_scale)
            return torch.amp.GradScaler(device, init_scale=self._constant_scale)
        raise_invalid("loss_scale", loss_scale, "'dynamic', a number, a dict, or None", error=TypeError)

    @contextmanager
    def optim_context(self, model: nn.Module) -> Iterator[None]:
        """Watch the model from the first iteration on; autocast where a dtype was given.

        Parameters
        ----------
        model : torch.nn.Module
            What the Runner trains.

        Yields
        ------
        None
        """
        if not self._watching:
            self._watch(model)
        device = self.optimizer.param_groups[0]["params"][0].device.type
        with ExitStack() as stack:
            stack.enter_context(super().optim_context(model))
            if self.dtype is not None:
                stack.enter_context(torch.autocast(device, dtype=self.dtype))
            yield

    def _watch(self, model: nn.Module) -> None:
        inner = getattr(model, "module", model)
        names = dict(inner.named_modules())
        output = self.output_module or next((name for name in KNOWN_OUTPUTS if name in names), None)
        if output is None:
            raise_invalid(
                "output_module",
                None,
                "the submodule that makes the class scores, this model has none of "
                f"{', '.join(KNOWN_OUTPUTS)}",
                fix="Set output_module=, and targets_from= where data_samples hold no gt_label, gt_sem_seg.",
            )
        self.optimizer.watch(
            model,
            None,
            output_module=output,
            targets_from=self.targets_from or labels_of_data_samples,
            membership=self.membership,
            verify=self.verify,
        )
        self._watching = True

    def backward(self, loss: Tensor, **kwargs: Any) -> None:
        """Run the backward pass, scaled where there is a scaler.

        Parameters
        ----------
        loss : Tensor of shape ()
            The parsed loss.
        **kwargs
            Arguments of ``Tensor.backward``.
        """
        super().backward(loss if self.loss_scaler is None else self.loss_scaler.scale(loss), **kwargs)

    def step(self, **kwargs: Any) -> None:
        """Clip and step, through the scaler where there is one.

        Parameters
        ----------
        **kwargs
            Arguments of the optimizer's ``step``.
        """
        if self.loss_scaler is None:
            super().step(**kwargs)
            return
        if self.clip_grad_kwargs:
            self.loss_scaler.unscale_(self.optimizer)
            self._clip_grad()
        self.loss_scaler.step(self.optimizer, **kwargs)
        self.loss_scaler.update(self._constant_scale)

    def state_dict(self) -> dict[str, Any]:
        """Give the optimizer's state, with the scaler's where there is one.

        Returns
        -------
        dict
            For checkpoints.
        """
        state: dict[str, Any] = super().state_dict()
        if self.loss_scaler is not None:
            state["loss_scaler"] = self.loss_scaler.state_dict()
        return state

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load what :meth:`state_dict` gave; a checkpoint without a scaler's state loads too.

        Parameters
        ----------
        state_dict : dict
            From a checkpoint.
        """
        state = dict(state_dict)
        scaler = state.pop("loss_scaler", None)
        if scaler is not None and self.loss_scaler is not None:
            self.loss_scaler.load_state_dict(scaler)
        super().load_state_dict(state)


def labels_of_data_samples(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
    """Read the labels from the ``data_samples`` of a call of ``model.forward``.

    Parameters
    ----------
    args, kwargs : tuple, dict
        The call's.

    Returns
    -------
    Tensor of shape (B,) or (B, H, W)
        Class indices.

    Raises
    ------
    ValueError
        If there are no samples with ``gt_label`` or ``gt_sem_seg``.
    """
    samples = kwargs.get("data_samples", args[1] if len(args) > 1 else None)
    if isinstance(samples, Tensor):
        return samples
    if isinstance(samples, list | tuple) and samples:
        if all(hasattr(s, "gt_sem_seg") for s in samples):
            return torch.stack([s.gt_sem_seg.data.squeeze(0) for s in samples])
        labels = [getattr(s, "gt_label", None) for s in samples]
        if all(label is not None for label in labels):
            return torch.cat([torch.as_tensor(getattr(label, "label", label)).reshape(1) for label in labels])
    raise_invalid(
        "data_samples",
        samples,
        "samples with gt_label or gt_sem_seg, or a tensor of labels",
        fix="Say how to read the labels: targets_from=, beside output_module=.",
    )
