r"""Detectors that say "none of the known labels", from the logits of a multi-label model.

The outlier score is :math:`-E`, higher = more out-of-distribution, as pytorch-ood wants it; the decision
keeps a share of the known rows, by the quantile of a validation set (specification 1.5). pytorch-ood is not
imported here; ``graftkit.torch.edge_pytorch_ood`` registers with it. `postprocessors` has OpenOOD's form.

>>> import torch
>>> detector = JointEnergy().fit_logits(torch.linspace(0, 5, 101)[:, None].repeat(1, 3))
>>> detector.detect_logits(torch.tensor([[-3.0, -3.0, -3.0], [4.0, -3.0, -3.0]]))
tensor([ True, False])
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from graftkit.core.validation import check_iterable, check_number, raise_invalid
from graftkit.methods.edge.energies import joint_energy, widened

__all__ = ["JointEnergy", "evaluating"]


class JointEnergy(nn.Module):
    """JointEnergy as a torch detector with pytorch-ood's method names; needs no training.

    Parameters
    ----------
    model : callable or None, default=None
        Inputs to logits of shape (B, C). ``None``: only the methods on logits work.
    keep : float, default=0.95
        Share of known rows that `fit` leaves on the known side, in (0, 1).

    Attributes
    ----------
    threshold : Tensor of shape ()
        A buffer in float32, saved in ``state_dict``: scores above it are outliers. NaN before `fit`.

    Raises
    ------
    TypeError
        If an argument has the wrong type.
    ValueError
        If `keep` is out of range.

    Notes
    -----
    `predict` calls the model as it is: put it into eval mode. `fit` does so itself, and puts it back.
    """

    threshold: Tensor

    def __init__(self, model: Callable[[Any], Tensor] | None = None, *, keep: float = 0.95) -> None:
        super().__init__()
        if model is not None and not callable(model):
            raise_invalid("model", model, "a callable from inputs to logits, or None", error=TypeError)
        self.model = model
        self.keep = check_number("keep", keep, low=0, high=1, closed="()")
        self.register_buffer("threshold", torch.full((), torch.nan))

    @staticmethod
    def score(logits: Tensor) -> Tensor:
        """Outlier score of logits.

        Parameters
        ----------
        logits : Tensor of shape (B, C, ...)
            Logits; labels on axis 1.

        Returns
        -------
        Tensor of shape (B, ...)
            Minus the JointEnergy: larger = more out-of-distribution.
        """
        return -joint_energy(logits, dim=1)

    def forward(self, x: Any) -> Tensor:
        """Outlier score of inputs; the same as `predict`.

        Parameters
        ----------
        x : object
            What the model takes.

        Returns
        -------
        Tensor of shape (B,)
            Larger = more out-of-distribution.
        """
        return self.predict(x)

    @torch.no_grad()
    def predict(self, x: Any) -> Tensor:
        """Outlier score of inputs.

        Parameters
        ----------
        x : object
            What the model takes.

        Returns
        -------
        Tensor of shape (B,)
            Larger = more out-of-distribution.

        Raises
        ------
        ValueError
            If there is no model.
        """
        if self.model is None:
            raise_invalid("model", None, "a model", fix="Pass one, or call predict_logits.")
        return self.score(self.model(x))

    def predict_logits(self, logits: Tensor) -> Tensor:
        """Outlier score of logits.

        Parameters
        ----------
        logits : Tensor of shape (B, C)
            Logits.

        Returns
        -------
        Tensor of shape (B,)
            Larger = more out-of-distribution.
        """
        return self.score(logits)

    @torch.no_grad()
    def fit(self, data_loader: Iterable[Any], *, device: str | torch.device | None = None) -> "JointEnergy":
        """Set the threshold from known rows; outliers are not needed.

        Parameters
        ----------
        data_loader : iterable of Tensor or of (Tensor, ...)
            Inputs of shape (B, ...) of known rows, of a validation set rather than of training; what follows
            the inputs is ignored.
        device : str, torch.device or None, default=None
            Where inputs are moved before the model sees them.

        Returns
        -------
        JointEnergy
            Itself.

        Raises
        ------
        ValueError
            If there is no model, or no batch.
        """
        if self.model is None:
            raise_invalid("model", None, "a model", fix="Pass one, or call fit_logits.")
        logits = []
        with evaluating(self.model):
            for batch in check_iterable("data_loader", data_loader, "batches of inputs"):
                inputs = batch[0] if isinstance(batch, tuple | list) else batch
                logits.append(self.model(inputs if device is None else inputs.to(device)).cpu())
        if not logits:
            raise_invalid("data_loader", data_loader, "at least one batch")
        return self.fit_logits(torch.cat(logits))

    def fit_logits(self, logits: Tensor, y: Any = None) -> "JointEnergy":  # noqa: ARG002
        """Set the threshold from the logits of known rows.

        Parameters
        ----------
        logits : Tensor of shape (n, C)
            Logits of known rows.
        y : object, default=None
            Ignored; pytorch-ood passes labels.

        Returns
        -------
        JointEnergy
            Itself.

        Raises
        ------
        TypeError
            If logits are not floating.
        ValueError
            If there are none, or they are not finite.
        """
        scores = self.score(_matrix(logits)).detach().float().flatten()
        if not len(scores) or not bool(torch.isfinite(scores).all()):
            raise_invalid("logits", logits, "at least one row, finite, without NaN or infinity")
        # The smallest threshold that keeps the share; quantile() would interpolate and has a size limit.
        rank = min(len(scores) - 1, max(0, -int(-(self.keep * len(scores) - 1e-9) // 1) - 1))
        self.threshold.copy_(scores.sort().values[rank])
        return self

    def detect(self, x: Any) -> Tensor:
        """Say which inputs carry none of the known labels.

        Parameters
        ----------
        x : object
            What the model takes.

        Returns
        -------
        Tensor of bool, shape (B,)
            True for outliers, and where the score is NaN: nobody knows such a row.

        Raises
        ------
        ValueError
            If there is no model, or `fit` has not been called.
        """
        self._check_fitted()
        return self._above(self.predict(x))

    def detect_logits(self, logits: Tensor) -> Tensor:
        """Say which rows carry none of the known labels.

        Parameters
        ----------
        logits : Tensor of shape (B, C)
            Logits.

        Returns
        -------
        Tensor of bool, shape (B,)
            True for outliers, and where the score is NaN: nobody knows such a row.

        Raises
        ------
        ValueError
            If `fit` has not been called.
        """
        self._check_fitted()
        return self._above(self.score(_matrix(logits)))

    def _above(self, scores: Tensor) -> Tensor:
        return ~(scores.float() <= self.threshold.to(scores.device))

    def _check_fitted(self) -> None:
        if bool(self.threshold.isnan()):
            raise_invalid("threshold", None, "a fitted detector", fix="Call fit or fit_logits first.")


@contextmanager
def evaluating(model: Any) -> Iterator[None]:
    """Eval mode for every module of a model, and back to what each was, also after an error."""
    modules = list(model.modules()) if isinstance(model, nn.Module) else []
    modes = [module.training for module in modules]
    try:
        if modules:
            model.eval()
        yield
    finally:
        for module, mode in zip(modules, modes, strict=True):
            module.training = mode


def _matrix(logits: Any) -> Tensor:
    wide = widened(logits)
    if wide.ndim != 2 or wide.shape[1] == 0:
        raise_invalid("logits", logits, "shape (n, C)")
    return wide
