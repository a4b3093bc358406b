"""A timm model with a head over a tree: passes, predictions, what timm asks of its models.

>>> import timm
>>> from graftkit.timm import LabelTree
>>> tree = LabelTree.from_paths([("animal", "cat"), ("vehicle", "car")])
>>> HierarchicalClassifier(timm.create_model("test_resnet"), tree, neck=None).head_hidden_size
96
"""

from collections.abc import Mapping
from numbers import Integral
from typing import Any

import torch
from torch import Tensor, nn

from graftkit.core.validation import check_number, raise_invalid
from graftkit.methods.bilt.decoding import decode as decode_output
from graftkit.methods.bilt.head import HierarchicalHead, HierarchicalOutput
from graftkit.methods.bilt.tree import LabelTree
from graftkit.timm.bilt_backbone import feature_width, pool_name, prefixed_matcher, strip_classifier
from graftkit.timm.bilt_weights import TreeWeights

__all__ = ["HierarchicalClassifier", "check_options"]

HEAD = ("neck", "beta", "chain", "levels", "aigdl", "activation", "detach_delta_prob", "rank", "compat")


class HierarchicalClassifier(TreeWeights):
    """A timm model with a `HierarchicalHead`; `wrap_timm` makes it.

    Parameters
    ----------
    backbone : torch.nn.Module
        A timm model. It is taken over: its classifier is removed.
    tree : LabelTree
        Its finest classes are the targets.
    **head_options
        Keywords of `HierarchicalHead`.

    Attributes
    ----------
    backbone : torch.nn.Module
        The timm model without a classifier.
    head : torch.nn.Module
        The `HierarchicalHead`; an identity after ``reset_classifier(0)``.
    num_classes : int
        Number of finest classes, or 0.

    Raises
    ------
    TypeError
        If `backbone` is no timm model or `tree` no LabelTree, or an option is unknown.
    """

    def __init__(self, backbone: nn.Module, tree: LabelTree, **head_options: Any) -> None:
        super().__init__()
        unknown = sorted(set(head_options) - set(HEAD))
        if unknown:
            raise_invalid("head_options", unknown, f"some of {', '.join(HEAD)}", error=TypeError)
        if isinstance(backbone, HierarchicalClassifier):
            raise_invalid("model", type(backbone).__name__, "a model not wrapped yet", error=TypeError,
                          fix="model.reset_classifier(tree) puts another head on")  # fmt: skip
        check_options(tree, head_options)  # so that wrong ones leave the backbone as it was
        self.backbone: Any = strip_classifier(backbone)
        self._options = dict(head_options)
        self._measure()
        weight = next(backbone.parameters())
        self.head: Any = HierarchicalHead(self.head_hidden_size, tree, **head_options).to(weight)
        self.num_classes = tree.num_classes

    def _measure(self) -> None:
        self.head_hidden_size = feature_width(self.backbone)
        self.num_features = getattr(self.backbone, "num_features", self.head_hidden_size)

    @property
    def pretrained_cfg(self) -> Any:
        """The backbone's configuration, from which timm takes picture sizes and normalisation."""
        return getattr(self.backbone, "pretrained_cfg", {})

    @property
    def default_cfg(self) -> Any:
        """The older name of ``pretrained_cfg``."""
        return self.pretrained_cfg

    # -- passes ------------------------------------------------------------------------------------

    def forward_features(self, x: Tensor) -> Tensor:
        """Features before pooling.

        Parameters
        ----------
        x : Tensor of shape (B, channels, height, width)
            Pictures.

        Returns
        -------
        Tensor of shape (B, ...)
            As the backbone gives them.
        """
        features: Tensor = self.backbone.forward_features(x)
        return features

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Any:
        """Pool, then classify.

        Parameters
        ----------
        x : Tensor of shape (B, ...)
            From `forward_features`.
        pre_logits : bool, default=False
            True stops at the pooled features.

        Returns
        -------
        HierarchicalOutput or Tensor of shape (B, head_hidden_size)
            Scores, or the features.
        """
        features = self.backbone.forward_head(x, pre_logits=True)
        return features if pre_logits else self.head(features)

    def forward(self, x: Tensor) -> HierarchicalOutput:
        """Classify at every level.

        Parameters
        ----------
        x : Tensor of shape (B, channels, height, width)
            Pictures.

        Returns
        -------
        HierarchicalOutput
            Its first entry ranks the finest classes.
        """
        output: HierarchicalOutput = self.forward_head(self.forward_features(x))
        return output

    def forward_intermediates(self, x: Tensor, *args: Any, **kwargs: Any) -> Any:
        """Features of the stages or blocks on the way.

        Parameters
        ----------
        x : Tensor of shape (B, channels, height, width)
            Pictures.
        *args, **kwargs
            As the backbone's ``forward_intermediates`` takes them, such as ``indices``.

        Returns
        -------
        tuple or list
            As the backbone gives them.
        """
        return self.backbone.forward_intermediates(x, *args, **kwargs)

    @torch.no_grad()
    def predict(
        self,
        x: Tensor,
        level: int | str = -1,
        source: str = "risk",
        decode: str = "head",
        threshold: float | None = None,
    ) -> Tensor:
        """Predict classes, in evaluation mode and without gradients.

        Parameters
        ----------
        x : Tensor of shape (B, channels, height, width)
            Pictures.
        level : int or "all", default=-1
            1 to H, -H to -1, or every level.
        source : {"risk", "prob", "crm"}, default="risk"
            What to rank by: AIGDL's scores, probabilities, or conditional risk minimisation.
        decode : {"head", "rollup", "path"}, default="head"
            Each level's own head, the ancestors of the best finest class, or the best path.
        threshold : float or None, default=None
            Probability below which the answer is -1.

        Returns
        -------
        Tensor of shape (B,) or (B, H)
            int64 class numbers.
        """
        self._need_head()
        was = [(module, module.training) for module in self.modules()]
        self.eval()
        try:
            output = self(x)
        finally:
            for module, training in was:
                module.training = training
        return decode_output(
            output, self.tree, level=level, source=source, decode=decode, threshold=threshold
        )

    # -- what timm asks of its models ----------------------------------------------------------------

    def get_classifier(self) -> nn.Module:
        """The head.

        Returns
        -------
        torch.nn.Module
            A `HierarchicalHead`.
        """
        head: nn.Module = self.head
        return head

    def reset_classifier(self, num_classes: LabelTree | int, global_pool: str | None = None) -> None:
        """Put a fresh head on.

        Parameters
        ----------
        num_classes : LabelTree or int
            A tree; 0 for none (the model then returns features); or the present number of classes.
        global_pool : str or None, default=None
            A new pooling of the backbone.

        Raises
        ------
        TypeError
            If `num_classes` is neither.
        ValueError
            If another number of classes comes without its tree, or features are not pooled; the model is
            then as it was.
        """
        tree = num_classes
        if not isinstance(tree, LabelTree | Integral) or isinstance(tree, bool):
            raise_invalid("num_classes", tree, "a LabelTree or an integer", error=TypeError)
        if not isinstance(tree, LabelTree) and tree != 0:
            if tree != self.num_classes or self.num_classes == 0:
                raise_invalid("num_classes", num_classes, f"a LabelTree, 0 or {self.num_classes}",
                              fix="Another number of classes needs its tree")  # fmt: skip
            tree = self.tree
        if isinstance(tree, LabelTree):
            check_options(tree, self._options)
        if global_pool is not None:
            self._change_pool(global_pool)
        weight = next(self.backbone.parameters())
        if isinstance(tree, LabelTree):
            self.head = HierarchicalHead(self.head_hidden_size, tree, **self._options).to(weight)
            self.head.train(self.training)
            self.num_classes = tree.num_classes
        else:
            self.head, self.num_classes = nn.Identity(), 0

    def _change_pool(self, global_pool: str) -> None:
        before = pool_name(self.backbone)
        try:
            self.backbone.reset_classifier(0, global_pool)
            self._measure()
        except Exception:
            if before is not None:
                self.backbone.reset_classifier(0, before)
            raise

    def group_matcher(self, coarse: bool = False) -> Any:
        """Layer groups, for layer-wise learning rates.

        Parameters
        ----------
        coarse : bool, default=False
            True for stages instead of blocks.

        Returns
        -------
        dict or callable
            What ``timm.models.group_parameters`` takes; the head is the last group.
        """
        return prefixed_matcher(self.backbone.group_matcher(coarse=coarse))

    def no_weight_decay(self) -> set[str]:
        """Names of parameters without weight decay: the backbone's, and AIGDL's corrections.

        Returns
        -------
        set of str
            Full names.
        """
        below: set[str] = getattr(self.backbone, "no_weight_decay", set)()
        own: set[str] = getattr(self.head, "no_weight_decay", set)()
        return {f"backbone.{name}" for name in below} | {f"head.{name}" for name in own}

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Trade time for memory in the backbone.

        Parameters
        ----------
        enable : bool, default=True
            Whether to.
        """
        self.backbone.set_grad_checkpointing(enable)

    def param_groups(self, lr: float = 0.1, backbone_lr_scale: float = 0.1) -> list[dict[str, Any]]:
        """Parameter groups for an optimizer; the defaults are the published rates.

        Parameters
        ----------
        lr : float, default=0.1
            Of the head.
        backbone_lr_scale : float, default=0.1
            Of the backbone, as a share of `lr`.

        Returns
        -------
        list of dict
            Backbone and head.

        Raises
        ------
        TypeError
            If a rate is no number.
        ValueError
            If a rate is negative.
        """
        check_number("lr", lr, low=0)
        check_number("backbone_lr_scale", backbone_lr_scale, low=0)
        return [
            {"params": list(self.backbone.parameters()), "lr": lr * backbone_lr_scale},
            {"params": list(self.head.parameters()), "lr": lr},
        ]


def check_options(tree: LabelTree, options: Mapping[str, Any]) -> None:
    """Refuse options that the head would refuse, without building one of full size.

    Parameters
    ----------
    tree : LabelTree
        The tree.
    options : mapping
        Keywords of `HierarchicalHead`.
    """
    trial = dict(options)
    if trial.get("rank") is None and trial.get("compat") is None:  # `compat` has no low-rank form
        trial["rank"] = 1
    with torch.random.fork_rng(devices=[]):  # a trial head draws no number that the user's would
        HierarchicalHead(1, tree, **trial)
