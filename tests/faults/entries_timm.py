"""graftkit.timm: what it adds to graftkit.torch."""

import torch
from torch.nn import functional as F

from graftkit import timm as host
from graftkit.timm.bilt_entry import read_tree
from tests.adapters.timm.bilt_cases import TREE, pictures, seeded, small
from tests.faults.entries_torch import draw, labels, net
from tests.faults.entry import Entry


def backbone() -> object:
    import timm

    return seeded(lambda: timm.create_model("test_resnet"))


class Pooled(torch.nn.Module):
    """What pooled_features asks of a model, whatever the inputs are."""

    def forward_features(self, x: torch.Tensor) -> torch.Tensor:
        return x

    def forward_head(self, x: torch.Tensor, pre_logits: bool = False) -> torch.Tensor:
        del x, pre_logits
        return torch.zeros(2, 3)


def step(**arguments: object) -> None:
    model = net()
    optimizer = host.SSESAM(model.parameters(), **arguments)
    x, y = draw(6, 4), labels()
    optimizer.step(lambda: (F.cross_entropy(model(x), y, reduction="none"), y))


def entries() -> list[Entry]:
    model = small()
    return [
        Entry(
            "SSESAM",
            step,
            lambda: {
                "base_optimizer": "sgd",
                "lr": 0.1,
                "momentum": 0.9,
                "rho": 0.05,
                "tail_classes": [2],
                "switch_step": 3,
            },
            only=("rho", "tail_classes", "switch_step"),
            callables=("base_optimizer",),
        ),
        Entry(
            "HierarchicalClassifier",
            host.HierarchicalClassifier,
            lambda: {"backbone": backbone(), "tree": TREE, "neck": 8, "beta": 0.5, "rank": 2},
            says={"backbone": ("model",)},
            sizes=("neck", "rank"),
        ),
        Entry(
            "HierarchicalClassifier.param_groups",
            model.param_groups,
            lambda: {"lr": 0.1, "backbone_lr_scale": 0.1},
        ),
        Entry(
            "HierarchicalClassifier.reset_classifier",
            model.reset_classifier,
            lambda: {"num_classes": TREE},
            says={"num_classes": ("tree",)},
        ),
        Entry(
            "wrap_timm",
            host.wrap_timm,
            lambda: {
                "model": "test_resnet",
                "tree": TREE,
                "pretrained": False,
                "neck": 8,
                "beta": 0.5,
                "chain": True,
                "levels": "all",
                "aigdl": True,
                "activation": "elu",
                "detach_delta_prob": False,
                "rank": None,
                "compat": None,
            },
            sizes=("neck", "rank"),
            only=(
                "model",
                "tree",
                "neck",
                "beta",
                "chain",
                "levels",
                "aigdl",
                "activation",
                "detach_delta_prob",
                "rank",
                "compat",
            ),
        ),
        Entry("read_tree", read_tree, lambda: {"tree": TREE}),
        Entry(
            "pooled_features",
            host.pooled_features,
            lambda: {"model": Pooled(), "loader": [pictures(2, 32)[0]], "device": None, "verbose": 0},
            sizes=("verbose",),
        ),
    ]
