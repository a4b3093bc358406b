"""Saddles of SSE-SAM's benchmark: how far each method comes from one, on two that can be watched."""

from typing import Any

import torch
from torch import Tensor, nn

from graftkit.torch import SSESAM
from tests.benchmarks.results_io import Records


def toy(records: Records, where: dict[str, Any], quick: bool, full: bool) -> None:
    """Two saddles that can be watched: the quadratic's, and one that only the tail's loss has."""
    del quick, full
    for method in ("sgd", "sam", "imbsam", "sse-sam"):
        for rho in (0.05, 0.5):
            for name in ("quadratic", "tail saddle"):
                key = f"toy/{name}/{method}/{rho}"
                if not records.has(key):
                    records.add(
                        key,
                        where,
                        section="toy",
                        toy=name,
                        method=method,
                        rho=rho,
                        path=walk(name, method, rho),
                    )


def walk(name: str, method: str, rho: float, steps: int = 60) -> list[float]:
    """Distance from the saddle along its escape direction, after every tenth step.

    quadratic: (x^2 - y^2)/2, all of it the head's, from (0.1, 0.01).
    tail saddle: head 0.9 (x - 1)^2/2, tail 0.1 (x^2 - y^2)/2 + y^4/40, so y escapes by the tail alone.
    """
    w = nn.Parameter(torch.tensor([0.1, 0.01], dtype=torch.float64))

    def losses() -> tuple[Tensor, Tensor]:
        x, y = w[0], w[1]
        if name == "quadratic":
            return torch.stack([x.square() - y.square()]) / 2, torch.tensor([0])
        head = 0.9 * (x - 1).square() / 2
        tail = 0.1 * (x.square() - y.square()) / 2 + y**4 / 40
        return 2 * torch.stack([head, tail]), torch.tensor([0, 1])

    settings: dict[str, Any] = {
        "sgd": {"rho": 0.0, "stage1": "sam", "gamma": None},
        "sam": {"rho": rho, "stage1": "sam", "gamma": None},
        "imbsam": {"rho": (0.0, rho), "tail_classes": [1], "gamma": 0.0},
        "sse-sam": {"rho": (rho, rho), "tail_classes": [1], "gamma": 0.7, "total_steps": steps},
    }
    optimizer = SSESAM([w], lr=0.1, **settings[method])
    path = []
    for k in range(steps):
        optimizer.step(losses)
        if k % 10 == 9:
            path.append(abs(w.detach()[1].item()))
    return path
