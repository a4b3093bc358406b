"""AUCSeg's loss for mmsegmentation: one more entry in a decode head's ``loss_decode``.

It belongs beside cross-entropy on the decode head, not on auxiliary heads::

    custom_imports = dict(imports=["graftkit.mmseg"], allow_failed_imports=False)
    model = dict(
        decode_head=dict(
            loss_decode=[
                dict(type="CrossEntropyLoss", loss_weight=1.0),
                dict(type="AUCSegLoss", loss_weight=1.0),
            ]
        )
    )

The head's ``ignore_index`` and a pixel sampler's weights are used. Registered in mmengine's root registry,
where mmseg's own finds it.

>>> import torch
>>> from mmengine.registry import MODELS
>>> criterion = MODELS.build(dict(type="AUCSegLoss", loss_weight=4.0))
>>> criterion(torch.zeros(1, 3, 2, 2), torch.tensor([[[0, 1], [2, 255]]]))
tensor(2.)
"""

from mmengine.registry import MODELS
from torch import Tensor

from graftkit.core.validation import check_integer, check_number, raise_invalid
from graftkit.methods.aucseg import PixelAUCLoss

__all__ = ["AUCSegLoss"]


@MODELS.register_module()
class AUCSegLoss(PixelAUCLoss):
    r"""Pixel-level one-vs-one AUC loss, with the arguments of mmseg's losses.

    Parameters
    ----------
    surrogate : {"square", "hinge", "exp"}, default="square"
        The cost of a score gap.
    scheme : {"ovo", "ova"}, default="ovo"
        Each class against each other class, or against all others pooled.
    activation : {"sigmoid", "softmax"}, default="sigmoid"
        Logits to scores.
    margin : float, default=1.0
        The gap asked for.
    loss_weight : float, default=1.0
        Multiplies the loss. Published: 4 on ADE20K, 1 on Cityscapes and COCO-Stuff.
    min_pixels : int, default=1
        Classes with fewer pixels in the batch do not take part.
    sync : bool, default=False
        Compare pixels over all processes.
    ignore_index : int, default=255
        Where the head passes none; heads pass theirs, which wins.
    num_classes : int or None, default=None
        Checked against the logits where given.
    loss_name : str, default="loss_auc"
        The name in the log; it must contain "loss", or mmengine would not train on it.

    Raises
    ------
    TypeError
        If an argument has the wrong type.
    ValueError
        If it has an unknown or impossible value.
    """

    def __init__(
        self,
        surrogate: str = "square",
        scheme: str = "ovo",
        activation: str = "sigmoid",
        margin: float = 1.0,
        loss_weight: float = 1.0,
        min_pixels: int = 1,
        sync: bool = False,
        ignore_index: int = 255,
        num_classes: int | None = None,
        loss_name: str = "loss_auc",
    ) -> None:
        super().__init__(
            surrogate=surrogate,
            scheme=scheme,
            activation=activation,
            margin=margin,
            ignore_index=ignore_index,
            min_pixels=min_pixels,
            sync=sync,
        )
        self.loss_weight = check_number("loss_weight", loss_weight, low=0)
        self.num_classes = None if num_classes is None else check_integer("num_classes", num_classes, low=1)
        if not isinstance(loss_name, str):
            raise_invalid("loss_name", loss_name, "a string", error=TypeError)
        if "loss" not in loss_name:
            raise_invalid(
                "loss_name", loss_name, "a name that contains 'loss'", fix="mmengine adds up those."
            )
        self._loss_name = loss_name

    @property
    def loss_name(self) -> str:
        """The name in the log."""
        return self._loss_name

    def forward(
        self,
        cls_score: Tensor,
        label: Tensor,
        weight: Tensor | None = None,
        avg_factor: float | None = None,
        reduction_override: str | None = None,
        ignore_index: int | None = None,
    ) -> Tensor:
        """Compute the weighted loss.

        Parameters
        ----------
        cls_score : Tensor of shape (B, C, *)
            Logits; C = 1 for a binary head.
        label : Tensor of shape (B, *)
            Labels.
        weight : Tensor of shape (B, *) or None, default=None
            Pixel weights, such as a sampler's.
        avg_factor : None
            Not applicable: the loss is an average over pairs.
        reduction_override : {None, "mean"}
            There is no other form.
        ignore_index : int or None, default=None
            Wins over the constructor's.

        Returns
        -------
        Tensor of shape ()
            ``loss_weight`` times the loss.

        Raises
        ------
        ValueError
            If another reduction or an `avg_factor` is asked for, or the logits have another number of
            classes than `num_classes`.
        """
        if reduction_override not in (None, "mean"):
            raise ValueError(
                f"AUCSegLoss has no per-pixel form ('reduction_override={reduction_override}'); "
                "use OHEMPixelSampler with thresh=..."
            )
        if avg_factor is not None:
            raise_invalid("avg_factor", avg_factor, "None", fix="AUCSegLoss averages over pairs of pixels.")
        if isinstance(cls_score, Tensor) and cls_score.ndim > 1:  # others are refused below
            channels = cls_score.shape[1]
            if self.num_classes not in (None, channels) and (channels, self.num_classes) != (1, 2):
                raise_invalid("num_classes", self.num_classes, f"the {channels} channels of the logits")
        return self.loss_weight * super().forward(cls_score, label, weight, ignore_index=ignore_index)

    def extra_repr(self) -> str:
        """Say how pairs are compared, and the weight.

        Returns
        -------
        str
            The arguments that define the loss.
        """
        return f"{super().extra_repr()}, loss_weight={self.loss_weight:g}, loss_name={self._loss_name!r}"
