"""`ood_metrics` and `multilabel_map` as torchmetrics metrics, gathered over processes.

Import it by its full name; ``graftkit.torch`` itself does without torchmetrics.

>>> import torch
>>> metric = MultilabelOODMetrics()
>>> metric.update(torch.tensor([[3.0, 0.0], [0.0, 2.0]]), torch.eye(2))
>>> metric.update(torch.tensor([[-4.0, -4.0]]), -torch.ones(1, 2))
>>> {name: float(value) for name, value in metric.compute().items()}["AUROC"]
1.0
"""

from collections.abc import Callable
from typing import Any

import torch
from graftkit.core.extras import require
from graftkit.core.validation import raise_invalid
from graftkit.methods.edge import joint_energy, multilabel_map, ood_labels, ood_metrics
from torch import Tensor

require("torchmetrics", extra="lightning", minimum="1.4")

from torchmetrics import Metric  # noqa: E402  (the check above gives the better message)
from torchmetrics.utilities import dim_zero_cat  # noqa: E402

__all__ = ["MultilabelOODMetrics"]


class MultilabelOODMetrics(Metric):
    """OOD figures of JointEnergy and the mAP of the known rows, from logits and rows of targets.

    Parameters
    ----------
    score : callable, default=joint_energy
        Logits to scores, higher = more in-distribution.
    **kwargs : object
        Of ``torchmetrics.Metric``, such as ``sync_on_compute``.
    """

    is_differentiable = False
    higher_is_better = None
    full_state_update = False
    logits: list[Tensor]
    targets: list[Tensor]

    def __init__(self, score: Callable[[Tensor], Tensor] = joint_energy, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.score = score
        self.add_state("logits", default=[], dist_reduce_fx="cat")
        self.add_state("targets", default=[], dist_reduce_fx="cat")

    def update(self, logits: Tensor, targets: Tensor) -> None:
        """Add a batch of known rows, of outliers, or of both.

        Parameters
        ----------
        logits : Tensor of shape (B, C)
            Logits.
        targets : Tensor of shape (B, C)
            0 or 1, or rows of -1 for outliers.

        Raises
        ------
        ValueError
            If shapes differ, or a row mixes -1 with labels.
        """
        ood_labels(targets)
        if logits.shape != targets.shape:
            raise_invalid("logits", logits, f"the targets' shape {tuple(targets.shape)}")
        self.logits.append(logits.detach())
        self.targets.append(targets.detach())

    def compute(self) -> dict[str, Tensor]:
        """The figures of all batches so far.

        Returns
        -------
        dict of str to Tensor of shape ()
            ``FPR95_ID+``, ``FPR95_OOD+``, ``AUROC``, ``AP_IN``, ``AP_OUT`` and ``mAP``.
        """
        logits, targets = dim_zero_cat(self.logits), dim_zero_cat(self.targets)
        outlier = ood_labels(targets) < 0
        scores = self.score(logits)
        figures = ood_metrics(scores[~outlier], scores[outlier])
        figures["mAP"] = multilabel_map(logits[~outlier], targets[~outlier]).value
        return {name: torch.tensor(value) for name, value in figures.items()}
