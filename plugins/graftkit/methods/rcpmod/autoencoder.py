r"""One view's autoencoder as plain arrays: initial weights and the float64 forward pass.

Encoder ``Linear -> ReLU -> ... -> Linear`` without activation on the latent, mirrored decoder with a
sigmoid at the end. Weights live in NumPy, so that a fitted model scores without torch and a pickle
does not depend on a device.

Source: RCPMOD (ACM MM 2024), public code; specification section 1.4. Initial weights and biases are
uniform in :math:`\pm 1/\sqrt{\mathrm{fan\_in}}`, torch's own default for ``Linear``.

>>> import numpy as np
>>> net = Autoencoder.initial(3, (8,), 2, np.random.default_rng(0))
>>> net.decode(net.encode(np.zeros((5, 3)))).shape
(5, 3)
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt
from scipy.special import expit

__all__ = ["Autoencoder", "unit_rows"]

FloatArray = npt.NDArray[np.float64]
Layer = tuple[npt.NDArray[np.floating], npt.NDArray[np.floating]]


@dataclass(frozen=True)
class Autoencoder:
    """Weights of one view's encoder and decoder.

    Parameters
    ----------
    encoder, decoder : tuple of (weight, bias)
        Weight of shape (n_out, n_in), bias of shape (n_out,), in order of application.
    """

    encoder: tuple[Layer, ...]
    decoder: tuple[Layer, ...]

    @classmethod
    def initial(
        cls, n_features: int, hidden_layer_sizes: Sequence[int], latent_dim: int, rng: np.random.Generator
    ) -> "Autoencoder":
        """Draw initial weights.

        Parameters
        ----------
        n_features : int
            Width of the view.
        hidden_layer_sizes : sequence of int
            Hidden widths of the encoder; the decoder mirrors them.
        latent_dim : int
            Width of the latent.
        rng : numpy.random.Generator
            Source of the draw.

        Returns
        -------
        Autoencoder
            Float64 weights, uniform in plus or minus ``1 / sqrt(n_in)``.
        """
        widths = (n_features, *hidden_layer_sizes, latent_dim)

        def layers(sizes: Sequence[int]) -> tuple[Layer, ...]:
            drawn = []
            for n_in, n_out in pairwise(sizes):
                bound = 1.0 / np.sqrt(n_in)
                drawn.append((rng.uniform(-bound, bound, (n_out, n_in)), rng.uniform(-bound, bound, n_out)))
            return tuple(drawn)

        return cls(layers(widths), layers(widths[::-1]))

    def encode(self, x: npt.NDArray[np.floating]) -> FloatArray:
        """Latents of scaled inputs, unnormalised.

        Parameters
        ----------
        x : ndarray of shape (n, n_features)
            Scaled inputs.

        Returns
        -------
        ndarray of shape (n, latent_dim)
            Float64 latents.
        """
        return _forward(self.encoder, x)

    def decode(self, z: npt.NDArray[np.floating]) -> FloatArray:
        """Reconstructions in (0, 1).

        Parameters
        ----------
        z : ndarray of shape (n, latent_dim)
            Latents.

        Returns
        -------
        ndarray of shape (n, n_features)
            Float64 reconstructions.
        """
        return np.asarray(expit(_forward(self.decoder, z)))


def unit_rows(z: npt.NDArray[np.floating]) -> FloatArray:
    """Divide each row by its Euclidean norm, or by 1e-12 where the norm is smaller.

    Parameters
    ----------
    z : ndarray of shape (n, d)
        Latents.

    Returns
    -------
    ndarray of shape (n, d)
        Unit rows; a zero row stays zero.
    """
    norm = np.linalg.norm(z, axis=1, keepdims=True)
    return np.asarray(z / np.maximum(norm, 1e-12), dtype=np.float64)


def _forward(layers: tuple[Layer, ...], x: npt.NDArray[np.floating]) -> FloatArray:
    out = np.asarray(x, dtype=np.float64)
    for position, (weight, bias) in enumerate(layers):
        out = out @ np.asarray(weight, dtype=np.float64).T + bias
        if position < len(layers) - 1:
            np.maximum(out, 0.0, out=out)
    return np.asarray(out, dtype=np.float64)
