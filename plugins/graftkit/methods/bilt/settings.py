"""Published settings, and the variants and rivals that a comparison needs, ready to be spread into calls.

Settings of FGVC-Aircraft and iNaturalist-2019 come from the public code's instructions. Those of CIFAR-100
and tieredImageNet-H were not found; what stands here follows the paper's remarks (specification section
1.8), unverified. The paper names a cosine schedule for CIFAR-100 where its code drops the rate by steps;
cosine is what we take.

>>> PRESETS["fgvc-aircraft"].loss
{'alpha': 1.0, 'epsilon': 0.5, 'gamma': 1.0}
>>> VARIANTS["parallel heads"].head
{'chain': False, 'aigdl': False}
"""

from dataclasses import dataclass, field
from typing import Any

from torch import nn

from graftkit.core.validation import check_choice
from graftkit.methods.bilt.baselines import HXELoss, SoftLabelLoss
from graftkit.methods.bilt.loss import BiLTLoss
from graftkit.methods.bilt.tree import LabelTree

__all__ = ["PRESETS", "Preset", "VARIANTS", "Variant", "variant_loss"]


@dataclass(frozen=True)
class Preset:
    """Settings of one published experiment.

    Parameters
    ----------
    head : dict
        Keywords of `HierarchicalHead` and ``wrap_timm``.
    loss : dict
        Keywords of `BiLTLoss`.
    training : dict
        What the paper trained with: backbone, sizes, SGD's rates, momentum and decay, epochs, batch.
    verified : bool
        False where the values are a best reading.
    """

    head: dict[str, Any]
    loss: dict[str, Any]
    training: dict[str, Any] = field(default_factory=dict)
    verified: bool = True


@dataclass(frozen=True)
class Variant:
    """One row of a comparison.

    Parameters
    ----------
    head : dict
        Keywords of `HierarchicalHead` and ``wrap_timm``.
    loss : dict
        Keywords of the loss.
    objective : {"bilt", "soft labels", "hxe"}
        Which loss.
    source : {"risk", "prob", "crm"}
        What predictions are ranked by.
    """

    head: dict[str, Any]
    loss: dict[str, Any] = field(default_factory=dict)
    objective: str = "bilt"
    source: str = "prob"


_SGD = {
    "optimizer": "sgd", "momentum": 0.9, "weight_decay": 5e-4, "lr": 0.1, "backbone_lr_scale": 0.1,
    "schedule": "cosine",
}  # fmt: skip

PRESETS: dict[str, Preset] = {
    "fgvc-aircraft": Preset(
        {"neck": 600, "beta": 0.5},
        {"alpha": 1.0, "epsilon": 0.5, "gamma": 1.0},
        {"backbone": "resnet50", "global_pool": "max", "size": 224, "epochs": 100, "batch_size": 64, **_SGD},
    ),
    "cifar-100": Preset(
        {"neck": None, "beta": 0.5, "activation": "leaky_relu"},
        {"alpha": 1.0, "epsilon": 0.3, "gamma": 0.3},
        {"backbone": "wide resnet 28", "size": 32, "epochs": 200, "batch_size": 64, **_SGD},
        verified=False,
    ),
    "inat-2019": Preset(
        {"neck": 600, "beta": 0.5},
        {"alpha": 1.0, "epsilon": 0.5, "gamma": 1.5},
        {"backbone": "resnet50", "global_pool": "max", "size": 224, "epochs": 100, "batch_size": 256, **_SGD},
    ),
    "tiered-imagenet-h": Preset(
        {"neck": 600, "beta": 0.5},
        {"alpha": 1.0, "epsilon": 0.5, "gamma": 1.0},
        {"backbone": "resnet50", "global_pool": "max", "size": 224, "epochs": 100, "batch_size": 256, **_SGD},
        verified=False,
    ),
}

_FLAT = {"levels": "finest", "aigdl": False}

VARIANTS: dict[str, Variant] = {
    "flat CE": Variant(_FLAT),
    "flat CE + CRM": Variant(_FLAT, source="crm"),
    "soft labels": Variant(_FLAT, objective="soft labels", loss={"hardness": 10.0}),
    "HXE": Variant(_FLAT, objective="hxe", loss={"alpha": 0.1}),
    "parallel heads": Variant({"chain": False, "aigdl": False}),
    "BiLT": Variant({"aigdl": False}),
    "BiLT + label smoothing": Variant({"aigdl": False}, {"smooth_logits": True}),
    "AIGDL alone": Variant({"levels": "finest"}, source="risk"),
    "BiLT + AIGDL, hard targets": Variant({}, {"epsilon": 0.0}, source="risk"),
    "BiLT + AIGDL, beta=0": Variant({"beta": 0.0}, source="risk"),
    "BiLT + AIGDL": Variant({}, source="risk"),
    "BiLT + AIGDL, by probability": Variant({}, source="prob"),
}


def variant_loss(name: str, tree: LabelTree, **changes: Any) -> nn.Module:
    """Build the loss of a variant.

    Parameters
    ----------
    name : str
        A key of `VARIANTS`.
    tree : LabelTree
        The tree.
    **changes
        Keywords of the loss, in place of the variant's.

    Returns
    -------
    torch.nn.Module
        Called with an output and targets.

    Raises
    ------
    ValueError
        If there is no such variant.
    """
    variant = VARIANTS[check_choice("name", name, VARIANTS)]
    build: Any = {"bilt": BiLTLoss, "soft labels": SoftLabelLoss, "hxe": HXELoss}[variant.objective]
    loss: nn.Module = build(tree, **{**variant.loss, **changes})
    return loss
