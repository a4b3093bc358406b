r"""Lanczos: extreme eigenvalues and the spectral density of a symmetric operator that is only multiplied by.

.. math:: A V_k = V_k T_k + \beta_k v_{k+1} e_k^\top, \qquad
   \phi(t) \approx \tfrac1m \sum_{\text{probes}} \sum_i (e_1^\top s_i)^2\, \delta(t - \theta_i)

Power iteration alone returns the eigenvalue of largest magnitude, so the smallest is wrong where the largest
dominates. Full re-orthogonalisation is done twice; without it three vectors are kept, the extremes stay right
and ghost copies may appear in the density.

Source: specification section 1.7 (the diagnostic of the 2022 saddle paper).

>>> import torch
>>> values = torch.tensor([-3.0, 0.5, 8.0], dtype=torch.float64)
>>> run = lanczos(lambda v: values * v, torch.ones(3, dtype=torch.float64), 3)
>>> [round(float(t), 6) for t in run.ritz]
[-3.0, 0.5, 8.0]
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["LanczosRun", "lanczos", "spectral_density"]

BREAKDOWN = 1e-10


@dataclass(frozen=True)
class LanczosRun:
    r"""What k products with one start vector tell.

    Attributes
    ----------
    ritz : Tensor of shape (k,), float64
        Eigenvalues of the tridiagonal matrix, increasing.
    weights : Tensor of shape (k,), float64
        Squared first components of its eigenvectors: the quadrature's weights, which add up to 1.
    residuals : Tensor of shape (k,), float64
        Bound on the distance of each Ritz value from an eigenvalue.
    quadratic : float
        :math:`v^\top A v` for the unit start vector.
    """

    ritz: Tensor
    weights: Tensor
    residuals: Tensor
    quadratic: float


def lanczos(
    product: Callable[[Tensor], Tensor], start: Tensor, k: int, *, reorthogonalize: bool = True
) -> LanczosRun:
    """Run at most `k` steps from a start vector.

    Parameters
    ----------
    product : callable
        Multiplies the operator with a vector of shape (n,).
    start : Tensor of shape (n,)
        Any non-zero vector.
    k : int
        Steps; fewer are made where an invariant subspace is reached.
    reorthogonalize : bool, default=True
        Keep all vectors and orthogonalise twice, for ``k * n`` numbers of memory.

    Returns
    -------
    LanczosRun
        Ritz values with weights and residuals.
    """
    v = start / torch.linalg.vector_norm(start)
    previous = torch.zeros_like(v)
    basis = [v]
    alphas: list[float] = []
    betas: list[float] = []
    beta = 0.0
    for _ in range(min(k, start.numel())):
        w = product(v)
        alpha = float(w.double().dot(v.double()))
        alphas.append(alpha)
        w = w - alpha * v - beta * previous
        if reorthogonalize:
            matrix = torch.stack(basis)
            for _ in range(2):
                w = w - matrix.T @ (matrix @ w)
        beta = float(torch.linalg.vector_norm(w.double()))
        betas.append(beta)
        if beta < BREAKDOWN * max(1.0, max(map(abs, alphas))):
            break
        previous, v = v, w / beta
        if reorthogonalize:
            basis.append(v)
    tridiagonal = torch.diag(torch.tensor(alphas, dtype=torch.float64))
    inner = torch.tensor(betas[:-1], dtype=torch.float64)
    if len(inner):
        tridiagonal += torch.diag(inner, 1) + torch.diag(inner, -1)
    ritz, vectors = torch.linalg.eigh(tridiagonal)
    return LanczosRun(ritz, vectors[0].square(), betas[-1] * vectors[-1].abs(), alphas[0])


def spectral_density(
    runs: Sequence[LanczosRun], *, n_grid: int = 256, width: float = 0.02
) -> tuple[list[float], list[float]]:
    """Density of the spectrum from several probes, smoothed by a Gaussian.

    Parameters
    ----------
    runs : sequence of LanczosRun
        One a start vector.
    n_grid : int, default=256
        Points of the grid.
    width : float, default=0.02
        Standard deviation of the kernel as a share of the range of Ritz values.

    Returns
    -------
    (list of float, list of float)
        Grid and density, which integrates to 1.
    """
    ritz = torch.stack([t for run in runs for t in run.ritz])
    weights = torch.stack([w for run in runs for w in run.weights]) / len(runs)
    low, high = float(ritz.min()), float(ritz.max())
    sigma = width * (high - low) or width * max(abs(high), 1e-12)
    grid = torch.linspace(low - 5 * sigma, high + 5 * sigma, n_grid, dtype=torch.float64)
    kernel = torch.exp(-0.5 * ((grid[:, None] - ritz[None]) / sigma) ** 2) / (sigma * (2 * torch.pi) ** 0.5)
    return grid.tolist(), (kernel @ weights).tolist()
