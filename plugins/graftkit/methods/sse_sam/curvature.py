r"""Look at the saddles: extreme curvature of the loss of single classes, of head and tail.

.. math:: L_G(w) = \tfrac{1}{|G|} \sum_{i \in G} l_i(w), \qquad
   \text{saddle ratio} = |\min(\lambda_{\min}(H_G), 0)| / \lambda_{\max}(H_G)

Paper: SSE-SAM (AAAI 2025, arXiv 2412.13715) says that its experiments confirm the escape; by which statistic
is unverified, the ratio is the usual one. Hessian-vector products by double backward, extremes by Lanczos;
specification section 1.7.

>>> import torch
>>> x, y = torch.randn(8, 2), torch.tensor([0, 0, 0, 0, 1, 1, 2, 2])
>>> loss = torch.nn.CrossEntropyLoss(reduction="none")
>>> rows = class_curvature(torch.nn.Linear(2, 3), loss, [(x, y)], {"head": [0], "tail": [1, 2]}, k=5)
>>> sorted(rows)
['head', 'tail']
"""

import math
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from graftkit.core.random import torch_generator
from graftkit.core.validation import check_bool, check_choice, check_integer, check_iterable, raise_invalid
from graftkit.methods.sse_sam.coupling import frozen_running_stats
from graftkit.methods.sse_sam.curvature_table import CurvatureTable
from graftkit.methods.sse_sam.lanczos import LanczosRun, lanczos, spectral_density
from graftkit.methods.sse_sam.surroundings import random_state as generators_now
from graftkit.methods.sse_sam.surroundings import with_random_state

__all__ = ["class_curvature"]

Batch = tuple[Any, Tensor]


def class_curvature(
    model: nn.Module,
    loss_fn: Callable[[Any, Tensor], Tensor],
    batches: Iterable[Batch],
    groups: Mapping[str, Sequence[int] | None] | None = None,
    *,
    k: int = 20,
    n_probe: int = 1,
    density: bool = False,
    mode: str = "eval",
    hvp: str = "exact",
    reorthogonalize: bool = True,
    min_samples: int = 2,
    random_state: Any = 0,
) -> CurvatureTable:
    """Measure loss, gradient norm and extreme curvature of the loss of each group of classes.

    Parameters
    ----------
    model : torch.nn.Module
        Its parameters that require a gradient span the space.
    loss_fn : callable
        ``loss_fn(model(inputs), targets)`` gives one loss a sample, of shape (B,).
    batches : iterable of (inputs, targets)
        The samples; ``targets`` are integer labels of shape (B,).
    groups : mapping of str to sequence of int or None, or None, default=None
        Classes of each group, ``None`` inside for all classes; ``None`` makes a group of every class.
    k : int, default=20
        Hessian-vector products a start vector; each costs two to three gradients of the group.
    n_probe : int, default=1
        Start vectors; more sharpen the trace and the density.
    density : bool, default=False
        Also give the smoothed spectral density.
    mode : {"eval", "train"}, default="eval"
        The mode that the model is evaluated in; running statistics are left alone.
    hvp : {"exact", "finite_difference"}, default="exact"
        Double backward, or a central difference of gradients where a layer has no second derivative.
    reorthogonalize : bool, default=True
        See :func:`~graftkit.methods.sse_sam.lanczos.lanczos`; False keeps three vectors instead of `k`.
    min_samples : int, default=2
        Groups with fewer samples give a row of NaN and a warning.
    random_state : None, int, numpy or torch generator, default=0
        Draws the start vectors.

    Returns
    -------
    CurvatureTable
        A dict from group to a dict of ``n, loss, grad_norm, lambda_max, lambda_min, saddle_ratio, trace,
        trace_se, residual_max, residual_min`` (and ``density``), with ``plot`` and an HTML view. ``trace`` is
        a Monte Carlo estimate (Hutchinson); ``trace_se`` its standard error, NaN for one probe.

    Raises
    ------
    ValueError
        If there is no sample, no parameter, an unknown option, or the losses are not one a sample.
    TypeError
        If a number or a flag is of another type.

    Notes
    -----
    Weights, ``.grad``, training mode and the global random state are afterwards as before.
    """
    check_choice("mode", mode, ("eval", "train"))
    check_choice("hvp", hvp, ("exact", "finite_difference"))
    check_integer("k", k, low=1)
    check_integer("n_probe", n_probe, low=1)
    check_integer("min_samples", min_samples, low=1)
    check_bool("density", density)
    check_bool("reorthogonalize", reorthogonalize)
    if not isinstance(model, nn.Module):
        raise_invalid("model", model, "a torch module", error=TypeError)
    if not callable(loss_fn):
        raise_invalid("loss_fn", loss_fn, "a callable of outputs and labels", error=TypeError)
    if groups is not None and not isinstance(groups, Mapping):
        raise_invalid("groups", groups, "a mapping of names to classes, or None", error=TypeError)
    params = [p for p in model.parameters() if p.requires_grad]
    if not params:
        raise_invalid("model", type(model).__name__, "at least one parameter that requires a gradient")
    stored = [_pair(batch) for batch in check_iterable("batches", batches, "pairs (inputs, labels)")]
    if not stored or sum(len(y) for _, y in stored) == 0:
        raise_invalid("batches", stored, "at least one sample")
    seen = sorted({int(label) for _, y in stored for label in y.unique()})
    chosen: Mapping[str, Sequence[int] | None] = groups if groups is not None else {str(c): [c] for c in seen}
    generator = torch_generator(random_state, params[0].device)
    table = CurvatureTable()
    with _undisturbed(model, mode):
        for name, classes in chosen.items():
            group = _Group(model, loss_fn, stored, classes, params, mode, hvp)
            if group.size < min_samples:
                warnings.warn(
                    f"class_curvature: group {name!r} has {group.size} samples, fewer than {min_samples}: "
                    "its row is NaN",
                    UserWarning,
                    stacklevel=2,
                )
                table[name] = _empty_row(group.size)
                continue
            loss, grad = group.loss_and_gradient()
            runs = []
            for _ in range(n_probe):
                start = torch.randn(grad.numel(), generator=generator, device=grad.device, dtype=grad.dtype)
                runs.append(lanczos(group.product, start, k, reorthogonalize=reorthogonalize))
            table[name] = _row(group.size, loss, grad, runs, density)
    return table


def _pair(batch: Any) -> tuple[Any, Tensor]:
    if not isinstance(batch, tuple | list) or len(batch) != 2 or not isinstance(batch[1], Tensor):
        raise_invalid("batches", batch, "pairs (inputs, labels), labels a tensor", error=TypeError)
    return batch[0], batch[1]


def _row(n: int, loss: float, grad: Tensor, runs: list[LanczosRun], density: bool) -> dict[str, Any]:
    top = max(runs, key=lambda run: float(run.ritz[-1]))
    bottom = min(runs, key=lambda run: float(run.ritz[0]))
    high, low = float(top.ritz[-1]), float(bottom.ritz[0])
    traces = torch.tensor([run.quadratic * grad.numel() for run in runs], dtype=torch.float64)
    row: dict[str, Any] = {
        "n": n,
        "loss": loss,
        "grad_norm": float(torch.linalg.vector_norm(grad.double())),
        "lambda_max": high,
        "lambda_min": low,
        "saddle_ratio": abs(min(low, 0.0)) / high if high > 0 else math.nan,
        "trace": float(traces.mean()),
        "trace_se": float(traces.std() / len(runs) ** 0.5) if len(runs) > 1 else math.nan,
        "residual_max": float(top.residuals[-1]),
        "residual_min": float(bottom.residuals[0]),
    }
    if density:
        grid, values = spectral_density(runs)
        row["density"] = {"grid": grid, "values": values}
    return row


def _empty_row(n: int) -> dict[str, Any]:
    names = ("loss", "grad_norm", "lambda_max", "lambda_min", "saddle_ratio", "trace", "trace_se")
    return {"n": n, **dict.fromkeys((*names, "residual_max", "residual_min"), math.nan)}


@contextmanager
def _undisturbed(model: nn.Module, mode: str) -> Iterator[None]:
    modes = [(module, module.training) for module in model.modules()]
    state = _generators(model)
    with ExitStack() as stack:
        # The memory-efficient attention kernels have no second derivative.
        stack.enter_context(sdpa_kernel(SDPBackend.MATH))
        stack.enter_context(with_random_state(state))
        try:
            model.train(mode == "train")
            stack.enter_context(frozen_running_stats(model))
            yield
        finally:
            for module, training in modes:
                module.training = training


def _generators(model: nn.Module) -> Any:
    return generators_now(next(model.parameters()).device)


@dataclass
class _Group:
    """The mean loss of one group as a function of the weights."""

    model: nn.Module
    loss_fn: Callable[[Any, Tensor], Tensor]
    batches: list[Batch]
    classes: Sequence[int] | None
    params: list[nn.Parameter]
    mode: str
    hvp: str

    def __post_init__(self) -> None:
        self.masks = [self._mask(y) for _, y in self.batches]
        self.size = sum(int(m.sum()) for m in self.masks)
        self.random = _generators(self.model)

    def _mask(self, y: Tensor) -> Tensor:
        if self.classes is None:
            return torch.ones_like(y, dtype=torch.bool)
        return torch.isin(y, torch.as_tensor(list(self.classes), dtype=y.dtype, device=y.device))

    def _losses(self) -> Iterator[Tensor]:
        """Share of the mean loss of one batch after the other, on the graph, with the same random numbers."""
        with torch.enable_grad(), with_random_state(self.random):
            for (x, y), mask in zip(self.batches, self.masks, strict=True):
                if not bool(mask.any()):
                    continue
                select = self.mode == "eval" and isinstance(x, Tensor)  # in train mode samples may meet
                inputs, targets, kept = (x[mask], y[mask], None) if select else (x, y, mask)
                losses = self.loss_fn(self.model(inputs), targets)
                if not isinstance(losses, Tensor) or losses.shape != targets.shape:
                    raise_invalid("loss_fn", losses, "one loss a sample (reduction='none')")
                yield (losses if kept is None else losses[kept]).sum() / self.size

    def loss_and_gradient(self) -> tuple[float, Tensor]:
        """Value and gradient at the weights."""
        total, grad = 0.0, torch.zeros(sum(p.numel() for p in self.params), dtype=self.params[0].dtype,
                                       device=self.params[0].device)  # fmt: skip
        for loss in self._losses():
            grad += _flat(torch.autograd.grad(loss, self.params, allow_unused=True), self.params)
            total += float(loss.detach())
        return total, grad

    def product(self, vector: Tensor) -> Tensor:
        """Hessian times vector."""
        return self._by_difference(vector) if self.hvp == "finite_difference" else self._exactly(vector)

    def _exactly(self, vector: Tensor) -> Tensor:
        result = torch.zeros_like(vector)
        parts = _unflat(vector, self.params)
        for loss in self._losses():
            grads = torch.autograd.grad(loss, self.params, create_graph=True, allow_unused=True)
            terms = [
                (g * v).sum() for g, v in zip(grads, parts, strict=True) if g is not None and g.requires_grad
            ]
            if terms:
                total = torch.stack(terms).sum()
                result += _flat(torch.autograd.grad(total, self.params, allow_unused=True), self.params)
        return result

    @torch.no_grad()
    def _by_difference(self, vector: Tensor) -> Tensor:
        kept = [p.clone() for p in self.params]
        scale = torch.linalg.vector_norm(_flat(kept, self.params).double())
        step = float(1e-3 * (1 + scale) / torch.linalg.vector_norm(vector.double()))
        sides = []
        try:
            for sign in (1, -1):
                for p, w, v in zip(self.params, kept, _unflat(vector, self.params), strict=True):
                    p.copy_(w + sign * step * v)
                sides.append(self.loss_and_gradient()[1])
        finally:
            for p, w in zip(self.params, kept, strict=True):
                p.copy_(w)
        return (sides[0] - sides[1]) / (2 * step)


def _flat(grads: Sequence[Tensor | None], params: Sequence[Tensor]) -> Tensor:
    return torch.cat(
        [
            (torch.zeros_like(p) if g is None else g).detach().reshape(-1)
            for g, p in zip(grads, params, strict=True)
        ]
    )


def _unflat(vector: Tensor, params: Sequence[Tensor]) -> list[Tensor]:
    sizes = [p.numel() for p in params]
    return [piece.view_as(p) for piece, p in zip(vector.split(sizes), params, strict=True)]
