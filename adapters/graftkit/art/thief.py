"""The classifier that learns: its network as a plain module, its preprocessing included."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn

from art.estimators.classification import PyTorchClassifier
from art.preprocessing.preprocessing import PreprocessorPyTorch

__all__ = ["Thief", "check_thief"]


class Thief(nn.Module):
    """A ``PyTorchClassifier``'s network behind its differentiable preprocessing.

    Parameters
    ----------
    classifier : PyTorchClassifier
        Its network is copied.
    """

    def __init__(self, classifier: PyTorchClassifier) -> None:
        super().__init__()
        self.core = deepcopy(classifier.model)
        self.steps = [step for step in classifier.preprocessing_operations if step.apply_predict]

    def forward(self, x: Tensor) -> Tensor:
        """Logits.

        Parameters
        ----------
        x : Tensor of shape (n, ...)
            Inputs within the clip values.

        Returns
        -------
        Tensor of shape (n, C)
            Logits.
        """
        for step in self.steps:
            x, _ = step.forward(x)
        scores: Tensor = self.core(x)
        return scores


def check_thief(thief: Any, classifier: Any) -> None:
    """Refuse a thieved classifier that cannot learn this way.

    Parameters
    ----------
    thief : object
        What was passed.
    classifier : object
        The audited classifier.

    Raises
    ------
    ValueError
        If it is no ``PyTorchClassifier``, does not fit the classifier, or preprocesses without gradients.
    """
    if not isinstance(thief, PyTorchClassifier):
        raise ValueError(
            "`thieved_classifier` has to be a PyTorchClassifier: the queries' generator needs gradients "
            f"through it. Got {type(thief).__name__}."
        )
    if thief is classifier or thief.model is getattr(classifier, "model", None):
        raise ValueError("`thieved_classifier` is the audited classifier itself: that would change it.")
    for name in ("nb_classes", "input_shape"):
        ours, theirs = getattr(thief, name), getattr(classifier, name)
        if ours != theirs:
            raise ValueError(f"`thieved_classifier`: expected {name} {theirs}, got {ours}.")
    for step in thief.preprocessing_operations:
        if not isinstance(step, PreprocessorPyTorch) and step.apply_predict:
            raise ValueError(
                f"`thieved_classifier`: its preprocessing {type(step).__name__} has no gradient in PyTorch."
            )
    if not any(isinstance(p, torch.Tensor) for p in thief.model.parameters()):
        raise ValueError("`thieved_classifier`: its model has no parameters.")
