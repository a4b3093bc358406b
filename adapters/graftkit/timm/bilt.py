"""BiLT with AIGDL on any timm model: one call to wrap it, then it behaves as a timm model.

>>> import torch
>>> from graftkit.timm import BiLTLoss, LabelTree, wrap_timm
>>> tree = LabelTree.from_paths([("animal", "cat"), ("animal", "dog"), ("vehicle", "car")])
>>> model = wrap_timm("test_resnet", tree)
>>> [tuple(z.shape) for z in model(torch.zeros(2, 3, 64, 64)).level_logits]
[(2, 2), (2, 3)]
"""

from typing import Any

from torch import nn

import timm
from graftkit.core.validation import check_bool, raise_invalid
from graftkit.methods.bilt.tree import LabelTree
from graftkit.timm.bilt_classifier import HierarchicalClassifier, check_options

__all__ = ["HierarchicalClassifier", "wrap_timm"]


def wrap_timm(
    model: str | nn.Module,
    tree: LabelTree,
    *,
    pretrained: bool = False,
    neck: int | None = 600,
    beta: float = 0.5,
    chain: bool = True,
    levels: str = "all",
    aigdl: bool = True,
    activation: str = "elu",
    detach_delta_prob: bool = False,
    rank: int | None = None,
    compat: str | None = None,
    **model_kwargs: Any,
) -> HierarchicalClassifier:
    """Turn a timm model into a classifier over a label tree.

    Parameters
    ----------
    model : str or torch.nn.Module
        A name that ``timm.create_model`` knows, or a timm model, which is taken over.
    tree : LabelTree
        Aligned with the data set: ``tree.align(dataset.class_to_idx)``.
    pretrained : bool, default=False
        Load the backbone's weights; for names alone.
    neck : int or None, default=600
        Width of the published neck; None for none.
    beta : float, default=0.5
        Size of AIGDL's correction.
    chain : bool, default=True
        False for parallel heads.
    levels : {"all", "finest"}, default="all"
        "finest" for one head.
    aigdl : bool, default=True
        False leaves out the risk scores.
    activation : {"elu", "leaky_relu"}, default="elu"
        Of neck and chain.
    detach_delta_prob : bool, default=False
        As in `HierarchicalHead`.
    rank : int or None, default=None
        As in `HierarchicalHead`.
    compat : {None, "official-cifar"}, default=None
        As in `HierarchicalHead`.
    **model_kwargs
        Further arguments of ``timm.create_model``, such as ``global_pool="max"``, which is the published
        pooling.

    Returns
    -------
    HierarchicalClassifier
        Ready to be trained with `BiLTLoss`.

    Raises
    ------
    TypeError
        If an argument has the wrong type, or `model_kwargs` come with a module.
    ValueError
        If `num_classes` is given and is not the tree's.
    """
    check_bool("pretrained", pretrained)
    if not isinstance(tree, LabelTree):
        raise_invalid("tree", tree, "a LabelTree", error=TypeError)
    wanted = model_kwargs.pop("num_classes", None)
    if wanted is not None and wanted != tree.num_classes:
        raise_invalid("num_classes", wanted, f"{tree.num_classes}, the finest classes of the tree")
    options = {"neck": neck, "beta": beta, "chain": chain, "levels": levels, "aigdl": aigdl,
               "activation": activation, "detach_delta_prob": detach_delta_prob, "rank": rank,
               "compat": compat}  # fmt: skip
    check_options(tree, options)  # before weights are fetched
    if isinstance(model, str):
        model = timm.create_model(model, pretrained=pretrained, num_classes=0, **model_kwargs)
    elif model_kwargs or pretrained:
        given = sorted(model_kwargs) or ["pretrained"]
        raise_invalid("model_kwargs", given, "none with a model that exists already", error=TypeError)
    return HierarchicalClassifier(model, tree, **options)
