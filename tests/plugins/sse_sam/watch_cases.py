"""A small network, its optimizer and batches for what is watched in an unmodified loop."""

from collections import namedtuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from graftkit.torch import SSESAM
from tests.plugins.sse_sam.loops import mixed_batches


def net(dropout: float = 0.0) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(
            nn.Linear(5, 8), nn.LayerNorm(8), nn.Tanh(), nn.Dropout(dropout), nn.Linear(8, 4)
        ).double()


def optimizer_for(model: nn.Module, **kwargs) -> SSESAM:
    return SSESAM(
        model.parameters(), **{"lr": 0.5, "tail_classes": [3], "switch_step": 1, "momentum": 0.9, **kwargs}
    )


BATCHES = mixed_batches(n=6)[3:]
Output = namedtuple("Output", ["loss", "logits"])


class OwnLoss(nn.Module):
    def __init__(self, kind: str = "tuple") -> None:
        super().__init__()
        self.body, self.kind = net(), kind

    def forward(self, x: Tensor, labels: Tensor | None = None) -> object:
        logits = self.body(x)
        loss = F.cross_entropy(logits, labels)
        if self.kind == "losses":
            return {
                "loss_cls": 0.75 * loss,
                "loss_aux": 0.25 * loss,
                "acc": (logits.argmax(1) == labels).double().mean(),
            }
        return {"loss": loss, "logits": logits} if self.kind == "dict" else Output(loss, logits)


def watching(model: nn.Module | None = None, criterion=None, **kwargs):
    model = net() if model is None else model
    optimizer = optimizer_for(model)
    criterion = nn.CrossEntropyLoss() if criterion is None else criterion
    optimizer.watch(model, criterion, **kwargs)
    return model, optimizer, criterion
