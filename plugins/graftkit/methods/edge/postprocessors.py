"""JointEnergy in OpenOOD's form, which is not imported here: confidences, higher = more in-distribution.

>>> import torch
>>> JointEnergyPostprocessor().postprocess(torch.nn.Identity(), torch.tensor([[1.0, -1.0]]))
(tensor([[1, 0]]), tensor([1.6265]))
"""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

from graftkit.core.progress import progress_bar
from graftkit.core.validation import check_bool, raise_invalid
from graftkit.methods.edge.energies import joint_energy

__all__ = ["JointEnergyPostprocessor"]


class JointEnergyPostprocessor:
    """JointEnergy in the form of OpenOOD's postprocessors: prediction and confidence.

    The confidence is the JointEnergy, higher = more in-distribution. The prediction is multi-hot (logit
    above 0), where OpenOOD's single-label evaluators expect a class: feed them the confidence only.

    Parameters
    ----------
    config : object, default=None
        Ignored; OpenOOD passes its configuration.

    Attributes
    ----------
    APS_mode : bool
        False: there is nothing to search for.
    """

    def __init__(self, config: Any = None) -> None:
        self.config = config
        self.APS_mode = False
        self.hyperparam_search_done = False

    def setup(self, net: Any, id_loader_dict: Any = None, ood_loader_dict: Any = None) -> None:
        """Nothing to set up.

        Parameters
        ----------
        net : object
            Ignored.
        id_loader_dict : object, default=None
            Ignored.
        ood_loader_dict : object, default=None
            Ignored.
        """

    @torch.no_grad()
    def postprocess(self, net: Callable[[Any], Tensor], data: Any) -> tuple[Tensor, Tensor]:
        """Prediction and confidence of a batch.

        Parameters
        ----------
        net : callable
            Inputs to logits of shape (B, C).
        data : object
            What it takes.

        Returns
        -------
        pred : Tensor of int, shape (B, C)
            1 where the logit is above 0.
        conf : Tensor of shape (B,)
            JointEnergy.
        """
        logits = net(data)
        return (logits > 0).long(), joint_energy(logits)

    def inference(
        self, net: Callable[[Any], Tensor], data_loader: Iterable[dict[str, Any]], progress: bool = True
    ) -> tuple[Any, Any, Any]:
        """Run over OpenOOD's loader.

        Parameters
        ----------
        net : callable
            Inputs to logits.
        data_loader : iterable of dict
            Batches with "data" and "label".
        progress : bool, default=True
            Show a bar on standard error.

        Returns
        -------
        pred : ndarray of shape (n, C)
            Predictions.
        conf : ndarray of shape (n,)
            Confidences.
        label : ndarray of shape (n, ...)
            The labels that came.

        Raises
        ------
        TypeError
            If `progress` is no boolean.
        ValueError
            If there is no batch.
        """
        bar = progress_bar(data_loader, verbose=int(check_bool("progress", progress)), desc="JointEnergy")
        parts = [(*self.postprocess(net, batch["data"]), torch.as_tensor(batch["label"])) for batch in bar]
        if not parts:
            raise_invalid("data_loader", data_loader, "at least one batch")
        pred, conf, label = (torch.cat(column).cpu().numpy() for column in zip(*parts, strict=True))
        return pred, conf, label
