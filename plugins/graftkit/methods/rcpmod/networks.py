r"""Encoders and decoders as torch modules that spend nothing on units which no row switches on.

A hidden unit that is zero for every row of a step adds nothing to the next layer, and its own weights and
the next layer's weights on it have a gradient of exactly zero. Both products then run over the other units.
In the published two-layer networks more than half of the second layer is off in this sense after a few
steps, so that the backward pass, two thirds of a step, shrinks by about as much. Nothing is approximated:
only terms that are zero are left out.

Source: graftkit's own; the networks are those of the specification's section 1.4.

>>> import torch
>>> net = build_network((([[1.0], [-1.0]], [0.0, 0.0]), ([[1.0, 1.0]], [0.0])), dtype=torch.float64)
>>> net(torch.tensor([[2.0], [3.0]], dtype=torch.float64)).tolist()  # |x|; the second unit is off
[[2.0], [3.0]]
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

__all__ = ["ReluNetwork", "build_network"]

# Copying the columns of the other units pays from about here on.
LIVE_SHARE = 0.95


class ReluNetwork(nn.Sequential):
    """``Linear -> ReLU -> ... -> Linear``; on a CPU its passes leave out units that no row switches on."""

    def forward(self, x: Tensor) -> Tensor:
        """Apply the layers.

        Parameters
        ----------
        x : Tensor of shape (n, n_in)
            Rows.

        Returns
        -------
        Tensor of shape (n, n_out)
            As the layers one after another give it, up to rounding; first derivatives only.
        """
        if x.device.type != "cpu":  # finding the units would make the host wait for the device
            return super().forward(x)
        linears = [module for module in self if isinstance(module, nn.Linear)]
        return _LivePasses.apply(x, *(p for linear in linears for p in (linear.weight, linear.bias)))


class _LivePasses(torch.autograd.Function):
    """Both passes through a network, each hidden layer cut down to its live units."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, *parameters: Tensor) -> Tensor:
        """Return the output; keep each layer's input, its live columns and the weights on them."""
        weights, biases = parameters[::2], parameters[1::2]
        ctx.shapes = [weight.shape for weight in weights]
        h, live, kept = x, None, []
        for depth, (weight, bias) in enumerate(zip(weights, biases, strict=True)):
            columns = weight if live is None else weight.index_select(1, live)
            kept += [h, live, columns]
            h = torch.addmm(bias, h, columns.mT)
            if depth < len(weights) - 1:
                live = _live_units(h.relu_())
                h = h if live is None else h.index_select(1, live)
        ctx.save_for_backward(*kept)
        return h

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of the input and of every weight and bias; those of units that are off stay zero."""
        kept = ctx.saved_tensors
        gradient, rows = grad_outputs[0], None
        gradients: list[Tensor | None] = []
        for depth in reversed(range(len(ctx.shapes))):
            h, live, columns = kept[3 * depth : 3 * depth + 3]
            weight_gradient = _spread(gradient.mT @ h, live, 1, ctx.shapes[depth])
            gradients += [
                _spread(gradient.sum(0), rows, 0, ctx.shapes[depth][:1]),
                _spread(weight_gradient, rows, 0, ctx.shapes[depth]),
            ]
            if depth or ctx.needs_input_grad[0]:
                gradient = gradient @ (columns if rows is None else columns.index_select(0, rows))
                if depth:
                    gradient = torch.ops.aten.threshold_backward(gradient, h, 0)
            rows = live
        return (gradient if ctx.needs_input_grad[0] else None, *reversed(gradients))


def _live_units(h: Tensor) -> Tensor | None:
    """Columns that are not zero throughout, or None where (nearly) all are live."""
    if not len(h):
        return None
    live = h.amax(dim=0).nonzero()[:, 0]  # NaN is not zero
    return live if len(live) <= LIVE_SHARE * h.shape[1] else None


def _spread(values: Tensor, places: Tensor | None, dim: int, shape: torch.Size) -> Tensor:
    """Values at their places along one dimension, zero elsewhere; all of them where no place is given."""
    if places is None:
        return values
    size = list(values.shape)
    size[dim] = shape[dim]
    return values.new_zeros(size).index_copy_(dim, places, values)


def build_network(
    layers: Sequence[tuple[Any, Any]], *, dtype: torch.dtype, device: str | torch.device = "cpu"
) -> ReluNetwork:
    """A trainable network of given weights.

    Parameters
    ----------
    layers : sequence of (weight, bias)
        Weight of shape (n_out, n_in), bias of shape (n_out,), in order of application; they are copied.
    dtype : torch.dtype
        Precision.
    device : str or torch.device, default="cpu"
        Where it lives.

    Returns
    -------
    ReluNetwork
        ReLU after every layer but the last.
    """
    modules: list[nn.Module] = []
    for weight, bias in layers:
        weight, bias = torch.as_tensor(weight), torch.as_tensor(bias)
        linear = nn.utils.skip_init(nn.Linear, weight.shape[1], weight.shape[0], dtype=dtype, device=device)
        with torch.no_grad():
            linear.weight.copy_(weight)
            linear.bias.copy_(bias)
        modules += [linear, nn.ReLU()]
    return ReluNetwork(*modules[:-1])
