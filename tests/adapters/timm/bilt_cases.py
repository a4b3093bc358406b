"""A tree, tiny timm models and pictures for the tests of BiLT."""

import timm
import torch

from graftkit.timm import HierarchicalClassifier, LabelTree, wrap_timm

TREE = LabelTree.from_paths(
    [("animal", "cat"), ("animal", "dog"), ("vehicle", "car"), ("vehicle", "bus"), ("vehicle", "tram")]
)
SWIN = {"embed_dim": 24, "depths": (1, 1, 1, 1), "num_heads": (1, 1, 2, 2), "img_size": 64, "window_size": 2}
VIT = {"img_size": 32, "patch_size": 16, "embed_dim": 24, "depth": 2, "num_heads": 2}
# Name, arguments, width of the pooled features.
MODELS = {
    "resnet": ("test_resnet", {}, 96),
    "efficientnet": ("test_efficientnet", {}, 256),
    "mobilenetv3, features wider than num_features": ("mobilenetv3_small_050", {}, 1024),
    "convnext": ("test_convnext", {}, 64),
    "vit": ("test_vit", {}, 64),
    "swin": ("swin_tiny_patch4_window7_224", SWIN, 192),
    "mambaout, features wider than num_features": ("test_mambaout", {}, 256),
    "deit, distilled": ("deit_tiny_distilled_patch16_224", VIT, 24),
    "max pooling": ("test_resnet", {"global_pool": "max"}, 96),
    "doubled pooling": ("test_resnet", {"global_pool": "catavgmax"}, 192),
}


def seeded(build):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return build()


def small(base: str = "test_resnet", **options) -> HierarchicalClassifier:
    return seeded(lambda: wrap_timm(base, TREE, **{"neck": 8, **options}))


def flat(name: str, arguments: dict):
    return seeded(lambda: timm.create_model(name, num_classes=7, **arguments))


def pictures(n: int = 6, size: int = 64, seed: int = 0):
    g = torch.Generator().manual_seed(seed)
    y = torch.randint(0, 5, (n,), generator=g)
    x = torch.randn(n, 3, size, size, generator=g) * 0.3
    return x + y.float()[:, None, None, None] / 2 - 1, y
