"""Small models of every kind, their batches, and training by each of the forms."""

import torch
from torch import nn

from graftkit.torch import SSESAM
from tests.plugins.sse_sam.loops import by_closure, by_explicit, by_loop, mixed_batches

OPTIONS = {"lr": 0.1, "momentum": 0.9, "weight_decay": 1e-2, "tail_classes": [3], "switch_step": 3}
FORMS = ["closure", "subset", "known", "explicit", "loop", "loop_full"]


def mlp() -> nn.Module:
    return nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, 4))


def layer_norm() -> nn.Module:
    return nn.Sequential(nn.Linear(5, 8), nn.LayerNorm(8), nn.GELU(), nn.Linear(8, 4))


def group_norm_cnn() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(2, 4, 3),
        nn.GroupNorm(2, 4),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(4, 4),
    )


def batch_norm() -> nn.Module:
    return nn.Sequential(nn.Linear(5, 8), nn.BatchNorm1d(8), nn.Tanh(), nn.Linear(8, 4))


MODELS = {"mlp": mlp, "layer_norm": layer_norm, "group_norm_cnn": group_norm_cnn, "batch_norm": batch_norm}


def fresh(name: str) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(3)
        return MODELS[name]().double()


def data(name: str, **kwargs):
    return mixed_batches(shape=(2, 6, 6) if name == "group_norm_cnn" else (5,), **kwargs)


def trained(name: str, form: str, batches=None, **kwargs) -> nn.Module:
    model = fresh(name)
    each = nn.CrossEntropyLoss(reduction="none")
    batches = data(name) if batches is None else batches
    tail_pass = {"closure": "full", "explicit": "full", "loop_full": "full", "loop": "auto"}.get(
        form, "subset"
    )
    optimizer = SSESAM(model.parameters(), **{**OPTIONS, "tail_pass": tail_pass, "model": model, **kwargs})
    if form in ("closure", "subset", "known"):
        by_closure(optimizer, model, each, batches, targets=form == "known")
    elif form == "explicit":
        by_explicit(optimizer, model, each, batches)
    else:
        criterion = nn.CrossEntropyLoss()
        optimizer.watch(model, criterion)
        by_loop(optimizer, model, criterion, batches)
    assert optimizer.completed_steps == len(batches)
    return model
