r"""Encoders and decoders as torch modules that spend nothing on units which no row switches on.

A hidden unit that is zero for every row of a step adds nothing to the next layer, and its own weights and
the next layer's weights on it have a gradient of exactly zero. Both products then run over the other units.
In the published two-layer networks much of the second layer is soon off in this sense, and the backward pass
shrinks with it. Nothing is approximated: of finite numbers only terms that are zero are left out.

Source: graftkit's own; the networks are those of the specification's section 1.4.

>>> import torch
>>> net = ReluNetwork([([[1.0], [-1.0]], [0.0, 0.0]), ([[1.0, 1.0]], [0.0])], dtype=torch.float32)
>>> net(torch.tensor([[2.0], [3.0]])).tolist()  # |x|; the second unit is off
[[2.0], [3.0]]
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional

__all__ = ["ReluNetwork"]

# Multiply-adds of a matrix product that pay for copying an entry of a live unit. A copy took as long as 50 of
# them; twice that keeps away from where leaving units out neither pays nor costs.
COPY_COST = 100


class ReluNetwork(nn.Module):
    """``Linear -> ReLU -> ... -> Linear``; on a CPU its passes leave out units that no row switches on.

    Parameters
    ----------
    layers : sequence of (weight, bias)
        Weight of shape (n_out, n_in), bias of shape (n_out,), in order of application; they are copied.
    dtype : torch.dtype
        Precision.
    device : str or torch.device, default="cpu"
        Where it lives.
    """

    def __init__(
        self, layers: Sequence[tuple[Any, Any]], *, dtype: torch.dtype, device: str | torch.device = "cpu"
    ) -> None:
        super().__init__()

        def parameter(values: Any) -> nn.Parameter:
            return nn.Parameter(torch.as_tensor(values).to(device, dtype, copy=True))

        self.weights = nn.ParameterList(parameter(weight) for weight, _ in layers)
        self.biases = nn.ParameterList(parameter(bias) for _, bias in layers)

    def forward(self, x: Tensor) -> Tensor:
        """Apply the layers.

        Parameters
        ----------
        x : Tensor of shape (n, n_in)
            Rows.

        Returns
        -------
        Tensor of shape (n, n_out)
            As the layers one after another give it, up to rounding. First derivatives only.
        """
        if x.device.type == "cpu":
            out: Tensor = _LivePasses.apply(x, *self.weights, *self.biases)
            return out
        # Elsewhere the host would have to wait for the device to know which units are off.
        for depth, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            x = functional.linear(x if depth == 0 else x.relu(), weight, bias)
        return x


class _LivePasses(torch.autograd.Function):
    """Both passes through a network, each hidden layer cut down to its live units."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, *parameters: Tensor) -> Tensor:
        """Return the output; keep each layer's input, its live columns and the weights on them."""
        weights, biases = parameters[: len(parameters) // 2], parameters[len(parameters) // 2 :]
        ctx.shapes = [weight.shape for weight in weights]
        h, live, kept = x, None, []
        for depth, (weight, bias) in enumerate(zip(weights, biases, strict=True)):
            columns = weight if live is None else weight.index_select(1, live)
            kept += [h, live, columns]
            h = torch.addmm(bias, h, columns.mT)
            if depth < len(weights) - 1:
                # Of a unit that is off: three products with the next layer's weights, two with its own.
                live = _live_units(h.relu_(), 3 * weights[depth + 1].shape[0] + 2 * weight.shape[1])
                h = h if live is None else h.index_select(1, live)
        ctx.save_for_backward(*kept)
        return h

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of the input and of every weight and bias; those of units that are off stay zero."""
        kept = ctx.saved_tensors
        gradient, rows = grad_outputs[0], None
        weights: list[Tensor | None] = []
        biases: list[Tensor | None] = []
        for depth in reversed(range(len(ctx.shapes))):
            h, live, columns = kept[3 * depth : 3 * depth + 3]
            shape = ctx.shapes[depth]
            weights.append(_spread(_spread(gradient.mT @ h, live, 1, shape), rows, 0, shape))
            biases.append(_spread(gradient.sum(0), rows, 0, shape[:1]))
            if depth or ctx.needs_input_grad[0]:
                gradient = gradient @ (columns if rows is None else columns.index_select(0, rows))
                if depth:
                    gradient = torch.ops.aten.threshold_backward(gradient, h, 0)
            rows = live
        return (gradient if ctx.needs_input_grad[0] else None, *reversed(weights), *reversed(biases))


def _live_units(h: Tensor, saved: int) -> Tensor | None:
    """Columns that are not zero throughout; None (all) where `saved` products a unit do not pay for it."""
    if not len(h):
        return None
    live = h.amax(dim=0).nonzero()[:, 0]  # NaN is not zero
    off = h.shape[1] - len(live)
    return live if off * saved > len(live) * COPY_COST else None


def _spread(values: Tensor, places: Tensor | None, dim: int, shape: torch.Size) -> Tensor:
    """Values at their places along one dimension, zero elsewhere; all of them where no place is given."""
    if places is None:
        return values
    size = list(values.shape)
    size[dim] = shape[dim]
    return values.new_zeros(size).index_copy_(dim, places, values)
