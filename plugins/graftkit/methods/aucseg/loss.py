r"""The pixel-level one-vs-one AUC loss for long-tailed segmentation.

.. math::
    L = \frac{1}{K(K-1)} \sum_{i \ne j} \frac{1}{n_i n_j} \sum_{a: y_a = i} \sum_{b: y_b = j}
        \ell\big(s_a^i - s_b^i\big), \qquad \ell(t) = \tfrac12 (\gamma - t)^2

over the K classes present in the whole batch; pairs run across images, each class weighs the same whatever
its size. It stands beside cross-entropy, not in its place: a pixel whose sigmoid score has saturated gets
almost no gradient, and absent classes get none (which is what `TailMemoryBank` repairs). A class of three
pixels gives each of them a third of a class's gradient: raise `min_pixels` where labels are noisy.

Source: Han et al., "AUCSeg", NeurIPS 2024 (arXiv 2409.20398), through its public code (specification
sections 1.2 to 1.4). Differs from the public code: one class or only ignored pixels give zero, not NaN or a
crash; ``weight`` is used; the hinge form is correct; both schemes are means.

>>> import torch
>>> logits = torch.zeros(2, 3, 4, 4, requires_grad=True)
>>> pixel_auc_loss(logits, torch.arange(32).reshape(2, 4, 4) % 3)  # all scores equal
tensor(0.5000, grad_fn=<PairLossBackward>)
"""

from typing import Any

import torch
from torch import Tensor, nn

from graftkit.core.validation import (
    check_bool,
    check_choice,
    check_integer,
    check_number,
    describe,
    raise_invalid,
)
from graftkit.methods.aucseg.pairs import Pairing, PairLoss
from graftkit.methods.aucseg.surrogates import SURROGATES

__all__ = ["PixelAUCLoss", "pixel_auc_loss"]

# exp(margin) must stay a float32.
LARGEST_EXPONENT = 80.0
# Labels and counts are int64.
LARGEST = 2**63 - 1


class PixelAUCLoss(nn.Module):
    r"""Pixel-level one-vs-one AUC loss, exact, in time linear in pixels and present classes.

    Parameters
    ----------
    surrogate : {"square", "hinge", "exp"}, default="square"
        The cost of a score gap t: :math:`\frac12 (\gamma - t)^2`, :math:`\max(0, \gamma - t)` or
        :math:`e^{-\gamma t}`.
    scheme : {"ovo", "ova"}, default="ovo"
        Each class against each other class, or against all others pooled.
    activation : {"sigmoid", "softmax"}, default="sigmoid"
        Logits to scores. The published code uses sigmoid.
    margin : float, default=1.0
        :math:`\gamma`, above 0; at least 1 with "hinge", at most 80 with "exp".
    ignore_index : int, default=255
        The label of pixels that do not count.
    min_pixels : int, default=1
        Classes with fewer pixels in the batch do not take part.
    sync : bool, default=False
        Compare pixels over all processes of the default group. Every process must call it. The local
        gradient is multiplied by the number of processes, since DistributedDataParallel averages.
    validate : {"auto", "always", "never"}, default="auto"
        Labels are checked except with "never", at no extra synchronisation; the weights' values on a CPU,
        or with "always".

    Raises
    ------
    TypeError
        If an argument has the wrong type.
    ValueError
        If it has an unknown or impossible value.

    Examples
    --------
    >>> import torch
    >>> criterion = PixelAUCLoss()
    >>> logits = torch.randn(2, 5, 8, 8, requires_grad=True)
    >>> criterion(logits, torch.randint(0, 5, (2, 8, 8))).backward()
    """

    def __init__(
        self,
        *,
        surrogate: str = "square",
        scheme: str = "ovo",
        activation: str = "sigmoid",
        margin: float = 1.0,
        ignore_index: int = 255,
        min_pixels: int = 1,
        sync: bool = False,
        validate: str = "auto",
    ) -> None:
        super().__init__()
        self.surrogate: str = check_choice("surrogate", surrogate, SURROGATES)
        self.scheme: str = check_choice("scheme", scheme, ("ovo", "ova"))
        self.activation: str = check_choice("activation", activation, ("sigmoid", "softmax"))
        self.margin = check_number("margin", margin, low=0, closed="()")
        if surrogate == "hinge" and self.margin < 1:
            raise_invalid(
                "margin", margin, "at least 1 with surrogate='hinge'", fix="Below 1 some pairs are clipped."
            )
        if surrogate == "exp" and self.margin > LARGEST_EXPONENT:
            raise_invalid("margin", margin, f"at most {LARGEST_EXPONENT:g} with surrogate='exp'")
        self.ignore_index = check_integer("ignore_index", ignore_index, low=-LARGEST, high=LARGEST)
        self.min_pixels = check_integer("min_pixels", min_pixels, low=1, high=LARGEST)
        self.sync = check_bool("sync", sync)
        self.validate: str = check_choice("validate", validate, ("auto", "always", "never"))

    def forward(
        self, logits: Tensor, target: Tensor, weight: Tensor | None = None, *, ignore_index: int | None = None
    ) -> Tensor:
        """Compute the loss of a batch.

        Parameters
        ----------
        logits : Tensor of shape (B, C, *)
            Logits with any number of spatial dimensions, or none. With C = 1 they score class 1 against
            class 0.
        target : Tensor of shape (B, *)
            Integer labels in ``[0, C)`` (0 and 1 if C = 1), or `ignore_index`.
        weight : Tensor of shape (B, *) or None, default=None
            Weight of each pixel, finite and not negative. Multiplying all by a number changes nothing.
        ignore_index : int or None, default=None
            Replaces the constructor's for this call.

        Returns
        -------
        Tensor of shape ()
            float32 (float64 for float64 logits). Zero, on the graph, with fewer than two classes.

        Raises
        ------
        TypeError
            If `logits` is not floating, or `target` not integer.
        ValueError
            If shapes do not fit, a label is out of range, or a weight is negative or not finite.
        """
        ignored = self.ignore_index
        if ignore_index is not None:
            ignored = check_integer("ignore_index", ignore_index, low=-LARGEST, high=LARGEST)
        self._check(logits, target, weight)
        pairing = Pairing(
            self.surrogate, self.scheme, self.activation, self.margin, ignored, self.min_pixels,
            self.sync, self.validate != "never",
        )  # fmt: skip
        batch, channels = logits.shape[:2]
        flat_weight = None if weight is None else weight.detach().reshape(batch, -1)
        size = logits.shape[2:].numel()
        loss: Tensor = PairLoss.apply(
            logits.reshape(batch, channels, size), target.reshape(batch, size), flat_weight, pairing
        )
        return loss

    def extra_repr(self) -> str:
        """Say how pairs are compared.

        Returns
        -------
        str
            The arguments that define the loss.
        """
        return (
            f"surrogate={self.surrogate!r}, scheme={self.scheme!r}, activation={self.activation!r}, "
            f"margin={self.margin:g}, ignore_index={self.ignore_index}, min_pixels={self.min_pixels}, "
            f"sync={self.sync}"
        )

    def _check(self, logits: Any, target: Any, weight: Any) -> None:
        if not isinstance(logits, Tensor) or not logits.is_floating_point():
            raise_invalid("logits", logits, "a floating-point tensor", error=TypeError)
        if not isinstance(target, Tensor) or target.is_floating_point() or target.is_complex():
            raise_invalid("target", target, "a tensor of integer labels", error=TypeError)
        if target.dtype == torch.bool:
            raise_invalid(
                "target", target, "a tensor of integer labels", fix="Use target.long().", error=TypeError
            )
        if logits.ndim < 2 or logits.shape[1] == 0:
            raise_invalid("logits", logits, "shape (B, C, ...) with C >= 1")
        shape = (logits.shape[0], *logits.shape[2:])
        if target.shape != shape:
            raise_invalid(
                "target shape",
                tuple(target.shape),
                f"{tuple(shape)} for logits of shape {tuple(logits.shape)}",
                fix="Squeeze a channel dimension; resize logits to the labels.",
            )
        if target.device != logits.device:
            raise_invalid("target", target.device, f"labels on the logits' device {logits.device}")
        if logits.shape[1] == 1 and self.activation == "softmax":
            raise_invalid(
                "activation", "softmax", "'sigmoid' with one channel", fix="A softmax over it is constant."
            )
        if weight is None:
            return
        if not isinstance(weight, Tensor) or weight.is_complex():
            raise_invalid("weight", weight, "a real tensor or None", error=TypeError)
        if weight.shape != shape:
            raise_invalid("weight", weight, f"the labels' shape {tuple(shape)}")
        if weight.device != logits.device:
            raise_invalid("weight", weight.device, f"weights on the logits' device {logits.device}")
        on_cpu = weight.device.type == "cpu"
        if (
            weight.numel()
            and (self.validate == "always" or (self.validate == "auto" and on_cpu))
            and not bool(((weight >= 0) & torch.isfinite(weight)).all())
        ):
            raise_invalid("weight", describe(weight), "finite weights, none negative")


def pixel_auc_loss(
    logits: Tensor,
    target: Tensor,
    *,
    surrogate: str = "square",
    scheme: str = "ovo",
    activation: str = "sigmoid",
    margin: float = 1.0,
    ignore_index: int = 255,
    weight: Tensor | None = None,
    min_pixels: int = 1,
    sync: bool = False,
    validate: str = "auto",
) -> Tensor:
    r"""Pixel-level one-vs-one AUC loss of a batch; see `PixelAUCLoss`.

    Parameters
    ----------
    logits : Tensor of shape (B, C, *)
        Logits with any number of spatial dimensions, or none. With C = 1 they score class 1 against class 0.
    target : Tensor of shape (B, *)
        Integer labels in ``[0, C)`` (0 and 1 if C = 1), or `ignore_index`.
    surrogate : {"square", "hinge", "exp"}, default="square"
        The cost of a score gap t: :math:`\frac12 (\gamma - t)^2`, :math:`\max(0, \gamma - t)` or
        :math:`e^{-\gamma t}`.
    scheme : {"ovo", "ova"}, default="ovo"
        Each class against each other class, or against all others pooled.
    activation : {"sigmoid", "softmax"}, default="sigmoid"
        Logits to scores.
    margin : float, default=1.0
        :math:`\gamma`, above 0; at least 1 with "hinge", at most 80 with "exp".
    ignore_index : int, default=255
        The label of pixels that do not count.
    weight : Tensor of shape (B, *) or None, default=None
        Weight of each pixel, finite and not negative.
    min_pixels : int, default=1
        Classes with fewer pixels in the batch do not take part.
    sync : bool, default=False
        Compare pixels over all processes of the default group.
    validate : {"auto", "always", "never"}, default="auto"
        Which values are checked; see `PixelAUCLoss`.

    Returns
    -------
    Tensor of shape ()
        float32 (float64 for float64 logits). Zero, on the graph, with fewer than two classes.
    """
    criterion = PixelAUCLoss(
        surrogate=surrogate,
        scheme=scheme,
        activation=activation,
        margin=margin,
        ignore_index=ignore_index,
        min_pixels=min_pixels,
        sync=sync,
        validate=validate,
    )
    loss: Tensor = criterion(logits, target, weight)
    return loss
