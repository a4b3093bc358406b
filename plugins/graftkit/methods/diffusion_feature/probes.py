r"""Probes that say how much a frozen map knows: closed-form ridge, and the published pixel MLP ensemble.

Ridge regresses one-hot classes on standardised features with class weights :math:`w_c = 1/\sqrt{n_c}`, in
closed form, so a table of fifty activations costs seconds; it is ours, a stand-in for the published
classifier. That one, :class:`VotingMLP`, follows the label-scarce protocol of arXiv 2410.03558 (appendix
C.3, after ddpm-segmentation).

>>> probe = RidgeProbe().fit(np.array([[0.0], [1.0], [2.0], [3.0]]), np.array([4, 4, 7, 7]))
>>> probe.predict(np.array([[0.2], [2.9]]))
array([4, 7])
"""

from typing import Any

import numpy as np
import numpy.typing as npt

from graftkit.core.random import torch_generator
from graftkit.core.validation import check_number, raise_invalid

__all__ = ["RidgeProbe", "VotingMLP"]

Array = npt.NDArray[Any]


class RidgeProbe:
    """Class-weighted ridge regression on standardised features.

    Parameters
    ----------
    penalty : float > 0, default=1e-2
        Of the squared coefficients, relative to the number of samples.

    Attributes
    ----------
    classes_ : ndarray of shape (n_classes,)
        Labels seen.
    coefficients_ : ndarray of shape (d + 1, n_classes)
        Of standardised features, the intercept last.
    mean_, scale_ : ndarray of shape (d,)
        Of the features.

    Raises
    ------
    TypeError
        If `penalty` is no number.
    ValueError
        If it is not positive.
    """

    def __init__(self, penalty: float = 1e-2) -> None:
        self.penalty = check_number("penalty", penalty, low=0, closed="()")

    def fit(self, X: npt.ArrayLike, y: npt.ArrayLike) -> "RidgeProbe":
        """Fit.

        Parameters
        ----------
        X : array-like of shape (n, d)
            Features.
        y : array-like of shape (n,)
            Classes.

        Returns
        -------
        RidgeProbe
            Itself.

        Raises
        ------
        ValueError
            If shapes do not fit or a value is not finite.
        """
        table, labels = np.asarray(X, np.float64), np.asarray(y)
        if table.ndim != 2 or labels.shape != table.shape[:1] or not len(table):
            raise_invalid("X", X, f"shape (n, d) with n = {labels.shape[:1]} > 0")
        if not np.isfinite(table).all():
            raise_invalid("X", X, "finite numbers")
        classes, codes, counts = np.unique(labels, return_inverse=True, return_counts=True)
        weight = (1 / np.sqrt(counts))[codes]
        weight = weight * (len(weight) / weight.sum())
        mean, scale = table.mean(0), table.std(0)
        scale[scale == 0] = 1
        design = np.column_stack([(table - mean) / scale, np.ones(len(table))])
        gram = (design * weight[:, None]).T @ design
        ridge = np.full(len(gram), self.penalty * len(table))
        ridge[-1] = 0  # the intercept is free
        right = (design * weight[:, None]).T @ np.eye(len(classes))[codes]
        coefficients = np.linalg.solve(gram + np.diag(ridge), right)
        self.mean_, self.scale_, self.coefficients_, self.classes_ = mean, scale, coefficients, classes
        return self

    def predict(self, X: npt.ArrayLike) -> Array:
        """Classes.

        Parameters
        ----------
        X : array-like of shape (n, d)
            Features.

        Returns
        -------
        ndarray of shape (n,)
            The class with the highest response.
        """
        table = (np.asarray(X, np.float64) - self.mean_) / self.scale_
        response = table @ self.coefficients_[:-1] + self.coefficients_[-1]
        classes: Array = self.classes_[response.argmax(1)]
        return classes


class VotingMLP:
    """The published pixel classifier: ten small networks, majority vote.

    D-128-32-classes (D-256-128-classes from 30 classes on), ReLU then batch norm, N(0, .02) weights, Adam
    1e-3, batches of 64; a member stops after `patience` batches without a lower loss, from epoch 4 on.

    Parameters
    ----------
    n_members : int, default=10
        Networks.
    max_epochs : int, default=20
        Upper bound; the published one is not stated (unverified).
    patience : int, default=50
        Batches without improvement.
    random_state : int, Generator or None, default=None
        Seeds members and batches.

    Attributes
    ----------
    classes_ : ndarray of shape (n_classes,)
        Labels seen.
    members_ : list of torch.nn.Module
        The trained networks.
    """

    def __init__(
        self, n_members: int = 10, max_epochs: int = 20, patience: int = 50, random_state: Any = None
    ) -> None:
        self.n_members, self.max_epochs, self.patience = n_members, max_epochs, patience
        self.random_state = random_state

    def fit(self, X: npt.ArrayLike, y: npt.ArrayLike) -> "VotingMLP":
        """Train every member.

        Parameters
        ----------
        X : array-like of shape (n, d)
            Features.
        y : array-like of shape (n,)
            Classes.

        Returns
        -------
        VotingMLP
            Itself.

        Raises
        ------
        ValueError
            If there are fewer than two samples.
        """
        import torch

        table = torch.as_tensor(np.asarray(X, np.float32))
        self.classes_, codes = np.unique(np.asarray(y), return_inverse=True)
        target = torch.as_tensor(codes)
        if len(table) < 2:
            raise_invalid("X", X, "at least 2 samples")
        generator = torch_generator(self.random_state)
        self.members_ = [self._member(table, target, generator) for _ in range(self.n_members)]
        return self

    def _member(self, table: Any, target: Any, generator: Any) -> Any:
        import torch
        from torch import nn

        wide, narrow = (256, 128) if len(self.classes_) >= 30 else (128, 32)
        sizes = [(table.shape[1], wide), (wide, narrow), (narrow, len(self.classes_))]
        layers: list[Any] = []
        for inputs, outputs in sizes:
            linear = nn.utils.skip_init(nn.Linear, inputs, outputs)
            nn.init.normal_(linear.weight, 0.0, 0.02, generator=generator)
            nn.init.zeros_(linear.bias)
            layers += [linear] if outputs == sizes[-1][1] else [linear, nn.ReLU(), nn.BatchNorm1d(outputs)]
        network = nn.Sequential(*layers)
        optimizer = torch.optim.Adam(network.parameters(), lr=1e-3)
        best, waited = float("inf"), 0
        for epoch in range(self.max_epochs):
            for rows in torch.randperm(len(table), generator=generator).split(64):
                if len(rows) < 2:  # batch norm needs two
                    continue
                optimizer.zero_grad()
                loss = nn.functional.cross_entropy(network(table[rows]), target[rows])
                loss.backward()
                optimizer.step()
                best, waited = (loss.item(), 0) if loss.item() < best else (best, waited + 1)
                if epoch >= 3 and waited > self.patience:
                    return network.eval()
        return network.eval()

    def predict(self, X: npt.ArrayLike) -> Array:
        """Majority vote; ties go to the first class.

        Parameters
        ----------
        X : array-like of shape (n, d)
            Features.

        Returns
        -------
        ndarray of shape (n,)
            Classes.
        """
        import torch

        table = torch.as_tensor(np.asarray(X, np.float32))
        with torch.no_grad():
            votes = torch.zeros(len(table), len(self.classes_))
            for member in self.members_:
                votes += torch.nn.functional.one_hot(member(table).argmax(1), len(self.classes_))
        chosen: Array = self.classes_[votes.argmax(1).numpy()]
        return chosen
