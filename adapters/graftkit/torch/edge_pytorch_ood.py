"""EDGE in pytorch-ood's form: a `LogitsDetector`, and a loss with its `info`.

Import it by its full name; ``graftkit.torch`` itself does without pytorch-ood. Targets are rows (all -1 for
an outlier), where pytorch-ood's own losses take one label a sample; `ood_labels` makes its labels from rows.
pytorch-ood knows no task of several labels, so `info` says classification.

>>> import torch
>>> from pytorch_ood.metrics import OODMetrics
>>> from graftkit.torch import ood_labels
>>> targets = torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, -1.0]])
>>> scores = JointEnergy(None).predict_logits(torch.tensor([[3.0, 0.0], [0.0, 2.0], [-4.0, -4.0]]))
>>> float(OODMetrics().update(scores, ood_labels(targets)).compute()["AUROC"])
1.0
"""

from typing import Any, ClassVar

from graftkit.core.extras import require
from graftkit.methods import edge
from torch import Tensor

require("pytorch_ood", extra="bench", distribution="pytorch-ood", minimum="0.4")

from pytorch_ood.api import (  # noqa: E402  (the check above gives the better message)
    DetectorInfo,
    LogitsDetector,
    LossInfo,
    Paper,
    Representation,
    Task,
)

__all__ = ["EDGELoss", "JointEnergy"]


class JointEnergy(LogitsDetector):  # type: ignore[misc]
    """JointEnergy of multi-label logits as an outlier score.

    Parameters
    ----------
    model : torch.nn.Module or None
        Inputs to logits; ``None`` where `predict_logits` is called directly.
    """

    info: ClassVar[DetectorInfo] = DetectorInfo(
        paper=Paper(
            title="Can multi-label classification networks know what they don't know?",
            venue="NeurIPS",
            year=2021,
            url="https://arxiv.org/abs/2109.14162",
            code="https://github.com/deeplearning-wisc/multi-label-ood",
        ),
        tasks={Task.CLASSIFICATION, Task.SEGMENTATION},
        ai_coded=True,
    )

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def predict_logits(self, logits: Tensor) -> Tensor:
        """Outlier score of logits.

        Parameters
        ----------
        logits : Tensor of shape (B, C, ...)
            Logits; labels on axis 1.

        Returns
        -------
        Tensor of shape (B, ...)
            Larger = more out-of-distribution.
        """
        return self.score(logits)

    @staticmethod
    def score(logits: Tensor) -> Tensor:
        """Minus the JointEnergy.

        Parameters
        ----------
        logits : Tensor of shape (B, C, ...)
            Logits; labels on axis 1.

        Returns
        -------
        Tensor of shape (B, ...)
            Larger = more out-of-distribution.
        """
        return edge.JointEnergy.score(logits)


class EDGELoss(edge.EDGELoss):
    """`graftkit.torch.EDGELoss` with pytorch-ood's description of itself; arguments are the same."""

    info: ClassVar[LossInfo] = LossInfo(
        paper=Paper(
            title="EDGE: Unknown-aware Multi-label Learning by Energy Distribution Gap Expansion",
            venue="AAAI",
            year=2025,
            url="https://arxiv.org/abs/2412.07499",
            code="https://github.com/Yuchen-Sunflower/EDGE",
        ),
        tasks={Task.CLASSIFICATION},
        inputs={Representation.LOGITS},
        supervised=True,
        ai_coded=True,
    )
