r"""Outlier scores of one pair of views, in NumPy float64.

.. math:: s_i = R_w \,\mathrm{mm}(r_i) + \mathrm{mm}(c_i), \qquad
          c_i = -\sigma_i/\tau + \tfrac12 (\log D_i^a + \log D_i^b)

`r` adds the min-max scaled reconstruction errors of the two views, `c` is the contrastive loss of the
row's two latents against all latents of the pair, `mm` is min-max scaling.

Source: RCPMOD (ACM MM 2024), public code; specification sections 1.8 (transductive score) and 1.9 (the
frozen score of new rows, which is graftkit's own: the published score is a function of the whole set).

>>> import numpy as np
>>> min_max(np.array([2.0, 4.0, 3.0]))
array([0. , 1. , 0.5])
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from graftkit.methods.rcpmod.autoencoder import Autoencoder, unit_rows
from graftkit.methods.rcpmod.neighbors import nearest_rows

__all__ = ["PairScorer", "log_sum_exp_against", "min_max", "transductive_consistency"]

FloatArray = npt.NDArray[np.float64]
BoolArray = npt.NDArray[np.bool_]
BLOCK = 1024


@dataclass(frozen=True)
class PairScorer:
    """Everything that scores a row of one pair: weights, references and constants, frozen after training.

    Parameters
    ----------
    networks : tuple of two Autoencoder
        Snapshot of the pair's autoencoders.
    references : ndarray of shape (2 R, d)
        Unit latents of R training rows in both views, imputed where a view is missing.
    n_rows, n_references : int
        Training rows of the pair, and R; their ratio corrects the sampled denominator.
    donors : tuple of two ndarray of shape (n_both, d)
        Unnormalised latents of the training rows observed in both views (for relation transfer).
    error_range : ndarray of shape (2, 2)
        Minimum and maximum reconstruction error of each view over its observed training rows.
    reconstruction_range, consistency_range : tuple of float
        Minimum and maximum of r and of c over the training rows.
    n_neighbors : int
        Neighbours averaged for a missing view.
    temperature, recon_weight : float
        tau and R_w.
    """

    networks: tuple[Autoencoder, Autoencoder]
    references: FloatArray
    n_rows: int
    n_references: int
    donors: tuple[FloatArray, FloatArray]
    error_range: FloatArray
    n_neighbors: int
    temperature: float
    recon_weight: float
    reconstruction_range: tuple[float, float] = (0.0, 0.0)
    consistency_range: tuple[float, float] = (0.0, 0.0)

    def components(
        self, xs: tuple[FloatArray, FloatArray], observed: BoolArray
    ) -> tuple[FloatArray, FloatArray]:
        """Unscaled components of rows that have at least one view of the pair.

        Parameters
        ----------
        xs : tuple of two ndarray of shape (n, d_v)
            Scaled inputs; rows of a missing view are not read.
        observed : ndarray of bool, shape (n, 2)
            Which views each row has.

        Returns
        -------
        errors : ndarray of shape (n, 2)
            Reconstruction error of each view, scaled by the training range; a missing view repeats the
            observed one.
        consistency : ndarray of shape (n,)
            The contrastive term c.
        """
        latents, errors = encode_pair(self.networks, xs, observed)
        scaled = scale_errors(errors, observed, self.error_range)
        unit_a, unit_b = (unit_rows(z) for z in self.impute(latents, observed))
        return scaled, self.consistency(unit_a, unit_b)

    def consistency(self, unit_a: FloatArray, unit_b: FloatArray) -> FloatArray:
        """Contrastive term of rows against the references.

        Parameters
        ----------
        unit_a, unit_b : ndarray of shape (n, d)
            Unit latents of the two views, imputed where missing.

        Returns
        -------
        ndarray of shape (n,)
            c, in which a row's own pair joins the denominator once more.
        """
        unit = (unit_a, unit_b)
        agreement = (unit[0] * unit[1]).sum(axis=1) / self.temperature
        correction = np.log(self.n_rows / self.n_references)
        consistency = -agreement
        for h in unit:
            total = log_sum_exp_against(h, self.references, self.temperature) + correction
            consistency = consistency + 0.5 * np.logaddexp(agreement, total)
        return np.asarray(consistency)

    def score(self, errors: FloatArray, consistency: FloatArray) -> FloatArray:
        """Combine components into the outlier score by the training ranges, without clipping.

        Parameters
        ----------
        errors : ndarray of shape (n, 2)
            From :meth:`components`.
        consistency : ndarray of shape (n,)
            From :meth:`components`.

        Returns
        -------
        ndarray of shape (n,)
            Larger is more outlying.
        """
        by_view, by_pair = self.parts(errors, consistency)
        return np.asarray(by_view.sum(axis=1) + by_pair)

    def parts(self, errors: FloatArray, consistency: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Split the score into the two views' reconstruction and the pair's consistency.

        Parameters
        ----------
        errors : ndarray of shape (n, 2)
            From :meth:`components`.
        consistency : ndarray of shape (n,)
            From :meth:`components`.

        Returns
        -------
        by_view : ndarray of shape (n, 2)
            ``R_w`` times the scaled errors, half of the training minimum taken off each.
        by_pair : ndarray of shape (n,)
            Scaled consistency.
        """
        low, high = self.reconstruction_range
        by_view = self.recon_weight * _scale(errors, (low / 2, low / 2 + (high - low)))
        return by_view, _scale(consistency, self.consistency_range)

    def impute(self, latents: list[FloatArray], observed: BoolArray) -> list[FloatArray]:
        """Fill the latents of missing views by relation transfer.

        Parameters
        ----------
        latents : list of two ndarray of shape (n, d)
            Unnormalised latents; rows of a missing view are overwritten.
        observed : ndarray of bool, shape (n, 2)
            Which views each row has.

        Returns
        -------
        list of two ndarray of shape (n, d)
            A missing view's latent is the mean over the k training rows, observed in both views, that
            are nearest in the other view.
        """
        filled = []
        for view, z in enumerate(latents):
            lost = np.flatnonzero(~observed[:, view])
            z = z.copy()
            if len(lost):
                rows = np.arange(len(self.donors[0]))
                near = nearest_rows(
                    latents[1 - view][lost],
                    np.full(len(lost), -1),
                    self.donors[1 - view],
                    rows,
                    self.n_neighbors,
                )
                z[lost] = self.donors[view][near].mean(axis=1)
            filled.append(z)
        return filled


def encode_pair(
    networks: tuple[Autoencoder, Autoencoder], xs: tuple[FloatArray, FloatArray], observed: BoolArray
) -> tuple[list[FloatArray], FloatArray]:
    """Latents and reconstruction errors of the observed views.

    Parameters
    ----------
    networks : tuple of two Autoencoder
        The pair's autoencoders.
    xs : tuple of two ndarray of shape (n, d_v)
        Scaled inputs.
    observed : ndarray of bool, shape (n, 2)
        Which views each row has.

    Returns
    -------
    latents : list of two ndarray of shape (n, d)
        Zero rows where a view is missing.
    errors : ndarray of shape (n, 2)
        Squared reconstruction error; NaN where a view is missing.
    """
    n = len(observed)
    latents = []
    errors = np.full((n, 2), np.nan)
    for view, network in enumerate(networks):
        latent = np.zeros((n, network.encoder[-1][1].shape[0]))
        have = np.flatnonzero(observed[:, view])
        for start in range(0, len(have), 8 * BLOCK):
            part = have[start : start + 8 * BLOCK]
            x = np.asarray(xs[view][part], dtype=np.float64)
            latent[part] = network.encode(x)
            errors[part, view] = np.square(network.decode(latent[part]) - x).sum(axis=1)
        latents.append(latent)
    return latents, errors


def scale_errors(errors: FloatArray, observed: BoolArray, error_range: FloatArray) -> FloatArray:
    """Min-max scale each view's errors; a missing view counts the observed one twice.

    Parameters
    ----------
    errors : ndarray of shape (n, 2)
        Squared reconstruction errors.
    observed : ndarray of bool, shape (n, 2)
        Which views each row has, at least one a row.
    error_range : ndarray of shape (2, 2)
        Minimum and maximum of each view.

    Returns
    -------
    ndarray of shape (n, 2)
        Scaled errors, no NaN.
    """
    scaled = np.column_stack([_scale(errors[:, v], (error_range[v, 0], error_range[v, 1])) for v in (0, 1)])
    return np.where(observed, scaled, scaled[:, ::-1])


def transductive_consistency(unit_a: FloatArray, unit_b: FloatArray, temperature: float) -> FloatArray:
    """The published contrastive term of every row against the whole set, streamed in blocks.

    Parameters
    ----------
    unit_a, unit_b : ndarray of shape (n, d)
        Unit latents of the two views, imputed where missing.
    temperature : float
        tau.

    Returns
    -------
    ndarray of shape (n,)
        c; memory is proportional to a block of rows, not to n squared.
    """
    references = np.concatenate((unit_a, unit_b))
    n = len(unit_a)
    total = np.zeros(n)
    for view, h in enumerate((unit_a, unit_b)):
        total += log_sum_exp_against(h, references, temperature, skip=np.arange(n) + view * n)
    agreement = (unit_a * unit_b).sum(axis=1) / temperature
    return np.asarray(0.5 * total - agreement)


def log_sum_exp_against(
    h: FloatArray, references: FloatArray, temperature: float, *, skip: npt.NDArray[np.int64] | None = None
) -> FloatArray:
    """``log sum_g exp(h_i . g / tau)`` over all references, in blocks of rows.

    Parameters
    ----------
    h : ndarray of shape (n, d)
        Unit queries.
    references : ndarray of shape (m, d)
        Unit references.
    temperature : float
        tau.
    skip : ndarray of int, shape (n,), or None, default=None
        One reference per query to leave out (the query itself).

    Returns
    -------
    ndarray of shape (n,)
        Float64 logarithms.
    """
    out = np.empty(len(h))
    for start in range(0, len(h), BLOCK):
        block = h[start : start + BLOCK] @ references.T
        block /= temperature
        if skip is not None:
            block[np.arange(len(block)), skip[start : start + BLOCK]] = -np.inf
        peak = block.max(axis=1, keepdims=True)
        block -= peak
        np.exp(block, out=block)
        out[start : start + BLOCK] = np.log(block.sum(axis=1)) + peak[:, 0]
    return out


def min_max(values: FloatArray) -> FloatArray:
    """Min-max scale; a constant vector becomes zero.

    Parameters
    ----------
    values : ndarray of shape (n,)
        Finite values.

    Returns
    -------
    ndarray of shape (n,)
        Values in [0, 1].
    """
    return _scale(values, (float(values.min()), float(values.max())))


def _scale(values: FloatArray, bounds: tuple[float, float]) -> FloatArray:
    low, high = bounds
    # Rounding noise around a constant is a constant: stretching it to [0, 1] would invent a ranking.
    if not high - low > 1e-12 * max(abs(low), abs(high)):
        return np.zeros_like(values)
    return np.asarray((values - low) / (high - low))
